"""Detection: the detector, its memories of normal appearance, the agreement of views, and the baseline to beat."""

from vsad.detection.agreement import add_agreement
from vsad.detection.baseline import GaussianBank, gaussian_derivatives
from vsad.detection.config import DetectorConfig
from vsad.detection.detection import Detection
from vsad.detection.detector import Detector

__all__ = ["Detection", "Detector", "DetectorConfig", "GaussianBank", "add_agreement", "gaussian_derivatives"]
