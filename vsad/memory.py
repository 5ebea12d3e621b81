"""The memory of normal appearance: reference samples looked up at the same place, or prototypes found anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsad.ops import PackedPrototypes, greedy_coreset, homography_align, pack_prototypes, prototype_distance

EMPTY = -1  # a slot of homography_align without a source
SHRINKAGE = 1e-2  # of the mean eigenvalue: directions in which normal features hardly vary are mostly noise
CANDIDATES = 20_000  # features a view's coreset is chosen from


def scaling(features: Tensor, whiten: bool) -> Tensor:
    """``(C, C)`` W, such that no channel, or with ``whiten`` no direction, of ``f W`` outweighs another.

    Without ``whiten`` every channel of ``features (..., C)`` gets deviation 1; with it the covariance becomes the
    identity, up to shrinkage, and Euclidean distances become Mahalanobis distances.
    """
    rows = features.reshape(-1, features.shape[-1])
    if not whiten:
        return torch.diag(1 / rows.std(0, correction=0).clamp(min=1e-6))
    centered = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(centered.T @ centered / len(rows))
    return vectors / (values.clamp(min=0) + SHRINKAGE * values.mean() + 1e-12).sqrt()


class AlignedMemory(nn.Module):
    """Normal samples kept as further views of the same place, for cameras that do not move.

    ``score(f, p) = -2/b log sum_{n, cells} exp(-b/2 |f - m_n(p + cell)|^2)``, f and m scaled: the soft smallest
    squared distance to the windows around the same pixel in every reference sample n. A product that lies a little
    off is found by the window, another batch by the number of samples. It is one call of `homography_align`: with
    q = [f, 1] and k = [m, -|m|^2/2] the dot product is (|f|^2 - |f - m|^2)/2, and the sum of exponentials is in its
    ``lse``. Nothing per reference and cell is ever stored.

    Args:
        key: ``(V, S, C + 1, h, w)``: the S references, scaled, and -|m|^2/2.
        transform: ``(C, C)``, as :func:`scaling` makes it.
        window: odd, in feature pixels: how far a product may lie off.
        sharpness: b; the larger, the closer to the hard minimum.
    """

    key: Tensor
    transform: Tensor

    def __init__(self, key: Tensor, transform: Tensor, *, window: int = 5, sharpness: float = 4.0) -> None:
        super().__init__()
        self.window, self.sharpness = window, sharpness
        self.register_buffer("key", _channels_last(key))
        self.register_buffer("transform", transform)

    @classmethod
    def fit(
        cls, features: Tensor, *, size: int = 40, window: int = 5, whiten: bool = False, seed: int = 0
    ) -> AlignedMemory:
        """Keep at most ``size`` of the normal samples ``(S, V, C, h, w)``, those that cover the others best.

        Raises:
            ValueError: there are fewer than two samples.
        """
        if len(features) < 2:
            raise ValueError(
                f"AlignedMemory: features must hold at least 2 normal samples, got {len(features)}; add some"
            )
        transform = scaling(features.movedim(2, -1), whiten)
        if len(features) > size:
            outline = F.adaptive_avg_pool2d(features.flatten(0, 1), 8).reshape(len(features), -1)
            features = features[greedy_coreset(outline, size, seed=seed).sort().values]
        m = _apply(features, transform).transpose(0, 1)
        return cls(torch.cat([m, -0.5 * m.square().sum(2, keepdim=True)], dim=2), transform, window=window)

    def normal_scores(self, features: Tensor) -> Iterator[Tensor]:
        """The score maps ``(V, h, w)`` of the references, each as if it were not kept. ``features`` are not needed."""
        for index in range(self.key.shape[1]):
            yield self._score(self.key[:, index, :-1], leave_out=index)

    def forward(self, features: Tensor) -> Tensor:
        """Scores ``(V, h, w)`` of one sample's ``features (V, C, h, w)``."""
        return self._score(_apply(features, self.transform), leave_out=None)

    def _score(self, f: Tensor, leave_out: int | None) -> Tensor:
        query = _channels_last(torch.cat([f, torch.ones_like(f[:, :1])], dim=1)[:, None])  # (V, 1, C + 1, h, w)
        slots = torch.arange(self.key.shape[1], device=f.device)[None]
        if leave_out is not None:
            slots = torch.where(slots == leave_out, EMPTY, slots)
        same_place = torch.eye(3, device=f.device).expand(1, slots.shape[1], 3, 3)
        # only lse is wanted: a single channel of value, whatever it holds
        _, lse = homography_align(
            query, self.key, self.key[:, :, :1], same_place, slots,
            window=self.window, scale=self.sharpness, return_lse=True,
        )  # fmt: skip
        return f.square().sum(1) - (2 / self.sharpness) * lse[:, 0, 0]


