"""All steps of the main job in a row: calibrate, train, fit, detect, evaluate, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vsad.calibration import calibrate
from vsad.data import GOOD, MultiViewDataset, list_categories, open_dataset
from vsad.detection import Detector, FrozenNetwork, place, warn_of_extrapolation
from vsad.geometry import Rig
from vsad.metrics import Result
from vsad.models import VALDM, new_model
from vsad.pipeline.config import RunConfig
from vsad.pipeline.detections import Detections, Truth
from vsad.pipeline.parts import BASELINE, Split, changed_model, detect_baseline, deviations_of, fit_detector
from vsad.pipeline.reporting import report_detections
from vsad.pipeline.steps import Images, normal_samples, register_station, write_metrics
from vsad.progress import SILENT, Prefixed, Progress
from vsad.registration import Registration, canonical_rig
from vsad.report import Reconstruction
from vsad.scratch import Samples, Scratch
from vsad.training import Station, check_trainable, learn_encodings, learn_statistics, train, train_vae

RIG, DETECTOR, DETECTIONS, METRICS, REPORT = "rig.json", "detector", "detections", "metrics.json", "report.html"
# The name of the model's own row in the table of metrics.
MAIN = "VSAD"
# Samples whose reconstructions a report shows, at most.
_DRAWN = 6
# What the stages of the model without MVAM and FRM are labeled with.
_PLAIN = "plain"


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
    if config.valdm.conditioning != "none":
        unknown = sorted(set(categories) - set(config.valdm.categories))
        if unknown:
            raise ValueError(
                f"run: model.categories must name every category of {root}, got {list(config.valdm.categories)}; "
                f"add {', '.join(unknown)}"
            )
    network = config.frozen_network()
    folders = {name: out / name if len(categories) > 1 else out for name in categories}
    products = (_Product.of(root, name, folder, config, progress) for name, folder in folders.items())
    results: dict[str, Outcome] = {}
    # Made before the work starts, which it takes long to reach: what is wrong with a model is said at once.
    model = new_model(config.valdm, config.seed)
    check_trainable(model, config.train)
    # A conditioned model learns all categories together; otherwise each has a model of its own, and is done with first.
    for index, group in enumerate([products] if config.valdm.conditioning != "none" else ([p] for p in products)):
        model = new_model(config.valdm, config.seed) if index else model
        results |= _run_together(list(group), model, config, network, progress)
    write_metrics(out / METRICS, {name: outcome.rows[0][1] for name, outcome in results.items()})
    return results


class _Product(NamedTuple):
    """A category, calibrated and registered."""

    category: str
    root: Path
    folder: Path
    normal: MultiViewDataset
    test: MultiViewDataset
    rig: Rig
    registration: Registration | None
    why: str

    @classmethod
    def of(cls, root: Path, category: str, folder: Path, config: RunConfig, progress: Progress) -> _Product:
        normal = normal_samples(root, category, config.size)
        test = open_dataset(root, "test", category=category, size=config.size)
        folder.mkdir(parents=True, exist_ok=True)
        rig, _ = calibrate(normal, graph=config.graph, seed=config.seed, progress=progress)
        rig.save(folder / RIG)
        registration, why = register_station(normal, rig, config.registration, progress)
        return cls(category, root, folder, normal, test, rig, registration, why)

    def split(
        self,
        model: VALDM,
        encoded: Callable[[Iterable[Tensor]], Samples] | None,
        network: FrozenNetwork | None,
        config: RunConfig,
        progress: Progress,
    ) -> Split:
        """The normal samples, encoded."""
        return Split.to_fit(self.normal, self.registration, model, self.rig, progress, encoded, network, config.seed)

    def station(self, model: VALDM, split: Split) -> Station:
        """What is trained on."""
        index = model.config.index_of(self.category)
        return Station(split.latents, canonical_rig(self.rig, self.registration, model.divisor), index)


class _Variant(NamedTuple):
    """A detector, and whether views agree in it; None leaves that to its configuration."""

    detector: Detector
    agree: bool | None = None


def _run_together(
    products: Sequence[_Product], model: VALDM, config: RunConfig, network: FrozenNetwork | None, progress: Progress
) -> dict[str, Outcome]:
    """Train a new model on some products, and judge each."""
    began = time.perf_counter()
    model.to(config.chosen_device)
    if config.vae is not None:
        train_vae(model, Images(*(product.normal for product in products)), config.vae, progress)
    splits = _encode(products, model, network, config, progress)
    train(model, [p.station(model, split) for p, split in zip(products, splits)], config.train, progress)
    plain = None
    if config.ablations:
        plain = changed_model(model, config.seed, align_stages=(), refine=False)
        stations = [p.station(plain, split) for p, split in zip(products, splits)]
        train(plain, stations, config.train, Prefixed(progress, _PLAIN))
    shared_s = time.perf_counter() - began
    return {
        product.category: _judge(product, split, model, plain, config, network, shared_s, progress)
        for product, split in zip(products, splits)
    }


def _encode(
    products: Sequence[_Product], model: VALDM, network: FrozenNetwork | None, config: RunConfig, progress: Progress
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


def _judge(
    product: _Product,
    normal: Split,
    model: VALDM,
    plain: VALDM | None,
    config: RunConfig,
    network: FrozenNetwork | None,
    shared_s: float,
    progress: Progress,
) -> Outcome:
    """Fit detectors to a product, inspect its test samples, measure and report."""
    began = time.perf_counter()
    rig, registration, test = product.rig, product.registration, product.test
    detector = fit_detector(model, rig, normal, registration, config.detector, progress, network, product.category)
    detector.save_pretrained(product.folder / DETECTOR)
    warn_of_extrapolation(detector.fitted)

    variants: dict[str, _Variant] = {MAIN: _Variant(detector)}
    if plain is not None:
        told = Prefixed(progress, _PLAIN)
        unaligned = fit_detector(plain, rig, normal, registration, config.detector, told, network, product.category)
        variants["VSAD without agreement"] = _Variant(detector, agree=False)
        variants["without MVAM and FRM"] = _Variant(unaligned)
        variants["without MVAM, FRM, agreement"] = _Variant(unaligned, agree=False)
    test_set = Split.of(test, registration, model, "encode test", progress, network)
    found = _detect_variants(variants, test, test_set, progress)
    found[MAIN].save(product.folder / DETECTIONS)
    if plain is not None:
        found[BASELINE] = detect_baseline(product.normal, test, config.seed, progress)

    truth = Truth.of(test)
    rows = [(name, found[name].evaluate(truth)) for name in progress.track(found, "evaluate")]
    facts = {"data": str(product.root), "model": config.preset}
    facts["training"] = f"{config.train.steps} steps, seed {config.seed}"
    facts["weights of the levels, latents first"] = ", ".join(f"{weight:g}" for weight in detector.config.weights or ())
    called, good = found[MAIN].false_alarms()
    facts |= {"registration": product.why, "false alarms": f"{called} of {good} good samples"}
    facts["threshold"] = detector.fitted.describe()
    facts["seconds"] = f"{shared_s + time.perf_counter() - began:.0f}"
    with progress.stage("report", 1):
        drawn = _reconstructions(detector, test, test_set) if model.draws else []
        report_detections(product.folder / REPORT, found[MAIN], rows, rig, facts, drawn)
    return Outcome(rows, (called, good), tuple(found[MAIN].warnings()))


@torch.no_grad()
def _reconstructions(detector: Detector, test: MultiViewDataset, split: Split) -> list[Reconstruction]:
    """What the model makes of the first good sample and the first of every kind of defect."""
    kinds: dict[str, int] = {}
    for index, sample in enumerate(test.samples):
        kinds.setdefault(sample.defect or GOOD, index)
    found = []
    for _, index in sorted(kinds.items(), key=lambda kind: kind[0] != GOOD)[:_DRAWN]:
        images = place(test[index]["images"], detector.registration, detector.model.divisor)[0]
        latents = split.latents[index][None]
        drawn = detector.model.reconstruct(latents, detector.canonical_rig, detector.category)[0]
        found.append(
            Reconstruction(f"{test.samples[index].defect}/{test.samples[index].id}", images.cpu(), drawn.cpu())
        )
    return found


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
