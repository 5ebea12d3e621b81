"""model: ``vsad detect`` of one sample, and one training step, with all that stands around the operators.

A case in bfloat16 is one in mixed precision: the weights stay in float32, and so does what follows the UNet.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from vsad import ops
from vsad.bench.cases import Case
from vsad.geometry import Rig
from vsad.ops.homography_align.call import AlignCall

from . import Judge, Problem, WrongError, accept, generator, homographies, share_of_budget

BLOCK = 4  # side of a latent pixel in image pixels
JUDGED = 16  # side of the latents on which a result is judged: at 64 the reference needs 25 GB to train in float64
TIMESTEP, RATE = 300, 1e-4
WINDOW = AlignCall._fields.index("window")


def inputs(case: Case) -> Problem:
    """V cameras that see the same plane; ``references`` normal samples are in the detector's memory, and the maps of a
    frozen ``network`` too, where one is named.

    The weights of new output layers, which are zero, are drawn too: their gradients would say nothing of the operators.
    """
    from vsad.detection import Detector, DetectorConfig
    from vsad.detection.glare import Glare
    from vsad.detection.network import load_network
    from vsad.detection.placement import place
    from vsad.detection.threshold import fit_threshold
    from vsad.models.presets import model_config
    from vsad.models.valdm import new_model

    s, g = case.sizes, generator(case)
    V, size = s["V"], (BLOCK * s["H"], BLOCK * s["W"])
    coarse = torch.rand(V, 3, s["H"] // 2, s["W"] // 2, generator=g)
    images = F.interpolate(coarse, size, mode="bilinear")
    rig = ring(g, V, s["N"], size)
    model = new_model(model_config(s["preset"]), 0).eval()
    for parameter in model.adapter.parameters():
        if not parameter.any():
            parameter.data = 0.02 * torch.randn(parameter.shape, generator=g)
    precision: Literal["no", "bf16"] = "bf16" if case.dtype == "bfloat16" else "no"
    config = DetectorConfig(weights=(1.0,), window=5, mixed_precision=precision)
    _, placement = place(images, None)
    none, reach = fit_threshold([1.0], config.false_alarms), torch.ones(2, V)
    glare = Glare.fit([placement] * 2, (s["H"], s["W"]))
    network = load_network(s["network"]) if "network" in s else None
    detector = Detector(model, rig, [], glare, reach, None, none, config, network).eval()
    with torch.no_grad():
        latents = model.encode(images[None])
        if s.get("references"):
            maps = [level[None] for level in network(images)] if network is not None else []
            for level in [*model.features(latents, rig), *maps]:
                detector.levels.append(remembered(level, s["references"], g, config))
    noise = torch.randn(latents.shape, generator=g)
    return Problem(case, {"images": images, "latents": latents, "noise": noise}, module=detector)


def ring(g: torch.Generator, V: int, N: int, size: tuple[int, int]) -> Rig:
    """Slightly turned cameras, each with the N around it as neighbors."""
    plane_from_view = homographies(g, V, H=size[0], W=size[1]).double()
    views = [str(v) for v in range(V)]
    steps = [step for i in range(1, N + 1) for step in (-i, i)][:N]
    pairs = {
        (views[v], views[(v + step) % V]): plane_from_view[(v + step) % V].inverse() @ plane_from_view[v]
        for v in range(V)
        for step in steps
    }
    return Rig.from_pairs(views, size, pairs, graph=list(pairs))


def remembered(level: Tensor, references: int, g: torch.Generator, config: Any) -> nn.Module:
    """A level whose memory holds normal samples that differ from ``level (1, V, C, h, w)`` by noise."""
    from vsad.detection.level import Level
    from vsad.detection.memory import MEMORIES

    features = level + 0.3 * torch.randn(references, *level.shape[1:], generator=g)
    seen = torch.ones(references, *features.shape[1:2], *features.shape[3:], dtype=torch.bool)
    zeros = torch.zeros(seen.shape[1:])
    return Level(MEMORIES[config.memory].fit(features, seen, config), zeros, zeros + 1, seen[0])


def step(problem: Problem) -> Callable[[], tuple[Tensor, ...]]:
    """What is measured, with the operators as they are where it is called: the maps of a sample; or the losses and
    gradients of a step of training, which changes the weights of a copy of the model."""
    assert problem.module is not None
    images, latents, noise = (problem.tensors[name] for name in ("images", "latents", "noise"))
    detector: Any = problem.module
    if not problem.case.backward:
        return lambda: (detector(images).maps,)
    mixed = detector.config.unet_precision
    model, rig = deepcopy(detector.model).train(), detector.rig
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, RATE, fused=True)  # as vsad trains

    def train() -> tuple[Tensor, ...]:
        optimizer.zero_grad()
        with torch.autocast("cpu", mixed, enabled=mixed is not None):
            losses = torch.stack(losses_of(model, latents, noise, rig))
        losses.sum().backward()
        optimizer.step()
        return losses.detach(), *(p.grad for p in parameters if p.grad is not None)

    return train


def losses_of(model: Any, clean: Tensor, noise: Tensor, rig: Rig) -> list[Tensor]:
    """The three losses of a step of training on one sample."""
    from vsad.models import align_features
    from vsad.models.losses import alignment_loss, diffusion_loss, refine_loss

    timesteps = torch.full((len(clean),), TIMESTEP)
    noisy = model.add_noise(clean, noise, timesteps)
    found = model(noisy, timesteps, rig)
    with torch.no_grad():
        aligned = [align_features(level, found.projections[-1]) for level in found.levels]
        start = model(clean, torch.zeros_like(timesteps), rig, features_only=True)
    return [
        diffusion_loss(found.prediction, model.target(clean, noise, timesteps)),
        alignment_loss(found.levels, aligned),
        refine_loss(model.refine(found.levels, aligned), start.levels),
    ]


@lru_cache(maxsize=4)
def _operations(preset: str, V: int, N: int, references: int, backward: bool) -> float:
    """Useful operations for each latent pixel of a view: convolutions and products, as torch counts them, and the
    operators'."""
    sizes = {"preset": preset, "V": V, "H": JUDGED, "W": JUDGED, "N": N, "references": references}
    run = step(inputs(Case("model", sizes, backward=backward)))
    formulas = {torch.ops.vsad.homography_align_fwd: _align, torch.ops.vsad.homography_align_bwd: _align_backward}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        run()
    return counter.get_total_flops() / (V * JUDGED**2)


