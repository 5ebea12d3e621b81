"""A nuisance of depth: parts have heights, so that no homography carries one view onto another.

Each part is a flat piece at a height of its own above the product, parallel to it. A camera sees it through the
homography of the plane at that height; it hides what lies behind, and bares the shaded ground below its other side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from vsad.data.synth.cameras import Camera, project
from vsad.data.synth.defects import Defect
from vsad.data.synth.product import Part, Product, blur
from vsad.data.synth.scene import SUPERSAMPLE, Scene, focus

if TYPE_CHECKING:
    from vsad.data.synth.nuisances import Streams

# The heights at strength 1, in units of the product's long side.
_HEIGHTS = (0.015, 0.030, 0.045)
# How much light reaches the ground below a part.
_SHADE = 0.4
# Where no part is seen, a sight points this far outside of the texture.
_NOWHERE = -1e4


@dataclass(frozen=True)
class Sight:
    """Which texel of a raised part each supersampled pixel of a view sees, both (pixels, pixels) float32."""

    x: np.ndarray
    y: np.ndarray

    def draw(self, texture: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Draw the raised parts over an image."""
        mode = cv2.BORDER_TRANSPARENT
        return np.asarray(cv2.remap(texture, self.x, self.y, cv2.INTER_LINEAR, dst=image, borderMode=mode))


@dataclass(frozen=True)
class Relief:
    """The heights of one specimen.

    Args:
        heights: of the levels, ascending; level 0 is the ground, at height 0.
        levels: (H, W) uint8, the level of each texel.
        ground: (H, W, 4), the specimen's surface with bare ground in place of the raised parts.
        bare: (H, W, 3), the albedo of that ground.
        sights: by view.
    """

    heights: tuple[float, ...]
    levels: np.ndarray
    ground: np.ndarray
    bare: np.ndarray
    sights: dict[str, Sight]

    def expose(self, scene: Scene, camera: Camera, surface: np.ndarray, defect: Defect | None) -> np.ndarray:
        """Image a surface with its heights, (size, size, 4); ``defect`` is the one that is drawn on it."""
        ground, sight = self.ground, self.sights[camera.name]
        if defect is not None:
            h, w = defect.cover.shape
            region = np.s_[defect.y : defect.y + h, defect.x : defect.x + w]
            levels, sight = self._with_defect(scene, camera, defect)
            ground = ground.copy()
            ground[region] = surface[region]
            raised = levels[region] > 0
            ground[region][raised, :3] = self.bare[region][raised]
        image = _warp(ground, scene, camera)
        return focus(sight.draw(surface, image), camera.size)

    def mask(self, scene: Scene, camera: Camera, defect: Defect) -> np.ndarray:
        """Give the share of each pixel that the defect covers, (size, size) uint8.

        A part that is not where it belongs counts wherever it would be seen, and wherever it is.
        """
        levels, sight = self._with_defect(scene, camera, defect)
        strange = np.zeros_like(levels)  # parts that left their place or have come to it
        for part in (defect.part, defect.moved):
            if part is not None:
                _at(strange, part)[part.mask] = 255
        marked = strange.copy()
        h, w = defect.footprint.shape
        marked[defect.y : defect.y + h, defect.x : defect.x + w][defect.footprint] = 255
        on_ground = np.where((levels == 0) | (strange > 0), marked, 0)
        cover = sight.draw(marked, _warp(on_ground, scene, camera))
        if defect.part is not None:
            left = np.zeros_like(levels)
            _at(left, defect.part)[defect.part.mask] = 255
            cover = np.maximum(cover, self.sights[camera.name].draw(left, np.zeros_like(cover)))
        return np.asarray(cv2.resize(cover, (camera.size, camera.size), interpolation=cv2.INTER_AREA))

    def _with_defect(self, scene: Scene, camera: Camera, defect: Defect) -> tuple[np.ndarray, Sight]:
        """Give the levels with a defect, and how a camera sees them: a part that is missing has no height."""
        if defect.part is None:
            return self.levels, self.sights[camera.name]
        levels = self.levels.copy()
        there = _at(levels, defect.part)
        level = np.bincount(there[defect.part.mask]).argmax()
        there[defect.part.mask] = 0
        if defect.moved is not None:
            there = _at(levels, defect.moved)
            there[defect.moved.mask] = np.maximum(there[defect.moved.mask], level)
        return levels, _look(levels, self.heights, camera, scene.H_plane_from_texture)


