"""A synthetic inspection station: real photographs as flat products, five fixed cameras, honest light, five defects.

Nothing here is tuned to a detector. Objects lie a little differently each time; lamps, exposure and white balance
drift; highlights lie where geometry puts them, at another surface point in each view; dust and lint are normal.
A defect lies on the surface and shows where the camera frames it and its physics let it (see `synth_defects`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from vsad.data.synth_defects import KINDS, Defect, make_defect
from vsad.data.synth_object import Product, blur, load_product, smooth_noise, to_display, vary, with_shadow
from vsad.data.synth_station import Camera, Lamp, make_cameras, make_lamps, project, shade
from vsad.data.synth_writers import WRITERS

_SUPERSAMPLE = 2
_MIN_PIXELS = 10  # a smaller mask is no defect that anyone would mark
_MIN_CONTRAST = 12  # display levels of 255, mean over the mask: less drowns in sensor noise
_READ_NOISE, _SHOT_NOISE = 0.0018, 0.00008  # deviation and variance per unit of light
_ATTEMPTS = 200


@dataclass(frozen=True)
class SynthConfig:
    """What to synthesize.

    Args:
        categories: names of packaged photographs (`photograph_names()`), or paths of your own.
        train: normal samples to train on, per category.
        test_good: normal samples to test on, per category.
        test_defect: defective samples, per category; the kinds take turns.
        size: pixels a side of a view.
        seed: the same seed gives the same station and the same images.
        format: "folder", or "real-iad".
    """

    categories: tuple[str, ...] = ("circuit_board",)
    train: int = 40
    test_good: int = 20
    test_defect: int = 20
    size: int = 256
    seed: int = 0
    format: str = "folder"

    def __post_init__(self) -> None:
        if self.format not in WRITERS:
            raise ValueError(
                f"synthesize: format must be one of {', '.join(WRITERS)}, got {self.format!r}; choose one of them"
            )
        if self.size < 32:
            raise ValueError(f"synthesize: size must be at least 32 pixels, got {self.size}; defects need room")
        if self.train < 1 or self.test_good < 0 or self.test_defect < 0:
            raise ValueError(
                f"synthesize: train must be at least 1 and test_good, test_defect at least 0, "
                f"got {self.train}, {self.test_good}, {self.test_defect}; raise them"
            )
        if not self.categories:
            raise ValueError("synthesize: categories must name at least one photograph, got none; add one")


@dataclass(frozen=True)
class Scene:
    """One specimen on the table, and the light of that moment; `render` photographs it."""

    product: Product
    albedo: np.ndarray  # (H, W, 3)
    surface: np.ndarray  # (H, W, 4), the albedo with outline and shadow
    H_plane_from_object: np.ndarray
    lamps: list[Lamp]
    exposure: dict[str, np.ndarray]  # view -> (3,)

    @property
    def H_plane_from_texture(self) -> np.ndarray:
        """Map texels to the plane."""
        return np.asarray(self.H_plane_from_object @ self.product.H_object_from_texture)


@dataclass(frozen=True)
class Shot:
    """The views of one sample, and the masks of those that show its defect."""

    images: dict[str, np.ndarray]  # (size, size, 3) uint8
    masks: dict[str, np.ndarray]  # (size, size) bool; clean views are not in it


class Station:
    """The cameras over their mat. They do not move, so view-to-view homographies are the same for every sample."""

    def __init__(self, size: int, seed: int = 0):
        rng = np.random.default_rng([seed, 0])
        self.size = size
        self.cameras = make_cameras(size, rng)
        mat, H_plane_from_mat = _make_mat(size, rng)
        self._mats = {camera.name: _expose(mat, camera, H_plane_from_mat) for camera in self.cameras}
        axis = np.linspace(-1, 1, size, dtype=np.float32)
        self._vignette = (1 - 0.06 * (axis[:, None] ** 2 + axis**2))[..., None]

    def set_scene(self, product: Product, rng: np.random.Generator) -> Scene:
        """Lay a new specimen on the table."""
        turn = np.deg2rad(rng.normal(0, 0.75))
        shift = rng.normal(0, 0.006, 2)
        pose = np.array([
            [np.cos(turn), -np.sin(turn), shift[0]],
            [np.sin(turn), np.cos(turn), shift[1]],
            [0, 0, 1],
        ])  # fmt: skip
        lamps = make_lamps(rng)
        common = rng.normal(1, 0.03)
        exposure = {
            camera.name: camera.gain * common * rng.normal(1, 0.03) * rng.normal(1, 0.01, 3) for camera in self.cameras
        }
        albedo = vary(product, rng)
        return Scene(product, albedo, with_shadow(product, albedo), pose, lamps, exposure)

    def render(self, scene: Scene, camera: Camera, defect: Defect | None = None) -> np.ndarray:
        """Give the linear light on a camera's sensor, (size, size, 3) float32, without noise."""
        surface = scene.surface
        if defect is not None:
            surface = defect.apply(surface, _strength(scene, defect, camera))
        layer = _expose(surface, camera, scene.H_plane_from_texture)
        # Light and its highlights are smooth: shading after the lens and the pixels is shading before them.
        diffuse, specular = shade(camera, scene.lamps)
        light = layer[..., :3] + (1 - layer[..., 3:]) * self._mats[camera.name]
        light *= diffuse[..., None]
        # Bright materials (metal, print) are glossier than dark plastic; the mat is dull.
        gloss = cv2.transform(layer, np.array([[0.17, 0.17, 0.17, 0.10]], np.float32))
        light += (gloss * specular)[..., None]
        return np.asarray(light * (self._vignette * scene.exposure[camera.name].astype(np.float32)))

    def mask(self, scene: Scene, camera: Camera, defect: Defect) -> np.ndarray:
        """Give the pixels of a view, (size, size) bool, of which the defect covers a fifth or more."""
        to_texture = np.array([[1, 0, defect.x], [0, 1, defect.y], [0, 0, 1]])
        pixels = self.size * 4
        cover = cv2.warpPerspective(
            defect.footprint.astype(np.uint8) * 255,
            camera.scaled(4) @ scene.H_plane_from_texture @ to_texture,
            (pixels, pixels),
            flags=cv2.INTER_LINEAR,
        )
        return cv2.resize(cover, (self.size, self.size), interpolation=cv2.INTER_AREA) >= 51

    def shoot(self, scene: Scene, rng: np.random.Generator, kind: str | None = None) -> Shot:
        """Photograph a scene, with a defect of some kind that some views show and at least one does not.

        Raises:
            ValueError: no defect of that kind can be placed on this product.
        """
        lights = {camera.name: self.render(scene, camera) for camera in self.cameras}
        masks: dict[str, np.ndarray] = {}
        if kind is not None:
            shown, masks = self._place_defect(scene, lights, rng, kind)
            lights |= shown
        return Shot({view: _develop(light, rng) for view, light in lights.items()}, masks)

    def _place_defect(
        self, scene: Scene, clean: dict[str, np.ndarray], rng: np.random.Generator, kind: str
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        for _ in range(_ATTEMPTS):
            defect = make_defect(kind, scene.product, scene.albedo, rng)
            if defect is None:
                continue
            lights, masks = {}, {}
            for camera in self.cameras:
                mask = self.mask(scene, camera, defect)
                if mask.sum() < _MIN_PIXELS:
                    continue
                light = self.render(scene, camera, defect)
                change = np.abs(to_display(light).astype(int) - to_display(clean[camera.name])).max(-1)
                if change[mask].mean() >= _MIN_CONTRAST:
                    lights[camera.name], masks[camera.name] = light, mask
            if 0 < len(masks) < len(self.cameras):
                return lights, masks
        raise ValueError(
            f"synthesize: categories must be photographs with room and parts for a {kind}, got "
            f"{scene.product.name!r}; choose a photograph with compact parts on a plain ground"
        )


def synthesize(
    out: Path | str, config: SynthConfig = SynthConfig(), *, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Photograph products at a synthetic station and write them as a data set.

    Beside the data lies `synth.json` with the configuration and the true homographies, for checks; nothing that
    calibrates or detects reads it.

    Args:
        out: a new or empty folder.
        config: what to make.
        progress: called with (samples done, samples in all).

    Returns:
        The folder.

    Raises:
        FileExistsError: `out` has files in it.
        ValueError: a category is neither a packaged photograph nor an image file, or defects do not fit on it.

    Example:
        >>> root = synthesize("station", SynthConfig(train=4, test_good=2, test_defect=5))  # doctest: +SKIP
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"synthesize: out must be a new or empty folder, got {out}; remove it or name another")
    products = [load_product(category, config.size) for category in config.categories]
    names = [product.name for product in products]
    if len(set(names)) < len(names):
        raise ValueError(f"synthesize: categories must differ in name, got {', '.join(names)}; rename a photograph")
    station = Station(config.size, config.seed)
    writer = WRITERS[config.format](out, single=len(products) == 1)
    plan: list[tuple[str, str | None, int]] = [("train", None, i) for i in range(config.train)]
    plan += [("test", None, i) for i in range(config.test_good)]
    plan += [("test", KINDS[i % len(KINDS)], i) for i in range(config.test_defect)]
    records = []
    for product in products:
        for split, kind, number in plan:
            # Every sample draws from its own stream: changing a count changes no other sample.
            stream = f"{product.name}/{split}/{'good' if kind is None else 'defect'}"
            rng = np.random.default_rng([config.seed, zlib.crc32(stream.encode()), number])
            scene = station.set_scene(product, rng)
            shot = station.shoot(scene, rng, kind)
            sample = writer.write(product.name, split, kind, shot.images, shot.masks)
            records.append({
                "category": product.name, "split": split, "kind": kind or "good", "sample": sample,
                "H_plane_from_object": scene.H_plane_from_object.tolist(), "defective_views": sorted(shot.masks),
            })  # fmt: skip
            if progress is not None:
                progress(len(records), len(products) * len(plan))
    writer.finish()
    truth = {
        "config": asdict(config),
        "units": "plane and object: the object's long side is 1, its middle 0; view: pixels, pixel centers whole",
        "H_view_from_plane": {camera.name: camera.H_view_from_plane.tolist() for camera in station.cameras},
        "samples": records,
    }
    (out / "synth.json").write_text(json.dumps(truth, indent=1), encoding="utf-8")
    return out


def _strength(scene: Scene, defect: Defect, camera: Camera) -> float:
    point = project(scene.H_plane_from_texture, defect.center())
    direction = scene.H_plane_from_object[:2, :2] @ np.array(defect.direction)
    return defect.strength(point, direction, camera, scene.lamps)


def _develop(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add the sensor's noise and turn light into display values."""
    deviation = np.sqrt(_READ_NOISE**2 + _SHOT_NOISE * light)
    return to_display(light + deviation * rng.standard_normal(light.shape, np.float32))


def _make_mat(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Make the albedo of the dark anti-static mat on the table, 3.2 units wide, and its place on the plane."""
    texels = 1.25 * size
    side = int(3.2 * texels)
    worn = cv2.resize(smooth_noise((32, 32), 1.3, rng), (side, side), interpolation=cv2.INTER_CUBIC)
    texture = np.clip(1 + 0.10 * smooth_noise((side, side), texels / 270, rng) + 0.10 * worn, 0, 2)
    middle = (side - 1) / 2
    H_plane_from_mat = np.array([[1 / texels, 0, -middle / texels], [0, 1 / texels, -middle / texels], [0, 0, 1]])
    return texture[..., None] * np.array([0.050, 0.056, 0.066], np.float32), H_plane_from_mat


def _expose(texture: np.ndarray, camera: Camera, H_plane_from_texture: np.ndarray) -> np.ndarray:
    """Image a texture on the plane: sample it finely, blur it as the lens does, and average over each pixel."""
    pixels = camera.size * _SUPERSAMPLE
    image = cv2.warpPerspective(
        texture, camera.scaled(_SUPERSAMPLE) @ H_plane_from_texture, (pixels, pixels), flags=cv2.INTER_LINEAR
    )
    image = blur(image, 0.55 * _SUPERSAMPLE)
    return cv2.resize(image, (camera.size, camera.size), interpolation=cv2.INTER_AREA)
