"""All steps of the main job in a row: calibrate, train, fit, detect, evaluate, report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from vsad.calibration import calibrate
from vsad.data import MultiViewDataset, list_categories, open_dataset
from vsad.detection import Detector, FrozenNetwork, load_network, warn_of_extrapolation
from vsad.evaluation import Result
from vsad.models import new_model
from vsad.pipeline.config import RunConfig
from vsad.pipeline.detections import Detections, Truth
from vsad.pipeline.parts import BASELINE, Split, changed_model, detect_baseline, deviations_of, fit_detector
from vsad.pipeline.steps import normal_samples, register_station, report_detections, write_metrics
from vsad.progress import SILENT, Progress
from vsad.registration import canonical_rig
from vsad.training import Station, encode, learn_latents, train

RIG, DETECTOR, DETECTIONS, METRICS, REPORT = "rig.json", "detector", "detections", "metrics.json", "report.html"
# The name of the model's own row in the table of metrics.
MAIN = "VSAD"


class Outcome(NamedTuple):
    """What a run found on one category.

    Args:
        rows: the named rows of metrics, the model's own first.
        false_alarms: how many of the good test samples were called defective, and how many there were.
        warnings: what was not judged as it should be.
    """

    rows: list[tuple[str, Result]]
    false_alarms: tuple[int, int]
    warnings: tuple[str, ...] = ()


def run(root: str | Path, out: str | Path, config: RunConfig, progress: Progress = SILENT) -> dict[str, Outcome]:
    """Do all steps on every category of a data set.

    Write ``rig.json``, ``detector/``, ``detections/`` and ``report.html`` (in a folder for each category where there
    are several) and ``metrics.json``.

    Returns:
        The outcome of every category.
    """
    root, out = Path(root), Path(out)
    categories = list_categories(root)
    network = None if config.network is None else load_network(config.network).to(config.chosen_device)
    results = {}
    for category in categories:
        folder = out / category if len(categories) > 1 else out
        folder.mkdir(parents=True, exist_ok=True)
        results[category] = _run_category(root, category, folder, config, network, progress)
    write_metrics(out / METRICS, {name: outcome.rows[0][1] for name, outcome in results.items()})
    return results


class _Variant(NamedTuple):
    """A detector, and whether views agree in it; None leaves that to its configuration."""

    detector: Detector
    agree: bool | None = None


def _run_category(
    root: Path, category: str, folder: Path, config: RunConfig, network: FrozenNetwork | None, progress: Progress
) -> Outcome:
    began = time.perf_counter()
    normal = normal_samples(root, category, config.size)
    test = open_dataset(root, "test", category=category, size=config.size)
    rig, _ = calibrate(normal, graph=config.graph, seed=config.seed, progress=progress)
    rig.save(folder / RIG)

    registration, why = register_station(normal, rig, config.registration, progress)
    model = new_model(config.valdm, config.seed).to(config.chosen_device)
    train_set = Split.to_fit(
        normal, registration, model, rig, progress, lambda images: learn_latents(model, images), network, config.seed
    )
    test_set = Split.of(test, registration, "encode test", progress, lambda images: encode(model, images), network)
    canonical = canonical_rig(rig, registration)
    train(model, Station(train_set.latents, canonical), config.train, progress)
    detector = fit_detector(model, rig, train_set, registration, config.detector, progress, network)
    detector.save_pretrained(folder / DETECTOR)
    warn_of_extrapolation(detector.fitted)

    variants: dict[str, _Variant] = {MAIN: _Variant(detector)}
    if config.ablations:
        plain = changed_model(model, config.seed, align_stages=(), refine=False)
        train(plain, Station(train_set.latents, canonical), config.train, progress)
        unaligned = fit_detector(plain, rig, train_set, registration, config.detector, progress, network)
        variants["VSAD without agreement"] = _Variant(detector, agree=False)
        variants["without MVAM and FRM"] = _Variant(unaligned)
        variants["without MVAM, FRM, agreement"] = _Variant(unaligned, agree=False)
    found = _detect_variants(variants, test, test_set, progress)
    found[MAIN].save(folder / DETECTIONS)
    if config.ablations:
        found[BASELINE] = detect_baseline(normal, test, config.seed, progress)

    truth = Truth.of(test)
    rows = [(name, found[name].evaluate(truth)) for name in progress.track(found, "evaluate")]
    facts = {"data": str(root), "model": config.preset, "training": f"{config.train.steps} steps, seed {config.seed}"}
    facts["weights of the levels, latents first"] = ", ".join(f"{weight:g}" for weight in detector.config.weights or ())
    called, good = found[MAIN].false_alarms()
    facts |= {"registration": why, "false alarms": f"{called} of {good} good samples"}
    facts["threshold"] = detector.fitted.describe()
    facts["seconds"] = f"{time.perf_counter() - began:.0f}"
    with progress.stage("report", 1):
        report_detections(folder / REPORT, found[MAIN], rows, rig, facts)
    return Outcome(rows, (called, good), tuple(found[MAIN].warnings()))


def _detect_variants(
    variants: dict[str, _Variant], dataset: MultiViewDataset, split: Split, progress: Progress
) -> dict[str, Detections]:
    """Detections of every variant; each detector looks once at each sample."""
    found = {name: Detections(dataset, threshold=v.detector.threshold) for name, v in variants.items()}
    detectors = list(dict.fromkeys(v.detector for v in variants.values()))
    # The first alone reports: zip asks it first, so it alone comes to its end.
    each = zip(*(deviations_of(d, split, progress if d is detectors[0] else SILENT) for d in detectors))
    for parts, placement in zip(each, split.placements):
        deviations = dict(zip(detectors, parts))
        for name, v in variants.items():
            found[name].found.append(v.detector.decide(deviations[v.detector], placement, v.agree).cpu())
    return found
