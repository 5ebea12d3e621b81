"""The defects of the synthetic objects. Each lies on the surface; from where it shows follows from what it is.

- scratch: a groove glints where the half vector between lamp and camera is square to it (Kajiya and Kay, 1989);
- crack: a deep gap is black along its depth, and closes for a camera that looks across it at an angle;
- stain: a film darkens or whitens the surface, and hides behind its own gloss where it mirrors the key lamp;
- missing part: a marked part gives way to its surroundings;
- misplaced part: a marked part is shifted and turned, and bares what lay beneath.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from vsad.data.synth.cameras import Camera, Lamp, half_vectors
from vsad.data.synth.product import Part, Product, blur, smooth_noise, to_display

# Lines scale with the image down to this share of their width at 256 pixels: below, no camera sees them.
_FINEST = 0.7
# Thin lines are drawn at this multiple of the resolution and averaged down: their width need not be an integer of
# texels.
_FINE = 4
# In shares of a part: where less of it looks changed, as of plain sky on plain sky, nobody would miss it.
_MISSED = 0.25


@dataclass(frozen=True)
class Defect:
    """A change of the albedo of the texture's rectangle that starts at (y, x).

    Args:
        kind: one of ``KINDS``.
        y, x: the rectangle's corner, in texels.
        cover: (h, w) float32, how much of ``color`` replaces the albedo.
        color: (h, w, 3) float32 linear reflectance.
        footprint: (h, w) bool, the texels that count as defective.
        direction: unit vector along a scratch or crack; of no account elsewhere.
        part: the part that is not in its place, of a missing or misplaced one.
        moved: that part where it lies instead, of a misplaced one.
    """

    kind: str
    y: int
    x: int
    cover: np.ndarray
    color: np.ndarray
    footprint: np.ndarray
    direction: tuple[float, float] = (1.0, 0.0)
    part: Part | None = None
    moved: Part | None = None

    def center(self) -> np.ndarray:
        """Give the footprint's middle (x, y) in texels."""
        rows, columns = np.nonzero(self.footprint)
        return np.array([self.x + columns.mean(), self.y + rows.mean()])

    def strength(self, point: np.ndarray, direction: np.ndarray, camera: Camera, lamps: list[Lamp]) -> float:
        """Tell how much of the defect shows to a camera, from 0 to 1.

        Args:
            point: (2,) where it lies on the plane.
            direction: (2,) ``self.direction`` turned into the plane.
        """
        if self.kind == "scratch":
            along = np.array([*direction, 0.0])
            tilts = np.array([half_vectors(point, camera, lamp) @ along for lamp in lamps])
            powers = np.array([lamp.power for lamp in lamps])
            return float(np.clip(powers @ np.exp(-((tilts / 0.07) ** 2) / 2), 0, 1))
        if self.kind == "crack":
            ray = camera.position - np.array([*point, 0.0])
            sideways = abs(ray[0] * -direction[1] + ray[1] * direction[0]) / abs(ray[2])
            return float(np.clip(1 - 2.2 * sideways, 0, 1))
        if self.kind == "stain":
            return 1 - 0.9 * float(np.clip(-half_vectors(point, camera, lamps[0])[2], 0, 1) ** 90)
        return 1.0

    def apply(self, surface: np.ndarray, strength: float) -> np.ndarray:
        """Give a copy of ``surface`` (H, W, 4), colors and opacity, with the defect at some strength."""
        h, w = self.cover.shape
        changed = surface.copy()
        region = changed[self.y : self.y + h, self.x : self.x + w]
        opacity = region[..., 3:]  # colors are premultiplied by it: nothing is painted beside the object
        region[..., :3] += (strength * self.cover)[..., None] * (opacity * self.color - region[..., :3])
        return changed


