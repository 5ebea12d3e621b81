"""The camera rig: which view looks at which, and through which homography."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsad.files import write_text
from vsad.geometry.checks import Size
from vsad.geometry.homography import scale_homography, translation
from vsad.geometry.neighbor_graph import choose_sources
from vsad.geometry.rig_file import format_rig, pair_name, parse_rig, read_rig_file
from vsad.geometry.rig_pair import RigPair, checked_pair, checked_rig_size, checked_views


@dataclass(frozen=True, eq=False, repr=False)
class Rig:
    """Fixed cameras: their names, their image size and a homography for every ordered pair of neighbors.

    Convention: homographies map target pixels to source pixels between images of ``size``, pixel centers are integers
    and sizes are ``(height, width)``. They are float64 and oriented (the target image's center has Z > 0).

    Args:
        views: unique names, in the order of the images' view axis (data sets sort them).
        size: ``(height, width)`` of the images of every view.
        pairs: the neighbor graph, an entry for each ordered pair; a target's slots keep this order.

    Raises:
        ValueError: unknown or repeated names, a wrong size, a matrix that is not 3 x 3, finite and invertible.

    Example:
        >>> shift = [[1, 0, 8], [0, 1, 0], [0, 0, 1]]
        >>> rig = Rig.from_pairs(["left", "right"], (64, 64), {("left", "right"): shift})
        >>> rig
        Rig(2 views left right, 64 x 64 pixels, 2 pairs)
        >>> rig.neighbors.tolist()
        [[1], [0]]
        >>> rig.homographies[1, 0, 0].tolist()
        [1.0, 0.0, -8.0]
    """

    views: tuple[str, ...]
    size: Size
    pairs: tuple[RigPair, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", checked_views(self.views))
        object.__setattr__(self, "size", checked_rig_size(self.size))
        pairs = tuple(checked_pair(pair, self.views, self.size) for pair in self.pairs)
        object.__setattr__(self, "pairs", pairs)
        seen = set()
        for pair in pairs:
            if (pair.target, pair.source) in seen:
                raise ValueError(f"rig: {pair_name(pair.target, pair.source)} must appear once; delete the other entry")
            seen.add((pair.target, pair.source))

    @classmethod
    def from_pairs(
        cls,
        views: Sequence[str],
        size: Size,
        pairs: Iterable[RigPair] | Mapping[tuple[str, str], Any],
        *,
        graph: str | Iterable[tuple[str, str]] = "overlap",
        max_neighbors: int | None = None,
    ) -> Rig:
        """Choose a neighbor graph among known pairwise homographies.

        A direction that is missing is taken as the inverse of the other. ``"ring"`` and ``"star"`` leave out a
        neighbor whose homography is not known in either direction.

        Args:
            views: names of the views, in order.
            size: ``(height, width)`` of the images.
            pairs: ``RigPair``s, or a mapping from ``(target, source)`` to a 3 x 3 matrix.
            graph: ``"overlap"``: every known pair that sees at least one common pixel, most common pixels first;
                ``"ring"``: the next and the previous view; ``"star"`` or ``"star:<view>"``: all views and the center
                (by default the first view) are each other's neighbors; or ``(target, source)`` pairs.
            max_neighbors: maximum number of slots of each target; the first ones are kept.

        Returns:
            The rig.

        Raises:
            ValueError: as ``Rig``, and for an unknown graph, or explicit pairs without a homography.
        """
        views, size = checked_views(views), checked_rig_size(size)
        if isinstance(pairs, Mapping):
            pairs = [RigPair(target, source, matrix) for (target, source), matrix in pairs.items()]
        known = {(pair.target, pair.source): checked_pair(pair, views, size) for pair in pairs}
        for (target, source), pair in list(known.items()):
            if (source, target) not in known:
                back = replace(pair, target=source, source=target, homography=torch.linalg.inv(pair.homography))
                known[source, target] = checked_pair(back, views, size)
        if max_neighbors is not None and max_neighbors < 1:
            raise ValueError(f"rig: max_neighbors must be at least 1 or None, got {max_neighbors}")
        chosen: list[RigPair] = []
        for target, sources in choose_sources(graph, views, size, known).items():
            chosen += [known[target, source] for source in sources[:max_neighbors]]
        return cls(views, size, tuple(chosen))

    @classmethod
    def uncalibrated(cls, views: Sequence[str], size: Size) -> Rig:
        """The rig of cameras of which nothing is known: all are neighbors, and every homography is the identity.

        For models that learn the homographies themselves.
        """
        names = checked_views(views)
        eye = torch.eye(3, dtype=torch.float64)
        return cls(names, size, tuple(RigPair(t, s, eye) for t in names for s in names if s != t))

    @cached_property
    def _operators(self) -> dict[Any, tuple[Tensor, Tensor]]:
        return {}

    @cached_property
    def neighbors(self) -> Tensor:
        """Source view of every slot, ``(V, N)`` int64, -1 where empty; N is at least 1."""
        return self._slots[0]

    @cached_property
    def homographies(self) -> Tensor:
        """Source from target of every slot, ``(V, N, 3, 3)`` float64, the identity where empty."""
        return self._slots[1]

    def scaled(self, size: Size) -> Rig:
        """Return the rig of the same cameras for images or features resized to ``size``.

        Args:
            size: ``(height, width)``.

        Returns:
            A rig whose errors in pixels are scaled by the mean of the two axes' factors.
        """
        size = checked_rig_size(size)
        factor = (size[0] / self.size[0] + size[1] / self.size[1]) / 2
        pairs = (
            replace(
                pair,
                homography=scale_homography(pair.homography, self.size, size),
                error_px=None if pair.error_px is None else pair.error_px * factor,
            )
            for pair in self.pairs
        )
        return Rig(self.views, size, tuple(pairs))

    def padded(self, margin: int) -> Rig:
        """Return the rig of the same cameras for images with ``margin`` more pixels at every side.

        Args:
            margin: zero or more.
        """
        if not isinstance(margin, int) or isinstance(margin, bool) or margin < 0:
            raise ValueError(f"Rig.padded: margin must be a whole number of pixels, zero or more, got {margin!r}")
        return self._moved(margin)

    def cropped(self, margin: int) -> Rig:
        """Return the rig of the same cameras for images without ``margin`` pixels at every side: undoes ``padded``."""
        if not isinstance(margin, int) or isinstance(margin, bool) or not 0 <= 2 * margin < min(self.size):
            raise ValueError(
                f"Rig.cropped: margin must be a whole number of pixels, zero or more and less than half of "
                f"{min(self.size)}, got {margin!r}"
            )
        return self._moved(-margin)

    def extended(self, size: Size) -> Rig:
        """Return the rig of the same cameras for images of another ``size`` that begin at the same pixel.

        Rows are added or left out at the bottom, columns at the right.
        """
        return self if size == self.size else Rig(self.views, size, self.pairs)

    def _moved(self, margin: int) -> Rig:
        there, back = translation(margin, margin), translation(-margin, -margin)
        pairs = (replace(pair, homography=there @ pair.homography @ back) for pair in self.pairs)
        return Rig(self.views, (self.size[0] + 2 * margin, self.size[1] + 2 * margin), tuple(pairs))

    def to_operator(
        self,
        size: Size | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, Tensor]:
        """Return ``(homography, neighbors)`` as ``vsad.ops.homography_align`` takes them.

        Args:
            size: ``(height, width)`` of the features to align; default the images' own.
            device: device of the result.
            dtype: dtype of the homographies; float32 or float64.

        Returns:
            ``(V, N, 3, 3)`` and ``(V, N)`` int64. They are made once for every size, device and dtype and shared by all
            callers: do not write into them.
        """
        wanted = self.size if size is None else checked_rig_size(size)
        key = (wanted, str(device), dtype)
        found = self._operators.get(key)
        if found is None:
            H = self.homographies if wanted == self.size else scale_homography(self.homographies, self.size, wanted)
            found = H.to(device, dtype), self.neighbors.to(device)
            if type(found[0]) is Tensor:  # a fake one, of a tracer, must not outlive it
                self._operators[key] = found
        return found

    def save(self, path: str | Path) -> None:
        """Write the rig as JSON: a matrix row on a line, every number exact."""
        write_text(path, format_rig(self.views, self.size, self.pairs))

    @classmethod
    def load(cls, path: str | Path) -> Rig:
        """Read a rig that ``save`` or a person wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: names the file, the pair and what to mend.
        """
        content = read_rig_file(path)
        try:
            return cls(*parse_rig(content))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def __repr__(self) -> str:
        height, width = self.size
        names = " ".join(self.views)
        return f"Rig({len(self.views)} views {names}, {height} x {width} pixels, {len(self.pairs)} pairs)"

    @cached_property
    def _slots(self) -> tuple[Tensor, Tensor]:
        by_target = {view: [pair for pair in self.pairs if pair.target == view] for view in self.views}
        V, N = len(self.views), max(1, *map(len, by_target.values()))
        neighbors = torch.full((V, N), -1)
        homographies = torch.eye(3, dtype=torch.float64).repeat(V, N, 1, 1)
        for v, pairs in enumerate(by_target.values()):
            for n, pair in enumerate(pairs):
                neighbors[v, n] = self.views.index(pair.source)
                homographies[v, n] = pair.homography
        return neighbors, homographies
