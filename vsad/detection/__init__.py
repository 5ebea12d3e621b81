"""Detection: the detector, its memories of normal appearance, the agreement of views, and the baseline to beat."""

from vsad.detection.agreement import agree
from vsad.detection.baseline import GaussianBank, gaussian_derivatives
from vsad.detection.config import DetectorConfig
from vsad.detection.detection import Detection
from vsad.detection.detector import Detector
from vsad.detection.placement import Placement, place, place_all
from vsad.detection.threshold import Threshold, fit_threshold, warn_of_extrapolation

__all__ = [
    "Detection",
    "Detector",
    "DetectorConfig",
    "GaussianBank",
    "Placement",
    "Threshold",
    "agree",
    "fit_threshold",
    "gaussian_derivatives",
    "place",
    "place_all",
    "warn_of_extrapolation",
]
