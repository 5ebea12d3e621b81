"""Training of VALDM and FRM on normal samples: a plain loop on accelerate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from vsad.models.frm import align_features
from vsad.models.losses import alignment_loss, diffusion_loss, refine_loss
from vsad.models.valdm import VALDM
from vsad.rig import Rig

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Args:
        steps, batch: optimizer steps, samples (of V views) in each.
        lr: peak of a one-cycle schedule.
        max_timestep: noise levels are drawn below it; features are read at 0, so a short training dwells near it.
        alignment, refine: weights of the losses; the diffusion loss has weight 1.
        seed: of the order, the noise and the time steps.
    """

    steps: int = 100
    batch: int = 1
    lr: float = 2e-3
    max_timestep: int = 400
    alignment: float = 0.1
    refine: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "max_timestep"):
            if getattr(self, name) < 1:
                raise ValueError(f"train: {name} must be at least 1, got {getattr(self, name)}")
        if not self.lr > 0:
            raise ValueError(f"train: lr must be positive, got {self.lr}")


@torch.no_grad()
def encode(model: VALDM, images: Iterable[Tensor]) -> Tensor:
    """Latents ``(S, V, c, h, w)`` of the samples' ``images (V, 3, H, W)``; made once, the autoencoder is frozen."""
    model.eval()
    return torch.cat([model.encode(sample[None]) for sample in images])


def standardize_latents(model: VALDM, latents: Tensor) -> Tensor:
    """Make every latent channel of the training set mean 0 and deviation 1, now and in every later ``encode``."""
    mean = latents.mean((0, 1, 3, 4))[:, None, None]
    deviation = latents.std((0, 1, 3, 4), correction=0)[:, None, None].clamp(min=1e-6)
    model.latent_mean += mean * model.latent_deviation
    model.latent_deviation *= deviation
    return (latents - mean) / deviation


def train(model: VALDM, latents: Tensor, rig: Rig, config: TrainConfig, progress: Progress | None = None) -> float:
    """Train the UNet, its MVAMs and the FRMs to denoise normal latents; the autoencoder stays as it is.

    Args:
        model: trained in place, left in evaluation mode.
        latents: of normal samples, ``(S, V, c, h, w)``.
        rig: of the V views.
        progress: called with (steps done, steps in all, losses as text).

    Returns:
        The mean loss of the last tenth of the steps.
    """
    accelerator = Accelerator()
    generator = torch.Generator().manual_seed(config.seed)
    parameters = [p for n, p in model.named_parameters() if not n.startswith("vae.")]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.steps + 1, pct_start=0.2)
    loader = DataLoader(TensorDataset(latents), config.batch, shuffle=True, generator=generator)
    network, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    network.train()

    losses = []
    for step, (clean,) in enumerate(_forever(loader, config.steps), start=1):
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        timesteps = torch.randint(config.max_timestep, (len(clean),), generator=generator).to(clean.device)
        noisy = model.scheduler.add_noise(clean, noise, timesteps)

        prediction, levels = network(noisy, timesteps, rig)
        terms = {"diffusion": diffusion_loss(prediction, noise)}
        if model.config.refine:
            aligned = [align_features(level, rig) for level in levels]
            with torch.no_grad():
                target = network(clean, torch.zeros_like(timesteps), rig)[1]
            terms["alignment"] = config.alignment * alignment_loss(levels, aligned)
            terms["refine"] = config.refine * refine_loss(model.refine(levels, aligned), target)
        loss = torch.stack(list(terms.values())).sum()

        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if progress is not None:
            progress(step, config.steps, ", ".join(f"{n} {float(t.detach()):.3f}" for n, t in terms.items()))
    model.to(latents.device).eval()
    tail = losses[-max(1, config.steps // 10) :]
    return sum(tail) / len(tail)


def _forever(loader: DataLoader, steps: int) -> Iterator[tuple[Tensor, ...]]:
    done = 0
    while True:
        for batch in loader:
            if done == steps:
                return
            yield batch
            done += 1
