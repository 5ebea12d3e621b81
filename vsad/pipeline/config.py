"""What the commands do: the one configuration that all of them read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsad import machine
from vsad.config import Strict, parse_config, plain, read_fields
from vsad.detection.config import DetectorConfig
from vsad.detection.network_name import check_network_name
from vsad.geometry.graph_name import parse_graph
from vsad.models.config import VALDMConfig
from vsad.models.presets import model_config
from vsad.training.config import TrainConfig, VAEConfig

if TYPE_CHECKING:
    import torch

    from vsad.detection import FrozenNetwork
    from vsad.pipeline.opening import Reading

# Whether samples are brought into one pose: where it helps, always or never.
REGISTRATION = ("auto", "on", "off")
# What the smallest model divides the sides of images by: smaller images would be all border.
_LEAST_SIZE = 16
# The types of devices that torch computes on.
_DEVICES = ("cpu", "cuda", "mps", "xpu")


@dataclass(frozen=True)
class RunConfig(Strict):
    """What ``run`` does.

    Args:
        preset: preset of the model: tiny, small, base or sd.
        model: fields of ``VALDMConfig`` that differ from the preset's.
        size: ``(height, width)`` that images are resized to, or one number for both; None keeps them as they are.
        format: layout of the data, as ``open_dataset`` takes it; None tells it from the files.
        depth: significant bits of image files of more than 8; None takes the range that each camera uses.
        pixel_limit: images of more pixels are refused; None for 250 million.
        skip_bad: leave out samples that cannot be read, and list them, instead of stopping at the first.
        graph: graph of the rig: "overlap", "ring", "star" or "star:VIEW".
        registration: whether samples are brought into one pose: "auto", where it helps, "on" or "off".
        train, detector: of those steps.
        vae: how the autoencoder is trained before, so that reconstructions can be looked at; None leaves it as it is.
        ablations: whether the same model without alignment and a plain bank are measured beside it.
        seed: seed of every random choice.
        device: device of the model and the detector, such as cpu, cuda or cuda:1; None for a GPU where there is one.
        network: name of the frozen networks whose maps are levels too, as ``load_network`` takes it; None for none.
    """

    preset: str = "tiny"
    model: dict[str, Any] = field(default_factory=dict)
    size: int | tuple[int, int] | None = None
    format: str | None = None
    depth: int | None = None
    pixel_limit: int | None = None
    skip_bad: bool = False
    graph: str = "overlap"
    registration: str = "auto"
    train: TrainConfig = field(default_factory=TrainConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    vae: VAEConfig | None = None
    ablations: bool = False
    seed: int = 0
    network: str | None = "contrast"
    device: str | None = None

    def __post_init__(self) -> None:
        # What is wrong is refused here, before work starts.
        model_config(self.preset, self.model)
        check_device(self.device)
        if self.network is not None:
            check_network_name(self.network)
        parse_graph(self.graph)
        if self.registration not in REGISTRATION:
            raise ValueError(f"run: registration must be one of {list(REGISTRATION)}, got {self.registration!r}")
        if self.size is not None and min(self.sides) < _LEAST_SIZE:
            raise ValueError(f"run: size must be at least {_LEAST_SIZE} pixels, got {self.size}; choose a larger one")
        if self.pixel_limit is not None and self.pixel_limit < 1:
            raise ValueError(f"run: pixel_limit must be at least 1, got {self.pixel_limit}")
        if self.depth is not None and not 1 <= self.depth <= 31:
            raise ValueError(f"run: depth must be 1 to 31 bits, got {self.depth}; give what the cameras store")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"run: seed must be at least 0 and less than 2**63, got {self.seed}")
        if self.detector.category is not None:
            raise ValueError(
                f"run: detector.category must be left out, since it is the data set's, got {self.detector.category!r}"
            )

    @property
    def sides(self) -> tuple[int, int]:
        """The size as ``(height, width)``; zeros where images are not resized."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size or (0, 0)

    @property
    def reading(self) -> Reading:
        """How files are read; it lists what it leaves out."""
        from vsad.pipeline.opening import Reading

        return Reading(self.format, self.depth, self.pixel_limit, self.skip_bad)

    def facts(self) -> dict[str, Any]:
        """The configuration as JSON gives it back, without what changes nothing that is found, such as the device."""
        fields = {name: value for name, value in asdict(self).items() if name != "device"}
        return plain({**fields, "train": self.train.facts()})  # type: ignore[no-any-return]

    @property
    def chosen_device(self) -> torch.device:
        """The device in use.

        Raises:
            ValueError: there is no such device, or it is not usable here.
        """
        return choose_device(self.device)

    def frozen_network(self) -> FrozenNetwork | None:
        """The frozen networks, on the device in use; None for none."""
        from vsad.detection import load_network

        return None if self.network is None else load_network(self.network).to(self.chosen_device)

    @property
    def valdm(self) -> VALDMConfig:
        """The model's whole configuration."""
        return model_config(self.preset, self.model)


def check_device(name: str | None) -> None:
    """Refuse a device that cannot be used here, without importing torch where that can be told without it.

    Raises:
        ValueError: there is no such device, or it is not usable here.
    """
    if name in (None, "cpu"):
        return
    kind, _, index = str(name).partition(":")
    why = None
    if kind not in _DEVICES or not (index.isdecimal() or name == kind):
        why = f"devices are {', '.join(_DEVICES)}, and cuda:1 for the second"
    elif kind == "cuda":
        why = machine.why_no_gpu()
    if why is not None:
        raise ValueError(f"device must be usable here, got {name!r}: {why}; choose cpu, or leave it out")
    choose_device(name)


def choose_device(name: str | None) -> torch.device:
    """A device by its name; a GPU where there is one for None.

    Raises:
        ValueError: there is no such device, or it is not usable here.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"device must be usable here, got {name!r}: {why}; choose cpu, or leave it out") from None
    return device


def run_config(
    path: str | Path | None = None, changes: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> RunConfig:
    """The configuration of a command: a file's fields, then the command's options, then ``field=value`` changes.

    One seed serves every step whose own seed is not given.

    Args:
        path: YAML or JSON file, or None.
        changes: as of ``vsad.config.read_config``.
        options: values by the names of fields, such as ``train.steps``; None where an option was not given.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a field is unknown or a value is not what it must be; the message names it.
    """
    given = [f"{name}={json.dumps(value)}" for name, value in (options or {}).items() if value is not None]
    content = read_fields(path, [*given, *changes])
    if content.get("network") == "none":
        content["network"] = None
    for part in ("model", "train", "detector"):  # a part without any field in a file
        if content.get(part) is None:
            content[part] = {}
    for part in ("train", "detector", "vae"):
        if isinstance(content.get(part), dict):
            content[part].setdefault("seed", content.get("seed", 0))
    return parse_config(RunConfig, content, "" if path is None else f"{path}: ")
