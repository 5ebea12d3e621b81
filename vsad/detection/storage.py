"""A detector's folder: safetensors and JSON, of which nothing can run code."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vsad.config import Strict, parse_config
from vsad.data import Cameras
from vsad.detection.config import DetectorConfig
from vsad.detection.detector_file import CONFIG, FORMAT, REMEDY, RIG, VERSION, read_detector_config
from vsad.detection.glare import Glare
from vsad.detection.level import Level
from vsad.detection.network import FrozenNetwork, load_network
from vsad.detection.network_name import CONTRAST
from vsad.detection.stored import check_stored, level_count
from vsad.detection.threshold import Threshold
from vsad.files import atomic_folder, read_weights, write_json, write_weights
from vsad.geometry import Rig
from vsad.registration import Registration

if TYPE_CHECKING:
    from vsad.detection.detector import Detector

WEIGHTS, MODEL = "memory.safetensors", "model"
_FILES = ("depths", "sizes")


def save(detector: Detector, folder: Path) -> None:
    """Write the model, the rig, the memory and the configuration; a detector that was there is replaced whole."""
    weights = {f"levels.{name}": w for name, w in detector.levels.state_dict().items()}
    weights |= {"reach": detector.reach, **{f"glare.{name}": w for name, w in detector.glare.state_dict().items()}}
    if detector.registration is not None:
        weights |= {f"registration.{name}": w for name, w in detector.registration.state_dict().items()}
    content = {"format": FORMAT, "version": VERSION, **asdict(detector.config)}
    content.pop("false_alarms")  # it stands beside the threshold
    content |= {**_told(detector.fitted), **_files(detector.cameras), **_network(detector)}
    if detector.unjudged is not None:
        content["unjudged"] = [*detector.unjudged]
    with atomic_folder(folder, last=CONFIG) as partial:
        detector.model.save_pretrained(partial / MODEL)
        detector.rig.save(partial / RIG)
        write_weights(partial / WEIGHTS, weights)
        write_json(partial / CONFIG, content)


def change_threshold(folder: str | Path, threshold: Threshold) -> None:
    """Give the detector of a folder another threshold.

    Raises:
        FileNotFoundError, ValueError: there is no detector of this version.
    """
    path = Path(folder) / CONFIG
    content = read_detector_config(path)
    content |= _told(threshold)
    write_json(path, {"format": FORMAT, "version": VERSION, **content})


def _network(detector: Detector) -> dict[str, Any]:
    """The frozen network's name; its weights are not saved."""
    return {} if detector.network is None else {"network": detector.network.name}


def load(
    folder: Path, network: FrozenNetwork | None
) -> tuple[
    Any, Rig, list[Level], Glare, Tensor, Registration | None, Threshold, DetectorConfig, FrozenNetwork | None,
    Cameras, list[float] | None,
]:  # fmt: skip
    """Read what ``save`` wrote, as a detector's arguments; ``network`` is the frozen one, where it has no name.

    Raises:
        FileNotFoundError: a file is missing; the message names it.
        ValueError: a file is broken or does not belong to the others; the message names it.
    """
    from vsad.models import VALDM  # diffusers takes seconds to import

    content = read_detector_config(folder / CONFIG)
    network = _chosen_network(folder, content, network)
    model, rig = VALDM.from_pretrained(folder / MODEL), Rig.load(folder / RIG)
    weights = read_weights(folder / WEIGHTS, REMEDY)
    # The model is read in float32 whatever it was saved in, and so is what is remembered of its features.
    weights = {name: w.float() if w.is_floating_point() else w for name, w in weights.items()}
    threshold = _threshold(folder / CONFIG, content)
    cameras, unjudged = _cameras(folder / CONFIG, content, rig), _unjudged(folder / CONFIG, content, len(rig.views))
    config = parse_config(DetectorConfig, {**content, "false_alarms": threshold.asked}, f"{folder / CONFIG}: ")
    try:
        check_stored(weights, config, len(rig.views), model.vae.config["latent_channels"])
        levels = _part(weights, "levels")
        rebuilt = [Level.rebuild(_part(levels, str(index)), config) for index in range(level_count(weights))]
        places = _part(weights, "registration")
        registration = Registration.rebuild(places, rig) if places else None
        glare = Glare(weights["glare.bright"].to(torch.bool), weights["glare.usual"])
        reach = weights["reach"]
        return model, rig, rebuilt, glare, reach, registration, threshold, config, network, cameras, unjudged
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise ValueError(f"{folder}: {CONFIG} and {WEIGHTS} must belong together, got {error}; fit anew") from None


