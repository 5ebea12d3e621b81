"""Training of VALDM and FRM on normal samples."""

from typing import TYPE_CHECKING

from vsad.lazy import names_in
from vsad.training.config import TrainConfig, VAEConfig

if TYPE_CHECKING:
    from vsad.training.autoencoder import train_vae
    from vsad.training.latents import encode, encodings, learn_encodings, learn_latents, learn_statistics
    from vsad.training.loop import check_trainable, train
    from vsad.training.processes import check_alone, check_shared, is_main_process, once
    from vsad.training.shards import LatentShards, write_latents
    from vsad.training.station import Station

__all__ = [
    "LatentShards",
    "Station",
    "TrainConfig",
    "VAEConfig",
    "check_alone",
    "check_shared",
    "check_trainable",
    "encode",
    "encodings",
    "is_main_process",
    "learn_encodings",
    "learn_latents",
    "learn_statistics",
    "once",
    "train",
    "train_vae",
    "write_latents",
]

__getattr__ = names_in(__name__, __all__, "autoencoder latents loop processes shards station")
