"""What a threshold may be chosen by; looked at before anything is imported that takes long."""

from __future__ import annotations

import math


def check_rate(rate: float) -> None:
    """Refuse a share of false alarms that is none.

    Raises:
        ValueError: it is not between 0 and 1.
    """
    if not 0 < rate < 1:
        raise ValueError(f"threshold: false_alarms must lie between 0 and 1, got {rate}")


def check_value(value: float) -> None:
    """Refuse a threshold that is no number.

    Raises:
        ValueError: it is not finite.
    """
    if not math.isfinite(value):
        raise ValueError(f"threshold: value must be finite, got {value}")
