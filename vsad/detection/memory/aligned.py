"""A memory of reference samples, looked up at the same place."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from vsad.detection.memory.base import DEFAULTS, Memory, MemoryConfig, shown_enough
from vsad.detection.memory.scaling import apply_scaling, scaling
from vsad.ops import homography_align
from vsad.scratch import Samples

# A slot of homography_align without a source.
EMPTY = -1
# The logit, in units of the sharpness, of a reference that does not show a place: no other lies so low.
UNSEEN = -1e4


class AlignedMemory(Memory):
    """Normal samples kept as further views of the same place, for cameras that do not move.

    ``score(f, p) = -2/b log sum_{n, cells} exp(-b/2 |f - m_n(p + cell)|^2)``, f and m scaled: the soft smallest
    squared distance to the windows around the same pixel in every reference sample n. A product that lies a little
    off is found by the window, another batch by the number of samples. It is one call of ``homography_align``: with
    q = [f, 1] and k = [m, -|m|^2/2] the dot product is (|f|^2 - |f - m|^2)/2, and the sum of exponentials is in its
    ``lse``. Nothing per reference and cell is ever stored.

    Args:
        key: ``(V, S, C + 1, h, w)``: the S references, scaled, and -|m|^2/2; where a reference does not show a place,
            zeros and a number far below.
        transform: ``(C, C)``, as ``scaling`` makes it.
        window: odd, in feature pixels: how far a product may lie off.
        sharpness: b; the larger, the closer to the hard minimum.
    """

    by_place = True
    key: Tensor
    transform: Tensor

    def __init__(self, key: Tensor, transform: Tensor, *, window: int = 5, sharpness: float = 4.0) -> None:
        super().__init__()
        self.window, self.sharpness = window, sharpness
        self.register_buffer("key", _channels_last(key))
        self.register_buffer("transform", transform)

    @classmethod
    def fit(cls, features: Samples, seen: Samples, config: MemoryConfig = DEFAULTS) -> AlignedMemory:
        """Keep at most ``config.references`` normal samples, spread evenly over them.

        A choice of those that differ most would leave samples behind that score lower than new ones do.

        Raises:
            ValueError: there are fewer than two samples.
        """
        if len(features) < 2:
            raise ValueError(
                f"AlignedMemory: features must hold at least 2 normal samples, got {len(features)}; add some"
            )
        transform = scaling(features, seen)
        kept, (V, C, h, w) = _kept(len(features), config.references), features[0].shape
        key = transform.new_empty(V, len(kept), h, w, C + 1).movedim(-1, 2)  # (V, S, C + 1, h, w), never twice
        for slot, sample in enumerate(kept):
            m, shown = apply_scaling(features[sample], transform), seen[sample]
            key[:, slot, :-1] = m * shown[:, None]
            key[:, slot, -1] = torch.where(shown, -0.5 * m.square().sum(1), UNSEEN)
        return cls(key, transform, window=config.window or 5)

    @classmethod
    def rebuild(cls, weights: Mapping[str, Tensor], config: MemoryConfig) -> AlignedMemory:
        """Make the memory again of its saved buffers."""
        return cls(weights["key"], weights["transform"], window=config.window or 5)

    def held_out(self, features: Samples, seen: Samples) -> Callable[[int, Tensor], Tensor]:
        """A reference is left out where its own sample is scored."""
        slots = {sample: slot for slot, sample in enumerate(_kept(len(features), self.key.shape[1]))}
        return lambda index, f: self._score(apply_scaling(f, self.transform), leave_out=slots.get(index))

    def known(self, seen: Samples) -> Tensor:
        """Where enough references show the place.

        Features of samples that hardly differ are scaled to any length, so |m|^2 / 2 may exceed ``UNSEEN``.
        """
        return shown_enough((self.key[:, :, -1] != UNSEEN).transpose(0, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Scores ``(V, h, w)`` of one sample's ``features (V, C, h, w)``."""
        return self._score(apply_scaling(features, self.transform), leave_out=None)

    def _score(self, f: Tensor, leave_out: int | None) -> Tensor:
        query = _channels_last(torch.cat([f, torch.ones_like(f[:, :1])], dim=1)[:, None])  # (V, 1, C + 1, h, w)
        slots = torch.arange(self.key.shape[1], device=f.device)[None]
        if leave_out is not None:
            slots = torch.where(slots == leave_out, EMPTY, slots)
        same_place = torch.eye(3, device=f.device).expand(1, slots.shape[1], 3, 3)
        # Only lse is wanted, so value is a single channel, whatever it holds.
        _, lse = homography_align(
            query, self.key, self.key[:, :, :1], same_place, slots,
            window=self.window, scale=self.sharpness, return_lse=True,
        )  # fmt: skip
        return f.square().sum(1) - (2 / self.sharpness) * lse[:, 0, 0]


def _channels_last(t: Tensor) -> Tensor:
    """The same ``(*, C, h, w)`` with its channels next to each other in memory."""
    return t.movedim(-3, -1).contiguous().movedim(-1, -3)


def _kept(samples: int, references: int) -> list[int]:
    """The indices of the samples that are kept."""
    count = min(samples, references)
    return [index * samples // count for index in range(count)]
