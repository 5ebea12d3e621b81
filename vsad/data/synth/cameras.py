"""The synthetic station: five fixed pinhole cameras over a plane, and the lamps above it.

Convention: the plane is z = 0 with x to the right and y down, in units of the object's long side; z points into
the table, so cameras and lamps have z < 0 and a camera straight above has the identity for its rotation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

# By name: tilt from the vertical and azimuth in degrees, the plane point in the middle of the frame, the width of the
# plane that the frame spans there, and whether the camera looks through a mirror. The side cameras frame different
# parts, so each leaves some out.
_MOUNTS = {
    "C1": (0.0, 90.0, (0.00, 0.00), 1.10, False),
    "C2": (32.0, 25.0, (0.21, 0.06), 0.68, False),
    "C3": (27.0, 115.0, (-0.03, 0.15), 0.64, False),
    "C4": (36.0, 205.0, (-0.22, 0.01), 0.70, True),
    "C5": (24.0, 300.0, (0.08, -0.15), 0.62, False),
}
_CAMERA_DISTANCE = 2.2
_NORMAL = np.array([0.0, 0.0, -1.0])
_AMBIENT = 0.35
# Shading is smooth, so it is evaluated on a grid with this many points per side.
_GRID = 32


@dataclass(frozen=True)
class Camera:
    """A fixed camera: where it stands, what it sees of the plane, and how its sensor differs.

    Args:
        name: name of the camera's view.
        size: pixels per side of the view.
        position: (3,).
        H_view_from_plane: (3, 3), plane units to pixels.
        gain: (3,) response of the sensor to red, green and blue.
        view_of_z: (3,) the projection's column for z, in the scale of ``H_view_from_plane``.
        focal: focal length in pixels.
    """

    name: str
    size: int
    position: np.ndarray
    H_view_from_plane: np.ndarray
    gain: np.ndarray
    view_of_z: np.ndarray
    focal: float

    def scaled(self, factor: int, height: float = 0.0) -> np.ndarray:
        """Give the homography from the plane at some height above the table to ``factor`` times the pixels per side.

        The projection of (x, y, -height) is linear in its columns: H_view_from_plane @ (x, y, 1) - height * view_of_z.
        """
        shift = (factor - 1) / 2  # a pixel's center moves: x -> (x + 0.5) * factor - 0.5
        H_view_from_plane = self.H_view_from_plane
        if height:
            H_view_from_plane = H_view_from_plane - height * np.outer(self.view_of_z, [0, 0, 1])
        return np.asarray(np.array([[factor, 0, shift], [0, factor, shift], [0, 0, 1]]) @ H_view_from_plane)

    def turned(self, angles: np.ndarray) -> tuple[Camera, np.ndarray]:
        """Turn the camera in its place, by a rotation vector (3,) in radians about its own axes x, y and z.

        Returns:
            The camera, and the homography from what it saw to what it sees now: K R K^-1, whatever the depth.
        """
        center = (self.size - 1) / 2
        K = np.array([[self.focal, 0, center], [0, self.focal, center], [0, 0, 1]])
        H_turned_from_view = K @ cv2.Rodrigues(np.asarray(angles, float))[0] @ np.linalg.inv(K)
        homography = H_turned_from_view @ self.H_view_from_plane
        scale = 1 / homography[2, 2]
        view_of_z = H_turned_from_view @ self.view_of_z * scale
        turned = replace(self, H_view_from_plane=homography * scale, view_of_z=view_of_z)
        return turned, np.asarray(H_turned_from_view / H_turned_from_view[2, 2])


@dataclass(frozen=True)
class Lamp:
    """A small area lamp; ``sharpness`` is the exponent of the highlight it leaves on the surface."""

    position: np.ndarray  # (3,)
    power: float
    sharpness: float


def make_cameras(size: int, rng: np.random.Generator) -> list[Camera]:
    """Mount the cameras, each a few degrees off its nominal place, as a fitter would."""
    return [
        _mount(name, size, tilt + rng.uniform(-2, 2), azimuth + rng.uniform(-6, 6), target, extent, mirrored, rng)
        for name, (tilt, azimuth, target, extent, mirrored) in _MOUNTS.items()
    ]


def _mount(
    name: str,
    size: int,
    tilt: float,
    azimuth: float,
    target: tuple[float, float],
    extent: float,
    mirrored: bool,
    rng: np.random.Generator,
) -> Camera:
    theta, phi = np.deg2rad([tilt, azimuth])
    aim = np.array([*target, 0.0])
    outward = np.array([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), -np.cos(theta)])
    position = aim + _CAMERA_DISTANCE * outward

    # Mounted upright: the top of the picture is the far side of the table.
    forward = -outward
    down = np.array([np.cos(phi), np.sin(phi), 0.0])
    down -= forward * (down @ forward)
    down /= np.linalg.norm(down)
    rotation = np.stack([np.cross(down, forward), down, forward])

    focal, center = size * _CAMERA_DISTANCE / extent, (size - 1) / 2
    intrinsics = np.array([[focal, 0, center], [0, focal, center], [0, 0, 1]])
    homography = intrinsics @ np.column_stack([rotation[:, 0], rotation[:, 1], -rotation @ position])
    view_of_z = intrinsics @ rotation[:, 2]
    if mirrored:  # the camera looks through a mirror: det(H) < 0
        flip = np.array([[-1, 0, size - 1], [0, 1, 0], [0, 0, 1]])
        homography, view_of_z = flip @ homography, flip @ view_of_z
    scale = 1 / homography[2, 2]
    gain = 1 + rng.normal(0, 0.015, 3)
    return Camera(name, size, position, homography / homography[2, 2], gain, view_of_z * scale, focal)


def make_lamps(rng: np.random.Generator) -> list[Lamp]:
    """Place the two lamps of the station; they sag, age and get knocked a little from sample to sample."""
    key = np.array([-0.25, -0.35, -1.7]) + rng.normal(0, 0.10, 3)
    fill = np.array([0.75, 0.45, -1.2]) + rng.normal(0, 0.07, 3)
    return [
        Lamp(key, rng.uniform(0.9, 1.1), rng.uniform(150, 350)),
        Lamp(fill, rng.uniform(0.28, 0.42), rng.uniform(90, 180)),
    ]


def project(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points (..., 2) by a homography."""
    mapped = points @ homography[:, :2].T + homography[:, 2]
    return np.asarray(mapped[..., :2] / mapped[..., 2:])


