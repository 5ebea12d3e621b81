"""The ``vsad`` command."""

from __future__ import annotations

import sys
import warnings

from vsad.cli import trial, whole, learning, calibration, lenses, inspection, measurement  # isort: skip (the commands' order in the help)
from vsad.cli.app import app
from vsad.machine import let_threads_sleep
from vsad.terminal import console
from vsad.terminal import error as show_error

__all__ = ["app", "calibration", "inspection", "learning", "lenses", "main", "measurement", "trial", "whole"]


def main() -> None:
    """Run the command; an error that users can mend is one line, without a traceback."""
    let_threads_sleep()  # OpenMP reads it once, when torch is imported
    warnings.showwarning = lambda message, *_, **__: console.print(
        f"warning: {message}", highlight=False, markup=False, soft_wrap=True
    )
    try:
        app()
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        show_error(str(error))
        sys.exit(1)
