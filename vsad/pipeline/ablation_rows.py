"""The rows of an ablation on one station: what they share is made once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vsad.calibration import calibrate
from vsad.data import MultiViewDataset
from vsad.detection import Detection, FrozenNetwork
from vsad.geometry import Rig
from vsad.models import VALDM, new_model
from vsad.pipeline.ablation_changes import CHANGES, ROWS, UNREGISTERED, Change
from vsad.pipeline.ablation_table import LEVELS
from vsad.pipeline.config import RunConfig
from vsad.pipeline.names import BASELINE, MAIN
from vsad.pipeline.parts import Split, changed_model, detect_baseline, deviations_of, fit_detector
from vsad.pipeline.steps import register_station
from vsad.pipeline.tally import Tally
from vsad.progress import SILENT
from vsad.registration import Registration, canonical_rig
from vsad.training import Station, learn_encodings, train


@dataclass
class Rows:
    """The rows of one station, and what they share."""

    normal: MultiViewDataset
    test: MultiViewDataset
    rig: Rig
    registration: Registration | None
    why: str
    network: FrozenNetwork | None
    config: RunConfig
    encoded: dict[bool, tuple[VALDM, Split, Split]] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path, config: RunConfig) -> Rows:
        """Read, calibrate and register a station."""
        normal = config.reading.normal(root, size=config.size)
        test = config.reading.open(root, "test", cameras=normal.cameras)
        rig, _ = calibrate(normal, graph=config.graph, seed=config.seed)
        registration, why = register_station(normal, rig, config.registration)
        network = config.frozen_network()
        return cls(normal, test, rig, registration, why, network, config)

    def measure(self, names: Sequence[str] = ROWS) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and metrics of every row that is named, as soon as it is measured.

        The seconds of a row are those it takes where samples are encoded: training, fitting and detection.
        """
        models: dict[tuple[str, bool], tuple[VALDM, float]] = {}
        measured: dict[str, dict[str, Any]] = {}
        for name in (name for name in ROWS if name in names):
            if name == BASELINE:
                began = time.perf_counter()
                found = [*detect_baseline(self.normal, self.test, self.config.seed)]
                measured[name] = self._judged(found, math.nan, time.perf_counter() - began)
            elif name == UNREGISTERED and self.registration is None and MAIN in measured:
                measured[name] = measured[MAIN]
            else:
                measured[name] = self._row(CHANGES[name], models)
            yield name, measured[name]

    def _row(self, change: Change, models: dict[tuple[str, bool], tuple[VALDM, float]]) -> dict[str, Any]:
        """Train a model as a row changes it, unless an earlier row did, fit a detector to it, detect, and measure."""
        registration = self.registration if change.registered else None
        model, normal, test = self._encoded(registration)
        key = (str(change.model), registration is None)
        if key not in models:
            changed = changed_model(model, self.config.seed, **change.model)
            began = time.perf_counter()
            train(
                changed,
                Station(normal.latents, canonical_rig(self.rig, registration, changed.divisor)),
                self.config.train,
            )
            models[key] = changed, time.perf_counter() - began
        trained, train_s = models[key]
        began = time.perf_counter()
        config = replace(self.config.detector, **change.detector)
        detector = fit_detector(trained, self.rig, normal, registration, config, network=self.network)
        found = [detector.decide(d, p).cpu() for d, p in zip(deviations_of(detector, test), test.placements)]
        return self._judged(found, detector.threshold, train_s + time.perf_counter() - began)

    def _encoded(self, registration: Registration | None) -> tuple[VALDM, Split, Split]:
        """An untrained model that knows the statistics of the latents, and both splits encoded by it; made once."""
        known = self.encoded.get(registration is None)
        if known is not None:
            return known
        model = new_model(self.config.valdm, self.config.seed).to(self.config.chosen_device)
        normal = Split.to_fit(
            self.normal, registration, model, self.rig, SILENT, lambda images: learn_encodings(model, images),
            self.network, self.config.seed,
        )  # fmt: skip
        test = Split.of(self.test, registration, model, "encode test", SILENT, self.network)
        return self.encoded.setdefault(registration is None, (model, normal, test))

    def _judged(self, found: Iterable[Detection], threshold: float, seconds: float) -> dict[str, Any]:
        """The metrics of a row; without a threshold there are no verdicts to count."""
        tally = Tally(self.test.views, threshold)
        for truth, detection in zip(self.test.iter_truth(), found):
            tally.add(truth, detection)
        result = tally.evaluation.result()
        counted = not math.isnan(threshold)
        (alarms, good), (hits, defects) = tally.verdicts.false_alarms(), tally.verdicts.defects_found()
        return {
            **{level: result[level]["auroc"] for level in LEVELS},
            "false_alarms": alarms if counted else None,
            "good": good,
            "defects_found": hits if counted else None,
            "defects": defects,
            "seconds": round(seconds, 1),
        }
