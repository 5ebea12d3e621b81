"""A memory of prototypes, found wherever they stood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from vsad.detection.memory.base import DEFAULTS, Memory, MemoryConfig
from vsad.detection.memory.scaling import apply_scaling, scaling
from vsad.ops import PackedPrototypes, greedy_coreset, pack_prototypes, prototype_distance

# The maximum number of features among which a view's coreset is chosen.
CANDIDATES = 20_000
# Normal samples are scored by the bank of the other parts of them; the more parts, the more alike are the banks.
FOLDS = 5


class PrototypeMemory(Memory):
    """A bank of prototypes per view: ``score(f) = min_p |f - p|``, f and p scaled, wherever in the image f stands.

    For products that lie anywhere, in any direction. The prototypes are chosen by k-center greedy.

    Args:
        prototypes: ``(V, P, C)``, scaled.
        transform: ``(C, C)``.

    Source: PatchCore (arXiv 2106.08265).
    """

    by_place = False
    prototypes: Tensor
    transform: Tensor

    def __init__(self, prototypes: Tensor, transform: Tensor) -> None:
        super().__init__()
        self.register_buffer("prototypes", prototypes)
        self.register_buffer("transform", transform)
        # The packed banks, with the buffer and its version that they were packed from.
        self._packed: tuple[Tensor, int | None, list[PackedPrototypes]] | None = None

    @classmethod
    def fit(cls, features: Tensor, seen: Tensor, config: MemoryConfig = DEFAULTS) -> PrototypeMemory:
        """Choose ``config.prototypes`` features of every view.

        Raises:
            ValueError: there are no samples.
        """
        if len(features) == 0:
            raise ValueError("PrototypeMemory: features must hold at least one normal sample, got none; add some")
        transform = scaling(features, seen)
        return cls(_coresets(apply_scaling(features, transform), seen, config.prototypes, config.seed), transform)

    @classmethod
    def rebuild(cls, weights: Mapping[str, Tensor], config: MemoryConfig) -> PrototypeMemory:
        """Make the memory again of its saved buffers."""
        return cls(weights["prototypes"], weights["transform"])

    def held_out(self, features: Tensor, seen: Tensor) -> Callable[[int, Tensor], Tensor]:
        """A sample is scored by the prototypes of the other parts of the samples.

        A part's bank has as many prototypes for each sample as the whole bank: a distance to the nearest depends on
        how densely prototypes lie.

        Raises:
            ValueError: there are fewer than two samples.
        """
        if len(features) < 2:
            raise ValueError(f"PrototypeMemory: features must hold at least 2 samples, got {len(features)}; add some")
        scaled, count = apply_scaling(features, self.transform), min(FOLDS, len(features))
        part = torch.arange(len(features)) % count
        banks = []
        for fold in range(count):
            rest = part != fold
            size = round(self.prototypes.shape[1] * int(rest.sum()) / len(features))
            banks.append(PrototypeMemory(_coresets(scaled[rest], seen[rest], size, 0), self.transform))
        return lambda index, sample: banks[index % count](sample)

    def known(self, seen: Tensor) -> Tensor:
        """Everywhere: a prototype is found wherever it stood."""
        return torch.ones_like(seen[0])

    def forward(self, features: Tensor) -> Tensor:
        """Scores ``(V, h, w)`` of one sample's ``features (V, C, h, w)``."""
        rows = apply_scaling(features, self.transform).movedim(1, -1)  # (V, h, w, C)
        return torch.stack([prototype_distance(r, p).distances[..., 0] for r, p in zip(rows, self._banks())])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}  # a copy's buffer counts its changes anew

    def _load_from_state_dict(self, *args: Any) -> None:
        self._packed = None  # the buffer is filled in place, and an inference tensor does not count its changes
        super()._load_from_state_dict(*args)

    def _banks(self) -> list[PackedPrototypes]:
        """Every view's bank, packed when it is first used, and again once the buffer is another or has changed."""
        version = None if self.prototypes.is_inference() else self.prototypes._version
        if self._packed is None or self._packed[0] is not self.prototypes or self._packed[1] != version:
            self._packed = self.prototypes, version, [pack_prototypes(bank) for bank in self.prototypes]
        return self._packed[2]


def _coresets(scaled: Tensor, seen: Tensor, size: int, seed: int) -> Tensor:
    """``(V, P, C)``: the k-center greedy choice among every view's features of ``scaled (S, V, C, h, w)``."""
    rows = scaled.transpose(0, 1).movedim(2, -1).flatten(1, -2)  # (V, S h w, C)
    shown = seen.transpose(0, 1).flatten(1)  # (V, S h w)
    drawn = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(seed)).to(rows.device)
    candidates = [row[drawn[mask[drawn]][:CANDIDATES]] for row, mask in zip(rows, shown)]
    size = max(1, min(size, *map(len, candidates)))
    return torch.stack([row[greedy_coreset(row, size, seed=seed)] for row in candidates])
