"""Commands that inspect products and measure how well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from vsad.cli.app import app
from vsad.cli.options import (
    Category,
    Data,
    Device,
    Size,
    load_rig,
)
from vsad.terminal import Bars, console, show_false_alarms, show_table, show_warnings


@app.command()
def detect(
    data: Data,
    detector: Annotated[Path, typer.Option(help="Folder that `vsad fit` wrote.")] = Path("detector"),
    out: Annotated[Path, typer.Option(help="Folder for scores, verdicts and maps.")] = Path("detections"),
    category: Category = None,
    size: Size = None,
    device: Device = None,
) -> None:
    """Inspect the test samples."""
    from vsad.data import open_dataset
    from vsad.detection import Detector
    from vsad.pipeline import choose_device, detect_all

    inspector = Detector.from_pretrained(detector).to(choose_device(device))
    dataset = open_dataset(data, "test", category=category, size=size)
    with Bars() as bars:
        result = detect_all(inspector, dataset, bars)
    result.save(out)
    table = Table("sample", "score", "verdict")
    for sample, found in zip(dataset.samples, result.found):
        score = float(found.sample_score)
        table.add_row(sample.id, f"{score:.2f}", "DEFECT" if score >= result.threshold else "ok")
    console.print(table)
    show_warnings([*result.warnings()])
    show_false_alarms(*result.false_alarms())
    print(out)


@app.command(name="eval")
def evaluate(
    data: Data,
    detections: Annotated[Path, typer.Option(help="Folder that `vsad detect` wrote.")] = Path("detections"),
    rig: Annotated[Path, typer.Option(help="Rig, for the report.")] = Path("rig.json"),
    out: Annotated[Path, typer.Option(help="Folder for metrics.json and report.html.")] = Path("."),
    category: Category = None,
    size: Size = None,
) -> None:
    """Measure detections against the truth; write metrics.json and report.html."""
    from vsad.data import open_dataset
    from vsad.pipeline import METRICS, REPORT, Detections, Truth, metrics_table, report_detections, write_metrics

    dataset = open_dataset(data, "test", category=category, size=size)
    found = Detections.load(detections, dataset)
    rows = [("VSAD", found.evaluate(Truth.of(dataset)))]
    write_metrics(out / METRICS, {dataset.category: rows[0][1]})
    report_detections(out / REPORT, found, rows, load_rig(rig, size), {"data": str(data)})
    show_table(metrics_table(rows))
    print(out / REPORT)
