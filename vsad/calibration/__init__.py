"""Calibration: the rig of a station estimated from its own normal images, or from those of a chessboard."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vsad.calibration.boards import calibrate_chessboard
    from vsad.calibration.estimation import calibrate
    from vsad.calibration.pictures import write_calibration_pictures
    from vsad.calibration.report import CalibrationReport, PairReport

__all__ = ["CalibrationReport", "PairReport", "calibrate", "calibrate_chessboard", "write_calibration_pictures"]


def __getattr__(name: str) -> Any:
    """Import what needs torch, which takes seconds, when it is asked for and no sooner."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vsad.calibration import boards, estimation, pictures, report

    modules = (boards, estimation, pictures, report)
    return next(found for module in modules if (found := getattr(module, name, None)))
