"""The kinds of features by which images are matched."""

from __future__ import annotations

import cv2

# Best first.
KINDS = ("sift", "akaze", "orb")


def usable_kinds() -> tuple[str, ...]:
    """The kinds of features that the installed OpenCV has, best first: OpenCV 5 has no AKAZE."""
    return tuple(kind for kind in KINDS if kind != "akaze" or hasattr(cv2, "AKAZE"))


def choose_kinds(features: str) -> tuple[str, ...]:
    """The kinds of features to try, one after the other, where ``features`` are asked for.

    Args:
        features: one of ``KINDS``, or "auto" for all that are usable.

    Raises:
        ValueError: there are no such features, or none in the installed OpenCV.
    """
    usable = usable_kinds()
    if features == "auto":
        return usable
    if features not in KINDS:
        raise ValueError(f"calibrate: features must be auto, {', '.join(KINDS)}, got {features!r}; choose one")
    if features not in usable:
        raise ValueError(
            f"calibrate: features must be some that the installed OpenCV has ({', '.join(usable)}), got {features}; "
            "choose one of them, or install opencv-python-headless of version 4"
        )
    return (features,)
