"""A synthetic inspection station: real photographs as flat products, five fixed cameras, honest light, five defects.

Nothing here is tuned to a detector. Objects lie a little differently each time; lamps, exposure and white balance
drift; highlights lie where geometry puts them, at another surface point in each view; dust and lint are normal.
A defect lies on the surface and shows where the camera frames it and its physics let it, as
``vsad.data.synth.defects`` says.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vsad.data.synth.cameras import Camera, make_cameras, make_lamps, project, shade
from vsad.data.synth.defects import Defect, make_defect
from vsad.data.synth.product import Product, smooth_noise, to_display, vary, with_shadow
from vsad.data.synth.scene import Scene, expose

# A mask of fewer pixels is no defect that anyone would mark.
_MIN_PIXELS = 10
# A fifth of 255: a pixel of which a defect covers less is not marked.
_MARKED = 51
# In display levels of 255, mean over the mask: less contrast drowns in sensor noise.
_MIN_CONTRAST = 12
# The deviation of the sensor's read noise, and the variance of shot noise per unit of light.
_READ_NOISE, _SHOT_NOISE = 0.0018, 0.00008
# The number of draws of a defect that are tried before a photograph counts as unfit for it.
_ATTEMPTS = 200


@dataclass(frozen=True)
class Shot:
    """One sample.

    Args:
        images: by view, (size, size, 3) uint8.
        masks: by view, (size, size) bool; of those views alone that show its defect.
    """

    images: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]


class Station:
    """The cameras over their mat. Unless a nuisance moves them, view-to-view homographies are those of every sample."""

    def __init__(self, size: int, seed: int = 0):
        rng = np.random.default_rng([seed, 0])
        self.size = size
        self.cameras = make_cameras(size, rng)
        mat, H_plane_from_mat = _make_mat(size, rng)
        self._mats = {camera.name: expose(mat, camera, H_plane_from_mat) for camera in self.cameras}
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
        surface = with_shadow(product, albedo)
        return Scene(product, albedo, surface, pose, lamps, exposure, self.cameras, self._mats)

    def render(self, scene: Scene, camera: Camera, defect: Defect | None = None) -> np.ndarray:
        """Give the linear light on a camera's sensor, (size, size, 3) float32, without noise."""
        surface = scene.surface
        if defect is not None:
            surface = defect.apply(surface, _strength(scene, defect, camera))
        if scene.relief is None:
            layer = expose(surface, camera, scene.H_plane_from_texture)
        else:
            layer = scene.relief.expose(scene, camera, surface, defect)
        # Light and its highlights are smooth: shading after the lens and the pixels is shading before them.
        diffuse, specular = shade(camera, scene.lamps)
        light = layer[..., :3] + (1 - layer[..., 3:]) * scene.mats[camera.name]
        light *= diffuse[..., None]
        # Bright materials (metal, print) are glossier than dark plastic; the mat is dull.
        gloss = cv2.transform(layer, np.array([[0.17, 0.17, 0.17, 0.10]], np.float32))
        light += (gloss * specular)[..., None]
        light *= self._vignette * scene.exposure[camera.name].astype(np.float32)
        if camera.name in scene.flare:
            light += scene.flare[camera.name]
        if camera.name in scene.transmission:
            light *= scene.transmission[camera.name]
        return np.asarray(light)

    def mask(self, scene: Scene, camera: Camera, defect: Defect) -> np.ndarray:
        """Give the pixels of a view, (size, size) bool, of which the defect covers a fifth or more."""
        if scene.relief is not None:
            return np.asarray(scene.relief.mask(scene, camera, defect) >= _MARKED)
        to_texture = np.array([[1, 0, defect.x], [0, 1, defect.y], [0, 0, 1]])
        pixels = self.size * 4
        cover = cv2.warpPerspective(
            defect.footprint.astype(np.uint8) * 255,
            camera.scaled(4) @ scene.H_plane_from_texture @ to_texture,
            (pixels, pixels),
            flags=cv2.INTER_LINEAR,
        )
        return cv2.resize(cover, (self.size, self.size), interpolation=cv2.INTER_AREA) >= _MARKED

    def shoot(self, scene: Scene, rng: np.random.Generator, kind: str | None = None) -> Shot:
        """Photograph a scene, with a defect of some kind that some views show and at least one does not.

        Raises:
            ValueError: no defect of that kind can be placed on this product.
        """
        lights = {camera.name: self.render(scene, camera) for camera in scene.cameras}
        masks: dict[str, np.ndarray] = {}
        if kind is not None:
            shown, masks = self._place_defect(scene, lights, rng, kind)
            lights |= shown
        return Shot({view: _develop(light, rng) for view, light in lights.items()}, masks)

    def _place_defect(
        self, scene: Scene, clean: dict[str, np.ndarray], rng: np.random.Generator, kind: str
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Draw defects until one shows in some views, not in all; give the light and the mask of those views."""
        for _ in range(_ATTEMPTS):
            defect = make_defect(kind, scene.product, scene.albedo, rng)
            if defect is None:
                continue
            lights, masks = {}, {}
            for camera in scene.cameras:
                mask = self.mask(scene, camera, defect)
                if mask.sum() < _MIN_PIXELS:
                    continue
                light = self.render(scene, camera, defect)
                change = np.abs(to_display(light).astype(int) - to_display(clean[camera.name])).max(-1)
                if change[mask].mean() >= _MIN_CONTRAST:
                    lights[camera.name], masks[camera.name] = light, mask
            if 0 < len(masks) < len(scene.cameras):
                return lights, masks
        raise ValueError(
            f"synthesize: categories must be photographs with room and parts for a {kind}, got "
            f"{scene.product.name!r}; choose a photograph with compact parts on a plain ground"
        )


def _strength(scene: Scene, defect: Defect, camera: Camera) -> float:
    """Give how much of a defect shows to a camera where the object lies in this scene, from 0 to 1."""
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