def relief(scene: Scene, strength: float, streams: Streams) -> tuple[Scene, dict[str, Any]]:
    """Raise the product's parts to heights of up to 0.045 of its long side, the same for every specimen."""
    product = scene.product
    heights = tuple(strength * height for height in (0.0, *_HEIGHTS))
    levels = np.zeros(product.inside.shape, np.uint8)
    chosen = streams.station.integers(1, len(heights), len(product.parts))
    for part, level in zip(product.parts, chosen):
        there = _at(levels, part)
        there[part.mask] = np.maximum(there[part.mask], level)
    bare = _bare(product, scene.albedo)
    ground = scene.surface.copy()
    ground[levels > 0, :3] = bare[levels > 0]
    sights = {camera.name: _look(levels, heights, camera, scene.H_plane_from_texture) for camera in scene.cameras}
    truth = [
        {"x": int(part.x), "y": int(part.y), "height": heights[level]} for part, level in zip(product.parts, chosen)
    ]
    return replace(scene, relief=Relief(heights, levels, ground, bare, sights)), {"parts": truth}


def _look(levels: np.ndarray, heights: tuple[float, ...], camera: Camera, H_plane_from_texture: np.ndarray) -> Sight:
    """Find the texel of the highest part that each pixel sees."""
    pixels = camera.size * SUPERSAMPLE
    x = np.full((pixels, pixels), _NOWHERE, np.float32)
    y = x.copy()
    for level in range(1, len(heights)):  # from low to high: what is higher is nearer to every camera
        H_view_from_texture = camera.scaled(SUPERSAMPLE, heights[level]) @ H_plane_from_texture
        piece = (levels == level).astype(np.uint8)
        seen = cv2.warpPerspective(piece, H_view_from_texture, (pixels, pixels), flags=cv2.INTER_NEAREST)
        rows, columns = np.nonzero(seen)
        texels = project(np.linalg.inv(H_view_from_texture), np.stack([columns, rows], axis=-1).astype(float))
        x[rows, columns], y[rows, columns] = texels[:, 0], texels[:, 1]
    return Sight(x, y)


def _warp(texture: np.ndarray, scene: Scene, camera: Camera) -> np.ndarray:
    pixels = camera.size * SUPERSAMPLE
    H_view_from_texture = camera.scaled(SUPERSAMPLE) @ scene.H_plane_from_texture
    return cv2.warpPerspective(texture, H_view_from_texture, (pixels, pixels), flags=cv2.INTER_LINEAR)


def _bare(product: Product, albedo: np.ndarray) -> np.ndarray:
    """Give the shaded ground below the parts, (H, W, 3): the tone of what is free around them."""
    height, width = product.inside.shape
    coarse = (max(1, width // 4), max(1, height // 4))
    free = np.ascontiguousarray(~product.occupied).astype(np.float32)[..., None]
    weighted = cv2.resize(np.dstack([albedo * free, free]), coarse, interpolation=cv2.INTER_AREA)
    around = blur(weighted, 6 * product.texels / 640) + 1e-3 * blur(weighted, 24 * product.texels / 640)
    tone = around[..., :3] / (around[..., 3:] + 1e-9)
    return np.asarray(_SHADE * cv2.resize(tone, (width, height), interpolation=cv2.INTER_LINEAR))


def _at(texture: np.ndarray, part: Part) -> np.ndarray:
    """Give a texture's rectangle of a part."""
    h, w = part.mask.shape
    return texture[part.y : part.y + h, part.x : part.x + w]
