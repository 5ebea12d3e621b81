"""Pictures as data URIs: photographs, heat maps on one color scale, and outlines of masks as SVG paths."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

# Inferno starts here: its darkest colors would blacken the photograph instead of tinting it.
DARKEST_COLOR = 56
OPACITY_AT_THRESHOLD, OPACITY_AT_TOP = 0.5, 0.85


@dataclass(frozen=True)
class Scale:
    """Colors for anomaly maps, by the threshold t alone: equal colors mean equal scores in every report of a detector.

    A score s stands at ``s / 2t`` of the scale up to the threshold and at ``1 - t / 2s`` beyond it, which goes on at
    the same slope and never ends: defects of ten thresholds still show where they are strongest. Scores up to 0 are
    transparent, the threshold is half opaque. A threshold that is not positive is 1 above the scale's beginning.

    Args:
        threshold: of the verdicts.
    """

    threshold: float

    @property
    def low(self) -> float:
        """Where the scale begins."""
        return 0.0 if self.threshold > 0 else self.threshold - 1.0

    def share(self, scores: np.ndarray | float) -> np.ndarray:
        """Where scores stand on the scale, in [0, 1)."""
        multiple = np.maximum((scores - self.low) / (self.threshold - self.low), 0.0)
        return np.where(multiple < 1, multiple / 2, 1 - 0.5 / np.maximum(multiple, 1))

    @property
    def ticks(self) -> list[tuple[float, float]]:
        """(percentage of the scale, score) for the beginning, the threshold, and twice and five times as much."""
        multiples = np.array([0.0, 1.0, 2.0, 5.0])
        scores = self.low + multiples * (self.threshold - self.low)
        return list(zip((100 * self.share(scores)).tolist(), scores.tolist(), strict=True))

    @cached_property
    def colors(self) -> np.ndarray:
        """(256, 4) uint8 BGRA along the scale."""
        index = np.linspace(DARKEST_COLOR, 255, 256).round().astype(np.uint8)
        bgr = cv2.applyColorMap(index[:, None], cv2.COLORMAP_INFERNO)[:, 0]
        share = np.linspace(0.0, 1.0, 256)
        alpha = np.interp(share, [0.0, 0.5, 1.0], [0.0, OPACITY_AT_THRESHOLD, OPACITY_AT_TOP])
        # Below the threshold opacity grows late, or every normal surface would look hazy.
        alpha = np.where(share < 0.5, alpha**2 / OPACITY_AT_THRESHOLD, alpha)
        return np.column_stack([bgr, (255 * alpha).round().astype(np.uint8)])

    @property
    def gradient(self) -> str:
        """The scale as a CSS gradient from left to right."""
        stops = (f"rgba({r},{g},{b},{a / 255:.2f})" for b, g, r, a in self.colors[::15])
        return f"linear-gradient(to right, {', '.join(stops)})"

    def heat(self, anomaly_map: np.ndarray, size: int) -> str:
        """(h, w) scores -> data URI of a translucent WebP for a picture whose longer side is at most ``size``.

        Anomaly maps are smooth: half as many pixels a side show all of them.
        """
        share = self.share(reduced(anomaly_map.astype(np.float32), max(1, size // 2)))
        return _data_uri(self.colors[(255 * share).round().astype(np.uint8)], "webp", cv2.IMWRITE_WEBP_QUALITY, 75)


def photograph(image: np.ndarray, size: int) -> str:
    """(3, H, W) RGB, float in [0, 1] or uint8 -> data URI of a JPEG whose longer side is at most ``size``."""
    rgb = image.transpose(1, 2, 0)
    if rgb.dtype != np.uint8:
        rgb = (255 * np.clip(rgb, 0.0, 1.0)).round().astype(np.uint8)
    bgr = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGR)
    # WebP would be a fifth smaller, and take 15 times as long to write.
    return _data_uri(reduced(bgr, size), "jpeg", cv2.IMWRITE_JPEG_QUALITY, 75)


def outline(mask: np.ndarray, size: int) -> str:
    """SVG path in pixel coordinates along the borders of a mask's regions and holes; empty without any.

    It is simplified by no more than half a pixel of a picture whose longer side is ``size``.
    """
    tolerance = 0.5 * max(1.0, max(mask.shape) / size)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    simple = (cv2.approxPolyDP(contour, tolerance, True)[:, 0] for contour in contours)
    return "".join("M" + "L".join(f"{x} {y}" for x, y in contour) + "Z" for contour in simple)


def reduced(image: np.ndarray, size: int) -> np.ndarray:
    """``image`` (H, W, ...) area-averaged to a longer side of at most ``size``; as it is where it fits."""
    height, width = image.shape[:2]
    ratio = size / max(height, width)
    if ratio >= 1:
        return image
    new = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return cv2.resize(image, new, interpolation=cv2.INTER_AREA)


def _data_uri(image: np.ndarray, kind: str, quality_flag: int, quality: int) -> str:
    data = cv2.imencode(f".{kind}", image, [quality_flag, quality])[1]
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode('ascii')}"
