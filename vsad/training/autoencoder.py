"""Training of the autoencoder, where there are no pretrained weights: so that reconstructions can be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from vsad.checks import check_images
from vsad.models import VALDM, derivative_vae
from vsad.models.losses import reconstruction_loss
from vsad.progress import SILENT, Progress
from vsad.training.config import TrainConfig, VAEConfig
from vsad.training.draws import seeded
from vsad.training.optimization import check_gradients, new_schedule
from vsad.training.processes import new_accelerator

_CROPS = 3
_WARMUP = 0.1


class Crops(NamedTuple):
    """The crops of a step, one of each picture.

    Args:
        pictures: in [-1, 1], ``(b, 3, H, W)``.
        corners: ``(b, 2)`` int64, row and column of the upper left corners, in latent pixels.
        size: ``(height, width)`` of the crops, in latent pixels.
        noise: of the latents, ``(b, c, h, w)``.
    """

    pictures: Tensor
    corners: Tensor
    size: tuple[int, int]
    noise: Tensor


@torch.enable_grad()  # whatever the caller has switched off
def train_vae(model: VALDM, images: Sequence[Tensor] | Tensor, config: VAEConfig, progress: Progress = SILENT) -> None:
    """Train the autoencoder of a model to give pictures back, ``|D(E(x)) - x|`` and that of their differences.

    An encoder that computes derivatives stays as it is, bit for bit, and the decoder learns to undo it; any other
    encoder learns too, with ``kl KL(q(z | x) || N(0, 1))`` per value of the latents. Whatever an encoder that learned
    has encoded before, ``learn_latents`` among it, must be done anew.

    Args:
        model: its autoencoder is trained in place; ``vae_is_tuned`` afterwards.
        images: images of each normal sample, ``(V, 3, H, W)`` in [0, 1], read when they are asked for.
        config: how to train.
        progress: told of every step and its losses.

    Raises:
        ValueError: inference mode is on, there are no images, or they are smaller than a pixel of the autoencoder's
            latents.
        FloatingPointError: the loss is not finite.
    """
    check_gradients("train_vae", model)
    if not len(images):
        raise ValueError("train_vae: images must be of at least one sample, got none")
    accelerator = new_accelerator(TrainConfig())
    if config.batch % accelerator.num_processes:
        raise ValueError(
            f"train_vae: batch must be a multiple of the processes, {accelerator.num_processes}, got {config.batch}"
        )
    vae, home = model.vae, next(model.vae.parameters()).device
    learns = config.train_encoder
    if learns == "auto":
        learns = model.config.base is not None or model.config.vae != derivative_vae.CONFIG
    parts = [vae.decoder, vae.post_quant_conv, *([vae.encoder, vae.quant_conv] if learns else [])]
    parameters = [p for part in parts if part is not None for p in part.requires_grad_(True).parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.0)
    schedule = new_schedule(optimizer, "cosine", config.steps, _WARMUP)
    network, optimizer, schedule = accelerator.prepare(_Reconstruction(vae, learns, config.kl), optimizer, schedule)
    share = slice(accelerator.process_index, None, accelerator.num_processes)
    progress = progress if accelerator.is_main_process else SILENT
    vae.zero_grad()  # what somebody else has left would be added to the first step
    vae.train()
    try:
        with progress.stage("train autoencoder", config.steps) as stage:
            for step in range(config.steps):
                pictures, corners, size, noise = _draw(vae, images, config, step)
                device = accelerator.device
                loss = network(pictures[share].to(device), corners[share], size, noise[share].to(device))
                accelerator.backward(loss)
                value = float(accelerator.reduce(loss.detach(), reduction="mean"))
                if not torch.tensor(value).isfinite():
                    raise FloatingPointError(
                        f"train_vae: the loss must be finite, got {value} in step {step + 1}; lower lr, {config.lr:g}"
                    )
                accelerator.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                stage.advance(f"reconstruction {value:.4f}")
    finally:
        vae.zero_grad()
        vae.requires_grad_(False).to(home).eval()
    model.vae_is_tuned = True


class _Reconstruction(nn.Module):
    """The loss of an autoencoder on crops."""

    def __init__(self, vae: AutoencoderKL, learns: bool, kl: float) -> None:
        super().__init__()
        self.vae, self.learns, self.kl = vae, learns, kl

    def forward(self, pictures: Tensor, corners: Tensor, size: tuple[int, int], noise: Tensor) -> Tensor:
        factor = 2 ** (len(self.vae.config["block_out_channels"]) - 1)
        target = _crop(pictures, factor * corners, (factor * size[0], factor * size[1]))
        if not self.learns:
            # Whole pictures are encoded: an encoder that divides by a picture's contrast gives crops other latents.
            with torch.no_grad():
                latents = _crop(self.vae.encode(pictures).latent_dist.mode(), corners, size)
            return reconstruction_loss(self.vae.decode(latents).sample, target)
        found = self.vae.encode(target).latent_dist
        image = self.vae.decode(found.mean + found.std * noise).sample
        return reconstruction_loss(image, target) + self.kl * found.kl().sum() / found.mean.numel()


def _draw(vae: AutoencoderKL, images: Sequence[Tensor] | Tensor, config: VAEConfig, step: int) -> Crops:
    """The crops of a step: of the views of one sample, which is read as a whole."""
    generator = seeded(config.seed, _CROPS, step)
    sample = images[int(torch.randint(len(images), (), generator=generator))]
    check_images("train_vae", sample, ("V", 3, "H", "W"))
    V, _, H, W = sample.shape
    factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
    if min(H, W) < factor:
        raise ValueError(f"train_vae: images must have sides of at least {factor}, got {H} x {W}; resize them")
    size = (max(1, min(H, config.crop) // factor), max(1, min(W, config.crop) // factor))
    turns = torch.cat([torch.randperm(V, generator=generator) for _ in range(-(-config.batch // V))])
    corners = torch.stack(
        [
            torch.randint(side // factor - length + 1, (config.batch,), generator=generator)
            for side, length in zip((H, W), size)
        ],
        dim=1,
    )
    noise = torch.randn(config.batch, vae.config["latent_channels"], *size, generator=generator)
    return Crops(2 * sample[turns[: config.batch]] - 1, corners, size, noise)


def _crop(pictures: Tensor, corners: Tensor, size: tuple[int, int]) -> Tensor:
    """A crop ``(b, C, *size)`` of each of ``pictures (b, C, H, W)``, at ``corners (b, 2)``."""
    return torch.stack([p[:, y : y + size[0], x : x + size[1]] for p, (y, x) in zip(pictures, corners.tolist())])
