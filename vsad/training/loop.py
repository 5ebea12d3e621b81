"""The training loop, a plain one on accelerate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from vsad.files import in_words
from vsad.models import VALDM
from vsad.progress import SILENT, Progress
from vsad.training.checkpoints import Checkpoints, facts_of
from vsad.training.config import TrainConfig
from vsad.training.draws import Pass, Passes, Share
from vsad.training.log import Log
from vsad.training.optimization import Optimization, check_gradients
from vsad.training.pictures import write_picture
from vsad.training.processes import new_accelerator, processes
from vsad.training.sharding import check_shards
from vsad.training.station import Station, check_stations


@torch.enable_grad()  # whatever the caller has switched off
def train(
    model: VALDM,
    stations: Station | Sequence[Station],
    config: TrainConfig,
    progress: Progress = SILENT,
    *,
    folder: str | Path | None = None,
) -> None:
    """Train a VALDM to denoise normal latents, on all devices that accelerate knows; the autoencoder stays as it is.

    With a folder, which all processes share, it goes on by itself from the last checkpoint there. ``accelerate launch``
    or ``torchrun`` start several processes; the result is the same for any number of them.

    Args:
        model: trained in place, left in evaluation mode; it ends with the average of its weights where there is one.
        stations: one or several; a step is of one.
        config: how to train.
        progress: told of every step and its losses.
        folder: for ``log.csv``, ``checkpoints/`` and ``pictures/``; None for none of them.

    Raises:
        TypeError: latents are no samples, or a rig is none.
        ValueError: the model cannot be trained as asked, stations do not fit it, the batch does not split evenly, a
            setting needs a folder or what this machine has not, or the folder holds checkpoints of another training.
        FloatingPointError: losses or gradients are not finite.

    Example:
        >>> from vsad.geometry import Rig
        >>> from vsad.models import new_model, tiny
        >>> shift = [[1, 0, 8], [0, 1, 0], [0, 0, 1]]
        >>> rig = Rig.from_pairs(["left", "right"], (64, 64), {("left", "right"): shift})
        >>> train(new_model(tiny(), 0), Station(torch.rand(1, 2, 18, 16, 16), rig), TrainConfig(steps=1))
    """
    check_trainable(model, config)
    stations = check_stations(model, stations)
    path = _checked_folder(folder, config)
    tracked = {"log_with": "tensorboard", "project_dir": path} if config.tensorboard else {}
    accelerator = new_accelerator(config, shards=True, **tracked)
    progress = progress if accelerator.is_main_process else SILENT
    passes = Passes(stations, config, Share(accelerator.process_index, accelerator.num_processes))
    home = next(model.parameters()).device
    turned_on = config.checkpointing and not model.unet.is_gradient_checkpointing
    if turned_on:
        model.unet.enable_gradient_checkpointing()
        model.adapter.enable_gradient_checkpointing()
    try:
        optimization = Optimization(model, stations, config, accelerator)
        checkpoints, done = None, 0
        if path is not None:
            checkpoints = Checkpoints(path, optimization, facts_of(model, stations, config), config.keep)
            done = checkpoints.resume()
        if config.tensorboard:
            accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": done + 1}})
        _steps(optimization, passes, checkpoints, done, path, progress)
        if optimization.ema is not None:
            optimization.ema.copy_to(optimization.trained.values())
        optimization.gather()
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
        if turned_on:
            model.unet.disable_gradient_checkpointing()
            model.adapter.disable_gradient_checkpointing()
        model.zero_grad()
        model.to(home).eval()


def _steps(
    optimization: Optimization,
    passes: Passes,
    checkpoints: Checkpoints | None,
    done: int,
    folder: Path | None,
    progress: Progress,
) -> None:
    """Take the steps after those that are done."""
    config, accelerator = optimization.config, optimization.accelerator
    batches = _in_steps(passes, done, accelerator)
    log = Log(folder, accelerator, done, config.batch)
    with progress.stage("train", config.steps - done) as stage:
        for step, batch in zip(range(done + 1, config.steps + 1), batches):
            optimization.network.train()
            lr = optimization.schedule.get_last_lr()[0]
            losses = optimization.step(step, batch)
            speed = log.write(step, losses, lr)
            last = step == config.steps or (config.checkpoint_every and step % config.checkpoint_every == 0)
            if checkpoints is not None and folder is not None and last:
                checkpoints.save(step)
                model = optimization.gather()
                if accelerator.is_main_process:
                    write_picture(folder / "pictures" / f"step-{step:08d}.png", model, optimization.stations[0])
                accelerator.wait_for_everyone()
            text = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
            # The sum and the speed first: a terminal cuts what is too long for its line.
            total = sum(loss for name, loss in losses.items() if name != "discriminator")
            stage.advance(f"loss {total:.3f}, steps/s {speed:.2f}, {text}")


def check_trainable(model: VALDM, config: TrainConfig) -> None:
    """Refuse a model that cannot be trained as asked, before anything is prepared for it.

    Raises:
        ValueError: inference mode is on, the noise schedule is too short, no weight takes gradients, one that does is
            not float32, the batch does not split evenly over the processes, or their launcher asks for shards that
            cannot be trained.
    """
    check_gradients("train", model)
    Share(processes=processes().num_processes).batch(config)
    check_shards(model, config)
    noisiest = model.scheduler.config["num_train_timesteps"]
    if config.max_timestep > noisiest:
        raise ValueError(
            f"train: max_timestep must be at most {noisiest}, as the noise schedule has, got {config.max_timestep}"
        )
    trained = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    if not trained:
        raise ValueError("train: the model must have weights that require gradients, got none; set requires_grad_")
    if trained != {torch.float32}:
        found = ", ".join(sorted(str(dtype) for dtype in trained - {torch.float32}))
        raise ValueError(
            f"train: the model's weights must be float32, got {found}; call model.float(), and choose what is computed "
            "in by mixed_precision"
        )


def _in_steps(passes: Passes, done: int, accelerator: Accelerator) -> Iterator[list[Pass]]:
    """Yield the passes of every step that is not done yet."""
    count = passes.config.accumulation
    loader = DataLoader(
        passes,
        batch_size=None,
        sampler=range(done * count, len(passes)),
        num_workers=passes.config.workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    each = iter(loader)
    return zip(*[each] * count)  # type: ignore[return-value]


def _checked_folder(folder: str | Path | None, config: TrainConfig) -> Path | None:
    if folder is None:
        for name in ("checkpoint_every", "tensorboard"):
            if getattr(config, name):
                raise ValueError(
                    f"train: {name} needs a folder, got {getattr(config, name)} without one; name a folder"
                )
        return None
    if config.tensorboard and not find_spec("tensorboard"):
        raise ValueError("train: tensorboard must be installed, and is not; pip install 'vsad[log]'")
    with in_words(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)