def _align(*shapes: Any, **_: Any) -> int:
    """Two dot products for each tap, as ``homography_align.flops`` counts them, of the arguments' shapes."""
    (B, V, C, H, W), value, homography, window = shapes[0], shapes[2], shapes[3], shapes[WINDOW]
    taps: int = B * V * H * W * homography[2] * (window + 1) ** 2
    return 2 * taps * (C + value[2])


def _align_backward(*shapes: Any, **options: Any) -> int:
    return 5 * _align(*shapes, **options) // 2


def flops(case: Case) -> float:
    s = case.sizes
    pixels: int = s["V"] * s["H"] * s["W"]
    return _operations(s["preset"], s["V"], s["N"], s.get("references", 0), case.backward) * pixels


def bytes(case: Case) -> float:
    """The pictures, once; weights, features and memory may stay in caches."""
    s = case.sizes
    return 4.0 * 3 * s["V"] * BLOCK**2 * s["H"] * s["W"]


def result_bytes(case: Case) -> float:
    return 0.0 if case.backward else bytes(case) / 3


def judge(problem: Problem) -> Judge:
    """On smaller pictures by the same model: the reference needs too much memory to train on large ones."""
    sizes = {**problem.case.sizes, "H": JUDGED, "W": JUDGED}
    small = inputs(replace(problem.case, sizes=sizes))
    with ops.using("torch"):
        plain, exact = step(small)(), step(precise(small))()

    def check(result: Any) -> float:
        names = ["maps"] if not problem.case.backward else ["losses", *(f"gradient {i}" for i in range(1, len(exact)))]
        if len(result) != len(exact):
            raise WrongError(f"{len(result)} results in place of {len(exact)}")
        return accept({name: share_of_budget(*ts) for name, *ts in zip(names, result, plain, exact)})

    return Judge(small, check)


def precise(problem: Problem) -> Problem:
    """The same in float64."""
    assert problem.module is not None
    tensors = {name: t.double() for name, t in problem.tensors.items()}
    module: Any = deepcopy(problem.module).double()
    module.config = replace(module.config, mixed_precision="no")
    return replace(problem, tensors=tensors, module=module)


def sampled_bytes(case: Case) -> float:
    """What a composition of torch's functions needs, about: every reference at 25 cells, or training's at 9."""
    return _floats(case) * (108.0 if case.backward else 2.5 * 25 * case.sizes["references"] / case.sizes["N"])


def reference_bytes(case: Case) -> float:
    """What the definition in plain torch needs, about, which autograd follows cell by cell where it trains."""
    return _floats(case) * (260.0 if case.backward else 40.0)


def _floats(case: Case) -> float:
    """Bytes of the finest features, once for each neighbor."""
    from vsad.models.presets import model_config

    s = case.sizes
    width: int = model_config(s["preset"]).unet["block_out_channels"][0]
    return 4.0 * s["N"] * s["V"] * s["H"] * s["W"] * width