def make_defect(kind: str, product: Product, albedo: np.ndarray, rng: np.random.Generator) -> Defect | None:
    """Draw a defect of a kind somewhere on a specimen; None where this draw does not fit on the object."""
    defect = _MAKERS[kind](product, albedo, rng)
    if defect is None or not defect.footprint.any():
        return None
    h, w = defect.cover.shape
    fits = defect.y >= 0 and defect.x >= 0 and defect.y + h <= albedo.shape[0] and defect.x + w <= albedo.shape[1]
    if not fits or not product.inside[defect.y : defect.y + h, defect.x : defect.x + w][defect.footprint].all():
        return None
    return defect


def _scratch(product: Product, albedo: np.ndarray, rng: np.random.Generator) -> Defect:
    unit = product.texels / 640
    fine = max(unit, _FINEST)
    length, heading = rng.uniform(70, 190) * unit, rng.uniform(0, 2 * np.pi)
    turn = rng.normal(0, 0.12)  # over the whole length: nearly straight
    angles = heading + turn * (np.linspace(0, 1, 24) - 0.5)
    path = np.cumsum(np.stack([np.cos(angles), np.sin(angles)], 1) * (length / 24), axis=0)
    side = np.array([-np.sin(heading), np.cos(heading)])
    strokes = [(path, rng.uniform(3.5, 6.0) * fine)]
    for _ in range(rng.integers(0, 3)):  # what made it seldom left a single line
        first, last = sorted(rng.integers(0, 24, 2))
        if last - first > 5:
            strokes.append((path[first:last] + side * rng.normal(0, 7) * unit, rng.uniform(2.0, 3.0) * fine))
    cover = rng.uniform(0.8, 1.0)
    return _line("scratch", product, strokes, cover, rng.uniform(0.6, 0.9), heading, rng)


