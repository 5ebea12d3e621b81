"""Calibration: the rig of a station estimated from its own normal images, or from those of a chessboard."""

from vsad.calibration.boards import calibrate_chessboard
from vsad.calibration.estimation import calibrate
from vsad.calibration.pictures import write_calibration_pictures
from vsad.calibration.report import CalibrationReport, PairReport

__all__ = ["CalibrationReport", "PairReport", "calibrate", "calibrate_chessboard", "write_calibration_pictures"]
