"""The camera rig: which view looks at which, and through which homography. A JSON file that a person can edit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsad.geometry import Size, orient_homography, overlap_fraction, scale_homography

FORMAT, VERSION = "vsad-rig", 1
CONVENTION = "homography maps target pixels (x, y) to source pixels; the center of row i, column j is x=j, y=i"
_RIG_KEYS = {"format", "version", "convention", "comment", "views", "height", "width", "pairs"}
_PAIR_KEYS = {"target", "source", "homography", "inliers", "error_px", "comment"}
# In coordinates where the image is [-1, 1]^2; real views stay far below, three collinear corners are infinite.
_MAX_CONDITION = 1e8


@dataclass(frozen=True, eq=False)
class RigPair:
    """One ordered pair of views and how its homography came about.

    Args:
        target: name of the view whose pixels ask.
        source: name of the view that answers.
        homography: `(3, 3)`, source from target; a tensor, an array or nested lists.
        inliers: matches that support the homography; None when it was not measured.
        error_px: their root mean square reprojection error in source pixels; None when it was not measured.
    """

    target: str
    source: str
    homography: Tensor
    inliers: int | None = None
    error_px: float | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Rig:
    """Fixed cameras: their names, their image size and a homography for every ordered pair of neighbors.

    Convention: homographies map target pixels to source pixels between images of `size`, pixel centers are integers
    and sizes are `(height, width)`. They are float64 and oriented (the target image's center has Z > 0).

    Args:
        views: unique names, in the order of the images' view axis (data sets sort them).
        size: `(height, width)` of the images of every view.
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
        object.__setattr__(self, "views", _checked_views(self.views))
        object.__setattr__(self, "size", _checked_size(self.size))
        pairs = tuple(_checked_pair(pair, self.views, self.size) for pair in self.pairs)
        object.__setattr__(self, "pairs", pairs)
        seen = set()
        for pair in pairs:
            if (pair.target, pair.source) in seen:
                raise ValueError(f"rig: {_name(pair.target, pair.source)} must appear once; delete the other entry")
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

        A direction that is missing is taken as the inverse of the other. `"ring"` and `"star"` leave out a
        neighbor whose homography is not known in either direction.

        Args:
            views: names of the views, in order.
            size: `(height, width)` of the images.
            pairs: `RigPair`s, or a mapping from `(target, source)` to a 3 x 3 matrix.
            graph: `"overlap"`: every known pair that sees at least one common pixel, most common pixels first;
                `"ring"`: the next and the previous view; `"star"` or `"star:<view>"`: all views and the center (by
                default the first view) are each other's neighbors; or `(target, source)` pairs.
            max_neighbors: keep at most so many slots for each target, the first ones.

        Returns:
            The rig.

        Raises:
            ValueError: as `Rig`, and for an unknown graph, or explicit pairs without a homography.
        """
        views, size = _checked_views(views), _checked_size(size)
        if isinstance(pairs, Mapping):
            pairs = [RigPair(target, source, matrix) for (target, source), matrix in pairs.items()]
        known = {(pair.target, pair.source): _checked_pair(pair, views, size) for pair in pairs}
        for (target, source), pair in list(known.items()):
            if (source, target) not in known:
                back = replace(pair, target=source, source=target, homography=torch.linalg.inv(pair.homography))
                known[source, target] = _checked_pair(back, views, size)
        if max_neighbors is not None and max_neighbors < 1:
            raise ValueError(f"rig: max_neighbors must be at least 1 or None, got {max_neighbors}")
        chosen: list[RigPair] = []
        for target, sources in _graph_sources(graph, views, size, known).items():
            chosen += [known[target, source] for source in sources[:max_neighbors]]
        return cls(views, size, tuple(chosen))

    @cached_property
    def neighbors(self) -> Tensor:
        """Source view of every slot, `(V, N)` int64, -1 where empty; N is at least 1."""
        return self._slots[0]

    @cached_property
    def homographies(self) -> Tensor:
        """Source from target of every slot, `(V, N, 3, 3)` float64, the identity where empty."""
        return self._slots[1]

    @cached_property
    def overlap(self) -> Tensor:
        """Share of the target's pixels that the source of every slot sees, `(V, N)` float64, 0 where empty."""
        return overlap_fraction(self.homographies, self.size).where(self.neighbors >= 0, 0.0)

    def scaled(self, size: Size) -> Rig:
        """Return the rig of the same cameras for images or features resized to `size`.

        Args:
            size: `(height, width)`.

        Returns:
            A rig whose errors in pixels are scaled by the mean of the two axes' factors.
        """
        size = _checked_size(size)
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

    def to_operator(
        self,
        size: Size | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, Tensor]:
        """Return `(homography, neighbors)` as `vsad.ops.homography_align` takes them.

        Args:
            size: `(height, width)` of the features to align; default the images' own.
            device: of the result.
            dtype: of the homographies; float32 or float64.

        Returns:
            `(V, N, 3, 3)` and `(V, N)` int64.
        """
        H = self.homographies if size is None else scale_homography(self.homographies, self.size, _checked_size(size))
        return H.to(device, dtype), self.neighbors.to(device)

    def save(self, path: str | Path) -> None:
        """Write the rig as JSON: a matrix row on a line, every number exact."""
        head = {
            "format": FORMAT, "version": VERSION, "convention": CONVENTION, "views": list(self.views),
            "height": self.size[0], "width": self.size[1],
        }  # fmt: skip
        lines = [f'  "{key}": {json.dumps(value, ensure_ascii=False)},' for key, value in head.items()]
        entries = ",\n".join(_pair_text(pair) for pair in self.pairs)
        text = "\n".join(["{", *lines, f'  "pairs": [\n{entries}\n  ]', "}", ""])
        Path(path).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Rig:
        """Read a rig that `save` or a person wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: names the file, the pair and what to mend.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"rig: no file {path}; make one with `vsad calibrate`")
        try:
            return _from_json(json.loads(path.read_text(encoding="utf-8")))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: rig: must be JSON, got {error}; mend that line or calibrate anew") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: rig: must be UTF-8 text, got {error}; save it as UTF-8") from None
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


def _graph_sources(
    graph: str | Iterable[tuple[str, str]],
    views: tuple[str, ...],
    size: Size,
    known: Mapping[tuple[str, str], RigPair],
) -> dict[str, list[str]]:
    """List the wanted sources of every target, in slot order."""
    sources: dict[str, list[str]] = {view: [] for view in views}
    if not isinstance(graph, str):
        for target, source in graph:
            if (target, source) not in known:
                raise ValueError(f"rig: graph has {_name(target, source)} but no homography for it; add one or drop it")
            sources[target].append(source)
        return sources
    kind, _, center = graph.partition(":")
    if kind not in ("overlap", "ring", "star") or (center and kind != "star"):
        raise ValueError(f"rig: graph must be overlap, ring, star, star:<view> or pairs of views, got {graph!r}")
    center = center or views[0]
    if center not in views:
        raise ValueError(f"rig: graph star:<view> must name one of {', '.join(views)}, got {center!r}")
    overlap = {key: float(overlap_fraction(pair.homography, size)) for key, pair in known.items()}
    for v, target in enumerate(views):
        if kind == "ring":
            wanted = [views[(v + 1) % len(views)], views[v - 1]]
        elif kind == "star":
            wanted = [source for source in views if center in (source, target)]
        else:
            wanted = [source for source in views if overlap.get((target, source), 0) > 0]
            wanted.sort(key=lambda source: -overlap[target, source])
        sources[target] = [source for source in dict.fromkeys(wanted) if (target, source) in known]
    return sources


def _from_json(content: Any) -> Rig:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f'rig: must be an object with "format": "{FORMAT}"; is this another file?')
    if content.get("version") != VERSION:
        raise ValueError(f"rig: version must be {VERSION}, got {content.get('version')!r}; calibrate anew")
    _check_keys("rig", content, required=("views", "height", "width", "pairs"), allowed=_RIG_KEYS)
    entries = content["pairs"]
    if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
        raise ValueError("rig: pairs must be a list of objects; write [] for none")
    pairs = []
    for index, entry in enumerate(entries):
        name = _name(entry.get("target", f"pairs[{index}]"), entry.get("source", "?"))
        _check_keys(f"rig: {name}", entry, required=("target", "source", "homography"), allowed=_PAIR_KEYS)
        pairs.append(RigPair(**{key: value for key, value in entry.items() if key != "comment"}))
    return Rig(content["views"], (content["height"], content["width"]), tuple(pairs))


def _check_keys(what: str, content: dict[str, Any], required: Sequence[str], allowed: set[str]) -> None:
    missing = [key for key in required if key not in content]
    unknown = [key for key in content if key not in allowed]
    if missing:
        raise ValueError(f"{what} must have {', '.join(missing)}; add it")
    if unknown:
        raise ValueError(f"{what} must not have {', '.join(unknown)}; remove it, notes may go in a comment")


def _checked_views(views: Sequence[str]) -> tuple[str, ...]:
    named = isinstance(views, (list, tuple)) and views and all(isinstance(view, str) and view for view in views)
    if not named or len(set(views)) != len(views):
        raise ValueError(f"rig: views must be a list of unique names, at least one, got {views!r}")
    return tuple(views)


def _checked_size(size: Size) -> Size:
    if len(size) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in size):
        raise ValueError(f"rig: size must be (height, width), two positive integers, got {tuple(size)}")
    return size[0], size[1]


def _checked_pair(pair: RigPair, views: tuple[str, ...], size: Size) -> RigPair:
    """Return the pair with an oriented float64 homography, or explain what is wrong with it."""
    name = _name(pair.target, pair.source)
    for view in (pair.target, pair.source):
        if view not in views:
            raise ValueError(f"rig: {name} must join views of the rig ({', '.join(views)}), got {view!r}")
    if pair.target == pair.source:
        raise ValueError(f"rig: {name} must join two different views; delete it")
    try:
        H = torch.as_tensor(pair.homography, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        H = torch.empty(0)
    if H.shape != (3, 3):
        raise ValueError(f"rig: {name} homography must be 3 rows of 3 numbers, got {pair.homography!r}")
    if not torch.isfinite(H).all():
        raise ValueError(f"rig: {name} homography must be finite, got {H.tolist()}; fit it again or delete the pair")
    for key, value in (("inliers", pair.inliers), ("error_px", pair.error_px)):
        if value is not None and not (isinstance(value, (int, float)) and value >= 0):
            raise ValueError(f"rig: {name} {key} must be a number >= 0, got {value!r}; mend or delete it")
    height, width = size
    unit = scale_homography(H, size, (1, 1))
    if not torch.linalg.cond(unit) < _MAX_CONDITION:
        raise ValueError(
            f"rig: {name} homography must be invertible for {height} x {width} images, got {H.tolist()}; "
            "fit it again or delete the pair"
        )
    H = orient_homography(H, size)
    if not H[2] @ H.new_tensor([(width - 1) / 2, (height - 1) / 2, 1.0]) > 0:
        raise ValueError(f"rig: {name} homography must not send the image center to infinity; fit it again")
    return replace(pair, homography=H)


def _name(target: str, source: str) -> str:
    return f"pair {target} <- {source}"


def _pair_text(pair: RigPair) -> str:
    rows = ",\n".join(f"        {json.dumps(row)}" for row in pair.homography.tolist())
    fields = [f'"target": {json.dumps(pair.target)}, "source": {json.dumps(pair.source)}']
    fields.append(f'"homography": [\n{rows}\n      ]')
    measured = {"inliers": pair.inliers, "error_px": pair.error_px}
    fields += [", ".join(f'"{key}": {json.dumps(value)}' for key, value in measured.items() if value is not None)]
    body = ",\n      ".join(field for field in fields if field)
    return f"    {{\n      {body}\n    }}"
