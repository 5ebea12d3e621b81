"""The rows of an ablation on one station: what they share is made once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vsad.calibration import calibrate
from vsad.data import MultiViewDataset, open_dataset
from vsad.detection import DetectorConfig, FrozenNetwork, load_network
from vsad.geometry import Rig
from vsad.models import VALDM, new_model
from vsad.pipeline.ablation_table import LEVELS
from vsad.pipeline.config import RunConfig
from vsad.pipeline.detections import Detections, Truth
from vsad.pipeline.parts import BASELINE, Split, changed_model, detect_baseline, deviations_of, fit_detector
from vsad.pipeline.run import MAIN
from vsad.pipeline.steps import normal_samples, register_station
from vsad.progress import SILENT
from vsad.registration import Registration, canonical_rig
from vsad.training import encode, learn_latents, train

UNREGISTERED, DISAGREEING, LATENTS = "without registration", "without agreement", "latents alone"
PROTOTYPES = "prototypes"
# The models that are trained beside the full one, by what is changed in their configuration.
MODELS: dict[str, dict[str, Any]] = {
    "without MVAM": {"align_stages": ()},
    "without FRM": {"refine": False},
    "without MVAM and FRM": {"align_stages": (), "refine": False},
}
ROWS = (MAIN, UNREGISTERED, DISAGREEING, LATENTS, *MODELS, PROTOTYPES, BASELINE)


@dataclass
class Rows:
    """The rows of one station, and what they share."""

    normal: MultiViewDataset
    test: MultiViewDataset
    truth: Truth
    rig: Rig
    registration: Registration | None
    why: str
    network: FrozenNetwork | None
    config: RunConfig

    @classmethod
    def of(cls, root: Path, config: RunConfig) -> Rows:
        """Read, calibrate and register a station."""
        normal = normal_samples(root, size=config.size)
        test = open_dataset(root, "test", size=config.size)
        rig, _ = calibrate(normal, graph=config.graph, seed=config.seed)
        registration, why = register_station(normal, rig, config.registration)
        network = None if config.network is None else load_network(config.network).to(config.chosen_device)
        return cls(normal, test, Truth.of(test), rig, registration, why, network, config)

    def measure(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and metrics of every row, as soon as it is measured.

        The seconds of a row are those it takes where samples are encoded: training, fitting and detection.
        """
        config, detector = self.config, self.config.detector
        model, normal, test = self._encoded(self.registration)
        train_s = self._train(model, normal, self.registration)
        full = self._row(model, normal, test, detector, self.registration, train_s)
        yield MAIN, full
        # Fitted anew and not only decided anew: the threshold must rest on scores without agreement too.
        alone = replace(detector, agree=False)
        yield DISAGREEING, self._row(model, normal, test, alone, self.registration, train_s)
        first = replace(detector, weights=(1.0, 0.0))
        yield LATENTS, self._row(model, normal, test, first, self.registration, train_s)
        bank = replace(detector, memory="prototypes")
        yield PROTOTYPES, self._row(model, normal, test, bank, self.registration, train_s)

        for name, changes in MODELS.items():
            changed = changed_model(model, config.seed, **changes)
            changed_s = self._train(changed, normal, self.registration)
            yield name, self._row(changed, normal, test, detector, self.registration, changed_s)

        if self.registration is None:
            yield UNREGISTERED, full
        else:
            model, normal, test = self._encoded(None)
            train_s = self._train(model, normal, None)
            yield UNREGISTERED, self._row(model, normal, test, detector, None, train_s)

        began = time.perf_counter()
        found = detect_baseline(self.normal, self.test, config.seed)
        yield BASELINE, self._judged(found, time.perf_counter() - began)

    def _encoded(self, registration: Registration | None) -> tuple[VALDM, Split, Split]:
        """An untrained model that knows the statistics of the latents, and both splits encoded by it."""
        model = new_model(self.config.valdm, self.config.seed).to(self.config.chosen_device)
        normal = Split.to_fit(
            self.normal, registration, model, self.rig, SILENT, lambda images: learn_latents(model, images),
            self.network, self.config.seed,
        )  # fmt: skip
        test = Split.of(
            self.test, registration, "encode test", SILENT, lambda images: encode(model, images), self.network
        )
        return model, normal, test

    def _train(self, model: VALDM, normal: Split, registration: Registration | None) -> float:
        """Train a model; returns the seconds."""
        began = time.perf_counter()
        train(model, normal.latents, canonical_rig(self.rig, registration), self.config.train)
        return time.perf_counter() - began

    def _row(
        self,
        model: VALDM,
        normal: Split,
        test: Split,
        config: DetectorConfig,
        registration: Registration | None,
        train_s: float,
    ) -> dict[str, Any]:
        """Fit a detector to a trained model, detect, and measure."""
        began = time.perf_counter()
        detector = fit_detector(model, self.rig, normal, registration, config, network=self.network)
        found = [detector.decide(d, p).cpu() for d, p in zip(deviations_of(detector, test), test.placements)]
        seconds = train_s + time.perf_counter() - began
        return self._judged(Detections(self.test, found, detector.threshold), seconds)

    def _judged(self, found: Detections, seconds: float) -> dict[str, Any]:
        """The metrics of a row; without a threshold there are no verdicts to count."""
        result = found.evaluate(self.truth)
        counted = not math.isnan(found.threshold)
        (alarms, good), (hits, defects) = found.false_alarms(), found.defects_found()
        return {
            **{level: result[level]["auroc"] for level in LEVELS},
            "false_alarms": alarms if counted else None,
            "good": good,
            "defects_found": hits if counted else None,
            "defects": defects,
            "seconds": round(seconds, 1),
        }
