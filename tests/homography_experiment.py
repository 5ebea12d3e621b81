"""Trains a HomographyNet without labels and measures it on stations and photographs that it has never seen.

    python -m tests.homography_experiment refined --save refined.pt      # pull back a rig that is 8 pixels off
    python -m tests.homography_experiment learned --weights refined.pt   # find neighbors without a rig
    python -m tests.homography_experiment learned --steps 80             # the same, trained without a rig too

Truth is used to make the data and to measure, never to train. Errors are distances in source pixels of 256 x 256
images between where the true and the found homography put a point, the mean over a grid in the true overlap.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from vsad.data.images import read_image
from vsad.data.synth import TRUTH, SynthConfig, synthesize
from vsad.data.synth.product import find_photograph
from vsad.files import read_json
from vsad.geometry import (
    corners_to_homography,
    orient_homography,
    scale_homography,
    transform_points,
)
from vsad.models import VALDM, tiny
from vsad.models.derivative_vae import LATENTS, ORDERS
from vsad.models.homography_net import HomographyNet
from vsad.models.losses import homography_loss
from vsad.training import learn_latents

IMAGE, LATENT = (256, 256), (64, 64)
# Of the latents of Gaussian derivatives those of order zero: how a camera is turned does not change them. They are two
# of luma, then one of each chroma, which has the first three orders alone.
SMOOTHED = [0, len(ORDERS), 2 * len(ORDERS), 2 * len(ORDERS) + 3]
# None of them is a photograph of the hard stations' report.
TRAINING = (
    "brick", "skimage:camera", "skimage:chelsea", "skimage:grass", "skimage:hubble_deep_field", "skimage:moon",
    "skimage:page", "skimage:rocket",
)  # fmt: skip
HELD_OUT = (
    "circuit_board", "coins", "skimage:astronaut", "skimage:retina", "skimage:clock_motion", "skimage:text",
)  # fmt: skip
PERTURBATION = 8.0  # image pixels by which each corner of the target is displaced, in a direction of its own
# Share of their area that two windows have in common. The loss has no slope toward what is far off, so training takes
# near ones; a search votes alike for near and far, so it finds far ones too.
NEAR, FAR = (0.75, 0.95), (0.3, 0.45)
JITTER = 12.0  # image pixels by which the corners of a window are off a square, as of a camera that is a little tilted


class Scene(NamedTuple):
    """Latents ``(K, V, C, h, w)`` of K samples, the homography ``(V, N, 3, 3)`` of images, neighbors ``(V, N)``."""

    name: str
    latents: Tensor
    truth: Tensor
    neighbors: Tensor


def stations(photographs: tuple[str, ...], seeds: range) -> list[Scene]:
    """Synthetic stations of three normal samples, of the photographs in turn; all views are neighbors."""
    scenes = []
    for i, seed in enumerate(seeds):
        name = photographs[i % len(photographs)]
        with tempfile.TemporaryDirectory() as folder:
            config = SynthConfig(categories=(name,), train=3, test_good=0, test_defect=0, seed=seed)
            root = synthesize(Path(folder) / "station", config)
            truth = read_json(root / TRUTH, "synthesize it")["H_view_from_plane"]
            samples = [[_read(sample / f"{v}.png") for v in truth] for sample in sorted(root.glob("train/good/*"))]
        H_view_from_plane = torch.tensor(list(truth.values()), dtype=torch.float64)
        V = len(truth)
        neighbors = torch.tensor([[j for j in range(V) if j != i] for i in range(V)])
        H = H_view_from_plane[neighbors] @ torch.linalg.inv(H_view_from_plane)[:, None]
        latents = learn_latents(_model(), [torch.stack(views) for views in samples])
        scenes.append(Scene(name, latents, orient_homography(H, IMAGE), neighbors))
    return scenes


def pairs(photographs: tuple[str, ...], count: int, shared: tuple[float, float], seed: int) -> list[Scene]:
    """``count`` pairs of windows of each photograph that have a share of their area in common, each lit differently."""
    rng = np.random.default_rng(seed)
    scenes = []
    for name in photographs:
        photo = read_image(find_photograph(name))
        scale = 470 / min(photo.shape[:2])
        photo = cv2.resize(
            photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        )
        while len(scenes) % count or not scenes or scenes[-1].name != name:
            windows = _windows(photo, rng, rng.uniform(*shared))
            if windows is None:
                continue
            images, H_photo_from_window = windows
            H = torch.linalg.inv(H_photo_from_window.flip(0)) @ H_photo_from_window
            latents = learn_latents(_model(), [images])
            scenes.append(Scene(name, latents, orient_homography(H, IMAGE)[:, None], torch.tensor([[1], [0]])))
    return scenes


def perturbed(truth: Tensor, pixels: float, generator: torch.Generator) -> Tensor:
    """Displace every corner of the target by so many pixels, in directions drawn independently."""
    angle = 2 * math.pi * torch.rand(*truth.shape[:-2], 4, generator=generator, dtype=truth.dtype)
    return truth @ corners_to_homography(pixels * torch.stack([angle.cos(), angle.sin()], -1), IMAGE)


def errors(found: Tensor, truth: Tensor) -> Tensor:
    """Mean distance ``(...)`` in source pixels over a grid of 33 x 33 target points, those in the true overlap."""
    axis = torch.linspace(0, IMAGE[0] - 1, 33, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([x, y], -1).flatten(0, 1)
    true_places, in_front = transform_points(truth, grid, return_mask=True)
    shared = in_front & ((true_places >= 0) & (true_places <= IMAGE[0] - 1)).all(-1)
    distance = (transform_points(found, grid) - true_places).norm(dim=-1)
    return (distance * shared).sum(-1) / shared.sum(-1)


def train(net: HomographyNet, scenes: list[Scene], *, steps: int, seed: int = 0, every: int = 50) -> None:
    """Train by ``homography_loss`` alone.

    With rigs (stations), each step takes two slots of every view, perturbed by up to 8 pixels. Without (a net that
    searches), each step takes five pairs from the identity.
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=4e-3)
    started, losses = time.process_time(), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1, step / 20) * max(0.02, 1 - (step / steps) ** 2)
        if net.search is None:
            scene = scenes[rng.integers(len(scenes))]
            latents = scene.latents[rng.integers(len(scene.latents)), None]
            off = perturbed(scene.truth, PERTURBATION * math.sqrt(rng.random()), generator)
            V, N = scene.neighbors.shape
            slots = torch.stack([torch.randperm(N, generator=generator)[:2] for _ in range(V)])
            view = torch.arange(V)[:, None]
            start, neighbors = scale_homography(off[view, slots], IMAGE, LATENT), scene.neighbors[view, slots]
        else:
            chosen = [scenes[i] for i in rng.choice(len(scenes), 5, replace=False)]
            latents, neighbors = torch.cat([scene.latents for scene in chosen]), chosen[0].neighbors
            start = torch.eye(3).expand(2, 1, 3, 3)
        loss = homography_loss(latents[:, :, SMOOTHED], net(latents, start[None].float(), neighbors), neighbors)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if every and (step + 1) % every == 0:
            seconds = time.process_time() - started
            print(f"step {step + 1}: loss {np.mean(losses[-every:]):.3f}, {seconds:.0f} s of one core", flush=True)