def _chosen_network(folder: Path, content: dict[str, Any], network: FrozenNetwork | None) -> FrozenNetwork | None:
    """The frozen network that a detector was fitted with; its name is taken out of the content.

    One of a module of somebody's own is never loaded because a file says so: that would run what the module does.
    """
    if "network" not in content:
        if network is not None:
            raise ValueError(f"{folder}: the detector was fitted without a frozen network; leave network out")
        return None
    name = content.pop("network")
    if network is not None:
        return network
    if name is None:
        raise ValueError(f"{folder}: the detector has a frozen network without a name; give it as network")
    if not isinstance(name, str):
        raise ValueError(f"{folder / CONFIG}: network must be a name, got {name!r}; {REMEDY}")
    own = [part for part in name.split("+") if part != CONTRAST and not part.startswith("timm:")]
    if own:
        raise ValueError(
            f"{folder}: the detector's frozen network is made by code of somebody's own, {', '.join(own)}; if you "
            f"trust it, give it to a command as --network {name}, and in Python as network=load_network({name!r})"
        )
    return load_network(name)


@dataclass
class _Fitted(Strict):
    """The threshold as it is written."""

    value: float
    interval: tuple[float, float]
    asked: float
    rate: tuple[float, float]
    samples: int


def _told(threshold: Threshold) -> dict[str, Any]:
    """The threshold as it is written."""
    about = {name: value for name, value in threshold._asdict().items() if name not in ("value", "odd")}
    return {"threshold": threshold.value, "threshold_fit": about}


def _threshold(path: Path, content: dict[str, Any]) -> Threshold:
    """The threshold; what is told of it is taken out of the content."""
    value, about = content.pop("threshold", None), content.pop("threshold_fit", None)
    told = {**(about if isinstance(about, dict) else {}), "value": value}
    fitted = parse_config(_Fitted, told, f"{path}: ", "threshold_fit.")
    return Threshold(fitted.value, fitted.interval, fitted.asked, fitted.rate, fitted.samples)


def _files(cameras: Cameras) -> dict[str, Any]:
    """What is stored of the cameras beside the rig: what their files are like."""
    return {name: value for name, value in cameras.content.items() if name in _FILES}


def _cameras(path: Path, content: dict[str, Any], rig: Rig) -> Cameras:
    """The rig's cameras, with what their files are like; that is taken out of the content."""
    files = {name: content.pop(name, {}) for name in _FILES}
    try:
        return Cameras.parse({**Cameras(rig.views, rig.size, {}).content, **files})
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: depths and sizes must be those of the rig's views, got {error}; {REMEDY}") from None


def _unjudged(path: Path, content: dict[str, Any], views: int) -> list[float] | None:
    """What no view judges in normal samples, where it is known; it is taken out of the content."""
    shares = content.pop("unjudged", None)
    if shares is None:
        return None
    numbers = isinstance(shares, list) and all(isinstance(share, (int, float)) for share in shares)
    if not numbers or len(shares) != views or not all(0 <= share <= 1 for share in shares):
        raise ValueError(
            f"{path}: unjudged must be a share from 0 to 1 for each of {views} views, got {shares}; {REMEDY}"
        )
    return [float(share) for share in shares]


def _part(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Those of a part, without its name."""
    return {key.removeprefix(f"{name}."): w for key, w in weights.items() if key.startswith(f"{name}.")}
