"""A detector's folder: safetensors and JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vsad.detection.config import DetectorConfig
from vsad.detection.glare import Glare
from vsad.detection.level import Level
from vsad.detection.network import FrozenNetwork, load_network
from vsad.detection.threshold import Threshold
from vsad.files import read_json, read_weights, write_json, write_weights
from vsad.geometry import Rig
from vsad.registration import Registration

if TYPE_CHECKING:
    from vsad.detection.detector import Detector

CONFIG, WEIGHTS, RIG, MODEL = "detector.json", "memory.safetensors", "rig.json", "model"
REMEDY = "name a folder that `vsad fit` wrote, or write it anew with it"


def save(detector: Detector, folder: Path) -> None:
    """Write the model, the rig, the memory and the configuration."""
    detector.model.save_pretrained(folder / MODEL)
    detector.rig.save(folder / RIG)
    weights = {f"levels.{name}": w for name, w in detector.levels.state_dict().items()}
    weights |= {"reach": detector.reach, **{f"glare.{name}": w for name, w in detector.glare.state_dict().items()}}
    if detector.registration is not None:
        weights |= {f"registration.{name}": w for name, w in detector.registration.state_dict().items()}
    write_weights(folder / WEIGHTS, weights)
    fitted = detector.fitted
    about = {"interval": fitted.interval, "asked": fitted.asked, "rate": fitted.rate, "samples": fitted.samples}
    content = asdict(detector.config)
    content.pop("false_alarms")  # it stands beside the threshold
    write_json(folder / CONFIG, {**content, "threshold": fitted.value, "threshold_fit": about, **_network(detector)})


def _network(detector: Detector) -> dict[str, Any]:
    """The frozen network's name; its weights are not saved."""
    return {} if detector.network is None else {"network": detector.network.name}


def load(
    folder: Path, network: FrozenNetwork | None
) -> tuple[Any, Rig, list[Level], Glare, Tensor, Registration | None, Threshold, DetectorConfig, FrozenNetwork | None]:
    """Read what ``save`` wrote, as a detector's arguments; ``network`` is the frozen one, where it has no name.

    Raises:
        FileNotFoundError: a file is missing; the message names it.
        ValueError: a file is broken or does not belong to the others; the message names it.
    """
    from vsad.models import VALDM  # diffusers takes seconds to import

    content = read_json(folder / CONFIG, REMEDY)
    if "network" in content:
        name = content.pop("network")
        if network is None and name is None:
            raise ValueError(f"{folder}: the detector has a frozen network without a name; give it as network")
        network = network or load_network(name)
    elif network is not None:
        raise ValueError(f"{folder}: the detector was fitted without a frozen network; leave network out")
    model, rig = VALDM.from_pretrained(folder / MODEL), Rig.load(folder / RIG)
    weights = read_weights(folder / WEIGHTS, REMEDY)
    # The model is read in float32 whatever it was saved in, and so is what is remembered of its features.
    weights = {name: w.float() if w.is_floating_point() else w for name, w in weights.items()}
    try:
        about = content.pop("threshold_fit")
        interval, rate = tuple(about["interval"]), tuple(about["rate"])
        threshold = Threshold(float(content.pop("threshold")), interval, about["asked"], rate, about["samples"])
        config = DetectorConfig(**{**content, "weights": tuple(content["weights"]), "false_alarms": about["asked"]})
        levels = _part(weights, "levels")
        count = 1 + max(int(name.split(".")[0]) for name in levels)
        rebuilt = [Level.rebuild(_part(levels, str(index)), config) for index in range(count)]
        places = _part(weights, "registration")
        registration = Registration.rebuild(places, rig) if places else None
        glare = Glare(weights["glare.bright"].to(torch.bool), weights["glare.usual"])
        return model, rig, rebuilt, glare, weights["reach"], registration, threshold, config, network
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: {CONFIG} and {WEIGHTS} must belong together, got {error}; fit anew") from None


def _part(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Those of a part, without its name."""
    return {key.removeprefix(f"{name}."): w for key, w in weights.items() if key.startswith(f"{name}.")}
