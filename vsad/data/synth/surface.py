"""A nuisance of the material: every specimen has a raw surface and a serial number of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from vsad.data.synth.product import Product, blur, smooth_noise, with_shadow
from vsad.data.synth.scene import Scene

if TYPE_CHECKING:
    from vsad.data.synth.nuisances import Streams

# The grain's scales in texels of a 256-pixel view; its deviation is the same at each.
_SCALES = (1.5, 4.0, 12.0)
_DEVIATION = 0.12
_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
# Text is drawn at this multiple of the resolution and averaged down: its strokes are thinner than a texel.
_FINE = 3


def surface(scene: Scene, strength: float, streams: Streams) -> tuple[Scene, dict[str, Any]]:
    """Give the specimen a surface of its own: strong grain at three scales, brushed streaks, and a printed serial."""
    product, rng = scene.product, streams.sample
    grain_seed = int(rng.integers(2**32))
    grain = _grain(product, np.random.default_rng(grain_seed))
    factor = np.clip(1 + strength * (_DEVIATION * grain + _streaks(product, rng)), 0.2, 2.5)
    albedo = np.clip(scene.albedo * factor[..., None], 0, 1).astype(np.float32)
    serial, cover = _serial(product, streams)
    y, x = cover["corner"]
    h, w = cover["ink"].shape
    patch = albedo[y : y + h, x : x + w]
    # Printed dark on bright material and white on dark, and worn by the grain below.
    ink = np.float32(0.03 if np.median(patch) > 0.18 else 0.75)
    patch += (min(1.0, 0.9 * strength) * cover["ink"])[..., None] * (ink - patch)
    changed = replace(scene, albedo=albedo, surface=with_shadow(product, albedo))
    return changed, {"serial": serial, "grain_seed": grain_seed}


def _grain(product: Product, rng: np.random.Generator) -> np.ndarray:
    """Make grain of unit deviation at each scale, (H, W) float32."""
    height, width = product.inside.shape
    grain = np.zeros((height, width), np.float32)
    for scale in _SCALES:
        sigma = scale * product.texels / 640
        step = max(1, int(sigma / 1.5))  # smooth noise needs no more points than that
        noise = smooth_noise((-(-height // step), -(-width // step)), sigma / step, rng)
        grain += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return grain


def _streaks(product: Product, rng: np.random.Generator) -> np.ndarray:
    """Draw a few bundles of fine brushed lines, (H, W) float32 of relative change."""
    height, width = product.inside.shape
    unit = product.texels / 640
    streaks = np.zeros((height, width), np.float32)
    for _ in range(rng.integers(3, 7)):
        middle = rng.uniform(0.1, 0.9, 2) * (width, height)
        heading = rng.uniform(0, np.pi)
        along = np.array([np.cos(heading), np.sin(heading)])
        across = np.array([-along[1], along[0]])
        for _ in range(rng.integers(6, 16)):
            center = middle + across * rng.normal(0, 9) * unit + along * rng.normal(0, 15) * unit
            half = along * rng.uniform(20, 70) * unit
            tilt = across * rng.normal(0, 1.5) * unit
            ends = [tuple(int(16 * v) for v in center + sign * (half + tilt)) for sign in (-1, 1)]
            line = np.zeros((height, width), np.uint8)
            cv2.line(line, ends[0], ends[1], 255, max(1, round(1.5 * unit)), cv2.LINE_AA, 4)
            streaks += line.astype(np.float32) * np.float32(rng.normal(0, 0.18) / 255)
    return blur(streaks, 0.8 * unit)


def _serial(product: Product, streams: Streams) -> tuple[str, dict[str, Any]]:
    """Draw a serial number: its place is the station's but for a small shift, its characters and size the sample's."""
    rng = streams.sample
    digits = "".join(str(digit) for digit in rng.integers(0, 10, 6))
    letters = "".join(_LETTERS[i] for i in rng.integers(0, len(_LETTERS), 2))
    serial = f"{letters}{digits[:4]}-{digits[4:]}"
    height, width = product.inside.shape
    unit = product.texels / 640
    scale = rng.uniform(0.62, 0.82) * unit * _FINE
    thickness = max(1, round(2.2 * unit * _FINE))
    (w, h), base = cv2.getTextSize(serial, cv2.FONT_HERSHEY_DUPLEX, scale, thickness)
    pad = 2 * thickness
    canvas = np.zeros((h + base + 2 * pad, w + 2 * pad), np.uint8)
    cv2.putText(canvas, serial, (pad, pad + h), cv2.FONT_HERSHEY_DUPLEX, scale, 255, thickness, cv2.LINE_AA)
    size = (min(width, round(canvas.shape[1] / _FINE)), min(height, round(canvas.shape[0] / _FINE)))
    ink = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    top, left = _free_place(product, streams.station)
    top, left = (round(v + shift * unit) for v, shift in zip((top, left), rng.normal(0, 4, 2)))
    corner = (int(np.clip(top, 0, height - size[1])), int(np.clip(left, 0, width - size[0])))
    return serial, {"ink": ink, "corner": corner}


def _free_place(product: Product, rng: np.random.Generator) -> tuple[int, int]:
    """Choose the corner (y, x) of the place for a serial number, of some drawn that which hides the fewest parts."""
    unit = product.texels / 640
    h, w = round(28 * unit), round(170 * unit)
    height, width = product.inside.shape
    margin = round(40 * unit)
    sums = cv2.integral(product.occupied.astype(np.uint8))
    corners = [
        (int(rng.uniform(margin, max(margin + 1, height - margin - h))),
         int(rng.uniform(margin, max(margin + 1, width - margin - w))))
        for _ in range(60)
    ]  # fmt: skip

    def hidden(corner: tuple[int, int]) -> int:
        y, x = corner
        y1, x1 = min(y + h, height), min(x + w, width)
        return int(sums[y1, x1] - sums[y, x1] - sums[y1, x] + sums[y, x])

    return min(corners, key=hidden)
