"""One moment at the station: a specimen on the table, the light on it, and the cameras as they stand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

from vsad.data.synth.cameras import Camera, Lamp
from vsad.data.synth.product import Product, blur

if TYPE_CHECKING:
    from vsad.data.synth.relief import Relief

SUPERSAMPLE = 2


@dataclass(frozen=True)
class Scene:
    """One specimen on the table, and the light of that moment; ``Station.render`` photographs it.

    Args:
        product: the product of which this is a specimen.
        albedo: (H, W, 3) of the specimen.
        surface: (H, W, 4), the albedo with outline and shadow.
        H_plane_from_object: (3, 3), how it lies.
        lamps: as they stand at that moment.
        exposure: exposure of each view, (3,).
        cameras: as they stand at that moment.
        mats: by view, (size, size, 3), the empty table's albedo as the camera sees it.
        flare: by view, (size, size, 3), light that reaches the sensor without the surface, 1 where it saturates.
        transmission: by view, (size, size, 1), the share of the light that the front lens lets through.
        relief: heights of its parts, or None where all is flat.
    """

    product: Product
    albedo: np.ndarray
    surface: np.ndarray
    H_plane_from_object: np.ndarray
    lamps: list[Lamp]
    exposure: dict[str, np.ndarray]
    cameras: list[Camera]
    mats: dict[str, np.ndarray]
    flare: dict[str, np.ndarray] = field(default_factory=dict)
    transmission: dict[str, np.ndarray] = field(default_factory=dict)
    relief: Relief | None = None

    @property
    def H_plane_from_texture(self) -> np.ndarray:
        """Map texels to the plane."""
        return np.asarray(self.H_plane_from_object @ self.product.H_object_from_texture)


def expose(texture: np.ndarray, camera: Camera, H_plane_from_texture: np.ndarray) -> np.ndarray:
    """Image a texture on the plane: sample it finely, blur it as the lens does, and average over each pixel."""
    pixels = camera.size * SUPERSAMPLE
    image = cv2.warpPerspective(
        texture, camera.scaled(SUPERSAMPLE) @ H_plane_from_texture, (pixels, pixels), flags=cv2.INTER_LINEAR
    )
    return focus(image, camera.size)


def focus(image: np.ndarray, size: int) -> np.ndarray:
    """Blur a supersampled image as the lens does, and average over each of ``size`` x ``size`` pixels."""
    return cv2.resize(blur(image, 0.55 * SUPERSAMPLE), (size, size), interpolation=cv2.INTER_AREA)