@torch.no_grad()
def measure(net: HomographyNet, scenes: list[Scene], *, seed: int = 1) -> dict[str, Tensor]:
    """By photograph, the errors ``(1 + stages, slots)`` at the start and after each stage; a sample of each scene."""
    generator = torch.Generator().manual_seed(seed)
    by_name: dict[str, list[Tensor]] = {}
    for scene in scenes:
        start = perturbed(scene.truth, PERTURBATION, generator)
        if net.search is not None:
            start = torch.eye(3, dtype=torch.float64).expand_as(scene.truth)
        found = net(scene.latents[:1], scale_homography(start, IMAGE, LATENT)[None].float(), scene.neighbors)
        homographies = [start, *(scale_homography(H[0].double(), LATENT, IMAGE) for H in found)]
        by_name.setdefault(scene.name, []).append(torch.stack([errors(H, scene.truth).flatten() for H in homographies]))
    return {name: torch.cat(rows, 1) for name, rows in by_name.items()}


def table(measured: dict[str, Tensor], goal: float) -> str:
    """Median, ninth decile and worst error at the start and after each stage, and the share within the goal."""
    stages = next(iter(measured.values())).shape[0] - 1
    head = ["held out", "slots", "start", *(f"stage {i}" for i in range(stages)), f"within {goal:g} px"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, error in [*measured.items(), ("all", torch.cat(list(measured.values()), 1))]:
        cells = [f"{row.median():.2f} / {row.quantile(0.9):.2f} / {row.max():.2f}" for row in error]
        within = f"{int((error[-1] < goal).sum())} of {error.shape[1]}"
        lines.append("| " + " | ".join([name.removeprefix("skimage:"), str(error.shape[1]), *cells, within]) + " |")
    return "\n".join(lines)


def run(mode: str, steps: int, *, width: int = 16, seed: int = 0) -> tuple[HomographyNet, dict[str, Tensor]]:
    """Train and measure one mode, "refined" or "learned"."""
    torch.manual_seed(seed)
    net = HomographyNet(LATENTS, width=width, search=mode == "learned")
    scenes = stations(TRAINING, range(16)) if mode == "refined" else pairs(TRAINING, 6, NEAR, seed=0)
    train(net, scenes, steps=steps, seed=seed)
    return net, measure(net, held_out(mode))


def held_out(mode: str) -> list[Scene]:
    """What a mode is measured on."""
    return stations(HELD_OUT, range(50, 62)) if mode == "refined" else pairs(HELD_OUT, 8, FAR, seed=1)


def searching(refined: HomographyNet, width: int = 16) -> HomographyNet:
    """Give a network that was trained with rigs a search, which has nothing to learn but that it is wanted."""
    net = HomographyNet(LATENTS, width=width, search=True)
    net.load_state_dict(refined.state_dict(), strict=False)
    net.search.gain.data.fill_(1.0)
    return net


def _windows(photo: np.ndarray, rng: np.random.Generator, share: float) -> tuple[Tensor, Tensor] | None:
    """Two windows ``(2, 3, H, W)`` and ``H_photo_from_window (2, 3, 3)``; None where the photograph is too small."""
    size = IMAGE[0]
    across = rng.uniform(share, 1)
    shift = (1 - np.array([across, share / across])) * size * rng.choice([-1, 1], 2)
    free = np.array(photo.shape[1::-1]) - np.abs(shift) - size - 2 * JITTER
    if (free < 0).any():
        return None
    first = rng.uniform(0, 1, 2) * free + JITTER + np.maximum(0, -shift)
    square = np.array([[0, 0], [size - 1, 0], [size - 1, size - 1], [0, size - 1]], np.float32)
    images, homographies = [], []
    for place in (first, first + shift):
        corners = (square + place + rng.uniform(-JITTER, JITTER, (4, 2))).astype(np.float32)
        H_photo_from_window = cv2.getPerspectiveTransform(square, corners)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        window = cv2.warpPerspective(photo, H_photo_from_window, IMAGE, flags=flags, borderMode=cv2.BORDER_REFLECT)
        light = (window / 255) ** rng.uniform(0.85, 1.15) * rng.uniform(0.85, 1.1, 3)
        images.append(torch.from_numpy(np.clip(light + rng.normal(0, 0.01, light.shape), 0, 1)).movedim(-1, 0).float())
        homographies.append(torch.from_numpy(H_photo_from_window))
    return torch.stack(images), torch.stack(homographies)


def _read(path: Path) -> Tensor:
    return torch.from_numpy(read_image(path)).movedim(-1, 0).float() / 255


def _model() -> VALDM:
    """The tiny preset, whose autoencoder needs no training; ``learn_latents`` standardizes what it gives."""
    if not hasattr(_model, "model"):
        _model.model = VALDM(tiny()).eval()
    return _model.model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["refined", "learned"])
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="where to write the weights")
    parser.add_argument("--weights", type=Path, help="of the mode refined: learned then only adds a search to them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.weights:
        network = HomographyNet(LATENTS, width=16)
        network.load_state_dict(torch.load(arguments.weights))
        network = searching(network) if arguments.mode == "learned" else network
        measured = measure(network, held_out(arguments.mode))
    else:
        network, measured = run(arguments.mode, arguments.steps, seed=arguments.seed)
    print(table(measured, 2.0 if arguments.mode == "refined" else 4.0))
    if arguments.save:
        torch.save(network.state_dict(), arguments.save)
