"""Checkpoints from which a training that was killed at any moment goes on, as if nothing had been."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from pickle import PickleError
from typing import Any

from accelerate.checkpointing import load_accelerator_state, save_accelerator_state
from torch import Tensor, nn

from vsad.config import plain
from vsad.files import (
    differences,
    first_line,
    first_of,
    in_words,
    partial_folder,
    publish,
    read_json,
    read_weights,
    write_json,
    write_weights,
)
from vsad.models import VALDM
from vsad.training.config import TrainConfig
from vsad.training.optimization import Optimization
from vsad.training.processes import check_shared, once
from vsad.training.sharding import assign, for_file
from vsad.training.shards import fingerprint
from vsad.training.station import Station

FOLDER, FACTS, MODEL, AVERAGE, DISCRIMINATOR = "checkpoints", "training.json", "model", "ema", "discriminator"
REMEDY = "name another folder, or delete this one to begin anew"
_BROKEN = "delete this folder to go on from the checkpoint before it"


def facts_of(model: VALDM, stations: Sequence[Station], config: TrainConfig) -> dict[str, Any]:
    """What a training is told apart by from others: its configuration, its model's and its data."""
    data = {
        str(index): {
            "shape": list(latents.shape),
            "latents": fingerprint(latents),
            "rig": {"views": list(rig.views), "size": list(rig.size), "homographies": rig.homographies.tolist(),
                    "neighbors": rig.neighbors.tolist()},
            "category": category,
        }
        for index, (latents, rig, category) in enumerate(stations)
    }  # fmt: skip
    return {"train": config.facts(), "model": asdict(model.config), "stations": data}


