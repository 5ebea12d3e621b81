"""All steps of the main job in a row: calibrate, train, fit, detect, evaluate, report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vsad.detection import Detector, FrozenNetwork
from vsad.files import RunFolder
from vsad.metrics import Intervals, Metrics, Result
from vsad.models import VALDM, new_model
from vsad.models.checks import check_picture_size
from vsad.pipeline.categories import choose_categories
from vsad.pipeline.config import RunConfig
from vsad.pipeline.detections import Detections, Header
from vsad.pipeline.inspection import detector_options, inspect
from vsad.pipeline.learning import learn_autoencoder, resumable
from vsad.pipeline.measuring import Variant, measure, measure_baseline, measure_variants
from vsad.pipeline.names import DETECTIONS, DETECTOR, MAIN, METRICS, REPORT
from vsad.pipeline.opening import size_warnings
from vsad.pipeline.parts import Split, changed_model, fit_detector
from vsad.pipeline.product import RIG, WORK, Data, Product, encode_together
from vsad.pipeline.reporting import reconstructions, report_detections
from vsad.pipeline.stages import Stages, check_free, data_fingerprint
from vsad.pipeline.steps import Images, write_metrics
from vsad.pipeline.tally import VERDICTS, Tally
from vsad.progress import SILENT, Prefixed, Progress
from vsad.training import Station, check_alone, check_trainable, train

# What the stages of the model without MVAM and FRM are labeled with.
_PLAIN = "plain"
# The stage that ends a category.
_OUTCOME = "outcome"


class Outcome(NamedTuple):
    """What a run found on one category.

    Args:
        rows: the named rows of metrics, the model's own first.
        intervals: of the model's own.
        warnings: what was not judged as it should be.
        skipped: samples that could not be read, and why.
    """

    rows: list[tuple[str, Result]]
    intervals: Intervals
    warnings: tuple[str, ...] = ()
    skipped: Mapping[str, str] = {}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Outcome:
        """That of a category which is done, from what was noted of it."""
        rows = [(name, result) for name, result in facts["rows"]]
        return cls(rows, facts["intervals"], tuple(facts["warnings"]), facts["skipped"])

    @property
    def counts(self) -> Metrics:
        """What the threshold calls, as ``count_verdicts`` counts it."""
        return self.rows[0][1][VERDICTS]


def run(
    root: str | Path,
    out: str | Path,
    config: RunConfig,
    progress: Progress = SILENT,
    *,
    categories: Sequence[str] = (),
    fresh: bool = False,
) -> dict[str, Outcome]:
    """Do all steps on categories of a data set, or go on with a run that was interrupted.

    Write ``rig.json``, ``detector/``, ``detections/`` and ``report.html`` (in a folder for each category where there
    are several) and ``metrics.json``, which grows as categories are done.

    Args:
        root: the data set.
        out: folder for everything.
        config: how.
        progress: told of every stage.
        categories: of the data set; none for all.
        fresh: first delete what an earlier run has made in ``out``.

    Returns:
        The outcome of every category.

    Raises:
        OSError: ``out`` cannot be written, or another process writes it.
        ValueError: data or configuration are not what they must be, ``out`` holds another run, or there are several
            processes.
    """
    check_alone("run")
    root, out = Path(root), Path(out)
    chosen, there = choose_categories(root, categories, config)
    network = config.frozen_network()
    model = new_model(config.valdm, config.seed)
    check_trainable(model, config.train)
    # Opened before any work: what is wrong with the last category is said before the first one is begun.
    data = {name: Data.open(root, name, config, progress) for name in chosen}
    for each in data.values():
        check_picture_size(model, each.normal.cameras.size)
    places = {name: f"{name}/" if len(there) > 1 else "" for name in chosen}
    files = [METRICS, *(f"{place}{name}" for place in places.values() for name in (RIG, REPORT))]
    folders = [f"{place}{name}" for place in places.values() for name in (DETECTOR, DETECTIONS, WORK)]
    check_free(out, [*files, *folders])
    with RunFolder.open(
        out, command="run", options={"data": str(root.resolve()), "config": config.facts()}, fresh=fresh
    ) as folder:
        for name in files:
            folder.file(name)
        for place in places.values():
            folder.nested(f"{place}{DETECTIONS}")
            for name in (DETECTOR, WORK):
                folder.subfolder(f"{place}{name}")
        stages = {name: Stages(folder, name, data_fingerprint([d.normal, d.test])) for name, d in data.items()}
        missing = [name for name in chosen if stages[name].facts(_OUTCOME) is None]
        # A conditioned model learns all categories together; otherwise each has a model of its own, and is done first.
        together = config.valdm.conditioning != "none"
        for index, group in enumerate([chosen] * bool(missing) if together else [[name] for name in missing]):
            model = new_model(config.valdm, config.seed) if index else model
            products = [Product.of(data[name], stages[name], folder, places[name], config, progress) for name in group]
            group_run = _GroupRun(folder, products, model, config, network, progress)
            for product in products:
                if product.stages.facts(_OUTCOME) is None:
                    group_run.judge(product)
                    _write_metrics(folder, there)
            for product in products:
                shutil.rmtree(folder.folder / f"{product.folder}{WORK}", ignore_errors=True)
        _write_metrics(folder, there)
        for place in places.values():  # a process may have been killed before it deleted it
            shutil.rmtree(folder.folder / f"{place}{WORK}", ignore_errors=True)
        folder.finish()
        return {name: Outcome.of(stages[name].facts(_OUTCOME) or {}) for name in chosen}


def _write_metrics(folder: RunFolder, categories: Sequence[str]) -> None:
    """Write the metrics of every category that is done, now or in an earlier call."""
    marks = {name: folder.done.get(f"{name}/{_OUTCOME}") for name in categories}
    done = {name: Outcome.of(facts) for name, facts in marks.items() if facts is not None}
    write_metrics(
        folder.file(METRICS),
        {name: outcome.rows[0][1] for name, outcome in done.items()},
        {name: outcome.intervals for name, outcome in done.items()},
    )


class _GroupRun:
    """Products that share a model, which is trained when a product that is not fitted yet is judged."""

    def __init__(
        self,
        run: RunFolder,
        products: Sequence[Product],
        model: VALDM,
        config: RunConfig,
        network: FrozenNetwork | None,
        progress: Progress,
    ) -> None:
        self.run, self.products, self.config = run, products, config
        self.network, self.progress, self.began = network, progress, time.perf_counter()
        self.model = model.to(config.chosen_device)
        self.plain: VALDM | None = None
        self.splits: dict[str, Split] = {}
        if config.ablations or any(product.stages.facts(DETECTOR) is None for product in products):
            self._train()

    def _train(self) -> None:
        config, products = self.config, self.products
        work = self.run.subfolder(f"{products[0].folder}{WORK}")
        normal = Images(*(product.data.normal for product in products))
        learn_autoencoder(self.model, normal, config.vae, work, self.progress)
        splits = encode_together(products, self.model, self.network, config, self.progress)
        self.splits = {product.data.category: split for product, split in zip(products, splits)}
        train(self.model, self._stations(self.model), resumable(config.train), self.progress, folder=work / "training")
        if config.ablations:
            self.plain = changed_model(self.model, config.seed, align_stages=(), refine=False)
            told = Prefixed(self.progress, _PLAIN)
            train(self.plain, self._stations(self.plain), resumable(config.train), told, folder=work / "training-plain")

    def _stations(self, model: VALDM) -> list[Station]:
        return [product.station(model, self.splits[product.data.category]) for product in self.products]

    def judge(self, product: Product) -> None:
        """Fit detectors to a product, inspect its test samples, measure and report."""
        data, run, config, progress = product.data, self.run, self.config, self.progress
        detector = self._fitted(product)
        path = run.folder / f"{product.folder}{DETECTOR}"
        header = Header(data.category, detector.cameras, detector.threshold, detector.fitted.describe())
        where = run.nested(f"{product.folder}{DETECTIONS}")
        with Detections.open(where, header, detector_options(detector, path), detector.rig) as out:
            inspect(detector, data.test, out, progress, batch=detector.config.unet_batch(detector.reach.device),
                    on_bad=(lambda bad: None) if config.skip_bad else None)  # fmt: skip
        detections = Detections.load(where)
        tallies = {MAIN: measure(detections, data.test, progress)}
        if self.plain is not None:
            tallies |= self._variants(product, detector)
        main = tallies[MAIN]
        main.verdicts.usual = detector.unjudged
        rows = [(name, tally.result()) for name, tally in tallies.items()]
        outcome = Outcome(
            rows, main.evaluation.intervals(),
            (*detector.fitted.doubts, *size_warnings(data.test), *main.warnings()), dict(data.reading.skipped),
        )  # fmt: skip
        with progress.stage("report", 1):
            drawn = reconstructions(detector, data.test) if detector.model.draws else []
            report_detections(
                run.file(f"{product.folder}{REPORT}"), detections, data.test, main, rows, product.rig,
                self._facts(product, detector, outcome), drawn, data.reading.skipped,
            )  # fmt: skip
        product.stages.mark(_OUTCOME, **outcome._asdict())

    def _fitted(self, product: Product) -> Detector:
        """The detector of a product, fitted now or before the run was interrupted."""
        path = self.run.subfolder(f"{product.folder}{DETECTOR}")
        facts = product.stages.facts(DETECTOR)
        if facts is not None:
            detector = Detector.from_pretrained(path).to(self.config.chosen_device)
            detector.fitted = detector.fitted._replace(odd=facts.get("odd"))
            return detector
        detector = self._fit(product, self.model, self.progress)
        detector.save_pretrained(path)
        self.run.made(f"{product.folder}{DETECTOR}")
        product.stages.mark(DETECTOR, odd=detector.fitted.odd)
        return detector

    def _fit(self, product: Product, model: VALDM, progress: Progress) -> Detector:
        split, category = self.splits[product.data.category], product.data.category
        detector = fit_detector(
            model, product.rig, split, product.registration, self.config.detector, progress, self.network, category
        )
        detector.cameras = product.data.normal.cameras
        return detector

    def _variants(self, product: Product, detector: Detector) -> dict[str, Tally]:
        """The model without parts of it, and the baseline."""
        assert self.plain is not None
        data, progress = product.data, self.progress
        unaligned = self._fit(product, self.plain, Prefixed(progress, _PLAIN))
        variants = {
            "VSAD without agreement": Variant(detector, agree=False),
            "without MVAM and FRM": Variant(unaligned),
            "without MVAM, FRM, agreement": Variant(unaligned, agree=False),
        }
        tallies = measure_variants(variants, data.test, progress)
        return tallies | measure_baseline(data.normal, data.test, self.config.seed, progress)

    def _facts(self, product: Product, detector: Detector, outcome: Outcome) -> dict[str, str]:
        """What the report says of how it was made."""
        counts = outcome.counts
        depths = {f"{depth} bits" if depth else "floating point" for depth in detector.cameras.depths.values()}
        return {
            "data": str(product.data.root),
            "cameras": f"{detector.rig.size[0]} x {detector.rig.size[1]} pixels (height x width), "
            f"{', '.join(sorted(depths))}",
            "model": self.config.preset,
            "training": f"{self.config.train.steps} steps, seed {self.config.seed}",
            "weights of the levels, latents first": ", ".join(f"{w:g}" for w in detector.config.weights or ()),
            "registration": product.why,
            "called DEFECT": f"{counts['false_alarms']} of {counts['good']} good samples, "
            f"{counts['defects_found']} of {counts['defects']} defective ones",
            "threshold": detector.fitted.describe(),
            "seconds": f"{time.perf_counter() - self.began:.0f}",
        }
