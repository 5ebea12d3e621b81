"""Tensors and arrays as the metrics take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from torch import Tensor

Array: TypeAlias = np.ndarray | Tensor


def as_numpy(value: Array | Sequence[float] | float) -> np.ndarray:
    """The array of a tensor or array on any device; float16 and bfloat16 become float32."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        if value.is_floating_point() and value.element_size() < 4:  # numpy has no bfloat16
            value = value.float()
        return value.numpy()
    return np.asarray(value)


def checked_scores(
    op: str, scores: Array, labels: Array, name: str = "scores", label_name: str = "labels"
) -> tuple[np.ndarray, np.ndarray]:
    """Scores as float32 or float64 and labels as bool, of one shape; no copy where the types already fit."""
    values, truth = as_numpy(scores), as_numpy(labels)
    if values.shape != truth.shape:
        raise ValueError(
            f"{op}: {label_name} must be {list(values.shape)} like {name}, got {list(truth.shape)}; "
            f"give one label for each score"
        )
    if not values.size:
        raise ValueError(f"{op}: {name} must hold at least one value, got {list(values.shape)}; check the test set")
    return ranked_values(op, values, name), checked_labels(op, truth, label_name)


def ranked_values(op: str, values: np.ndarray, name: str) -> np.ndarray:
    """At least one value as float32 or, where it is, float64; none of them NaN."""
    if values.dtype != np.float64:
        values = values.astype(np.float32, copy=False)
    if np.isnan(values.min()):  # the minimum passes NaN on and needs no array of its own
        index = tuple(int(i) for i in np.unravel_index(int(np.isnan(values).argmax()), values.shape))
        where = f" at index {index}" if index else ""
        raise ValueError(f"{op}: {name} must not be NaN, got NaN{where}; look at that input's features")
    return values


def checked_labels(op: str, labels: np.ndarray, name: str) -> np.ndarray:
    """At least one label as bool."""
    if labels.dtype != np.bool_:
        if not ((labels == 0) | (labels == 1)).all():
            raise ValueError(
                f"{op}: {name} must be boolean or 0/1, got values from {labels.min()} to {labels.max()}; "
                f"binarize them first"
            )
        labels = labels.astype(bool)
    return labels
