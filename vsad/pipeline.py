"""The steps of the main job, each on its own and all in a row: calibrate, train, fit, detect, evaluate, report."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

import vsad
from vsad.baseline import GaussianBank, gaussian_derivatives
from vsad.calibration import CalibrationReport, calibrate
from vsad.data import GOOD, MultiViewDataset, list_categories, open_dataset
from vsad.detector import Detection, Detector, DetectorConfig
from vsad.metrics import Result, evaluate, summarize
from vsad.models.valdm import PRESETS, VALDM, VALDMConfig
from vsad.report import CalibrationRow, Report, ReportSample, write_report
from vsad.rig import Rig
from vsad.training import TrainConfig, encode, standardize_latents, train

Item = TypeVar("Item")
Track = Callable[[Iterable[Item], int, str], Iterable[Item]]
RIG, MODEL, DETECTOR, DETECTIONS, METRICS, REPORT = (
    "rig.json", "model", "detector", "detections", "metrics.json", "report.html",
)  # fmt: skip


def quiet(items: Iterable[Item], total: int, label: str) -> Iterable[Item]:
    """Show no progress."""
    return items


def normal_samples(root: str | Path, category: str | None = None, size: int | None = None) -> MultiViewDataset:
    """The training split, which must hold normal samples only.

    Raises:
        ValueError: a sample is labeled as defective; the message names it.
    """
    dataset = open_dataset(root, "train", category=category, size=size)
    for sample in dataset.samples:
        if sample.defect != GOOD:
            raise ValueError(
                f"{root}: train must hold normal samples only, got {sample.defect}/{sample.id}; move it to test"
            )
    return dataset


def calibrate_step(
    dataset: MultiViewDataset, *, graph: str = "overlap", samples: int = 8, seed: int = 0, track: Track = quiet
) -> tuple[Rig, CalibrationReport]:
    """Estimate the rig from at most so many normal samples; warns of pairs that cannot be fitted."""
    return calibrate(
        dataset, graph=graph, max_samples=samples, seed=seed,
        progress=lambda items, label, total: track(items, total, label),
    )  # fmt: skip


def new_model(preset: str, seed: int, change: Callable[[VALDMConfig], VALDMConfig] = lambda config: config) -> VALDM:
    """A model with freshly drawn weights."""
    if preset not in PRESETS:
        raise ValueError(f"train: preset must be one of {list(PRESETS)}, got {preset!r}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VALDM(change(PRESETS[preset]()))


def encode_step(model: VALDM, dataset: MultiViewDataset, label: str, track: Track = quiet) -> Tensor:
    """Latents ``(S, V, c, h, w)`` of all samples."""
    images = (dataset[i]["images"] for i in range(len(dataset)))
    return encode(model, track(images, len(dataset), label))


def train_step(model: VALDM, latents: Tensor, rig: Rig, config: TrainConfig, track: Track = quiet) -> None:
    """Train on latents of normal samples."""
    steps = iter(track(range(config.steps), config.steps, "train"))
    next(steps)
    train(model, latents, rig, config, progress=lambda *_: next(steps, None))


class Truth(NamedTuple):
    """What a data set knows of its samples: ``masks (S, V, H, W)``, ``view_labels (S, V)``, ``sample_labels (S,)``."""

    masks: Tensor
    view_labels: Tensor
    sample_labels: Tensor

    @classmethod
    def of(cls, dataset: MultiViewDataset) -> Truth:
        """Read every sample once."""
        rows = [(item["masks"], item["view_labels"], item["sample_label"]) for item in dataset]
        return cls(*(torch.stack(column) for column in zip(*rows)))


@dataclass
class Detections:
    """Detections of a data set's samples, and the truth beside them.

    Args:
        dataset: that was inspected.
        found: one detection for each of its samples.
        threshold: at or above which a sample is defective; NaN when not known.
    """

    dataset: MultiViewDataset
    found: list[Detection] = field(default_factory=list)
    threshold: float = float("nan")

    def evaluate(self, truth: Truth) -> Result:
        """Metrics at pixel, view and sample level."""
        maps, view_scores, sample_scores = (torch.stack(parts) for parts in zip(*self.found))
        return evaluate(maps, truth.masks, view_scores, truth.view_labels, sample_scores, truth.sample_labels)

    def save(self, folder: Path) -> None:
        """Write ``detections.json`` (scores and verdicts) and a float32 ``.npy`` of maps ``(V, H, W)`` a sample."""
        rows = []
        for sample, found in zip(self.dataset.samples, self.found):
            name = f"{sample.defect}_{sample.id}".replace("/", "_")
            (folder / "maps").mkdir(parents=True, exist_ok=True)
            np.save(folder / "maps" / f"{name}.npy", found.maps.numpy())
            score = float(found.sample_score)
            rows.append({
                "id": sample.id, "score": score, "verdict": "defect" if score >= self.threshold else "ok",
                "views": dict(zip(self.dataset.views, found.view_scores.tolist())), "maps": f"maps/{name}.npy",
            })  # fmt: skip
        content = {"category": self.dataset.category, "threshold": self.threshold, "samples": rows}
        (folder / "detections.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, dataset: MultiViewDataset) -> Detections:
        """Read what :meth:`save` wrote, for the same samples.

        Raises:
            FileNotFoundError, ValueError: a file is missing or broken, or the samples are others.
        """
        path = folder / "detections.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: name a folder that `vsad detect` wrote")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            rows = {row["id"]: row for row in content["samples"]}
            found = []
            for sample in dataset.samples:
                row = rows[sample.id]
                maps = torch.from_numpy(np.load(folder / row["maps"]))
                views = torch.tensor([row["views"][view] for view in dataset.views])
                found.append(Detection(maps, views, torch.tensor(row["score"])))
            return cls(dataset, found, float(content["threshold"]))
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(
                f"{path}: must be detections of {dataset.category}, got {error!r}; run `vsad detect` again"
            ) from None


def detect_step(detector: Detector, dataset: MultiViewDataset, track: Track = quiet) -> Detections:
    """Inspect every sample of a data set."""
    result = Detections(dataset, threshold=detector.threshold)
    for index in track(range(len(dataset)), len(dataset), "detect"):
        result.found.append(detector(dataset[index]["images"]))
    return result


def report_step(
    path: Path, detections: Detections, rows: Sequence[tuple[str, Result]], rig: Rig, facts: dict[str, str]
) -> None:
    """Write the HTML report; ``rows`` are named metrics, this run's first."""
    samples = []
    for index, (sample, found) in enumerate(zip(detections.dataset.samples, detections.found)):
        item = detections.dataset[index]
        samples.append(
            ReportSample(
                id=sample.id, images=(item["images"] * 255).round().to(torch.uint8), maps=found.maps,
                view_scores=found.view_scores, sample_score=float(found.sample_score), masks=item["masks"],
                view_labels=item["view_labels"], label=bool(item["sample_label"]),
                defect=None if sample.defect == GOOD else sample.defect, category=sample.category,
            )
        )  # fmt: skip
    pairs = [CalibrationRow(p.target, p.source, p.inliers, p.error_px) for p in rig.pairs]
    machine = {"machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads"}
    title = f"Inspection of {detections.dataset.category}"
    write_report(
        path,
        Report(
            title, detections.dataset.views, samples, detections.threshold, metrics=list(rows), calibration=pairs,
            facts={**facts, **machine, "vsad": vsad.__version__, "date": time.strftime("%Y-%m-%d %H:%M")},
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class RunConfig:
    """What :func:`run` does.

    Args:
        preset: of the model.
        size: side that images are resized to; None keeps them as they are.
        graph: of the rig: "overlap", "ring" or "star".
        train, detector: of those steps.
        ablations: whether the same model without alignment and a plain bank are measured beside it.
        seed: of everything.
    """

    preset: str = "tiny"
    size: int | None = None
    graph: str = "overlap"
    train: TrainConfig = field(default_factory=TrainConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    ablations: bool = False
    seed: int = 0


def run(
    root: str | Path, out: str | Path, config: RunConfig, track: Track = quiet
) -> dict[str, list[tuple[str, Result]]]:
    """Do all steps on every category of a data set.

    Writes ``rig.json``, ``detector/``, ``detections/`` and ``report.html`` (in a folder for each category where there
    are several) and ``metrics.json``.

    Returns:
        By category, the named rows of metrics, the model's own first.
    """
    root, out = Path(root), Path(out)
    categories = list_categories(root)
    results = {}
    for category in categories:
        folder = out / category if len(categories) > 1 else out
        folder.mkdir(parents=True, exist_ok=True)
        results[category] = _run_category(root, category, folder, config, track)
    write_metrics(out / METRICS, {name: rows[0][1] for name, rows in results.items()})
    return results


def write_metrics(path: Path, results: dict[str, Result]) -> None:
    """Write ``{"categories": {name: {"pixel", "view", "sample"}}, "mean": {...}}``."""
    path.write_text(json.dumps(summarize(results), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _run_category(root: Path, category: str, folder: Path, config: RunConfig, track: Track) -> list[tuple[str, Result]]:
    began = time.perf_counter()
    normal = normal_samples(root, category, config.size)
    test = open_dataset(root, "test", category=category, size=config.size)
    rig, _ = calibrate_step(normal, graph=config.graph, seed=config.seed, track=track)
    rig.save(folder / RIG)

    model = new_model(config.preset, config.seed)
    raw, raw_test = (
        encode_step(model, data, f"encode {name}", track) for data, name in ((normal, "train"), (test, "test"))
    )
    latents = standardize_latents(model, raw)
    train_step(model, latents, rig, config.train, track)
    detector = Detector.fit(model, rig, latents, config.detector, track=track)
    detector.save_pretrained(folder / DETECTOR)

    test_latents = (raw_test - model.latent_mean) / model.latent_deviation  # what encode gives from now on
    variants: dict[str, tuple[Detector, bool | None]] = {"VSAD": (detector, None)}
    if config.ablations:
        variants["VSAD without agreement"] = (detector, False)
        plain = _without_alignment(model, config)
        train_step(plain, latents, rig, config.train, track)
        unaligned = Detector.fit(plain, rig, latents, config.detector, track=track)
        variants["without MVAM and FRM"] = (unaligned, None)
        variants["without MVAM, FRM, agreement"] = (unaligned, False)
    found = _detect_variants(variants, test, test_latents, track)
    found["VSAD"].save(folder / DETECTIONS)
    if config.ablations:
        found["Gaussian derivatives, plain bank"] = _detect_baseline(normal, test, config.seed, track)
    truth = Truth.of(test)
    rows = [(name, detections.evaluate(truth)) for name, detections in track(found.items(), len(found), "evaluate")]
    facts = {"data": str(root), "model": config.preset, "training": f"{config.train.steps} steps, seed {config.seed}"}
    facts["seconds"] = f"{time.perf_counter() - began:.0f}"
    for detections in track([found["VSAD"]], 1, "report"):
        report_step(folder / REPORT, detections, rows, rig, facts)
    return rows


def _without_alignment(model: VALDM, config: RunConfig) -> VALDM:
    """The same model without MVAM and FRM, not trained yet; its latents are standardized as the model's are."""
    plain = new_model(config.preset, config.seed, lambda c: replace(c, align_stages=(), refine=False))
    plain.latent_mean.copy_(model.latent_mean)
    plain.latent_deviation.copy_(model.latent_deviation)
    return plain


def _detect_variants(
    variants: dict[str, tuple[Detector, bool | None]], dataset: MultiViewDataset, latents: Tensor, track: Track
) -> dict[str, Detections]:
    """Detections of every variant (detector, whether views agree); each detector looks once at each sample."""
    found = {name: Detections(dataset, threshold=detector.threshold) for name, (detector, _) in variants.items()}
    detectors = dict.fromkeys(detector for detector, _ in variants.values())
    for sample in track(latents, len(latents), "detect"):
        for detector in detectors:
            deviations = detector.deviations(sample[None])
            for name, (other, agree) in variants.items():
                if other is detector:
                    found[name].found.append(detector.decide(deviations, agree))
    return found


@torch.no_grad()
def _detect_baseline(normal: MultiViewDataset, test: MultiViewDataset, seed: int, track: Track) -> Detections:
    features = [gaussian_derivatives(normal[i]["images"]) for i in track(range(len(normal)), len(normal), "baseline")]
    (bank,) = (GaussianBank(f, seed=seed) for f in track([torch.stack(features)], 1, "baseline, bank"))
    result = Detections(test)
    for index in track(range(len(test)), len(test), "baseline, detect"):
        result.found.append(bank(test[index]["images"]))
    return result


def describe(rows: Sequence[tuple[str, Result]]) -> list[dict[str, Any]]:
    """The rows of the closing table."""
    columns = (("sample", "auroc"), ("view", "auroc"), ("pixel", "auroc"), ("pixel", "ap"), ("pixel", "aupro"))
    return [
        {"name": name, **{f"{level} {metric}": result[level][metric] for level, metric in columns}}
        for name, result in rows
    ]
