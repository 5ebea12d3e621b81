"""A category in a run: its data, its cameras, and how its samples are brought into one pose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from vsad.calibration import calibrate
from vsad.data import MultiViewDataset
from vsad.detection import FrozenNetwork
from vsad.files import RunFolder
from vsad.geometry import Rig
from vsad.models import VALDM
from vsad.pipeline.config import RunConfig
from vsad.pipeline.opening import Reading
from vsad.pipeline.parts import Split, check_enough
from vsad.pipeline.stages import Stages
from vsad.pipeline.steps import register_once
from vsad.progress import SILENT, Progress
from vsad.registration import Registration, canonical_rig
from vsad.scratch import Samples, Scratch
from vsad.training import Station, learn_encodings, learn_statistics

RIG = "rig.json"
# What a killed run goes on from; deleted when a category is complete.
WORK = "work"


class Data(NamedTuple):
    """The files of a category.

    Args:
        category: its name.
        root: of the data set.
        normal, test: its splits.
        reading: how files are read, and which were left out.
    """

    category: str
    root: Path
    normal: MultiViewDataset
    test: MultiViewDataset
    reading: Reading

    @classmethod
    def open(cls, root: Path, category: str, config: RunConfig, progress: Progress = SILENT) -> Data:
        """Open both splits, which must be of the same cameras."""
        reading = config.reading
        normal = reading.normal(root, category=category, size=config.size, progress=progress)
        check_enough(normal)
        test = reading.open(root, "test", category=category, cameras=normal.cameras)
        return cls(category, root, normal, test, reading)


class Product(NamedTuple):
    """A category, calibrated and registered.

    Args:
        data: its files.
        folder: where its results go, in the run's folder.
        stages: which of its steps are done.
        rig: of its cameras.
        registration: brings its samples into one pose; None where they lie in place.
        why: that is so, in words.
    """

    data: Data
    folder: str
    stages: Stages
    rig: Rig
    registration: Registration | None
    why: str

    @classmethod
    def of(
        cls, data: Data, stages: Stages, run: RunFolder, folder: str, config: RunConfig, progress: Progress
    ) -> Product:
        """Calibrate and register a category, or read what an interrupted run has found of it."""
        path = run.file(f"{folder}{RIG}")
        if stages.facts("rig") is None:
            rig, _ = calibrate(data.normal, graph=config.graph, seed=config.seed, progress=progress)
            rig.save(path)
            stages.mark("rig")
        rig = Rig.load(path)
        weights = run.subfolder(f"{folder}{WORK}") / "registration.safetensors"
        known, mark = stages.facts("registration"), partial(stages.mark, "registration")
        registration, why = register_once(data.normal, rig, config.registration, known, weights, mark, progress)
        return cls(data, folder, stages, rig, registration, why)

    def split(
        self,
        model: VALDM,
        encoded: Callable[[Iterable[Tensor]], Samples] | None,
        network: FrozenNetwork | None,
        config: RunConfig,
        progress: Progress,
    ) -> Split:
        """The normal samples, encoded."""
        return Split.to_fit(
            self.data.normal, self.registration, model, self.rig, progress, encoded, network, config.seed
        )

    def station(self, model: VALDM, split: Split) -> Station:
        """What is trained on."""
        index = model.config.index_of(self.data.category)
        return Station(split.latents, canonical_rig(self.rig, self.registration, model.divisor), index)


def encode_together(
    products: Sequence[Product], model: VALDM, network: FrozenNetwork | None, config: RunConfig, progress: Progress
) -> list[Split]:
    """The normal samples of every product, in latents that are standardized on all of them."""
    if len(products) == 1:
        learnt = products[0].split(model, lambda images: learn_encodings(model, images), network, config, progress)
        return [learnt]
    splits = [p.split(model, None, network, config, progress) for p in products]
    practices = [split.practice for split in splits if split.practice is not None]
    raw, painted = (
        [Scratch(map(model.unstandardize, part.latents)) for part in parts] for parts in (splits, practices)
    )
    learn_statistics(model, chain.from_iterable(raw))
    return [
        split._replace(
            latents=Scratch(map(model.standardize, normal)),
            practice=practice._replace(latents=Scratch(map(model.standardize, changed))),
        )
        for split, practice, normal, changed in zip(splits, practices, raw, painted)
    ]
