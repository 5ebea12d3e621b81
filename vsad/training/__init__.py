"""Training of VALDM and FRM on normal samples."""

from vsad.training.autoencoder import train_vae
from vsad.training.config import TrainConfig, VAEConfig
from vsad.training.latents import encode, encodings, learn_encodings, learn_latents, learn_statistics
from vsad.training.loop import check_trainable, train
from vsad.training.optimization import is_main_process
from vsad.training.shards import LatentShards, write_latents
from vsad.training.station import Station

__all__ = [
    "LatentShards",
    "Station",
    "TrainConfig",
    "VAEConfig",
    "check_trainable",
    "encode",
    "encodings",
    "is_main_process",
    "learn_encodings",
    "learn_latents",
    "learn_statistics",
    "train",
    "train_vae",
    "write_latents",
]
