"""Detection: the detector, its memories of normal appearance, the agreement of views, and the baseline to beat."""

from typing import TYPE_CHECKING

from vsad.detection.config import DetectorConfig
from vsad.lazy import names_in

if TYPE_CHECKING:
    from vsad.detection.agreement import agree
    from vsad.detection.baseline import GaussianBank, gaussian_derivatives
    from vsad.detection.detection import Detection, is_blind, is_defect, is_unjudged
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
    "is_blind",
    "is_defect",
    "is_unjudged",
    "load_network",
    "paint_defects",
    "place",
    "place_all",
    "warn_of_extrapolation",
]

__getattr__ = names_in(
    __name__,
    __all__,
    "detection threshold placement practice network agreement baseline storage detector",
)
