"""What calibration saw: every ordered pair of views, fitted or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vsad.geometry import Rig


@dataclass(frozen=True)
class PairReport:
    """How the calibration of one ordered pair went.

    Args:
        target: name of the target view.
        source: name of the source view.
        method: "direct", "composed" (started from two other pairs), "tilted" (matched under simulated
            foreshortening), "chessboard", or "failed".
        features: kind of the features, "sift", "akaze" or "orb"; "corners" of a chessboard.
        mirrored: the source sees the surface mirrored.
        matches: pairs of features near their prediction, over all samples.
        inliers: those of them that agree with the homography.
        error_px: root mean square reprojection error of the inliers, in source pixels.
        held_out_px: the same of each half of them by a homography that only the other half has made.
        overlap: share of the target's pixels that the source sees.
        covered: share of the overlap's places in which there are inliers.
        dense: the pictures themselves sharpened what the matches said.
        reason: why the pair has no homography; nothing where it has one.
        points: the inliers in pixels of the target's image, ``(K, 2)`` float64.
    """

    target: str
    source: str
    method: str
    features: str = ""
    mirrored: bool = False
    matches: int = 0
    inliers: int = 0
    error_px: float = math.nan
    held_out_px: float = math.nan
    overlap: float = 0.0
    covered: float = 0.0
    dense: bool = False
    reason: str = ""
    points: Tensor = field(default_factory=lambda: torch.empty(0, 2, dtype=torch.float64), repr=False, compare=False)


@dataclass(frozen=True)
class CalibrationReport:
    """What a calibration saw: every ordered pair of views, in the rig's graph or not.

    Args:
        samples: number of samples that were used.
        pairs: one entry for each ordered pair.
        mirrors_unknown: views of which no picture tells whether they see in a mirror, so that it was taken from the
            user: a chessboard looks alike in one.
    """

    samples: int
    pairs: tuple[PairReport, ...]
    mirrors_unknown: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[tuple[str, str], ...]:
        """Unordered pairs without a homography, by their views' order."""
        return tuple((pair.target, pair.source) for pair in self.unordered if pair.method == "failed")

    @property
    def unordered(self) -> tuple[PairReport, ...]:
        """The entries whose target comes before the source in the views' order."""
        order = {name: index for index, name in enumerate(dict.fromkeys(pair.target for pair in self.pairs))}
        return tuple(pair for pair in self.pairs if order[pair.target] < order[pair.source])

    def rows(self) -> list[dict[str, str]]:
        """Named cells of a table with a row for each unordered pair."""
        return [
            {
                "views": f"{pair.target} - {pair.source}",
                "found by": " ".join(dict.fromkeys(filter(None, (pair.method, pair.features)))),
                "mirror": "yes" if pair.mirrored else "",
                "agree": f"{pair.inliers} / {pair.matches}",
                "error px": "" if math.isnan(pair.held_out_px) else f"{pair.held_out_px:.2f}",
                "overlap": "" if pair.reason else f"{pair.overlap:.0%}",
                "covered": "" if pair.reason else f"{pair.covered:.0%}",
            }
            for pair in self.unordered
        ]  # fmt: skip

    def __str__(self) -> str:
        rows = self.rows()
        if not rows:
            return "no pairs of views"
        table = [list(rows[0]), *(list(row.values()) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*table)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in table)


def describe_problems(rig: Rig, report: CalibrationReport, twins: Sequence[tuple[str, str]] = ()) -> list[str]:
    """What the user should know before the rig is used, in words; nothing where all is well.

    Args:
        rig: the rig.
        report: what the calibration saw.
        twins: views that hold the same pictures.
    """
    problems = [
        f"views {a} and {b} hold the same pictures, which two cameras never take; check the files" for a, b in twins
    ]
    reasons: dict[str, list[str]] = {}
    for pair in report.unordered:
        if pair.method == "failed":
            reasons.setdefault(pair.reason, []).append(f"{pair.target} and {pair.source}")
    failed = [f"{', '.join(pairs)} ({reason})" for reason, pairs in reasons.items()]
    if failed:
        problems.append(
            f"no homography between {', '.join(failed)}. Use more samples or images with more texture, lay a "
            "chessboard on the product's plane, or write the pair into the rig file by hand"
        )
    alone = [view for view, row in zip(rig.views, rig.neighbors.tolist()) if max(row) < 0]
    if len(rig.views) > 1 and len(alone) == len(rig.views):
        problems.append("the rig has no neighbors: every view will be judged for itself")
    elif len(rig.views) > 1 and alone:
        be = "has no partner: it" if len(alone) == 1 else "have no partner: they"
        problems.append(f"{', '.join(alone)} {be} will be judged without other views")
    return problems
