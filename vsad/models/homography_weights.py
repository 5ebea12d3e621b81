"""The HomographyNet that comes with vsad, trained on latents of Gaussian derivatives."""

from __future__ import annotations

from pathlib import Path

from vsad.files import read_weights
from vsad.models.homography_net import HomographyNet

WEIGHTS = Path(__file__).parent / "weights" / "homography_net.safetensors"
# Of the network that was trained.
WIDTH, STAGES = 16, 3


def load_homography_weights(net: HomographyNet) -> HomographyNet:
    """Set a network for latents of Gaussian derivatives to the weights that come with vsad, its search switched on.

    A network of fewer stages takes the finer ones: they are those of a larger network that starts closer.

    Args:
        net: of width 16, for 18 channels.

    Returns:
        The same network.
    """
    coarser = STAGES - len(net.matches)
    weights = {_renamed(name, coarser): value for name, value in read_weights(WEIGHTS, "install vsad again").items()}
    net.load_state_dict({name: weights[name] for name in net.state_dict()})
    return net


def _renamed(name: str, coarser: int) -> str:
    """What a weight is called in a network without the coarser stages, which both lists of stages begin with."""
    for listed in ("matches.", "encoder.heads."):
        if name.startswith(listed):
            index, rest = name.removeprefix(listed).split(".", 1)
            return f"{listed}{int(index) - coarser}.{rest}"
    return name
