"""What calibration saw: every ordered pair of views, fitted or not."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class PairReport:
    """How the calibration of one ordered pair went.

    Args:
        target: name of the target view.
        source: name of the source view.
        method: "direct", "composed" (started from two other pairs), "tilted" (matched under simulated
            foreshortening), or "failed".
        mirrored: the source sees the surface mirrored.
        matches: pairs of features near their prediction, over all samples.
        inliers: those of them that agree with the homography.
        error_px: root mean square reprojection error of the inliers, in source pixels.
        overlap: share of the target's pixels that the source sees.
    """

    target: str
    source: str
    method: str
    mirrored: bool = False
    matches: int = 0
    inliers: int = 0
    error_px: float = math.nan
    overlap: float = 0.0


@dataclass(frozen=True)
class CalibrationReport:
    """What ``calibrate`` saw: every ordered pair of views, in the rig's graph or not.

    Args:
        samples: number of samples that were used.
        pairs: one entry for each ordered pair.
    """

    samples: int
    pairs: tuple[PairReport, ...]

    @property
    def failed(self) -> tuple[tuple[str, str], ...]:
        """Unordered pairs without a homography."""
        failed = (pair for pair in self.pairs if pair.method == "failed")
        return tuple((pair.target, pair.source) for pair in failed if pair.target < pair.source)

    def __str__(self) -> str:
        lines = [f"{'target':<10}{'source':<10}{'method':<10}{'mirrored':<10}inliers / matches  error px  overlap"]
        for pair in self.pairs:
            mirrored = "yes" if pair.mirrored else ""
            lines.append(
                f"{pair.target:<10}{pair.source:<10}{pair.method:<10}{mirrored:<10}"
                f"{pair.inliers:>7} / {pair.matches:<7}  {pair.error_px:>8.3f}  {pair.overlap:>7.2f}"
            )
        return "\n".join(lines)