class Checkpoints:
    """The checkpoints ``checkpoints/step-00000040`` of a training in a folder, each complete or not there.

    Args:
        folder: of the training.
        optimization: whose state is kept.
        facts: what the training is told apart by.
        keep: number of the latest checkpoints that are kept.
    """

    def __init__(self, folder: Path, optimization: Optimization, facts: Mapping[str, Any], keep: int) -> None:
        self.folder, self.optimization, self.facts, self.keep = folder / FOLDER, optimization, facts, keep
        accelerator = optimization.accelerator
        accelerator.register_save_state_pre_hook(self._write_weights)
        accelerator.register_load_state_pre_hook(self._read_weights)

    def resume(self) -> int:
        """Load the latest checkpoint, and return its step; 0 where there is none.

        Raises:
            ValueError: it is of another training.
            FileNotFoundError: the main process has it, and this one has not.
        """
        found = once(self.complete)
        if not found:
            return 0
        last = found[-1]
        check_shared(last / FACTS)
        content = read_json(last / FACTS, REMEDY)
        different = differences(content.get("facts", {}), plain(self.facts))
        if different:
            got = first_of(different, separator="; ")
            raise ValueError(f"{self.folder}: must be of this training, got {got}; {REMEDY}")
        step = content.get("step")
        if type(step) is not int or step < 0:
            raise ValueError(f"{last / FACTS}: step must be an integer from 0, got {step!r}; {_BROKEN}")
        try:
            with in_words(last, REMEDY), _missing_in_words(last):
                self._load_state(last)
        except (RuntimeError, LookupError, EOFError, PickleError, AttributeError, TypeError) as error:
            raise ValueError(f"{last}: must be a whole checkpoint, got {first_line(error)}; {_BROKEN}") from None
        self.optimization.accelerator.step = 0  # of passes, of which a step may have had another number
        if self.optimization.ema is not None:
            self.optimization.ema.optimization_step = step
        return step

    def save(self, step: int) -> None:
        """Write the checkpoint of a step, and delete those that are not kept any more."""
        accelerator = self.optimization.accelerator
        target = self.folder / f"step-{step:08d}"
        partial = target.with_name(f".{target.name}.partial")
        if accelerator.is_main_process:
            partial = partial_folder(target)
        accelerator.wait_for_everyone()
        try:
            with _torch_in_words(target):
                self._save_state(partial)
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                write_json(partial / FACTS, {"step": step, "facts": self.facts})
                publish(partial, target)
        finally:
            if accelerator.is_main_process:
                shutil.rmtree(partial, ignore_errors=True)
        if accelerator.is_main_process:
            for old in [*self.complete()[: -self.keep], *self.folder.glob(".*.partial")]:
                shutil.rmtree(old)
        accelerator.wait_for_everyone()

    def complete(self) -> list[Path]:
        """The folders of all checkpoints, the earliest first."""
        return sorted(self.folder.glob("step-*"))

    def _save_state(self, folder: Path) -> None:
        accelerator = self.optimization.accelerator
        if not accelerator.is_fsdp2:
            accelerator.save_state(folder)
            return
        # accelerate's own would hold the weights of a frozen base, and all of them for this number of processes.
        self._write_weights([], [], folder)
        save_accelerator_state(folder, [], *self._prepared, [], accelerator.process_index, accelerator.step)

    def _load_state(self, folder: Path) -> None:
        accelerator = self.optimization.accelerator
        if not accelerator.is_fsdp2:
            accelerator.load_state(folder)
            return
        self._read_weights([], folder)
        load_accelerator_state(folder, [], *self._prepared, [], accelerator.process_index)

    @property
    def _prepared(self) -> tuple[list[Any], list[Any]]:
        """Optimizers and schedules, in the order in which accelerate has prepared and numbers them."""
        optimization = self.optimization
        adversary = [] if optimization.discriminator is None else [optimization.adversary]
        return [optimization.optimizer, *adversary], [optimization.schedule]

    def _parts(self) -> dict[str, dict[str, Tensor]]:
        """What is kept as weights: those that are trained, their average, and the adversary's."""
        optimization = self.optimization
        parts: dict[str, dict[str, Tensor]] = {MODEL: {k: p.data for k, p in optimization.trained.items()}}
        if optimization.ema is not None:
            parts[AVERAGE] = dict(zip(optimization.trained, optimization.ema.shadow_params))
        if optimization.discriminator is not None:
            parts[DISCRIMINATOR] = {k: p.data for k, p in optimization.discriminator.named_parameters()}
        return parts

    def _write_weights(self, models: list[nn.Module], weights: list[Any], folder: str | Path) -> None:
        """Write the trained weights in accelerate's stead, which would add those of a frozen base."""
        weights.clear()
        for name, part in self._parts().items():
            full = {key: for_file(weight) for key, weight in part.items()}  # all processes take part
            if self.optimization.accelerator.is_main_process:
                write_weights(Path(folder) / f"{name}.safetensors", full)

    def _read_weights(self, models: list[nn.Module], folder: str | Path) -> None:
        models.clear()
        for name, part in self._parts().items():
            file = Path(folder) / f"{name}.safetensors"
            weights = read_weights(file, REMEDY)
            if {k: w.shape for k, w in weights.items()} != {k: p.shape for k, p in part.items()}:
                raise ValueError(f"{file}: must hold the weights of this model, got others; {REMEDY}")
            for key, weight in weights.items():
                assign(part[key], weight)


@contextmanager
def _missing_in_words(checkpoint: Path) -> Iterator[None]:
    """Name the file of a checkpoint that is not there."""
    try:
        yield
    except FileNotFoundError as error:
        if error.filename is None:  # in words already
            raise
        missing = Path(error.filename).name
        raise FileNotFoundError(f"{checkpoint}: must be a whole checkpoint, got no {missing}; {_BROKEN}") from None


@contextmanager
def _torch_in_words(path: Path) -> Iterator[None]:
    """Say what the file system refuses; torch's writer tells no more than that it could not write."""
    try:
        with in_words(path):
            yield
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        raise OSError(
            f"{path}: must be a place that can be written, got {first_line(error)}; is the disk full? Free some space, "
            "or name a place on another disk"
        ) from None
