"""The report: one self-contained HTML page of what a detector decided and why."""

from vsad.report.content import CalibrationPicture, CurvePoints, Reconstruction, Report, ReportSample
from vsad.report.overlays import lay_over
from vsad.report.page import write_report

__all__ = ["CalibrationPicture", "CurvePoints", "Reconstruction", "Report", "ReportSample", "lay_over", "write_report"]
