"""The training loop, a plain one on accelerate."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from vsad.geometry import Rig
from vsad.models import VALDM, align_features
from vsad.models.losses import alignment_loss, diffusion_loss, refine_loss
from vsad.models.valdm import normalize
from vsad.progress import SILENT, Progress
from vsad.training.config import TrainConfig


def train(model: VALDM, latents: Tensor, rig: Rig, config: TrainConfig, progress: Progress = SILENT) -> None:
    """Train the UNet, its MVAMs and the FRMs to denoise normal latents; the autoencoder stays as it is.

    Args:
        model: trained in place, left in evaluation mode.
        latents: latents of normal samples, ``(S, V, c, h, w)``.
        rig: rig of the V views.
        config: how to train.
        progress: told of every step and its losses.
    """
    accelerator = Accelerator()
    generator = torch.Generator().manual_seed(config.seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.steps + 1, pct_start=0.2)
    loader = DataLoader(TensorDataset(latents), config.batch, shuffle=True, generator=generator)
    network, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    network.train()

    with progress.stage("train", config.steps) as stage:
        for (clean,) in _batches(loader, config.steps):
            terms = _losses(model, network, clean, rig, config, generator)
            accelerator.backward(torch.stack(list(terms.values())).sum())
            accelerator.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            stage.advance(", ".join(f"{name} {float(term.detach()):.3f}" for name, term in terms.items()))
    model.to(latents.device).eval()


def _losses(
    model: VALDM, network: nn.Module, clean: Tensor, rig: Rig, config: TrainConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """The weighted losses of a batch of ``clean`` latents; ``network`` is the model as accelerate wraps it."""
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    timesteps = torch.randint(config.max_timestep, (len(clean),), generator=generator).to(clean.device)
    noisy = model.add_noise(clean, noise, timesteps)

    found = network(noisy, timesteps, rig)
    terms = {"diffusion": diffusion_loss(found.prediction, model.target(clean, noise, timesteps))}
    if model.config.refine:
        levels = [normalize(noisy), *found.levels]
        aligned = [align_features(level, found.projections[-1]) for level in levels]
        with torch.no_grad():
            start = network(clean, torch.zeros_like(timesteps), rig, features_only=True)
        target = [normalize(clean), *start.levels]
        terms["alignment"] = config.alignment * alignment_loss(levels, aligned)
        terms["refine"] = config.refine * refine_loss(model.refine(levels, aligned), target)
    return terms


def _batches(loader: DataLoader[tuple[Tensor, ...]], steps: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield ``steps`` batches, going through the loader as often as that takes."""
    done = 0
    while True:
        for batch in loader:
            if done == steps:
                return
            yield batch
            done += 1
