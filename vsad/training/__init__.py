"""Training of VALDM and FRM on normal samples."""

from vsad.training.config import TrainConfig
from vsad.training.latents import encode, learn_latents
from vsad.training.loop import train

__all__ = ["TrainConfig", "encode", "learn_latents", "train"]
