"""Pictures of what a model sees while it is trained: a sample's views, their features, and what the neighbors have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vsad.models import VALDM, align_features
from vsad.models.valdm import normalize
from vsad.training.station import Station

# Deviations from the mean that a color's range spans to either side.
_RANGE = 2.5


def write_picture(path: Path, model: VALDM, station: Station) -> None:
    """Write a PNG of a station's first sample: a row for each view, its columns as ``draw_sample`` has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_sample(model, station)).save(path)


@torch.no_grad()
def draw_sample(model: VALDM, station: Station, index: int = 0) -> np.ndarray:
    """Draw a sample as the model sees it.

    Columns: the picture that the autoencoder decodes, or its latents where the decoder is not trained; the last level
    of features, without noise; what the neighbors have there, in the same colors, which a good model makes the same.

    Args:
        model: in any mode, which is left as it was.
        station: whose sample is drawn.
        index: of the sample.

    Returns:
        ``(V h, 3 w, 3)`` uint8.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    clean = station.latents[index].to(device, torch.float32)[None]  # (1, V, c, h, w)
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    found = model(clean, zero, station.rig, zero + station.category, features_only=True)
    level = [normalize(clean), *found.levels][-1]
    aligned = align_features(level, found.projections[-1]).feature
    first = model.decode(clean)[0] if model.draws else colors(clean[0], clean[0])
    model.train(training)
    columns = [first, colors(level[0], level[0]), colors(aligned[0], level[0])]
    size = (4 * clean.shape[-2], 4 * clean.shape[-1])
    columns = [F.interpolate(column, size, mode="nearest") for column in columns]  # each (V, 3, h, w)
    picture = torch.cat(columns, dim=3).permute(0, 2, 3, 1).flatten(0, 1)  # (V h, 3 w, 3)
    result: np.ndarray = (255 * picture).round().byte().numpy(force=True)
    return result


def colors(feature: Tensor, basis: Tensor) -> Tensor:
    """Red, green and blue in [0, 1] for the three directions in which the features of ``basis`` differ most.

    Args:
        feature, basis: ``(V, C, h, w)``.

    Returns:
        ``(V, 3, h, w)``.
    """
    known = basis.detach().movedim(1, -1).flatten(0, 2).double().cpu()  # (V h w, C)
    mean = known.mean(0)
    variances, directions = torch.linalg.eigh((known - mean).T @ (known - mean) / len(known))
    variances, directions = variances[-3:].flip(0), directions[:, -3:].flip(1)  # (3,), (C, 3)
    # Eigenvectors have no sign of their own; with this one, colors stay the same from picture to picture.
    strongest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    directions = directions * strongest.sign()
    x = (feature.detach().movedim(1, -1).double().cpu() - mean) @ directions  # (V, h, w, 3)
    x = x / (_RANGE * variances.clamp(min=1e-12).sqrt())
    return (0.5 + 0.5 * x).clamp(0, 1).movedim(-1, 1).float()
