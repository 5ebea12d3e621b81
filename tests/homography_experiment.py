"""Trains the HomographyNet that comes with vsad, and measures it on stations and photographs it has never seen.

    python -m tests.homography_experiment train --save vsad/models/weights/homography_net.safetensors
    python -m tests.homography_experiment train --agreement   # without truth, as a station trains it
    python -m tests.homography_experiment measure             # what comes with vsad
    python -m tests.homography_experiment limits              # what agreement alone can tell, without a network

Choices are made on other photographs (--development). Errors are distances in source pixels of 256 x 256 images between
where the true and the found homography put a point, the mean over a grid in the true overlap.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vsad.data.images import read_image
from vsad.data.synth import TRUTH, SynthConfig, synthesize
from vsad.data.synth.product import find_photograph
from vsad.files import read_json, write_weights
from vsad.geometry import (
    corners_to_homography,
    orient_homography,
    scale_homography,
    transform_points,
)
from vsad.models import VALDM, tiny
from vsad.models.derivative_config import LATENTS, SMOOTHED
from vsad.models.homography_net import HomographyNet
from vsad.models.homography_weights import WIDTH, load_homography_weights
from vsad.models.losses import homography_loss
from vsad.training import TrainConfig, learn_latents

IMAGE, LATENT = (256, 256), (64, 64)
# None of these is a photograph of the hard stations' report, or another picture of one. Every other station and the
# windows of some are of a photograph that is blurred, ``blur:NAME``.
DEVELOPMENT = ("skimage:cell", "skimage:page", "skimage:color", "skimage:moon", "blur:skimage:camera")
CHOOSING = (
    "brick", "skimage:chelsea", "skimage:grass", "skimage:hubble_deep_field", "skimage:rocket", "skimage:horse",
)  # fmt: skip
TRAINING = (*CHOOSING, "skimage:camera", "skimage:cell", "skimage:moon", "skimage:page")
HELD_OUT = (
    "circuit_board", "coins", "skimage:astronaut", "skimage:retina", "skimage:clock_motion", "skimage:text",
)  # fmt: skip
PERTURBATION = 8.0  # image pixels by which each corner of the target is displaced, in a direction of its own
FURTHEST = 10.0  # the same in training, at most
# Share of the steps that take noisy latents, of time steps up to that with which a model trains.
NOISY, NOISIEST = 0.25, TrainConfig().max_timestep
# Share of their area that two windows have in common, in training and in measuring.
NEAR, FAR = (0.3, 0.95), (0.3, 0.45)
RATE = 4e-3
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
            config = SynthConfig(
                categories=(str(photograph(name, folder)),), train=3, test_good=0, test_defect=0, seed=seed
            )
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


def photograph(name: str, folder: str) -> str | Path:
    """The photograph of a name, or of ``blur:NAME`` one that is blurred along a line and all about, as a file."""
    if not name.startswith("blur:"):
        return name
    photo = read_image(find_photograph(name.removeprefix("blur:")))
    scale = 480 / min(photo.shape[:2])
    photo = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    length, middle = 41, 20
    line = np.zeros((length, length), np.float32)
    reach = int(rng.integers(3, middle))
    line[middle, middle - reach : middle + reach + 1] = 1
    line = cv2.warpAffine(line, cv2.getRotationMatrix2D((middle, middle), rng.uniform(0, 180), 1), line.shape)
    photo = cv2.GaussianBlur(cv2.filter2D(photo, -1, line / line.sum()), (0, 0), math.exp(rng.uniform(0.7, 2.5)))
    path = Path(folder) / f"{name.split(':')[-1]}.png"
    cv2.imwrite(str(path), cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))
    return path


def pairs(photographs: tuple[str, ...], count: int, shared: tuple[float, float], seed: int) -> list[Scene]:
    """``count`` pairs of windows of each photograph that have a share of their area in common, each lit differently."""
    rng = np.random.default_rng(seed)
    scenes = []
    for name in photographs:
        with tempfile.TemporaryDirectory() as folder:
            photo = read_image(find_photograph(str(photograph(name, folder))))
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


def distance_loss(found: list[Tensor], truth: Tensor) -> Tensor:
    """``mean over stages and slots of log(1 + 4 e)``, e the mean distance in the true overlap in latent pixels.

    The logarithm keeps slots in which nothing can be seen from outweighing the others.
    """
    axis = torch.linspace(0, LATENT[0] - 1, 9)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([x, y], -1).flatten(0, 1)
    true_places, in_front = transform_points(truth, grid, return_mask=True)
    shared = in_front & ((true_places >= 0) & (true_places <= LATENT[0] - 1)).all(-1)
    losses = []
    for H in found:
        distance = ((transform_points(H, grid) - true_places).square().sum(-1) + 1e-3).sqrt()
        losses.append(torch.log1p(4 * (distance * shared).sum(-1) / shared.sum(-1).clamp(min=1)).mean())
    return torch.stack(losses).mean()


def train(
    net: HomographyNet, scenes: list[Scene], windows: list[Scene], *, steps: int, agreement: bool = False, seed: int = 0
) -> None:
    """Train on ten slots a step: two of every view of a station, or every third time five pairs of windows.

    Their homographies are displaced by up to ``FURTHEST`` pixels, and the truth is what they are to become; by
    ``agreement`` what views show is all that there is to learn from.
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    clean = _model().scheduler.alphas_cumprod
    started, losses = time.process_time(), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, step / 20) * max(0.01, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        if step % 3 < 2:
            scene = scenes[rng.integers(len(scenes))]
            seen = scene.latents[rng.integers(len(scene.latents)), None]  # (1, V, C, h, w)
            V, N = scene.neighbors.shape
            slots = torch.stack([torch.randperm(N, generator=generator)[:2] for _ in range(V)])
            view = torch.arange(V)[:, None]
            truth, neighbors = scene.truth[view, slots][None], scene.neighbors[view, slots]
        else:
            chosen = [windows[i] for i in rng.choice(len(windows), 5, replace=False)]
            seen, neighbors = torch.cat([scene.latents for scene in chosen]), chosen[0].neighbors
            truth = torch.stack([scene.truth for scene in chosen])
        latents = seen
        if rng.random() < NOISY:
            a = clean[rng.integers(NOISIEST)]
            latents = a.sqrt() * seen + (1 - a).sqrt() * torch.randn(seen.shape, generator=generator)
        start = perturbed(truth, FURTHEST * math.sqrt(rng.random()), generator)
        found = net(latents, scale_homography(start, IMAGE, LATENT).float(), neighbors)
        if agreement:
            loss = homography_loss(seen[:, :, SMOOTHED], found, neighbors)
        else:
            loss = distance_loss(found, scale_homography(truth, IMAGE, LATENT).float())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if (step + 1) % 50 == 0:
            seconds = time.process_time() - started
            print(f"step {step + 1}: loss {np.mean(losses[-50:]):.3f}, {seconds:.0f} s of one core", flush=True)


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


def limits(scenes: list[Scene], *, seed: int = 1) -> dict[str, Tensor]:
    """By photograph, the errors of a start and of where descent on ``homography_loss`` ends, from there and from truth.

    No network takes part. Where descent from the truth leads away from it, agreement knows no better.
    """
    generator = torch.Generator().manual_seed(seed)
    by_name: dict[str, list[Tensor]] = {}
    for scene in scenes:
        start = perturbed(scene.truth, PERTURBATION, generator)
        features = scene.latents[:1, :, SMOOTHED]
        ends = [_descend(features, H, scene.neighbors) for H in (start, scene.truth)]
        rows = torch.stack([errors(H, scene.truth).flatten() for H in (start, *ends)])
        by_name.setdefault(scene.name, []).append(rows)
    return {name: torch.cat(rows, 1) for name, rows in by_name.items()}


def _descend(features: Tensor, H: Tensor, neighbors: Tensor) -> Tensor:
    """Corner offsets by Adam on the loss, at a quarter, half and all of the resolution in turn."""
    H = scale_homography(H, IMAGE, LATENT)[None].float()
    offsets = torch.zeros(*H.shape[:-2], 4, 2, requires_grad=True)
    for halvings in (2, 1, 0):
        level = F.avg_pool2d(features.flatten(0, 1), 2**halvings).unflatten(0, features.shape[:2])
        size = (level.shape[-2], level.shape[-1])
        optimizer = torch.optim.Adam([offsets])
        for step in range(60):
            optimizer.param_groups[0]["lr"] = 0.15 * (1 - step / 60) + 0.005
            found = scale_homography(H @ corners_to_homography(offsets, LATENT), LATENT, size)
            optimizer.zero_grad()
            homography_loss(level, [found], neighbors).backward()
            optimizer.step()
    found = H @ corners_to_homography(offsets.detach(), LATENT)
    return scale_homography(found[0].double(), LATENT, IMAGE)


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


def trained(steps: int, *, agreement: bool = False, choosing: bool = False, seed: int = 0) -> HomographyNet:
    """A network that was trained; while choices are made, on other photographs than those on which they are made."""
    torch.manual_seed(seed)
    net = HomographyNet(LATENTS, width=WIDTH)
    sharp = CHOOSING if choosing else TRAINING
    mixed = tuple(name for photo in sharp for name in (photo, f"blur:{photo}"))
    scenes = stations(mixed, range(100, 100 + 2 * len(mixed)))
    train(net, scenes, pairs(mixed, 3, NEAR, seed=0), steps=steps, agreement=agreement, seed=seed)
    return net


def searching(net: HomographyNet) -> HomographyNet:
    """The same network with a search, which has nothing to learn but that it is wanted."""
    copy = HomographyNet(LATENTS, width=WIDTH, search=True)
    copy.load_state_dict(net.state_dict(), strict=False)
    copy.search.gain.data.fill_(1.0)
    return copy


def report(net: HomographyNet, *, development: bool = False) -> None:
    """Print the two tables, of a rig that is off and of no rig, of photographs that were not trained on."""
    photographs = DEVELOPMENT if development else HELD_OUT
    for search, goal in ((False, 2.0), (True, 4.0)):
        print(table(measure(searching(net) if search else net, measured_on(photographs, search)), goal), flush=True)


def measured_on(photographs: tuple[str, ...], search: bool) -> list[Scene]:
    """Stations, or for a search windows; those held out are of seeds that are no others'."""
    held_out = photographs == HELD_OUT
    if search:
        return pairs(photographs, 8 if held_out else 6, FAR, seed=1 if held_out else 2)
    return stations(photographs, range(50, 62) if held_out else range(30, 40))


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
    parser.add_argument("mode", choices=["train", "measure", "limits"])
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--agreement", action="store_true", help="train without truth")
    parser.add_argument(
        "--development", action="store_true", help="make choices: train and measure on other photographs"
    )
    parser.add_argument("--save", type=Path, help="where to write the weights")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.mode == "limits":
        print(table(limits(measured_on(DEVELOPMENT if arguments.development else HELD_OUT, False)), 2.0))
    elif arguments.mode == "train":
        network = trained(
            arguments.steps, agreement=arguments.agreement, choosing=arguments.development, seed=arguments.seed
        )
        if arguments.save:
            write_weights(arguments.save, searching(network).state_dict())
        report(network, development=arguments.development)
    else:
        network = load_homography_weights(HomographyNet(LATENTS, width=WIDTH, search=True))
        report(network, development=arguments.development)
