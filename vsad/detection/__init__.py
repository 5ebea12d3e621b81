"""Detection: the detector, its memories of normal appearance, the agreement of views, and the baseline to beat."""

from typing import TYPE_CHECKING, Any

from vsad.detection.config import DetectorConfig

if TYPE_CHECKING:
    from vsad.detection.agreement import agree
    from vsad.detection.baseline import GaussianBank, gaussian_derivatives
    from vsad.detection.detection import Detection, is_defect, is_unjudged
    from vsad.detection.detector import Detector
    from vsad.detection.network import FrozenNetwork, load_network
    from vsad.detection.placement import Placement, Placements, place, place_all
    from vsad.detection.practice import Painted, Practice, paint_defects
    from vsad.detection.storage import change_threshold
    from vsad.detection.threshold import Threshold, fit_threshold, warn_of_extrapolation

__all__ = [
    "Detection",
    "Detector",
    "DetectorConfig",
    "FrozenNetwork",
    "GaussianBank",
    "Painted",
    "Placement",
    "Placements",
    "Practice",
    "Threshold",
    "agree",
    "change_threshold",
    "fit_threshold",
    "gaussian_derivatives",
    "is_defect",
    "is_unjudged",
    "load_network",
    "paint_defects",
    "place",
    "place_all",
    "warn_of_extrapolation",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch, which takes seconds, when it is asked for and no sooner."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vsad.detection import (
        agreement,
        baseline,
        detection,
        detector,
        network,
        placement,
        practice,
        storage,
        threshold,
    )

    modules = (agreement, baseline, detection, detector, network, placement, practice, storage, threshold)
    return next(found for module in modules if (found := getattr(module, name, None)))
