"""A memory of prototypes, found wherever they stood."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from vsad.detection.memory.base import DEFAULTS, Memory, MemoryConfig, shown_enough
from vsad.detection.memory.scaling import apply_scaling, scaling
from vsad.ops import PackedPrototypes, greedy_coreset, pack_prototypes, prototype_distance
from vsad.scratch import Samples

# The maximum number of features among which a view's bank is chosen.
CANDIDATES = 20_000


class PrototypeMemory(Memory):
    """Banks of prototypes per view: ``score(f) = mean_b min_p |f - p|``, f and p scaled, wherever f stands.

    The normal samples are dealt into parts, and for every two parts there is a bank that does not know them. A normal
    sample is scored by the mean over the banks that do not know it, a new one by the mean over all. A single other bank
    would give it scores of another level: where the prototypes of a choice leave gaps differs by more than samples do,
    and the mean evens that out.

    For products that lie anywhere, in any direction. The prototypes are chosen by k-center greedy.

    Args:
        prototypes: ``(V, B, P, C)``, scaled.
        transform: ``(C, C)``.
        unknown: ``(B, 2)`` int64, the parts that a bank does not know; normal sample i is in part ``i % parts``.

    Source: PatchCore (arXiv 2106.08265); Kim, Xu and Barber, "Predictive inference is free with the
    jackknife+-after-bootstrap", 2020.
    """

    by_place = False
    prototypes: Tensor
    transform: Tensor
    unknown: Tensor

    def __init__(self, prototypes: Tensor, transform: Tensor, unknown: Tensor) -> None:
        super().__init__()
        self.register_buffer("prototypes", prototypes)
        self.register_buffer("transform", transform)
        self.register_buffer("unknown", unknown)
        # The packed banks, with the buffer and its version that they were packed from.
        self._packed: tuple[Tensor, int | None, list[list[PackedPrototypes]]] | None = None

    @classmethod
    def fit(cls, features: Samples, seen: Samples, config: MemoryConfig = DEFAULTS) -> PrototypeMemory:
        """Choose ``config.prototypes`` features of every view for every bank.

        Raises:
            ValueError: there are no samples.
        """
        if len(features) == 0:
            raise ValueError("PrototypeMemory: features must hold at least one normal sample, got none; add some")
        transform, parts = scaling(features, seen), min(config.parts, len(features))
        unknown = torch.tensor([*combinations(range(parts), min(2, parts - 1))], dtype=torch.long)
        banks = []
        for left_out in unknown.tolist():
            kept = [index for index in range(len(features)) if index % parts not in left_out]
            candidates = _candidates(features, seen, kept, config.seed)
            banks.append(_coresets([rows @ transform for rows in candidates], config.prototypes, config.seed))
        size = min(bank.shape[1] for bank in banks)
        return cls(torch.stack([bank[:, :size] for bank in banks], dim=1), transform, unknown)

    @classmethod
    def rebuild(cls, weights: Mapping[str, Tensor], config: MemoryConfig) -> PrototypeMemory:
        """Make the memory again of its saved buffers."""
        return cls(weights["prototypes"], weights["transform"], weights["unknown"])

    def held_out(self, features: Samples, seen: Samples) -> Callable[[int, Tensor], Tensor]:
        """A sample is scored by the banks that do not know it.

        Raises:
            ValueError: there is a single bank, as with a single sample.
        """
        if not self.unknown.numel():
            raise ValueError("PrototypeMemory: features must hold at least 2 samples, in 2 parts, got 1; add some")
        parts = int(self.unknown.max()) + 1
        return lambda index, sample: self._score(sample, (self.unknown == index % parts).any(1))

    def known(self, seen: Samples) -> Tensor:
        """Where enough normal samples show the place.

        A prototype is found wherever it stood, but at the rim of the canonical pictures, which few samples reach, lies
        what no other place shows.
        """
        return shown_enough(seen)

    def forward(self, features: Tensor) -> Tensor:
        """Scores ``(V, h, w)`` of one sample's ``features (V, C, h, w)``."""
        return self._score(features, torch.ones(self.prototypes.shape[1], dtype=torch.bool))

    def _score(self, features: Tensor, chosen: Tensor) -> Tensor:
        """Scores ``(V, h, w)`` by the banks that are chosen, ``(B,)`` bool."""
        rows = apply_scaling(features, self.transform).movedim(1, -1)  # (V, h, w, C)
        wanted = chosen.nonzero().flatten().tolist()
        return torch.stack([
            torch.stack([prototype_distance(view, banks[b]).distances[..., 0] for b in wanted]).mean(0)
            for view, banks in zip(rows, self._banks())
        ])  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}  # a copy's buffer counts its changes anew

    def _load_from_state_dict(self, *args: Any) -> None:
        self._packed = None  # the buffer is filled in place, and an inference tensor does not count its changes
        super()._load_from_state_dict(*args)

    def _banks(self) -> list[list[PackedPrototypes]]:
        """Every view's banks, packed when it is first used, and again once the buffer is another or has changed."""
        version = None if self.prototypes.is_inference() else self.prototypes._version
        if self._packed is None or self._packed[0] is not self.prototypes or self._packed[1] != version:
            packed = [[pack_prototypes(bank) for bank in banks] for banks in self.prototypes]
            self._packed = self.prototypes, version, packed
        return self._packed[2]


def _candidates(features: Samples, seen: Samples, kept: Sequence[int], seed: int) -> list[Tensor]:
    """At most ``CANDIDATES`` random features of every view of the samples that are ``kept``, ``(K, C)`` each."""
    C, h, w = features[0].shape[1:]
    shown = torch.stack([seen[index].flatten(1) for index in kept], dim=1).flatten(1)  # (V, S h w)
    drawn = torch.randperm(shown.shape[1], generator=torch.Generator().manual_seed(seed)).to(shown.device)
    chosen = [drawn[mask[drawn]][:CANDIDATES] for mask in shown]
    found = [features[0].new_empty(len(rows), C) for rows in chosen]
    for position, index in enumerate(kept):
        sample = features[index].flatten(2)  # (V, C, h w)
        for view, rows, places in zip(sample, found, chosen):
            here = (places // (h * w) == position).nonzero()[:, 0]
            rows[here] = view[:, places[here] % (h * w)].T
    return found


def _coresets(candidates: Sequence[Tensor], size: int, seed: int) -> Tensor:
    """``(V, P, C)``: the k-center greedy choice among every view's candidates."""
    size = max(1, min(size, *map(len, candidates)))
    return torch.stack([rows[greedy_coreset(rows, size, seed=seed)] for rows in candidates])
