"""PatchCore (arXiv 2106.08265) on ``greedy_coreset`` and ``prototype_distance``, at a small synthetic station.

    python examples/patchcore.py

PatchCore keeps features of normal images, thins them out to a coreset that covers them, and calls a place as anomalous
as its feature is far from the nearest one kept. Its features are usually those of a pretrained network. Here nothing is
to be downloaded: three convolutions with random, frozen weights serve, on bricks, where what is normal may lie
anywhere. Put your own network in their place.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsad.data import SynthConfig, open_dataset, synthesize
from vsad.metrics import aupro, auroc
from vsad.ops import greedy_coreset, pack_prototypes, prototype_distance


class PatchCore(nn.Module):
    """One bank of prototypes for each view, and the maps of distances to them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.banks = nn.ModuleList()

    def features(self, images: Tensor) -> Tensor:
        """``(V, 3, H, W)`` to ``(V, h, w, C)``."""
        without_exposure = images - images.mean((2, 3), keepdim=True)
        return self.network(without_exposure).movedim(1, -1)

    def fit(self, normal: list[Tensor], share: float = 0.05) -> None:
        """Keep this share of the features of normal samples, each the farthest from those kept before."""
        for view in torch.stack([self.features(images) for images in normal]).unbind(1):
            rows = view.reshape(-1, view.shape[-1])  # (M, C)
            kept = greedy_coreset(rows, size=round(share * len(rows)))
            self.banks.append(pack_prototypes(rows[kept]))  # made ready once for all calls to come

    def forward(self, images: Tensor) -> Tensor:
        """``(V, 3, H, W)`` to maps ``(V, H, W)``, higher where a place is farther from all that is normal."""
        nearest = [
            prototype_distance(features, bank).distances[..., 0]  # (h, w)
            for features, bank in zip(self.features(images), self.banks)
        ]
        return F.interpolate(torch.stack(nearest)[None], images.shape[-2:], mode="bilinear", align_corners=False)[0]


def frozen_network() -> nn.Module:
    """Features of 4 x 4 pixels' size, ``(V, 3, H, W)`` to ``(V, 128, H / 4, W / 4)``."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 7, stride=2, padding=3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, padding=1),
    )


def main(folder: Path) -> dict[str, float | None]:
    """Make a station in a new folder, learn its normal samples, inspect the others; returns the metrics."""
    synthesize(folder, SynthConfig(categories=("brick",), train=20, test_good=20, test_defect=20))
    model = PatchCore(frozen_network())
    model.fit([sample["images"] for sample in open_dataset(folder, "train")])

    test = list(open_dataset(folder, "test"))
    maps = torch.stack([model(sample["images"]) for sample in test])  # (samples, V, H, W)
    masks = torch.stack([sample["masks"] for sample in test])
    defective = torch.stack([sample["sample_label"] for sample in test])
    found = {
        "sample AUROC": auroc(maps.flatten(1).amax(1), defective),
        "pixel AUROC": auroc(maps, masks),
        "AUPRO": aupro(maps, masks),
    }
    print(*(f"{name} {value:.3f}" for name, value in found.items()), sep=", ")
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(*(sys.argv[1:] or [scratch])))
