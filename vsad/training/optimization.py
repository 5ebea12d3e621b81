"""One optimizer step: losses, gradients, and the one error where they are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import convert_outputs_to_fp32
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from vsad.models import VALDM
from vsad.models.discriminator import Discriminator
from vsad.models.losses import adversarial_loss, discriminator_loss
from vsad.training.config import TrainConfig
from vsad.training.draws import Pass, seeded
from vsad.training.objective import Objective
from vsad.training.sharding import assign, keep_whole, to_shard, whole
from vsad.training.station import Station

# Decay of the adversary's gradient and of its square: a long memory of gradients makes adversaries swing.
_BETAS = (0.5, 0.999)
_ADVERSARY = 2


class Optimization:
    """A model, its losses and optimizer, and its adversary where there is one, prepared for the devices at hand.

    Args:
        model: to be trained; what of it takes no gradient stays as it is.
        stations: what it is trained on.
        config: how.
        accelerator: prepares network and optimizers.
    """

    def __init__(
        self, model: VALDM, stations: Sequence[Station], config: TrainConfig, accelerator: Accelerator
    ) -> None:
        self.model, self.stations, self.config, self.accelerator = model, stations, config, accelerator
        model.zero_grad()  # what somebody else has left would be added to the first step
        trained = to_shard(model, accelerator) if accelerator.is_fsdp2 else model
        if accelerator.use_distributed and not accelerator.is_fsdp2:
            _take_channels_last(trained)
        self.objective = Objective(trained, config)
        optimizer = torch.optim.AdamW(
            [p for p in trained.parameters() if p.requires_grad],
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,  # one pass over the weights; a step whose gradients overflowed in float16 it skips by itself
        )
        schedule = new_schedule(optimizer, config.schedule, config.steps, config.warmup)
        self.network, self.optimizer, self.schedule = accelerator.prepare(self.objective, optimizer, schedule)
        # Asked for now: in shards they are others than before.
        self.trained = {name: p for name, p in trained.named_parameters() if p.requires_grad}
        if accelerator.is_fsdp2:
            keep_whole(optimizer)
            # What accelerate does without shards; with them it would compute the losses too in half precision.
            self.network.forward = convert_outputs_to_fp32(accelerator.autocast()(self.network.forward))
        self.ema = EMAModel(self.trained.values(), decay=config.ema) if config.ema else None
        self.discriminator: Discriminator | None = None
        self.networks: list[nn.Module] = [self.network]
        if config.adversarial:
            self.discriminator = new_discriminator(model, config.seed)
            adversary = torch.optim.AdamW(self.discriminator.parameters(), lr=config.discriminator_lr, betas=_BETAS)
            if accelerator.is_fsdp2:
                accelerator.state.fsdp_plugin.auto_wrap_policy = None  # it has none of the model's blocks
                keep_whole(adversary)
            self.judge, self.adversary = accelerator.prepare(self.discriminator, adversary)
            self.adversary.scaler = None  # the one scale of losses moves with the model's optimizer, which steps first
            self.networks.append(self.judge)

    def step(self, number: int, passes: Sequence[Pass]) -> dict[str, float]:
        """Take step ``number``, counted from 1, with all passes of this process; the mean losses of all processes.

        Raises:
            FloatingPointError: a loss or the gradient is not finite, in any process; no weight has changed.
        """
        totals: dict[str, Tensor] = {}
        for batch in passes:
            with self.accelerator.accumulate(*self.networks):
                for name, term in self._backward(batch).items():
                    totals[name] = totals.get(name, 0) + term.detach().float() / len(passes)
                if self.accelerator.sync_gradients:
                    return self._update(number, totals)
        raise AssertionError("the passes of a step end with its update")

    def _backward(self, batch: Pass) -> dict[str, Tensor]:
        """Add the gradients of a pass; returns its losses."""
        device = self.accelerator.device
        _, rig, category = self.stations[batch.station]
        clean, noise, timesteps = (part.to(device, non_blocking=True) for part in batch[1:])
        terms, real, fake = self.network(clean, noise, timesteps, rig, category)
        if self.discriminator is None:
            self.accelerator.backward(torch.stack(list(terms.values())).sum())
            return terms
        self.discriminator.requires_grad_(False)
        with self.accelerator.autocast():
            terms["adversarial"] = self.config.adversarial * adversarial_loss(self.discriminator(fake))
        self.accelerator.backward(torch.stack(list(terms.values())).sum())
        self.discriminator.requires_grad_(True)
        # One pass for both: a wrapper for several processes expects one before each backward pass.
        scores = self.judge([torch.cat([r, f.detach()]) for r, f in zip(real, fake)])
        halves = [score.chunk(2) for score in scores]
        loss = discriminator_loss([real for real, _ in halves], [fake for _, fake in halves])
        self.accelerator.backward(loss)
        return terms | {"discriminator": loss}

    def _update(self, number: int, totals: Mapping[str, Tensor]) -> dict[str, float]:
        """Move the weights, after a look at the losses of all processes."""
        mean = self.accelerator.reduce(torch.stack(list(totals.values())), reduction="mean").tolist()
        losses = dict(zip(totals, mean))
        # Both are clipped first: this divides all gradients by the scale of float16's losses, which a step changes.
        norms = {"gradient": float(self.accelerator.clip_grad_norm_(self.trained.values(), self.config.clip))}
        if self.discriminator is not None:
            norm = nn.utils.clip_grad_norm_(self.discriminator.parameters(), self.config.clip)
            norms["discriminator's gradient"] = float(norm)
        found = losses | norms
        # A gradient that overflows in float16 is no error: the step is skipped and the losses are scaled down.
        if not all(map(math.isfinite, (losses if self.config.mixed_precision == "fp16" else found).values())):
            self._refuse(number, found)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        if self.discriminator is not None:
            if math.isfinite(norms["discriminator's gradient"]):
                self.adversary.step()
            self.adversary.zero_grad()
        if self.ema is not None:
            self.ema.step(self.trained.values())
        return losses

    def gather(self) -> VALDM:
        """The model with the weights that it has now, whole; all processes ask for it."""
        if self.accelerator.is_fsdp2:
            for name, parameter in self.model.named_parameters():
                if name in self.trained:
                    assign(parameter, whole(self.trained[name].detach()))
        return self.model

    def _refuse(self, number: int, found: Mapping[str, float]) -> None:
        config = self.config
        precision = (
            "" if config.mixed_precision == "no" else f", or mixed_precision 'no', not {config.mixed_precision!r}"
        )
        raise FloatingPointError(
            f"train: losses and gradient must be finite, got {', '.join(f'{k} {v:.3g}' for k, v in found.items())} in "
            f"step {number}, whose weights were left as they were; check the latents for NaN, or choose a lr below "
            f"{config.lr:g}{precision}"
        )


def _take_channels_last(model: nn.Module) -> None:
    """Give weights of 1x1 and depthwise convolutions the strides of channels last, where their numbers lie as before.

    After features in channels last their gradients have these; DDP expects those of the weights, and warns of others.
    """
    for weight in model.parameters():
        if weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last):
            strides = torch.empty(weight.shape, device="meta", memory_format=torch.channels_last).stride()
            weight.data = weight.data.as_strided(weight.shape, strides)


def new_schedule(optimizer: torch.optim.Optimizer, name: str, steps: int, warmup: float) -> Any:
    """The schedule of a learning rate that rises in a share ``warmup`` of the steps and then falls, by its name."""
    name = "constant_with_warmup" if name == "constant" else name
    # Steps are counted from 1 to ``steps``: at 0 the rate would be zero, as at the end, and the step wasted.
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    rising = round(warmup * steps)
    return get_scheduler(name, optimizer, num_warmup_steps=rising, num_training_steps=steps + 1, last_epoch=0)


def new_discriminator(model: VALDM, seed: int) -> Discriminator:
    """A new adversary for the levels of a model's features; torch's own generator is left as it is.

    Raises:
        ValueError: the model refines nothing.
    """
    config = model.adapter.config
    if not model.adapter.frms:
        raise ValueError(
            "train: adversarial must be 0 for a model without FRMs, got more; set its refine and feature_stages"
        )
    channels = {stage: config["stage_channels"][stage] for stage in model.config.feature_stages}
    with torch.random.fork_rng():
        torch.manual_seed(seeded(seed, _ADVERSARY).initial_seed())
        return Discriminator(channels)


def check_gradients(where: str, model: nn.Module) -> None:
    """Refuse to train in inference mode, and a model that was made in it: its tensors take no gradients ever.

    Raises:
        ValueError: so it is; ``where`` begins the message.
    """
    if torch.is_inference_mode_enabled() or any(parameter.is_inference() for parameter in model.parameters()):
        raise ValueError(
            f"{where}: the model must be made and trained outside of torch.inference_mode(), got it inside; leave it, "
            "or use torch.no_grad() around what is not trained"
        )