class PrototypeMemory(nn.Module):
    """A bank of prototypes per view: ``score(f) = min_p |f - p|``, f and p scaled, wherever in the image f stands.

    For products that lie anywhere, in any direction. The prototypes are chosen by k-center greedy.

    Args:
        prototypes: ``(V, P, C)``, scaled.
        transform: ``(C, C)``.

    Source: PatchCore (arXiv 2106.08265).
    """

    prototypes: Tensor
    transform: Tensor

    def __init__(self, prototypes: Tensor, transform: Tensor) -> None:
        super().__init__()
        self.register_buffer("prototypes", prototypes)
        self.register_buffer("transform", transform)
        self._packed: tuple[Tensor, int | None, list[PackedPrototypes]] | None = None  # of the buffer as it was

    @classmethod
    def fit(cls, features: Tensor, *, size: int = 2000, whiten: bool = False, seed: int = 0) -> PrototypeMemory:
        """Choose ``size`` prototypes a view among the features of normal samples ``(S, V, C, h, w)``.

        Raises:
            ValueError: there are no samples.
        """
        if len(features) == 0:
            raise ValueError("PrototypeMemory: features must hold at least one normal sample, got none; add some")
        transform = scaling(features.movedim(2, -1), whiten)
        return cls(_coresets(_apply(features, transform), size, seed), transform)

    def normal_scores(self, features: Tensor) -> Iterator[Tensor]:
        """The score maps ``(V, h, w)`` of normal ``features``, each by prototypes of the other half of the samples.

        Raises:
            ValueError: there are fewer than two samples.
        """
        if len(features) < 2:
            raise ValueError(f"PrototypeMemory: features must hold at least 2 samples, got {len(features)}; add some")
        scaled, size = _apply(features, self.transform), self.prototypes.shape[1]
        halves = [PrototypeMemory(_coresets(scaled[start::2], size, 0), self.transform) for start in (1, 0)]
        for index, sample in enumerate(features):
            yield halves[index % 2](sample)

    def forward(self, features: Tensor) -> Tensor:
        """Scores ``(V, h, w)`` of one sample's ``features (V, C, h, w)``."""
        rows = _apply(features, self.transform).movedim(1, -1)  # (V, h, w, C)
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


def _coresets(scaled: Tensor, size: int, seed: int) -> Tensor:
    """``(V, P, C)``: the k-center greedy choice among every view's features of ``scaled (S, V, C, h, w)``."""
    rows = scaled.transpose(0, 1).movedim(2, -1).flatten(1, -2)  # (V, S h w, C)
    drawn = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(seed))[:CANDIDATES].to(rows.device)
    size = min(size, len(drawn))
    return torch.stack([row[greedy_coreset(row, size, seed=seed)] for row in rows[:, drawn]])


def _apply(features: Tensor, transform: Tensor) -> Tensor:
    """``(*, C, h, w)`` times ``(C, D)``."""
    return (features.movedim(-3, -1) @ transform).movedim(-1, -3)


def _channels_last(t: Tensor) -> Tensor:
    return t.movedim(-3, -1).contiguous().movedim(-1, -3)
