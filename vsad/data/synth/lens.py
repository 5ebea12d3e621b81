"""Nuisances between the table and the sensor: lamps that glare into the lens, and dust on the glass."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from vsad.data.synth.scene import Scene

if TYPE_CHECKING:
    from vsad.data.synth.nuisances import Streams

# How often a view has 0, 1, 2 or 3 spots of glare.
_SPOTS = (0.10, 0.30, 0.35, 0.25)
# A spot's radius is where its light has fallen to exp(-1); it scatters into a veil of this many radii.
_VEIL_RADII = 5
# Veils are smooth: this many pixels share a point of their grid.
_VEIL_STEP = 4


def glare(scene: Scene, strength: float, streams: Streams) -> tuple[Scene, dict[str, Any]]:
    """Let lamps flare in every view anew: up to 3 bright spots or streaks that lie on no surface point, and a veil.

    Radii are 4 to 25 pixels of 256; the power is the light at a spot's middle, of which 1 saturates.
    """
    rng = streams.sample
    flare, truth = {}, {}
    for camera in scene.cameras:
        unit = camera.size / 256
        spots = []
        for _ in range(rng.choice(4, p=_SPOTS)):
            if rng.random() < 0.35:  # a streak
                radii = (rng.uniform(14, 25) * unit, rng.uniform(4, 5.5) * unit)
            else:
                long = rng.uniform(6, 25)
                radii = (long * unit, max(4.0, long * rng.uniform(0.45, 1.0)) * unit)
            x, y = rng.uniform(0, camera.size - 1, 2).tolist()
            angle_deg, power = rng.uniform(0, 180), strength * rng.uniform(0.45, 1.25)
            color = (power * (1 + rng.normal(0, 0.03, 3))).tolist()
            spots.append({"x": x, "y": y, "radii": radii, "angle_deg": angle_deg, "power": power, "color": color})
        veil = strength * rng.uniform(0.002, 0.012)
        flare[camera.name] = _flare(camera.size, spots, veil)
        truth[camera.name] = {"veil": veil, "spots": spots}
    return replace(scene, flare=flare), truth


def _flare(size: int, spots: list[dict[str, Any]], veil: float) -> np.ndarray:
    """Draw the light of spots and their veils, (size, size, 3) float32."""
    light = np.full((size, size, 3), veil, np.float32)
    coarse = -(-size // _VEIL_STEP)
    veils = np.zeros((coarse, coarse, 3), np.float32)
    for spot in spots:
        color = np.array(spot["color"], np.float32)
        wide = {**spot, "radii": [_VEIL_RADII * max(spot["radii"])] * 2}
        axis = (np.arange(coarse) + 0.5) * _VEIL_STEP - 0.5
        veils += np.exp(-_distance(wide, axis, axis))[..., None] * (0.06 * color)
        reach = 3 * max(spot["radii"])
        columns, rows = (_pixels(spot[axis], reach, size) for axis in "xy")
        # The core is flat, as of a lamp that the surface mirrors, and its edge is as soft as the surface is rough.
        core = np.exp(-(_distance(spot, columns, rows) ** 1.5))
        light[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += core[..., None] * color
    return light + cv2.resize(veils, (size, size), interpolation=cv2.INTER_LINEAR)


def _distance(spot: dict[str, Any], columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Give the squared distance from a spot's middle in units of its radii, (rows, columns) float32."""
    angle = np.deg2rad(spot["angle_deg"])
    x, y = np.meshgrid((columns - spot["x"]).astype(np.float32), (rows - spot["y"]).astype(np.float32))
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    return np.asarray((along / spot["radii"][0]) ** 2 + (across / spot["radii"][1]) ** 2)


def _pixels(center: float, reach: float, size: int) -> np.ndarray:
    """List the pixels of a side that lie within reach of a center on it."""
    return np.arange(max(0, int(center - reach)), min(size, int(center + reach) + 2))


def dust(scene: Scene, strength: float, streams: Streams) -> tuple[Scene, dict[str, Any]]:
    """Put dust on the front glass: soft dark discs out of focus, some of the station, some new in every sample."""
    transmission, truth = {}, {}
    for camera in scene.cameras:
        staying = _discs(camera.size, strength, int(streams.station.integers(2, 6)), streams.station)
        new = _discs(camera.size, strength, int(streams.sample.integers(0, 4)), streams.sample)
        through = np.ones((camera.size, camera.size), np.float32)
        for disc in staying + new:
            # The edge is soft: from full attenuation to none within this much of the radius.
            edge = 0.35 * disc["radius"]
            columns, rows = (_pixels(disc[axis], disc["radius"] + edge, camera.size) for axis in "xy")
            distance = np.hypot(columns - disc["x"], rows[:, None] - disc["y"]).astype(np.float32)
            cover = np.clip((disc["radius"] - distance) / edge + 0.5, 0, 1)
            through[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] *= 1 - disc["attenuation"] * cover
        transmission[camera.name] = through[..., None]
        truth[camera.name] = {"staying": staying, "new": new}
    return replace(scene, transmission=transmission), truth


def _discs(size: int, strength: float, count: int, rng: np.random.Generator) -> list[dict[str, float]]:
    return [
        {
            "x": float(rng.uniform(0, size - 1)),
            "y": float(rng.uniform(0, size - 1)),
            "radius": float(rng.uniform(3, 14) * size / 256),
            "attenuation": float(min(1.0, strength * rng.uniform(0.03, 0.15))),
        }
        for _ in range(count)
    ]
