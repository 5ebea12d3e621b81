"""The synthetic object: a photograph taken as the albedo of a flat product, with its parts and its normal variation."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from vsad.data.images import is_image, read_image
from vsad.files import read_json

PHOTOGRAPHS = Path(__file__).resolve().parents[1] / "photographs"
_SKIMAGE = "skimage:"
_GAMMA = 2.2
_ENOUGH_PARTS = 10
# Around the object, for its shadow, in shares of its long side.
_MARGIN = 0.05
# The texture's resolution: texels along the long side for each pixel of a view's width.
_TEXELS_PER_PIXEL = 2.5


@dataclass(frozen=True)
class Part:
    """A thing mounted on the object: its texture pixels are (y + i, x + j) where mask[i, j]."""

    y: int
    x: int
    mask: np.ndarray  # (h, w) bool


@dataclass(frozen=True)
class Product:
    """A kind of object.

    Args:
        name: its category.
        albedo: (H, W, 3) float32 linear reflectance, with a margin all round.
        inside: (H, W) bool, where the object is.
        parts: things on it that could be missing or misplaced.
        occupied: (H, W) bool, where a part lies, or nothing of the object.
        bare: rectangles (y0, x0, y1, x1) of plain material, where the photograph's are marked.
        texels: texels per unit of the plane.
    """

    name: str
    albedo: np.ndarray
    inside: np.ndarray
    parts: list[Part]
    occupied: np.ndarray
    bare: list[tuple[int, int, int, int]]
    texels: float

    @property
    def H_object_from_texture(self) -> np.ndarray:
        """Map texture pixels to object units: the object's middle is 0, its long side 1."""
        height, width = self.inside.shape
        scale = 1 / self.texels
        return np.array([[scale, 0, (0.5 - width / 2) * scale], [0, scale, (0.5 - height / 2) * scale], [0, 0, 1]])


def photograph_names() -> list[str]:
    """List the photographs that come with vsad; each is a category for ``synthesize``."""
    return sorted(path.stem for path in PHOTOGRAPHS.iterdir() if is_image(path))


def find_photograph(category: str) -> Path:
    """Find the photograph of a category: one of ``photograph_names``, a path, or "skimage:NAME".

    Raises:
        ValueError: it is none of them.
    """
    if category.startswith(_SKIMAGE):
        return _find_skimage(category)
    for path in sorted(PHOTOGRAPHS.iterdir()):
        if is_image(path) and path.stem == category:
            return path
    path = Path(category)
    if path.is_file():
        return path
    raise ValueError(
        f"synthesize: categories must be of {', '.join(photograph_names())} or the path of a photograph, "
        f"got {category!r}; check the name"
    )


def _find_skimage(category: str) -> Path:
    """Find a photograph that lies in scikit-image's package; it is not imported for that."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"synthesize: categories must name photographs of installed packages, got {category!r}; "
            f"pip install scikit-image"
        )
    folder = Path(spec.submodule_search_locations[0]) / "data"
    found = {path.stem: path for path in sorted(folder.iterdir()) if is_image(path)}
    name = category.removeprefix(_SKIMAGE)
    if name not in found:
        raise ValueError(
            f"synthesize: categories of scikit-image must be of {', '.join(found)}, got {name!r}; check the name"
        )
    return found[name]


def load_product(category: str, size: int) -> Product:
    """Make a product from a photograph, at the texture resolution that views of ``size`` pixels need."""
    path = find_photograph(category)
    photo = read_image(path)
    texels = _TEXELS_PER_PIXEL * size
    scale = texels / max(photo.shape[:2])
    width, height = (max(1, round(side * scale)) for side in (photo.shape[1], photo.shape[0]))
    photo = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    margin = round(_MARGIN * texels)
    inside = np.pad(np.ones((height, width), bool), margin)
    name = path.stem
    marks = _marks(path, scale)
    parts = _marked_parts(marks) if marks else _find_parts(photo)
    parts = [Part(part.y + margin, part.x + margin, part.mask) for part in parts]
    bare = [(y0 + margin, x0 + margin, y1 + margin, x1 + margin) for x0, y0, x1, y1 in marks.get("bare", [])]
    occupied = ~inside
    for part in parts:
        h, w = part.mask.shape
        occupied[part.y : part.y + h, part.x : part.x + w] |= part.mask
    photo = cv2.copyMakeBorder(photo, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    return Product(name, to_linear(photo), inside, parts, occupied, bare, texels)


def vary(product: Product, rng: np.random.Generator) -> np.ndarray:
    """Make one specimen: the product's albedo with the variation that every normal object shows.

    Batches differ in tone, material in density, and dust and lint lie on everything.

    Returns:
        (H, W, 3) float32 albedo.
    """
    height, width = product.inside.shape
    tone = 1 + rng.normal(0, 0.012, 3) + rng.normal(0, 0.03)
    density = cv2.resize(rng.normal(0, 0.03, (6, 8)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    grain = cv2.resize(
        rng.standard_normal((height // 2, width // 2), np.float32), (width, height), interpolation=cv2.INTER_LINEAR
    )
    albedo = product.albedo * ((1 + density + 0.02 * grain)[..., None] * tone.astype(np.float32))
    dust = _dust(height, width, product.texels, rng)[..., None]
    return np.asarray(np.clip(albedo + dust * (0.45 - albedo), 0, 1))


def with_shadow(product: Product, albedo: np.ndarray) -> np.ndarray:
    """Add the object's outline and contact shadow as a fourth channel, colors premultiplied by it.

    A shadow is black that covers in part, so one warp carries object and shadow.
    """
    inside = product.inside.astype(np.float32)
    shadow = 0.6 * blur(inside, 0.012 * product.texels)
    return np.dstack([albedo * inside[..., None], np.maximum(inside, shadow)])


def to_linear(image: np.ndarray) -> np.ndarray:
    """Turn display values (uint8) into linear light (float32)."""
    table = (np.arange(256) / 255) ** _GAMMA
    return np.asarray(table.astype(np.float32)[image])


def to_display(light: np.ndarray) -> np.ndarray:
    """Turn linear light into display values (uint8)."""
    return np.asarray(np.rint(np.clip(light, 0, 1) ** (1 / _GAMMA) * 255).astype(np.uint8))


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur by a Gaussian of some deviation in pixels."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma))


def smooth_noise(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Make smooth noise of zero mean and unit deviation."""
    noise = blur(rng.standard_normal(shape, np.float32), sigma)
    return np.asarray((noise - noise.mean()) / (noise.std() + 1e-9))


