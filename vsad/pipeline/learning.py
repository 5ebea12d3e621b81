"""Training and fitting one station: the folders of a model and of a detector."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vsad.data import MultiViewDataset
from vsad.detection import Detector, place_all, storage
from vsad.files import RunFolder, fingerprint_files, read_weights, write_weights
from vsad.files.run_record import MANIFEST
from vsad.geometry import Rig
from vsad.models import VALDM
from vsad.models.checks import check_picture_size
from vsad.pipeline.config import RunConfig
from vsad.pipeline.learned import FILE, write_cameras
from vsad.pipeline.parts import Split, check_enough, fit_detector
from vsad.pipeline.stages import check_free, data_fingerprint
from vsad.pipeline.steps import Images, images_of, register_once
from vsad.progress import SILENT, Progress
from vsad.registration import Registration, canonical_rig
from vsad.training import (
    Station,
    TrainConfig,
    VAEConfig,
    check_shared,
    is_main_process,
    learn_encodings,
    once,
    train,
    train_vae,
)

_REGISTRATION = "registration.safetensors"
_REMEDY = "add --fresh to begin anew"
# What is written into the folder of a model, and of a detector.
_MODEL, _TRAINING, _LATENTS = ("adapter", "unet", "vae", "scheduler"), "training", "latents"
# Where no checkpoints are asked for, there are so many of a long training, and so many steps between two at least.
_CHECKPOINTS, _LEAST_STEPS = 20, 25
_DETECTOR = (storage.CONFIG, storage.WEIGHTS, storage.RIG)


def train_station(
    model: VALDM,
    dataset: MultiViewDataset,
    rig: Rig,
    config: RunConfig,
    out: Path,
    progress: Progress = SILENT,
    *,
    fresh: bool = False,
) -> str:
    """Train a model on a station's normal samples and save it, or go on with a training that was interrupted.

    Args:
        model: new.
        dataset: normal samples of the rig's views.
        rig: of the dataset's size.
        config: how.
        out: folder for the model, with checkpoints in ``training/``.
        progress: told of every stage.
        fresh: first delete what an earlier training has made in ``out``.

    Returns:
        Why samples are brought into one pose or not, in words.
    """
    check_picture_size(model, rig.size)
    product = config.valdm.index_of(dataset.category)
    options = {"config": config.facts(), "rig": _of(rig), "data": data_fingerprint([dataset])}
    folder: AbstractContextManager[RunFolder | None] = nullcontext()
    if is_main_process():  # of several, one writes the folder
        check_free(out, (*_MODEL, _TRAINING, FILE, _REGISTRATION))
        folder = RunFolder.open(out, command="train", options=options, fresh=fresh)
    with folder as run:
        if run is not None:
            run.file(FILE)
            for part in (*_MODEL, _TRAINING):
                run.subfolder(part)
        # One of several processes registers and encodes; the others wait, and read what it has written.
        registration, why = once(lambda: _register(dataset, rig, config, run, progress))
        check_shared(out / MANIFEST)
        model.to(config.chosen_device)
        learn_autoencoder(model, Images(dataset), config.vae, out / _TRAINING, progress)
        images = place_all(images_of(dataset, "encode", progress), registration, None, model.divisor)
        latents = learn_encodings(model, images, out / _TRAINING / _LATENTS)
        station = Station(latents, canonical_rig(rig, registration, model.divisor), product)
        train(model, station, resumable(config.train), progress, folder=out / _TRAINING)
        if run is not None:
            shutil.rmtree(out / _TRAINING / _LATENTS, ignore_errors=True)
            model.save_pretrained(out)
            write_cameras(out, dataset.cameras)
            run.finish()
    return why


def fit_station(
    model: VALDM,
    dataset: MultiViewDataset,
    rig: Rig,
    config: RunConfig,
    trained: Path,
    out: Path,
    progress: Progress = SILENT,
    *,
    fresh: bool = False,
) -> tuple[Detector, str]:
    """Fit a detector to a station's normal samples and save it, or go on with a fit that was interrupted.

    Args:
        model: trained.
        dataset: normal samples of the rig's views.
        rig: of the dataset's size.
        config: how.
        trained: folder of the model.
        out: folder for the detector.
        progress: told of every stage.
        fresh: first delete what an earlier fit has made in ``out``.

    Returns:
        The detector, and why samples are brought into one pose or not, in words.
    """
    check_picture_size(model, rig.size)
    check_enough(dataset)
    network = config.frozen_network()
    options = {
        "config": config.facts(), "rig": _of(rig), "data": data_fingerprint([dataset]),
        "model": fingerprint_files(*_weights_of(trained)),
    }  # fmt: skip
    check_free(out, (*_DETECTOR, storage.MODEL, _REGISTRATION))
    with RunFolder.open(out, command="fit", options=options, fresh=fresh) as run:
        for name in _DETECTOR:
            run.file(name)
        run.subfolder(storage.MODEL)
        registration, why = _register(dataset, rig, config, run, progress)
        split = Split.to_fit(dataset, registration, model, rig, progress, network=network, seed=config.seed)
        detector = fit_detector(model, rig, split, registration, config.detector, progress, network, dataset.category)
        detector.cameras = dataset.cameras
        detector.save_pretrained(out)
        run.finish()
    return detector, why


def learn_autoencoder(
    model: VALDM, images: Images, config: VAEConfig | None, folder: Path, progress: Progress = SILENT
) -> None:
    """Train a model's autoencoder, or read what was trained before the work was interrupted; none without ``config``.

    Args:
        model: whose autoencoder it is.
        images: of normal samples.
        config: how.
        folder: of this training, where the weights are kept.
        progress: told of every step.
    """
    if config is None:
        return
    weights = folder / "autoencoder.safetensors"
    if weights.exists():
        model.vae.load_state_dict(read_weights(weights, _REMEDY))
        model.vae_is_tuned = True
        return
    train_vae(model, images, config, progress)
    if is_main_process():
        write_weights(weights, model.vae.state_dict())


def resumable(config: TrainConfig) -> TrainConfig:
    """The same training, with checkpoints to go on from also where none were asked for."""
    every = config.checkpoint_every or max(_LEAST_STEPS, config.steps // _CHECKPOINTS)
    return replace(config, checkpoint_every=every)


def _register(
    dataset: MultiViewDataset, rig: Rig, config: RunConfig, run: RunFolder | None, progress: Progress
) -> tuple[Registration | None, str]:
    """The registration of a station, which the process that has opened its folder keeps there."""
    assert run is not None
    known, mark = run.done.get(_REGISTRATION), partial(run.mark, _REGISTRATION)
    return register_once(dataset, rig, config.registration, known, run.file(_REGISTRATION), mark, progress)


def _weights_of(folder: Path) -> list[Path]:
    """The files of a model, without those of its training."""
    return [folder / part for part in _MODEL if (folder / part).exists()]


def _of(rig: Rig) -> list[Any]:
    pairs = [[pair.target, pair.source, pair.homography.tolist()] for pair in rig.pairs]
    return [list(rig.views), list(rig.size), pairs]
