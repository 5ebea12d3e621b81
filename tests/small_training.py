"""A training that takes seconds, and a program that runs it: in several processes, and to be killed.

python -m tests.small_training FOLDER steps=4 batch=2     trains in FOLDER, which takes the weights too
python -m tests.small_training --kill FOLDER SEED steps=9  the same, killed again and again at random moments
"""

import math
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.small_station import SHIFT, SIZE
from vsad.config import read_config
from vsad.files import write_weights
from vsad.geometry import Rig
from vsad.models import VALDM, VALDMConfig
from vsad.training import Station, TrainConfig, train

VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [8, 16, 16],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
}
UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["DownBlock2D"] * 2,
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["UpBlock2D"] * 2,
    "block_out_channels": [16, 24],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
}


def small_config(**changes):
    parts = {"vae": VAE, "unet": UNET, "align_stages": ("up0",), "feature_stages": ("up1",)}
    return VALDMConfig(**{**parts, **changes})


def small_model(seed=0, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VALDM(small_config(**changes))


def small_rig(views=3):
    """Views in a row, each 8 pixels to the right of the one before."""
    names = [chr(ord("a") + view) for view in range(views)]
    return Rig.from_pairs(names, SIZE, {pair: SHIFT.inverse() for pair in zip(names, names[1:])})


def small_station(samples=5, views=3, seed=0, **more):
    """Latents that are smooth and alike, as those of one product are."""
    generator = torch.Generator().manual_seed(seed)
    product = torch.randn(1, 1, 4, 6, 8, generator=generator)
    scene = torch.nn.functional.interpolate(product.flatten(0, 1), (16, 16 + 2 * views), mode="bicubic")[0]
    clean = torch.stack([scene[..., 2 * v : 2 * v + 16] for v in range(views)])
    noise = torch.randn(samples, *clean.shape, generator=generator)
    return Station(clean + 0.1 * noise, small_rig(views), **more)


def weights_of(model):
    return {**model.unet.state_dict(), **model.adapter.state_dict()}


def run(folder, changes):
    """Train in a folder, and write the weights that the model ends with; two products of two rigs."""
    stations = [small_station(), small_station(samples=3, views=2, seed=1, category=1)]
    model = small_model(conditioning="class", categories=("bolt", "nut"))
    train(model, stations, read_config(TrainConfig, changes=changes), folder=folder)
    if os.environ.get("RANK", "0") == "0":
        write_weights(Path(folder) / "trained.safetensors", weights_of(model))


def kill(folder, seed, changes):
    """Run it in child processes that are killed at random moments, until one comes to its end; print how many."""
    moments, killed = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as elsewhere:
        began = time.monotonic()
        assert not ended(start(elsewhere, changes), math.inf)
        whole = time.monotonic() - began
    while True:
        child = start(folder, changes)
        status = ended(child, moments.uniform(0.05, 0.8) * whole * 1.2**killed)
        if status is not None:
            print(killed)
            return os.waitstatus_to_exitcode(status)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed += 1


def start(folder, changes):
    """A child process that trains."""
    child = os.fork()
    if child == 0:
        run(folder, changes)
        os._exit(0)
    return child


def ended(child, seconds):
    """How a child ended; None if it has not after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        gone, status = os.waitpid(child, os.WNOHANG)
        if gone:
            return status
        time.sleep(0.005)
    return None


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "--kill":
        sys.exit(kill(sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
    run(sys.argv[1], sys.argv[2:])
