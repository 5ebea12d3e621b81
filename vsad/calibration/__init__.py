"""Calibration: the rig of a station estimated from its own normal images."""

from vsad.calibration.estimation import calibrate
from vsad.calibration.report import CalibrationReport, PairReport

__all__ = ["CalibrationReport", "PairReport", "calibrate"]
