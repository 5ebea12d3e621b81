"""What the files of a run and the rows of its tables are called."""

from __future__ import annotations

DETECTOR, DETECTIONS, METRICS, REPORT = "detector", "detections", "metrics.json", "report.html"
# The names of the model's own row and of the baseline's in tables.
MAIN, BASELINE = "VSAD", "Gaussian derivatives, plain bank"