def _dust(height: int, width: int, texels: float, rng: np.random.Generator) -> np.ndarray:
    """Draw how much of every texel dust and lint cover, (H, W) float32 in [0, 1]."""
    layer = np.zeros((height, width), np.uint8)
    unit = texels / 640  # one texel of a 256-pixel view
    for _ in range(rng.poisson(30)):
        center = (int(rng.integers(width)) * 16, int(rng.integers(height)) * 16)
        cv2.circle(layer, center, int(16 * unit * rng.uniform(0.6, 1.6)), int(rng.uniform(25, 90)), -1, cv2.LINE_AA, 4)
    for _ in range(rng.poisson(0.3)):  # lint: short, curved and faint
        start = rng.uniform(0, [width, height])
        heading, bend = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.25)
        angles = heading + bend * np.arange(8)
        steps = np.cumsum(np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(2, 5) * unit, axis=0)
        cv2.polylines(
            layer, [((start + steps) * 16).astype(np.int32)], False, int(rng.uniform(25, 60)), 1, cv2.LINE_AA, 4
        )
    return layer.astype(np.float32) / 255


def _marks(path: Path, scale: float) -> dict[str, list[list[int]]]:
    """Read what a person marked on a packaged photograph: rectangles (x0, y0, x1, y1) by shape, scaled."""
    if path.parent != PHOTOGRAPHS:
        return {}
    marks = read_json(PHOTOGRAPHS / "parts.json", remedy="install vsad again").get(path.stem, {})
    return {shape: np.rint(np.array(boxes) * scale).astype(int).tolist() for shape, boxes in marks.items()}


def _marked_parts(marks: dict[str, list[list[int]]]) -> list[Part]:
    """Make parts of the ellipses and boxes that a person marked."""
    parts = [
        Part(y0, x0, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (x1 - x0, y1 - y0)).astype(bool))
        for x0, y0, x1, y1 in marks.get("ellipse", [])
    ]
    return parts + [Part(y0, x0, np.ones((y1 - y0, x1 - x0), bool)) for x0, y0, x1, y1 in marks.get("box", [])]


def _find_parts(photo: np.ndarray) -> list[Part]:
    """Find compact regions of one tone, such as single bricks, where nobody marked the parts."""
    height, width = photo.shape[:2]
    unit = max(height, width) / 640
    smooth = cv2.bilateralFilter(photo, round(9 * unit), 30, 5 * unit)
    pixels = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float32)
    cv2.setRNGSeed(0)  # k-means starts at random; the parts must not
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
    start = np.zeros((len(pixels), 1), np.int32)
    _, labels, _ = cv2.kmeans(pixels, 4, start, criteria, 1, cv2.KMEANS_PP_CENTERS)
    labels = labels.reshape(height, width)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(2 * unit) + 1,) * 2)
    parts = []
    for label in range(4):
        region = cv2.morphologyEx((labels == label).astype(np.uint8), cv2.MORPH_OPEN, kernel)
        contours, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        for contour in contours:
            x, y, w, h = cv2.boundingRect(contour)
            hull = cv2.convexHull(contour)
            area = cv2.contourArea(contour)
            touches = x < 3 or y < 3 or x + w > width - 3 or y + h > height - 3
            is_size = 0.0012 * height * width < area < 0.02 * height * width
            if touches or not is_size or area < 0.88 * cv2.contourArea(hull):
                continue
            mask = cv2.drawContours(np.zeros((h, w), np.uint8), [hull - (x, y)], -1, 1, -1)
            parts.append(Part(y, x, mask.astype(bool)))
    return parts if len(parts) >= _ENOUGH_PARTS else parts + _round_parts(height, width)


def _round_parts(height: int, width: int) -> list[Part]:
    """Take round pieces all over for parts, where a photograph has little that is compact."""
    side = max(height, width) // 14
    piece = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)).astype(bool)
    return [
        Part(y, x, piece)
        for y in range(side, height - 2 * side, 2 * side)
        for x in range(side, width - 2 * side, 2 * side)
    ]
