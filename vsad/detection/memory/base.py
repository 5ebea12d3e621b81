"""What every kind of memory is and does; the detector knows no more of them than this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from vsad.detection.memory.config import MemoryConfig
from vsad.progress import SILENT, Progress
from vsad.scratch import Samples, Scratch

DEFAULTS = MemoryConfig()

# A place must be shown by more than so many normal samples, and by more than this share of them: the nearest of few
# lies far off, by how much is uncertain, and another view may know the place better.
_ENOUGH, _ENOUGH_SHARE = 2, 0.2

# Changed normal samples: the index of each among the normal ones, and its features ``(V, C, h, w)``.
Changed = Sequence[tuple[int, Tensor]]


class Memory(nn.Module, ABC):
    """What is remembered of normal features at one level.

    A kind of memory is a class with these methods and a row in ``MEMORIES``. Its buffers are what is saved.
    """

    # Whether scores at one place are comparable only with those of normal samples at the same place.
    by_place: bool

    @classmethod
    @abstractmethod
    def fit(cls, features: Samples, seen: Samples, config: MemoryConfig = DEFAULTS) -> Memory:
        """Remember the ``features (S, V, C, h, w)`` of normal samples.

        Args:
            features: features of S samples in V views.
            seen: which of them say anything, ``(S, V, h, w)`` bool.
            config: configuration of the memory.

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

    def normal_scores(
        self,
        features: Samples,
        seen: Samples,
        progress: Progress = SILENT,
        label: str = "memory",
        *,
        changed: Changed = (),
    ) -> Scratch:
        """The scores that normal samples get from a memory that does not know them, ``(S + P, V, h, w)``.

        Args:
            features: those that the memory was fitted to, ``(S, V, C, h, w)``.
            seen: likewise, ``(S, V, h, w)`` bool.
            progress: told of every sample.
            label: label of this stage of the work.
            changed: P changed samples, each the index of a normal one, which the memory shall not know, and features.

        Raises:
            ValueError: there are too few samples.
        """
        score = self.held_out(features, seen)
        samples = progress.track(chain(enumerate(features), changed), label, len(features) + len(changed))
        return Scratch(score(index, sample) for index, sample in samples)

    @abstractmethod
    def held_out(self, features: Samples, seen: Samples) -> Callable[[int, Tensor], Tensor]:
        """Score as a memory does that does not know one of the samples.

        Args:
            features: those that the memory was fitted to, ``(S, V, C, h, w)``.
            seen: likewise, ``(S, V, h, w)`` bool.

        Returns:
            A function of the index of the sample that is left out, and features ``(V, C, h, w)``.
        """

    @abstractmethod
    def known(self, seen: Samples) -> Tensor:
        """Where the memory remembers enough to judge, ``(V, h, w)`` bool; ``seen`` as in ``fit``."""

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Scores ``(V, h, w)`` of one sample's ``features (V, C, h, w)``: the higher, the less like normal."""


def shown_enough(shown: Samples) -> Tensor:
    """Where enough normal samples beside one's own show a place, or as many as there are, ``(V, h, w)`` bool.

    Args:
        shown: ``(S, V, h, w)`` bool.
    """
    samples, count = len(shown), torch.zeros_like(shown[0], dtype=torch.long)
    for mask in shown:
        count += mask
    return count > min(max(_ENOUGH, int(_ENOUGH_SHARE * samples)), samples - 1)
