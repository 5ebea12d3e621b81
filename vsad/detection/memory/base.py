"""What every kind of memory is and does; the detector knows no more of them than this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from vsad.progress import SILENT, Progress


@dataclass(frozen=True)
class MemoryConfig:
    """The options of all kinds of memory; each reads those that concern it.

    Args:
        references: normal samples that an aligned memory keeps, at most.
        window: how far a product may lie off in an aligned memory, in feature pixels, odd.
        prototypes: that a prototype memory keeps for each view.
        seed: seed of every random choice.
    """

    references: int = 40
    window: int = 5
    prototypes: int = 2000
    seed: int = 0


DEFAULTS = MemoryConfig()


class Memory(nn.Module, ABC):
    """What is remembered of normal features at one level.

    A kind of memory is a class with these four methods and a row in ``MEMORIES``. Its buffers are what is saved.
    """

    @classmethod
    @abstractmethod
    def fit(cls, features: Tensor, config: MemoryConfig = DEFAULTS, *, whiten: bool = False) -> Memory:
        """Remember the ``features (S, V, C, h, w)`` of normal samples.

        Args:
            features: features of S samples in V views.
            config: configuration of the memory.
            whiten: whether distances discount that channels repeat each other; else only their deviations.

        Raises:
            ValueError: there are too few samples.
        """

    @classmethod
    @abstractmethod
    def rebuild(cls, weights: Mapping[str, Tensor], config: MemoryConfig) -> Memory:
        """Make the memory again of its saved buffers and its configuration.

        Raises:
            KeyError: a buffer is not among the weights.
        """

    @abstractmethod
    def normal_scores(self, features: Tensor, progress: Progress = SILENT, label: str = "memory") -> Tensor:
        """The scores that normal samples get from a memory that does not know them, ``(S', V, h, w)``.

        Args:
            features: those that the memory was fitted to, ``(S, V, C, h, w)``.
            progress: told of every sample.
            label: label of this stage of the work.
        """

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Scores ``(V, h, w)`` of one sample's ``features (V, C, h, w)``: the higher, the less like normal."""
