"""VALDM, the view-aligned latent diffusion model: a UNet that denoises all views at once and aligns as it goes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from vsad.checks import check_images
from vsad.geometry import Rig
from vsad.models import components, derivative_config
from vsad.models.adapter import MultiViewAdapter
from vsad.models.checks import check_inputs
from vsad.models.config import VALDMConfig
from vsad.models.folding import encode_mean
from vsad.models.frm import Aligned, align_features
from vsad.models.projection import Projection, nearest
from vsad.models.shortcut import skip_zero_branches


class Denoised(NamedTuple):
    """What a pass of the UNet gives.

    Args:
        prediction: of the noise, the velocity or the clean latents, ``(B, V, c, h, w)``; None where the pass ended
            after the last feature stage.
        levels: the aligned features of the feature stages, normalized, each ``(B, V, C, h_i, w_i)``.
        projections: the homographies in use, coarse to fine; one where they are fixed.
    """

    prediction: Tensor | None
    levels: list[Tensor]
    projections: list[Projection]


class VALDM(nn.Module):
    """View-aligned latent diffusion model with feature refinement modules.

    Args:
        config: what it is made of. Parts that are not given are the base's, or new where there is no base; a new
            autoencoder starts as Gaussian derivatives where its configuration is theirs, else as diffusers
            initializes it.
        vae, unet, scheduler: of diffusers.
        adapter: what VALDM adds to them.
    """

    def __init__(
        self,
        config: VALDMConfig,
        *,
        vae: AutoencoderKL | None = None,
        unet: UNet2DConditionModel | None = None,
        scheduler: DDIMScheduler | None = None,
        adapter: MultiViewAdapter | None = None,
    ) -> None:
        super().__init__()
        if config.base is not None and Path(config.base).is_dir():  # found from other folders too
            config = replace(config, base=str(Path(config.base).resolve()))
        self.config = config
        # First, since it is small: what is wrong with it is said before gigabytes of weights are read.
        self.scheduler = components.check_schedule(scheduler or components.schedule(config), config)
        self.vae = (vae or components.autoencoder(config)).requires_grad_(False)
        skip_zero_branches(self.vae)
        self.unet = components.check_denoiser(unet or components.denoiser(config))
        self.adapter = adapter or components.adapter(config, self.vae, self.unet)
        components.choose_trained(config, self.unet)

    def train(self, mode: bool = True) -> VALDM:
        """Switch dropout and the like on or off.

        Residual blocks are told of it by their dropout alone. A block of diffusers that trains copies its input out of
        channels last, on all views, at every change of width, and all that follows is 1.1 times as slow.
        """
        super().train(mode)
        for block in self.unet.modules():
            if isinstance(block, ResnetBlock2D):
                block.training = False
        return self

    @property
    def vae_is_tuned(self) -> bool:
        """Whether the autoencoder was trained here, and is neither new nor the base's as it was."""
        return bool(self.adapter.config["vae_is_tuned"])

    @vae_is_tuned.setter
    def vae_is_tuned(self, value: bool) -> None:
        self.adapter.register_to_config(vae_is_tuned=value)

    @property
    def device(self) -> torch.device:
        """Where the model is, and brings images to."""
        return self.adapter.latent_mean.device

    @property
    def divisor(self) -> int:
        """What autoencoder and UNet divide the sides of images by: those of ``encode`` must be its multiples."""
        halvings = len(self.vae.config["block_out_channels"]) + len(self.unet.config["block_out_channels"]) - 2
        return int(2**halvings)

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
        factor = self.divisor
        if images.shape[-2] % factor or images.shape[-1] % factor:
            raise ValueError(
                f"VALDM: images must have sides divisible by {factor}, got {list(images.shape)}; resize or pad them"
            )
        flat = (2 * images.to(self.device) - 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return encode_mean(self.vae, flat).unflatten(0, images.shape[:2])

    def set_latent_statistics(self, mean: Tensor, deviation: Tensor) -> None:
        """Set mean and deviation of raw latents' channels, ``(c,)``, by which ``standardize`` works from now on.

        A pretrained UNet knows latents by the autoencoder's own scale, which stays.
        """
        if self.config.base is None:
            self.adapter.latent_mean.copy_(mean[:, None, None])
            self.adapter.latent_deviation.copy_(deviation[:, None, None].clamp(min=1e-6))

    def standardize(self, raw: Tensor) -> Tensor:
        """Raw latents to those that the UNet works on: mean 0 and deviation 1 in every channel of normal samples."""
        return (raw - self.adapter.latent_mean) / self.adapter.latent_deviation

    def unstandardize(self, latents: Tensor) -> Tensor:
        """Standardized latents to raw ones."""
        return latents * self.adapter.latent_deviation + self.adapter.latent_mean

    def appearance(self, latents: Tensor) -> Tensor:
        """The channels of ``latents (B, V, c, h, w)`` that look alike however a camera is turned.

        Of Gaussian derivatives those of order zero; of any other autoencoder all, for want of better knowledge.
        """
        return latents[:, :, derivative_config.SMOOTHED] if self.config.vae == derivative_config.CONFIG else latents

    def decode(self, latents: Tensor) -> Tensor:
        """Standardized latents ``(B, V, c, h, w)`` to images ``(B, V, 3, H, W)`` in [0, 1]."""
        images: Tensor = self.vae.decode(self.unstandardize(latents).flatten(0, 1)).sample
        return (0.5 * (images + 1)).clamp(0, 1).unflatten(0, latents.shape[:2])

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        rig: Rig,
        category: Tensor | None = None,
        *,
        features_only: bool = False,
        settled: bool = False,
    ) -> Denoised:
        """Predict the noise in all views' latents.

        Args:
            latents: noisy, ``(B, V, c, h, w)``.
            timesteps: ``(B,)`` int64, one for all views of a sample.
            rig: rig of these V views.
            category: ``(B,)`` int64, indices of the configuration's categories; None for the first.
            features_only: whether to end after the last feature stage.
            settled: whether the rig is a ``refined_rig`` already, and a HomographyNet is not asked again.

        Raises:
            TypeError, ValueError: an argument does not fit the model or the rig; the message names it.
        """
        check_inputs(self, latents, rig, timesteps, category)
        B, V = latents.shape[:2]
        config, unet = self.config, self.unet
        x = latents.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        projections = self.project(latents, rig, settled=settled)
        time, context = self._condition(x, timesteps, category, V)
        wanted = {*config.feature_stages}
        levels: list[Tensor] = []

        def leave(stage: str, x: Tensor) -> Tensor:
            """Align the views' features after a stage, and keep them where they are a level."""
            if stage in config.align_stages:
                projection = nearest(projections, (x.shape[-2], x.shape[-1]))
                x = self.adapter.mvams[stage](x.unflatten(0, (B, V)), projection).flatten(0, 1)
            if stage in wanted:
                levels.append(normalize(x.unflatten(0, (B, V))))
            return x

        def done() -> bool:
            return features_only and len(levels) == len(wanted)

        x = unet.conv_in(x)
        skips = [x]
        for i, block in enumerate(unet.down_blocks):
            x, outputs = block(x, time, **context(block))
            x = leave(f"down{i}", x)
            skips += [*outputs[:-1], x]
        x = leave("mid", unet.mid_block(x, time, **context(unet.mid_block)))
        for i, block in enumerate(unet.up_blocks):
            if done():
                return Denoised(None, levels, projections)
            count = len(block.resnets)
            x = leave(f"up{i}", block(x, tuple(skips[-count:]), time, **context(block)))
            del skips[-count:]
        if done():
            return Denoised(None, levels, projections)
        prediction = unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
        return Denoised(prediction.unflatten(0, (B, V)), levels, projections)

    def project(self, latents: Tensor, rig: Rig, *, settled: bool = False) -> list[Projection]:
        """The homographies between the views, coarse to fine: the rig's, or what the HomographyNet makes of them."""
        given = Projection.of(rig, (latents.shape[-2], latents.shape[-1]), latents.device)
        if settled:
            return [given]
        start = given.unknown() if self.config.homographies in ("identity", "learned") else given
        if self.adapter.homography_net is None:
            return [start]
        found = self.adapter.homography_net(latents, start.homography, start.neighbors)
        return [start._replace(homography=homography) for homography in found]

    def _condition(self, x: Tensor, timesteps: Tensor, category: Tensor | None, views: int) -> Any:
        """The embedding of time and class of every view, and a block's further arguments."""
        category = torch.zeros_like(timesteps) if category is None else category
        timesteps, category = timesteps.repeat_interleave(views), category.repeat_interleave(views)
        time = self.unet.time_embedding(self.unet.time_proj(timesteps).to(x.dtype))
        if self.adapter.class_embedding is not None:
            time = time + self.adapter.class_embedding(category)
        text = self.adapter.get_buffer("context") if self.adapter.context is not None else None
        if text is not None:
            text = text[category if len(text) > 1 else torch.zeros_like(category)].to(x.dtype)

        def context(block: nn.Module) -> dict[str, Any]:
            return {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}

        return time, context

    def refine(self, levels: Sequence[Tensor], aligned: Sequence[Aligned]) -> list[Tensor]:
        """Features of the feature stages after the FRM of their stage, of all stages at each time step in turn.

        What is made of them teaches the FRMs alone: features that learn to be refined give up what a single view shows.
        """
        frms = cycle(self.adapter.frms[stage] for stage in self.config.feature_stages)
        return [frm(level.detach(), a.feature.detach()) for frm, level, a in zip(frms, levels, aligned)]

    def features(
        self,
        latents: Tensor,
        rig: Rig,
        category: Tensor | None = None,
        *,
        stages: bool = True,
        settled: bool = False,
        precision: torch.dtype | None = None,
    ) -> list[Tensor]:
        """The levels that a detector scores, of clean ``latents (B, V, c, h, w)``.

        They are the latents, and the feature stages at every one of the configuration's time steps, refined where there
        are FRMs. DDIM inversion, ``x_s = sqrt(a_s) x_0(x_t) + sqrt(1 - a_s) e(x_t)``, reaches the time steps: one pass
        of the UNet for each.

        Without the UNet's ``stages`` it is the latents' level alone, which needs no pass of the UNet. With a
        ``precision`` the UNet's passes are cast to it, as ``torch.autocast`` does; all else is as the latents are.

        Raises:
            TypeError, ValueError: an argument does not fit the model or the rig; the message names it.
        """
        check_inputs(self, latents, rig, category=category)
        levels: list[Tensor] = []
        projections: list[Projection] = []
        wanted, x = self.config.timesteps if stages and self.config.feature_stages else (), latents
        steps = sorted({0, *wanted}) if wanted else []
        for step, following in zip(steps, (*steps[1:], None)):
            times = torch.full((len(x),), step, device=x.device)
            with nullcontext() if precision is None else torch.autocast(x.device.type, precision):
                found = self(x, times, rig, category, features_only=following is None, settled=settled)
            projections = found.projections
            if step in wanted:
                levels += [level.to(latents) for level in found.levels]
            if following is not None:
                x = self.invert(x, found.prediction, step, following)
        if self.config.refine:
            levels = self.refine(levels, [align_features(level, projections[-1]) for level in levels])
        return [normalize(latents), *levels]

    @property
    def draws(self) -> bool:
        """Whether the autoencoder's decoder has learned to draw pictures."""
        return self.vae_is_tuned or self.config.base is not None

    def reconstruct(
        self, latents: Tensor, rig: Rig, category: Tensor | None = None, *, timestep: int = 100, seed: int = 0
    ) -> Tensor:
        """Pictures ``(B, V, 3, H, W)`` of what the model takes for clean in ``latents`` with noise of a time step.

        The more noise, the less remains of what normal samples do not show.
        """
        times = torch.full((len(latents),), timestep, device=latents.device)
        check_inputs(self, latents, rig, times, category)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
        noisy = self.add_noise(latents, noise, timestep)
        prediction = self(noisy, times, rig, category).prediction
        assert prediction is not None
        return self.decode(self.clean_and_noise(noisy, prediction, timestep)[0])

    def clean_and_noise(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor | int) -> tuple[Tensor, Tensor]:
        """``x_0`` and ``e`` of ``x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e``, by what the UNet predicts."""
        signal, spread = self._amplitudes(noisy, timesteps)
        kind = self.scheduler.config["prediction_type"]
        if kind == "epsilon":
            return (noisy - spread * prediction) / signal, prediction
        if kind == "v_prediction":
            return signal * noisy - spread * prediction, signal * prediction + spread * noisy
        return prediction, (noisy - signal * prediction) / spread

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the UNet is to predict: the noise, ``sqrt(a) e - sqrt(1 - a) x_0``, or the clean latents."""
        kind = self.scheduler.config["prediction_type"]
        if kind == "v_prediction":
            signal, spread = self._amplitudes(clean, timesteps)
            return signal * noise - spread * clean
        return noise if kind == "epsilon" else clean

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor | int) -> Tensor:
        """``x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e``."""
        signal, spread = self._amplitudes(clean, timesteps)
        return signal * clean + spread * noise

    def invert(self, noisy: Tensor, prediction: Tensor | None, step: int, following: int) -> Tensor:
        """One step of deterministic DDIM inversion, from a time step to a noisier one."""
        assert prediction is not None
        clean, noise = self.clean_and_noise(noisy, prediction, step)
        return self.add_noise(clean, noise, following)

    def _amplitudes(self, like: Tensor, timesteps: Tensor | int) -> tuple[Tensor, Tensor] | tuple[float, float]:
        """``sqrt(a_t)`` and ``sqrt(1 - a_t)`` for every sample of ``like (B, V, c, h, w)``, or for all of them."""
        a: Tensor = self.scheduler.alphas_cumprod  # on the CPU
        if isinstance(timesteps, int):  # numbers, for which no device waits
            return float(a[timesteps].sqrt()), float((1 - a[timesteps]).sqrt())
        a = a.to(like.device)[timesteps][:, None, None, None, None]
        return a.sqrt().to(like.dtype), (1 - a).sqrt().to(like.dtype)  # 1 - a would be 0 in bfloat16

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder in the layout of a pipeline: ``adapter/``, and every part that is not the base's as it was."""
        components.save(self, Path(folder))

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        config: VALDMConfig | None = None,
        variant: str | None = None,
        revision: str | None = None,
    ) -> VALDM:
        """Read what ``save_pretrained`` wrote, or make a new model on a pretrained pipeline.

        Args:
            source: folder or, as a string, perhaps a hub id: of a model of ours, or of a pipeline in the layout of
                Stable Diffusion 1.5 or 2.1, in safetensors.
            config: what is added to a pipeline; default the preset ``sd``.
            variant: of the pipeline's files, such as ``fp16``.
            revision: branch, tag or commit, on the hub.

        Raises:
            FileNotFoundError: a file is missing; the message names it.
            ValueError: a file is broken, or the weights do not fit the configuration.
        """
        name = str(source.resolve()) if isinstance(source, Path) else source  # a path is never a name on the hub
        return components.load(cls, name, config, variant, revision).eval()


def new_model(config: VALDMConfig, seed: int) -> VALDM:
    """Make a model whose new weights are drawn with a seed; torch's own generator is left as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VALDM(config)


def normalize(level: Tensor) -> Tensor:
    """Standardize every channel of a sample over its views and pixels, then ``x / sqrt(1 + x^2)``.

    Without the first a channel's constant part would make any two features similar, without the second a few
    high-contrast edges would outweigh everything else.
    """
    x = level - level.mean((1, 3, 4), keepdim=True)
    wide = torch.promote_types(level.dtype, torch.float32)  # squares of float16 would overflow
    variance = x.to(wide).square().mean((1, 3, 4), keepdim=True)  # torch's own takes three times as long
    deviation = variance.clamp(min=torch.finfo(wide).tiny).sqrt().to(level.dtype)  # a root of 0 has no gradient
    x = x / (deviation + 1e-5)
    return x * torch.rsqrt(1 + x.square())
