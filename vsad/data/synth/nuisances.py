"""What makes a station hard: nuisances that every sample has, normal or defective, at a strength of one's choice.

A nuisance is a function and a row of ``NUISANCES``. It takes a scene and gives the changed scene and the truth of
what it drew, which ``synthesize`` writes beside the data. Each draws from streams of its own, so that it changes
nothing that another draws.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from vsad.data.synth.lens import dust, glare
from vsad.data.synth.relief import relief
from vsad.data.synth.scene import Scene
from vsad.data.synth.surface import surface


@dataclass(frozen=True)
class Streams:
    """The random numbers of one nuisance.

    Args:
        sample: a stream of this sample.
        station: a stream that starts anew, the same for every sample of the station.
    """

    sample: np.random.Generator
    station: np.random.Generator


Nuisance = Callable[[Scene, float, Streams], tuple[Scene, dict[str, Any]]]


def pose(scene: Scene, strength: float, streams: Streams) -> tuple[Scene, dict[str, Any]]:
    """Lay the product anywhere at any angle: within +-180 degrees and +-0.06 of its long side, times the strength."""
    angle_deg = streams.sample.uniform(-180, 180) * strength
    shift = streams.sample.uniform(-0.06, 0.06, 2) * strength
    cos, sin = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    move = np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]], [0, 0, 1]])
    moved = replace(scene, H_plane_from_object=move @ scene.H_plane_from_object)
    return moved, {"angle_deg": float(angle_deg), "shift": shift.tolist()}


def exposure(scene: Scene, strength: float, streams: Streams) -> tuple[Scene, dict[str, Any]]:
    """Let exposure and white balance drift from sample to sample and from view to view."""
    rng = streams.sample
    common = rng.normal(0, 0.12)
    factors = {
        # An exponential, because no drift is so strong that light turns negative.
        camera.name: np.exp(strength * (common + rng.normal(0, 0.08) + rng.normal(0, 0.04, 3)))
        for camera in scene.cameras
    }
    changed = {view: scene.exposure[view] * factor for view, factor in factors.items()}
    return replace(scene, exposure=changed), {"factors": {view: factor.tolist() for view, factor in factors.items()}}


def camera(scene: Scene, strength: float, streams: Streams) -> tuple[Scene, dict[str, Any]]:
    """Turn every camera in its place: about 1 pixel of 256 sideways and up or down, and 0.15 degrees about its axis."""
    cameras, mats = [], {}
    for fixed in scene.cameras:
        sideways = streams.sample.normal(0, fixed.size / 256 / fixed.focal, 2)
        roll = streams.sample.normal(0, np.deg2rad(0.15))
        turned, H_turned_from_fixed = fixed.turned(strength * np.array([*sideways, roll]))
        size = (fixed.size, fixed.size)
        mat = scene.mats[fixed.name]
        mats[fixed.name] = cv2.warpPerspective(mat, H_turned_from_fixed, size, borderMode=cv2.BORDER_REFLECT_101)
        cameras.append(turned)
    truth = {"H_view_from_plane": {turned.name: turned.H_view_from_plane.tolist() for turned in cameras}}
    return replace(scene, cameras=cameras, mats=mats), truth


# In this order they act: what changes cameras and poses before what is drawn for them.
NUISANCES: dict[str, Nuisance] = {
    "pose": pose,
    "surface": surface,
    "exposure": exposure,
    "camera": camera,
    "relief": relief,
    "glare": glare,
    "dust": dust,
}


def disturb(
    scene: Scene, nuisances: Mapping[str, float], seed: int, stream: str, number: int
) -> tuple[Scene, dict[str, Any]]:
    """Apply nuisances to a scene.

    Args:
        scene: as the station set it.
        nuisances: strength by name; 0 is none.
        seed: the station's.
        stream: name of the samples among which this is ``number``.
        number: number of the sample.

    Returns:
        The changed scene, and by name the truth of what was drawn.
    """
    truth = {}
    for name, apply in NUISANCES.items():
        if not nuisances.get(name):
            continue
        own = zlib.crc32(name.encode())
        sample = np.random.default_rng([seed, zlib.crc32(stream.encode()), number, own])
        scene, drawn = apply(scene, nuisances[name], Streams(sample, np.random.default_rng([seed, own])))
        truth[name] = drawn
    return scene, truth


def check_nuisances(nuisances: Mapping[str, float]) -> dict[str, float]:
    """Check strengths by name, and give them as floats.

    Raises:
        ValueError: a nuisance is unknown, or its strength is no finite number of 0 or more.
    """
    checked = {}
    for name, strength in nuisances.items():
        if name not in NUISANCES:
            raise ValueError(
                f"synthesize: nuisances must be of {', '.join(NUISANCES)}, got {name!r}; choose some of them"
            )
        try:
            checked[name] = float(strength)
        except (TypeError, ValueError):
            checked[name] = math.nan
        if not (math.isfinite(checked[name]) and checked[name] >= 0):
            raise ValueError(
                f"synthesize: the strength of nuisance {name} must be a finite number of at least 0, got {strength!r}; "
                f"1 is the default"
            )
    return checked


def parse_nuisances(texts: Iterable[str]) -> dict[str, Any]:
    """Read nuisances from ``name`` or ``name:strength``, as the command line has them.

    Raises:
        ValueError: a name comes twice.
    """
    nuisances: dict[str, Any] = {}
    for text in texts:
        name, colon, strength = text.partition(":")
        if name in nuisances:
            raise ValueError(f"synthesize: nuisances must be named once each, got {name} twice; keep one of them")
        nuisances[name] = strength if colon else 1.0
    return nuisances