def half_vectors(points: np.ndarray, camera: Camera, lamp: Lamp) -> np.ndarray:
    """Give the unit vectors half way between lamp and camera at plane points (..., 2) -> (..., 3)."""
    surface = np.concatenate([points, np.zeros((*points.shape[:-1], 1))], axis=-1)
    half = _unit(lamp.position - surface) + _unit(camera.position - surface)
    return _unit(half)


def shade(camera: Camera, lamps: list[Lamp]) -> tuple[np.ndarray, np.ndarray]:
    """Compute the light that the plane scatters and mirrors toward a camera.

    Diffuse is Lambert with the inverse square of the lamp's distance, 1 in the middle of the table; specular is the
    Blinn-Phong lobe of each lamp, so a highlight lies at another surface point in each view.

    Returns:
        diffuse and specular, (size, size) float32 each.
    """
    axis = (np.arange(_GRID) + 0.5) * (camera.size / _GRID) - 0.5
    points = project(np.linalg.inv(camera.H_view_from_plane), np.stack(np.meshgrid(axis, axis), axis=-1))
    diffuse = np.full((_GRID, _GRID), _AMBIENT)
    specular = np.zeros((_GRID, _GRID))
    total = sum(lamp.power for lamp in lamps)
    for lamp in lamps:
        to_lamp = lamp.position - np.concatenate([points, np.zeros((_GRID, _GRID, 1))], axis=-1)
        distance = np.linalg.norm(to_lamp, axis=-1)
        fall_off = (-lamp.position[2] / distance) * (lamp.position[2] / distance) ** 2
        diffuse += (1 - _AMBIENT) * lamp.power / total * fall_off
        specular += lamp.power * np.clip(half_vectors(points, camera, lamp) @ _NORMAL, 0, 1) ** lamp.sharpness
    size = (camera.size, camera.size)
    return (
        cv2.resize(diffuse.astype(np.float32), size, interpolation=cv2.INTER_CUBIC),
        cv2.resize(specular.astype(np.float32), size, interpolation=cv2.INTER_CUBIC),
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))
