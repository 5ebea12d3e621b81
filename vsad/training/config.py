"""How to train: the model, and its autoencoder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from vsad.config import Strict, check_at_least, check_positive

# What may differ when a training goes on: it changes how the training runs and not what it finds.
_FREE = ("checkpoint_every", "keep", "workers", "tensorboard", "accumulation", "checkpointing")


@dataclass(frozen=True)
class TrainConfig(Strict):
    """How to train a VALDM.

    Args:
        steps: optimizer steps.
        batch: samples (of V views) in each, over all processes and accumulated passes.
        accumulation: passes of the network that add up to one step, each with its share of the batch: less memory.
        lr: peak of the learning rate.
        warmup: share of the steps in which it rises.
        schedule: how it falls afterwards, to zero or, where it is "constant", not at all.
        betas, weight_decay: of AdamW. The memory of gradients is short, since trainings are: with 0.9 and 0.999 the
            first hundred steps learn less than half as much.
        max_timestep: noise levels are drawn below it; features are read at 0, so a short training dwells near it.
        alignment, refine, adversarial, homography: weights of the losses; the diffusion loss has weight 1. The refine
            loss and the adversary need FRMs, the homography's loss a HomographyNet.
        discriminator_lr: learning rate of the adversary, which is constant.
        mixed_precision: what the network computes in; weights and the optimizer stay float32. "fp16" needs a GPU.
        checkpointing: whether the UNet's activations are computed anew in the backward pass: less memory, more time.
        ema: decay of the moving average of the weights, which is what the model ends with; 0 for none. Short trainings
            have too few steps for it.
        clip: greatest norm of the gradient.
        checkpoint_every: steps between checkpoints; 0 for one at the end.
        keep: number of the latest checkpoints that are kept.
        workers: processes that read and prepare the samples beside each training process.
        tensorboard: whether TensorBoard's files are written beside ``log.csv``.
        seed: seed of the order, the noise and the time steps.
    """

    steps: int = 100
    batch: int = 1
    accumulation: int = 1
    lr: float = 2e-3
    warmup: float = 0.2
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    betas: tuple[float, float] = (0.85, 0.99)
    weight_decay: float = 1e-4
    max_timestep: int = 400
    alignment: float = 0.0
    refine: float = 0.5
    adversarial: float = 0.0
    homography: float = 1.0
    discriminator_lr: float = 2e-4
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    checkpointing: bool = False
    ema: float = 0.0
    clip: float = 1.0
    checkpoint_every: int = 0
    keep: int = 2
    workers: int = 0
    tensorboard: bool = False
    seed: int = 0

    def facts(self) -> dict[str, Any]:
        """What a training is told apart by from others: the fields that decide what it finds."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}

    def __post_init__(self) -> None:
        check_at_least(self, "train", 1, ("steps", "batch", "accumulation", "max_timestep", "keep"))
        check_at_least(self, "train", 0, ("checkpoint_every", "workers", "seed", "weight_decay"))
        check_at_least(self, "train", 0, ("alignment", "refine", "adversarial", "homography"))
        check_positive(self, "train", ("lr", "discriminator_lr", "clip"))
        for name in ("warmup", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"train: {name} must be at least 0 and less than 1, got {getattr(self, name)}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"train: betas must be at least 0 and less than 1, got {self.betas}")
        if self.batch % self.accumulation:
            raise ValueError(
                f"train: batch must be a multiple of accumulation, {self.accumulation}, got {self.batch}; change either"
            )


@dataclass(frozen=True)
class VAEConfig(Strict):
    """How to train an autoencoder.

    Args:
        steps, batch: optimizer steps, and crops in each, all of one sample.
        lr: peak of the learning rate, which rises in a tenth of the steps and falls as a cosine.
        kl: weight of the latents' divergence from the normal distribution, where the encoder learns.
        crop: side of the crops in pixels; smaller images are taken as they are.
        train_encoder: whether the encoder learns too; "auto" leaves it as it is where it computes derivatives.
        seed: seed of the order and the crops.
    """

    steps: int = 300
    batch: int = 4
    lr: float = 2e-3
    kl: float = 1e-6
    crop: int = 128
    train_encoder: Literal["auto"] | bool = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, "train_vae", 1, ("steps", "batch", "crop"))
        check_at_least(self, "train_vae", 0, ("kl", "seed"))
        check_positive(self, "train_vae", ("lr",))