def _crack(product: Product, albedo: np.ndarray, rng: np.random.Generator) -> Defect:
    unit = product.texels / 640
    fine = max(unit, _FINEST)
    steps = int(rng.integers(14, 30))
    heading = rng.uniform(0, 2 * np.pi)
    angles = heading + rng.normal(0, 0.45, steps) + 0.3 * smooth_noise((1, steps), 3, rng)[0]
    path = np.cumsum(np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(4, 9, (steps, 1)) * unit, axis=0)
    strokes = [(path, rng.uniform(3.0, 5.0) * fine)]
    if rng.random() < 0.5:  # a branch
        start = int(rng.integers(steps // 3, 2 * steps // 3))
        turned = angles[start:] + rng.choice([-0.7, 0.7])
        branch = np.cumsum(np.stack([np.cos(turned), np.sin(turned)], 1) * 5 * unit, axis=0)[: steps // 3]
        strokes.append((path[start] + branch, rng.uniform(2.0, 3.0) * fine))
    chord = path[-1] - path[0]
    return _line("crack", product, strokes, 0.92, 0.012, float(np.arctan2(chord[1], chord[0])), rng)


def _line(
    kind: str,
    product: Product,
    strokes: list[tuple[np.ndarray, float]],
    cover: float,
    gray: float,
    heading: float,
    rng: np.random.Generator,
) -> Defect:
    """Draw strokes (path, width) that taper to their ends, at a random place on the object."""
    points = np.concatenate([path for path, _ in strokes])
    pad = 6 * product.texels / 640
    low = points.min(0) - pad
    width, height = np.ceil(points.max(0) + pad - low).astype(int)
    canvas = np.zeros((height * _FINE, width * _FINE), np.uint8)
    for path, thickness in strokes:
        parts = len(path) - 1
        for i in range(parts):
            taper = min(1.0, 0.5 + 3 * min(i + 0.5, parts - i - 0.5) / parts)
            ends = np.rint((path[i : i + 2] - low) * _FINE).astype(int)
            cv2.line(canvas, ends[0].tolist(), ends[1].tolist(), 255, max(1, round(thickness * taper * _FINE)))
    drawn = cv2.resize(canvas, (int(width), int(height)), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    depth = np.clip(0.85 + 0.2 * smooth_noise(drawn.shape, 6, rng), 0.4, 1)
    y, x = _place(product, (int(height), int(width)), rng)
    color = np.full((*drawn.shape, 3), gray, np.float32)
    direction = (float(np.cos(heading)), float(np.sin(heading)))
    return Defect(kind, y, x, cover * depth * drawn, color, drawn > 0.2, direction)


def _stain(product: Product, albedo: np.ndarray, rng: np.random.Generator) -> Defect:
    unit = product.texels / 640
    radius = rng.uniform(18, 40) * unit
    side = int(np.ceil(3.4 * radius))
    grid = np.arange(side) - (side - 1) / 2
    x, y = np.meshgrid(grid, grid)
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1, 1.6)
    across = (np.cos(turn) * x + np.sin(turn) * y) * np.sqrt(stretch)
    along = (np.cos(turn) * y - np.sin(turn) * x) / np.sqrt(stretch)
    wobble = 0.16 * radius * smooth_noise((side, side), radius / 2.5, rng)
    inwards = radius - np.hypot(across, along) + wobble  # texels from the film's edge, positive inside
    film = np.clip(inwards / (2.5 * unit) + 0.5, 0, 1)
    rim = np.exp(-(((inwards - 3 * unit) / (3 * unit)) ** 2))  # a drying drop leaves most at its edge
    mottle = 1 + 0.15 * smooth_noise((side, side), 3 * unit, rng)
    cover = film * (rng.uniform(0.28, 0.45) * mottle + 0.3 * rim)
    tones = ([0.10, 0.055, 0.02], [0.03, 0.03, 0.035], [0.50, 0.48, 0.42])  # coffee or flux, oil, white residue
    tone = np.array(tones[rng.integers(3)], np.float32)
    corner = _place(product, (side, side), rng)
    cover = np.clip(cover, 0, 0.85).astype(np.float32)
    return Defect("stain", *corner, cover, np.broadcast_to(tone, (side, side, 3)), film > 0.5)


def _missing_part(product: Product, albedo: np.ndarray, rng: np.random.Generator) -> Defect | None:
    part = _choose_part(product, rng)
    if part is None:
        return None
    pad = round(8 * product.texels / 640)
    y, x, mask, patch = _cut(part, albedo, pad)
    bare = _without_part(albedo, y, x, mask, product, rng)
    defect = _replacement("missing_part", y, x, patch, bare, _grow(mask, product), product)
    return replace(defect, part=part) if _is_missed(defect, part) else None


def _misplaced_part(product: Product, albedo: np.ndarray, rng: np.random.Generator) -> Defect | None:
    part = _choose_part(product, rng)
    if part is None:
        return None
    h, w = part.mask.shape
    pad = round(8 * product.texels / 640 + 0.6 * max(h, w))
    y, x, mask, patch = _cut(part, albedo, pad)
    bare = _without_part(albedo, y, x, mask, product, rng)
    shift = rng.uniform(0.2, 0.4) * np.sqrt(h * w)
    heading, turn = rng.uniform(0, 2 * np.pi), rng.choice([-1, 1]) * rng.uniform(12, 40)
    middle = ((mask.shape[1] - 1) / 2, (mask.shape[0] - 1) / 2)
    move = cv2.getRotationMatrix2D(middle, float(turn), 1.0)
    move[:, 2] += shift * np.array([np.cos(heading), np.sin(heading)])
    size = (mask.shape[1], mask.shape[0])
    moved = cv2.warpAffine(patch, move, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    cover = cv2.warpAffine(mask.astype(np.float32), move, size, flags=cv2.INTER_LINEAR)
    cover = blur(cover, 0.7)[..., None]
    changed = bare + cover * (moved - bare)
    region = _grow(mask, product) | (cover[..., 0] > 0.05)
    defect = _replacement("misplaced_part", y, x, patch, changed, region, product)
    if not _is_missed(defect, part):
        return None
    return replace(defect, part=part, moved=Part(y, x, cover[..., 0] > 0.5))


def _is_missed(defect: Defect, part: Part) -> bool:
    """Whether more of a part looks changed than a speck of dust on it."""
    return bool(defect.footprint.sum() >= _MISSED * part.mask.sum())


def _replacement(
    kind: str, y: int, x: int, before: np.ndarray, after: np.ndarray, region: np.ndarray, product: Product
) -> Defect:
    """Make the defect that turns ``before`` into ``after``; it reaches as far as the two differ visibly."""
    differs = np.abs(to_display(after).astype(int) - to_display(before)).max(-1) > 10
    radius = round(2.5 * product.texels / 640)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    closed = cv2.morphologyEx((differs & region).astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    opened = cv2.morphologyEx(closed, cv2.MORPH_OPEN, kernel[1:-1, 1:-1])
    outlines, _ = cv2.findContours(opened, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    footprint = cv2.drawContours(np.zeros_like(opened), outlines, -1, 1, -1) > 0  # marked without holes, as by hand
    footprint &= region
    return Defect(kind, y, x, blur(footprint.astype(np.float32), 0.7), after, footprint)


def _choose_part(product: Product, rng: np.random.Generator) -> Part | None:
    if not product.parts:
        return None
    weights = np.sqrt([part.mask.sum() for part in product.parts])  # else most would be the tiniest
    return product.parts[rng.choice(len(product.parts), p=weights / weights.sum())]


def _cut(part: Part, albedo: np.ndarray, pad: int) -> tuple[int, int, np.ndarray, np.ndarray]:
    h, w = part.mask.shape
    top, left = min(pad, part.y), min(pad, part.x)
    bottom = min(pad, albedo.shape[0] - part.y - h)
    right = min(pad, albedo.shape[1] - part.x - w)
    y, x = part.y - top, part.x - left
    mask = np.pad(part.mask, ((top, bottom), (left, right)))
    return y, x, mask, albedo[y : y + mask.shape[0], x : x + mask.shape[1]]


def _grow(mask: np.ndarray, product: Product) -> np.ndarray:
    radius = max(1, round(1.5 * product.texels / 640))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(mask.astype(np.uint8), kernel) > 0


def _without_part(
    albedo: np.ndarray, y: int, x: int, mask: np.ndarray, product: Product, rng: np.random.Generator
) -> np.ndarray:
    """Give the patch at (y, x) as it were without the part in ``mask``: bare material in the tone of what is around."""
    hole = _grow(mask, product)
    h, w = hole.shape
    patch = albedo[y : y + h, x : x + w]
    if product.bare:
        top, left, bottom, right = product.bare[rng.integers(len(product.bare))]
        swatch = albedo[top:bottom, left:right]
        more = ((0, max(0, h - bottom + top)), (0, max(0, w - right + left)), (0, 0))
        texture = np.pad(swatch, more, "reflect")[:h, :w] / np.median(swatch, (0, 1))
    else:
        texture = 1 + 0.08 * smooth_noise((h, w), 1.5 * product.texels / 640, rng)[..., None]
    ring = _ring(hole, product)
    free = ring & ~product.occupied[y : y + h, x : x + w]
    weight = (free if free.any() else ring).astype(np.float32)[..., None]
    spread = 0.3 * float(np.sqrt(hole.sum()))
    tone = blur(patch * weight, spread) / (blur(weight, spread)[..., None] + 1e-6)
    blend = blur(hole.astype(np.float32), product.texels / 640)[..., None]
    return np.asarray(np.clip(patch + blend * (texture * tone - patch), 0, 1).astype(np.float32))


def _ring(hole: np.ndarray, product: Product) -> np.ndarray:
    return np.asarray(_grow(_grow(_grow(hole, product), product), product) & ~hole)


def _place(product: Product, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """Draw a corner (y, x) such that the middle of a rectangle lies on the object."""
    rows, columns = np.flatnonzero(product.inside.any(1)), np.flatnonzero(product.inside.any(0))
    return int(rng.choice(rows)) - size[0] // 2, int(rng.choice(columns)) - size[1] // 2


_MAKERS: dict[str, Callable[[Product, np.ndarray, np.random.Generator], Defect | None]] = {
    "scratch": _scratch,
    "stain": _stain,
    "missing_part": _missing_part,
    "misplaced_part": _misplaced_part,
    "crack": _crack,
}
KINDS = tuple(_MAKERS)
