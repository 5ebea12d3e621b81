"""Calibration: a station's rig, from its own normal images or those of a chessboard, and its lenses."""

from typing import TYPE_CHECKING

from vsad.lazy import names_in

if TYPE_CHECKING:
    from vsad.calibration.boards import calibrate_chessboard
    from vsad.calibration.estimation import calibrate
    from vsad.calibration.lens import Lens, estimate_lenses
    from vsad.calibration.lens_file import load_lenses, save_lenses
    from vsad.calibration.pictures import write_calibration_pictures
    from vsad.calibration.report import CalibrationReport, PairReport

__all__ = [
    "CalibrationReport",
    "Lens",
    "PairReport",
    "calibrate",
    "calibrate_chessboard",
    "estimate_lenses",
    "load_lenses",
    "save_lenses",
    "write_calibration_pictures",
]

__getattr__ = names_in(__name__, __all__, "lens lens_file report pictures estimation boards")
