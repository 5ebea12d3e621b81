"""VALDM, the view-aligned latent diffusion model: a UNet that denoises all views at once and aligns as it goes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from vsad.checks import check_images
from vsad.files import read_json, read_weights, write_json, write_weights
from vsad.geometry import Rig
from vsad.models import derivative_vae
from vsad.models.frm import FRM, Aligned, align_features
from vsad.models.mvam import MVAM

WEIGHTS, CONFIG = "model.safetensors", "config.json"
REMEDY = "name a folder that `vsad train` or `vsad fit` wrote, or write it anew with them"


@dataclass(frozen=True)
class VALDMConfig:
    """What a VALDM is made of. The paper's own values were not available: these are our choices.

    Args:
        vae, unet: arguments of diffusers' ``AutoencoderKL`` and ``UNet2DConditionModel``.
        align_stages: decoder stages followed by an MVAM, 0 is the coarsest; () for none.
        feature_stages: decoder stages whose features are scored, beside the latents themselves.
        heads, window: of every MVAM.
        refine: whether an FRM refines every level of features.
    """

    vae: dict[str, Any] = field(default_factory=dict)
    unet: dict[str, Any] = field(default_factory=dict)
    align_stages: tuple[int, ...] = (0, 1)
    feature_stages: tuple[int, ...] = (2,)
    heads: int = 4
    window: int = 3
    refine: bool = True


class VALDM(nn.Module):
    """View-aligned latent diffusion model with feature refinement modules.

    Args:
        config: configuration of its parts; the autoencoder starts as Gaussian derivatives where its configuration is
            that of the tiny preset, else as diffusers initializes it.
    """

    latent_mean: Tensor
    latent_deviation: Tensor

    def __init__(self, config: VALDMConfig) -> None:
        super().__init__()
        self.config = config
        derivatives = config.vae == derivative_vae.CONFIG
        self.vae = derivative_vae.derivative_vae() if derivatives else AutoencoderKL(**config.vae)
        self.unet = UNet2DConditionModel(**config.unet)
        self.scheduler = DDIMScheduler(num_train_timesteps=1000, beta_schedule="scaled_linear", clip_sample=False)
        latents = self.vae.config["latent_channels"]
        self.register_buffer("latent_mean", torch.zeros(latents, 1, 1))
        self.register_buffer("latent_deviation", torch.full((latents, 1, 1), 1 / self.vae.config["scaling_factor"]))

        channels = [block.resnets[-1].out_channels for block in self.unet.up_blocks]
        self.mvams = nn.ModuleDict(
            {str(i): MVAM(channels[i], config.heads, config.window) for i in config.align_stages}
        )
        widths = [latents, *(channels[i] for i in config.feature_stages)] if config.refine else []
        self.frms = nn.ModuleList(FRM(width) for width in widths)

    def encode(self, images: Tensor) -> Tensor:
        """Images ``(B, V, 3, H, W)`` in [0, 1] to standardized latents ``(B, V, c, h, w)``."""
        return self.standardize(self.encode_raw(images))

    def encode_raw(self, images: Tensor) -> Tensor:
        """Images ``(B, V, 3, H, W)`` in [0, 1] to the autoencoder's own latents ``(B, V, c, h, w)``.

        Raises:
            TypeError: the images are no tensor of floating point.
            ValueError: values are not in [0, 1], or a side of the images is not a multiple of what autoencoder and UNet
                divide it by.
        """
        check_images("VALDM", images, ("B", "V", 3, "H", "W"))
        factor = 2 ** (len(self.vae.config["block_out_channels"]) + len(self.unet.config["block_out_channels"]) - 2)
        if images.shape[-2] % factor or images.shape[-1] % factor:
            raise ValueError(
                f"VALDM: images must have sides divisible by {factor}, got {list(images.shape)}; resize them"
            )
        flat = (2 * images - 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        latents: Tensor = self.vae.encode(flat).latent_dist.mode()
        return latents.unflatten(0, images.shape[:2])

    def learn_latent_statistics(self, raw: Tensor) -> None:
        """Set mean and deviation, by which ``standardize`` works from now on, to those of ``raw (S, V, c, h, w)``."""
        self.latent_mean.copy_(raw.mean((0, 1, 3, 4))[:, None, None])
        self.latent_deviation.copy_(raw.std((0, 1, 3, 4), correction=0)[:, None, None].clamp(min=1e-6))

    def standardize(self, raw: Tensor) -> Tensor:
        """Raw latents to those that the UNet works on: mean 0 and deviation 1 in every channel of normal samples."""
        return (raw - self.latent_mean) / self.latent_deviation

    def forward(self, latents: Tensor, timesteps: Tensor, rig: Rig) -> tuple[Tensor, list[Tensor]]:
        """Predict the noise in all views' latents.

        Args:
            latents: noisy, ``(B, V, c, h, w)``.
            timesteps: ``(B,)`` int64, one for all views of a sample.
            rig: rig of these V views.

        Returns:
            The noise ``(B, V, c, h, w)``, and the levels: the latents and the aligned features of the decoder's
            feature stages, each ``(B, V, C, h_i, w_i)``.
        """
        B, V = latents.shape[:2]
        unet, x = self.unet, latents.flatten(0, 1)
        time = unet.time_embedding(unet.time_proj(timesteps.repeat_interleave(V)).to(x.dtype))
        x = unet.conv_in(x)
        skips = (x,)
        for block in unet.down_blocks:
            x, outputs = block(x, time)
            skips += outputs
        x = unet.mid_block(x, time)

        levels = [normalize(latents)]
        for i, block in enumerate(unet.up_blocks):
            count = len(block.resnets)
            x, skips = block(x, skips[-count:], time), skips[:-count]
            if i in self.config.align_stages:
                x = self.mvams[str(i)](x.unflatten(0, (B, V)), rig).flatten(0, 1)
            if i in self.config.feature_stages:
                levels.append(normalize(x.unflatten(0, (B, V))))
        noise = unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
        return noise.unflatten(0, (B, V)), levels

    def refine(self, levels: list[Tensor], aligned: list[Aligned]) -> list[Tensor]:
        """Every level's features after its FRM."""
        return [frm(level, a.feature) for frm, level, a in zip(self.frms, levels, aligned)]

    def features(self, latents: Tensor, rig: Rig, timestep: int = 0, *, stages: bool = True) -> list[Tensor]:
        """The levels that a detector scores, of clean ``latents (B, V, c, h, w)``, refined where there are FRMs.

        Without the UNet's ``stages`` it is the latents' level alone, which needs no pass of the UNet.
        """
        timesteps = torch.full((len(latents),), timestep, device=latents.device)
        levels = self(latents, timesteps, rig)[1] if stages else [normalize(latents)]
        if not self.config.refine:
            return levels
        return self.refine(levels, [align_features(level, rig) for level in levels])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json`` into a folder."""
        folder = Path(folder)
        write_weights(folder / WEIGHTS, self.state_dict())
        write_json(folder / CONFIG, asdict(self.config))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> VALDM:
        """Read what ``save_pretrained`` wrote.

        Raises:
            FileNotFoundError: a file is missing; the message names it.
            ValueError: a file is broken, or the weights do not fit the configuration.
        """
        folder = Path(folder)
        config = read_json(folder / CONFIG, REMEDY)
        try:
            stages = {name: tuple(config.pop(name)) for name in ("align_stages", "feature_stages")}
            model = cls(VALDMConfig(**{**config, **stages}))
            weights = read_weights(folder / WEIGHTS, REMEDY)
            model.to(weights["latent_mean"].dtype)  # whatever torch's default is
            model.load_state_dict(weights)
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"{folder}: {CONFIG} and {WEIGHTS} must belong together, got {error}; train anew"
            ) from None
        return model.eval()


def normalize(level: Tensor) -> Tensor:
    """Standardize every channel of a sample over its views and pixels, then ``x / sqrt(1 + x^2)``.

    Without the first a channel's constant part would make any two features similar, without the second a few
    high-contrast edges would outweigh everything else.
    """
    mean = level.mean((1, 3, 4), keepdim=True)
    deviation = level.std((1, 3, 4), keepdim=True, correction=0)
    x = (level - mean) / (deviation + 1e-5)
    return x * torch.rsqrt(1 + x.square())
