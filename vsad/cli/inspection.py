"""Commands that inspect products and measure how well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vsad.cli.app import app
from vsad.cli.options import (
    Category,
    Data,
    Depth,
    Device,
    Format,
    Fresh,
    PixelLimit,
    Quiet,
    SkipBad,
    Threads,
    check_detector,
    check_inspected,
    check_out,
)
from vsad.terminal import (
    Bars,
    error,
    print_line,
    say,
    show_called,
    show_skipped,
    show_table,
    show_verdicts,
    show_warnings,
    until_asked_to_end,
)

if TYPE_CHECKING:
    from vsad.detection import Detector, Threshold
    from vsad.pipeline import Header, Reading, SampleRecord

# What the command ends with where some samples could not be inspected, and where a defect was found, if that is asked.
BAD, NG = 3, 4

DetectorFolder = Annotated[Path, typer.Option(help="Folder that `vsad fit` wrote.")]
Network = Annotated[
    str | None,
    typer.Option(help="The detector's frozen networks, where MODULE:FUNCTION of your own is among them: it is run."),
]
Maps = Annotated[bool, typer.Option(help="Write the scores of every pixel, as 16-bit pictures.")]
Overlays = Annotated[bool, typer.Option(help="Write pictures with the scores over them.")]
Json = Annotated[bool, typer.Option("--json", help="Print what is found as JSON, a line for each sample, and no more.")]


@app.command()
def detect(
    data: Annotated[
        list[Path],
        typer.Argument(help="Data set, whose test split is inspected; or new samples: folders, patterns, images."),
    ],
    detector: DetectorFolder = Path("detector"),
    out: Annotated[Path, typer.Option(help="Folder for scores, verdicts, maps and overlays.")] = Path("detections"),
    category: Category = None,
    network: Network = None,
    device: Device = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples at once.", show_default="1, on a GPU 8")] = None,
    maps: Maps = True,
    overlays: Overlays = True,
    as_json: Json = False,
    fail_on_ng: Annotated[bool, typer.Option("--fail-on-ng", help=f"End with {NG} where a defect is found.")] = False,
    format: Format = None,
    depth: Depth = None,
    pixel_limit: PixelLimit = None,
    fresh: Fresh = False,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Inspect test samples or new ones; no labels are needed. A folder that holds others gets these too.

    Ends with 0 where all samples were inspected, with 1 where none could be, with 3 where some could not.
    """
    check_out(out, *data, used=detector, command="detect")
    check_detector(detector, device)
    check_inspected(data, category, format)

    from vsad.pipeline import Detections, Reading, detector_options, inspect, size_warnings

    inspector = _load(detector, network, device)
    dataset, incomplete = _to_inspect(data, inspector, category, Reading(format, depth, pixel_limit))
    show_warnings([*_unknown_rate(inspector.fitted), *size_warnings(dataset)])
    header = _header(inspector, dataset.category, maps, overlays)
    bad = dict(incomplete)

    def found(record: SampleRecord) -> None:
        if as_json:
            print_line(record.line)

    with (
        Bars() as bars,
        Detections.open(out, header, detector_options(inspector, detector), inspector.rig, fresh=fresh) as results,
    ):
        for name, reason in incomplete.items():
            results.leave_out(name, reason)
        now = inspect(
            inspector, dataset, results, bars, batch=batch or inspector.config.unet_batch(inspector.reach.device),
            on_found=found, on_bad=lambda each: bad.__setitem__(each.sample.id, each.reason),
        )  # fmt: skip
    verdicts = results.verdicts_of(sample.id for sample in dataset.samples)
    verdicts.usual = inspector.unjudged
    if not as_json:
        show_verdicts(verdicts)
    show_warnings([*verdicts.warnings()])
    show_called(verdicts)
    for name, reason in bad.items():
        error(f"{name} was not inspected: {reason}")
    before, others = len(verdicts.found) - now, len(results.rows) - len(verdicts.found)
    if before:
        say(f"{before} of {len(verdicts.found)} samples were inspected before, and not again; --fresh begins anew")
    if others:
        say(f"{out} also holds samples of other inspections, {others} in all; --fresh begins anew")
    if not as_json:
        print_line(out)
    if bad:
        raise typer.Exit(BAD if verdicts.found else 1)
    if fail_on_ng and any(verdict.defect for verdict in verdicts.found):
        raise typer.Exit(NG)


@app.command()
def watch(
    folder: Annotated[Path, typer.Argument(help="Folder in which samples arrive.")],
    detector: DetectorFolder = Path("detector"),
    out: Annotated[Path, typer.Option(help="Folder for scores, verdicts, maps, overlays and log.jsonl.")] = Path(
        "inspected"
    ),
    network: Network = None,
    device: Device = None,
    maps: Maps = True,
    overlays: Overlays = True,
    as_json: Json = False,
    settle: Annotated[float, typer.Option(min=0.0, help="Seconds for which files must not have changed.")] = 0.5,
    patience: Annotated[
        float, typer.Option(min=0.0, help="Seconds to wait for a view that is missing, or a file that cannot be read.")
    ] = 10.0,
    depth: Depth = None,
    pixel_limit: PixelLimit = None,
    fresh: Fresh = False,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Inspect samples as they arrive in a folder, each once all of its views are there; Ctrl-C ends it.

    A sample that stays without a view, or cannot be read, is named, also in the log and in detections.json. Started
    again, it goes on: what is done is not inspected again.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} must be a folder in which samples arrive; make it")
    check_out(out, folder, used=detector, command="detect")
    check_detector(detector, device)

    from watchfiles import watch as changes

    from vsad.pipeline import Detections, Log, Watcher, detector_options

    inspector = _load(detector, network, device)
    show_warnings(_unknown_rate(inspector.fitted))
    options = detector_options(inspector, detector)
    with (
        until_asked_to_end() as asked,
        Detections.open(out, _header(inspector, "", maps, overlays), options, inspector.rig, fresh=fresh) as results,
    ):
        log, inspected = Log(results.own("log.jsonl")), dict[str, None]()

        def found(record: SampleRecord) -> None:
            line = log.found(record)
            inspected[record.id] = None
            print_line(line if as_json else f"{record.id}: {record.verdict.upper()}, score {record.score:.3g}")
            show_warnings(results.warnings_of(record))

        def say_bad(name: str, reason: str) -> None:
            log.bad(name, reason)
            error(f"{name} was not inspected: {reason}")

        say(f"watching {folder}; Ctrl-C ends it")
        pause_ms = max(50, int(1000 * settle))
        looks = changes(folder, watch_filter=None, yield_on_timeout=True, rust_timeout=pause_ms, step=50,
                        stop_event=asked, ignore_permission_denied=True)  # fmt: skip
        Watcher(folder, inspector, results, found, say_bad, error, log.kept, settle, patience, depth, pixel_limit).run(
            looks
        )
    if inspected:
        show_called(results.verdicts_of(inspected))
    else:
        say("no sample was inspected")
    if not as_json:
        print_line(out)


@app.command()
def threshold(
    detections: Annotated[Path, typer.Argument(help="Folder that `vsad detect` wrote.")] = Path("detections"),
    false_alarms: Annotated[
        float | None, typer.Option(help="From the good samples: the share that may be called defective.")
    ] = None,
    f1_max: Annotated[bool, typer.Option("--f1-max", help="From labeled samples: where F1 is best.")] = False,
    value: Annotated[float | None, typer.Option(help="The threshold itself.")] = None,
    detector: Annotated[Path | None, typer.Option(help="Detector that shall use it from now on too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the threshold as JSON, and no more.")] = False,
    quiet: Quiet = False,
) -> None:
    """Choose another threshold for samples that were inspected, and decide them anew, without inspecting again.

    Verdicts need no maps. Regions and overlays do: of samples without maps (--no-maps) they are left out.
    """
    if sum((false_alarms is not None, f1_max, value is not None)) != 1:
        raise ValueError("threshold: must be chosen by one of --false-alarms, --f1-max and --value; give one of them")
    from vsad.detection.detector_file import CONFIG, read_detector_config
    from vsad.files import check_writable
    from vsad.pipeline import read_detections
    from vsad.pipeline.choice import check_rate, check_value

    if false_alarms is not None:
        check_rate(false_alarms)
    if value is not None:
        check_value(value)
    read_detections(detections)
    if detector is not None:  # before anything is changed
        read_detector_config(detector / CONFIG)
        check_writable(detector / CONFIG, "file")

    from vsad.detection import change_threshold
    from vsad.pipeline import (
        Detections,
        count_verdicts,
        decide_anew,
        threshold_at,
        threshold_for_rate,
        threshold_of_best_f1,
    )

    found = Detections.load(detections)
    if false_alarms is not None:
        made, how = threshold_for_rate(found, false_alarms), f"for {false_alarms:.1%} false alarms"
    elif f1_max:
        made, how = threshold_of_best_f1(found), "where F1 is best"
    else:
        made, how = threshold_at(found, value or 0.0), "as given"
    with Bars() as bars:
        verdicts = decide_anew(detections, made, f"{how}: {made.describe()}", bars).verdicts
    if detector is not None:
        change_threshold(detector, made)
    show_warnings(made.doubts)
    if as_json:
        print_line(json.dumps(count_verdicts(verdicts)))
        return
    say(f"threshold {how}: {made.describe()}; a report of `vsad eval` shows the one before until it is written anew")
    show_called(verdicts)
    print_line(f"{made.value:.6g}")


@app.command(name="eval")
def evaluate(
    data: Data,
    detections: Annotated[Path, typer.Option(help="Folder that `vsad detect` wrote.")] = Path("detections"),
    out: Annotated[Path, typer.Option(help="Folder for metrics.json and report.html.")] = Path("."),
    category: Category = None,
    format: Format = None,
    depth: Depth = None,
    pixel_limit: PixelLimit = None,
    skip_bad: SkipBad = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON, and no more.")] = False,
    quiet: Quiet = False,
) -> None:
    """Measure detections against the truth; write metrics.json and report.html."""
    from vsad.data import choose_category
    from vsad.files import check_writable
    from vsad.pipeline import METRICS, REPORT, read_detections

    for name in (METRICS, REPORT):
        check_writable(out / name, "file")
    read_detections(detections)
    choose_category(data, category, format=format, split="test")

    from vsad.pipeline import Detections, Reading, measure, metrics_table, report_detections, write_metrics

    reading = Reading(format, depth, pixel_limit, skip_bad)
    found = Detections.load(detections)
    with Bars() as bars:
        dataset = reading.open(data, "test", category=category, cameras=found.header.cameras, progress=bars)
        tally = measure(found, dataset, bars)
        rows = [("VSAD", tally.result())]
        write_metrics(out / METRICS, {dataset.category: rows[0][1]}, {dataset.category: tally.evaluation.intervals()})
        facts = {"data": str(data), "threshold": found.header.chosen}
        with bars.stage("report", 1):
            report_detections(out / REPORT, found, dataset, tally, rows, found.rig, facts, skipped=reading.skipped)
    if as_json:
        print_line(json.dumps(rows[0][1]))
        return
    show_table(metrics_table(rows))
    say(f"threshold {found.header.chosen}")
    show_called(tally.verdicts)
    show_skipped(reading.skipped)
    show_warnings([*tally.warnings()])
    print_line(out / REPORT)


def _load(folder: Path, network: str | None, device: str | None) -> Detector:
    from vsad.detection import Detector, load_network
    from vsad.pipeline import choose_device

    chosen = choose_device(device)
    return Detector.from_pretrained(folder, network=None if network is None else load_network(network)).to(chosen)


def _unknown_rate(threshold: Threshold) -> list[str]:
    """Say again, to whoever inspects, that nothing is known of how many good products a detector will reject."""
    return [] if threshold.known or threshold.doubt is None else [threshold.doubt]


def _header(detector: Detector, category: str, maps: bool, overlays: bool) -> Header:
    from vsad.pipeline import Header

    return Header(category, detector.cameras, detector.threshold, detector.fitted.describe(), maps, overlays)


def _to_inspect(
    data: list[Path], detector: Detector, category: str | None, reading: Reading
) -> tuple[Any, dict[str, str]]:
    """The samples that are named, and those of them that cannot be inspected, with the reason."""
    from vsad.data import MultiViewDataset, is_data_set, new_samples, open_dataset
    from vsad.data.new_samples import why_unknown

    if len(data) == 1 and (reading.format is not None or is_data_set(data[0])):
        broken: dict[str, str] = {}
        dataset = open_dataset(
            data[0], "test", category=category, format=reading.format, cameras=detector.cameras, depth=reading.depth,
            pixel_limit=reading.pixel_limit, on_bad=broken.__setitem__,
        )  # fmt: skip
        return dataset, broken
    if category is not None:
        raise ValueError(f"--category: must go with a data set of several products, got {category}; leave it out")
    found = new_samples(data, detector.rig.views)
    wrong = {name: f"there is no image of {', '.join(views)}" for name, views in found.incomplete.items()}
    wrong |= found.ambiguous
    if not found.complete:
        first = "; ".join(f"{name}: {why}" for name, why in [*wrong.items()][:3])
        raise ValueError(
            f"{data[0]}: must hold a sample with images of {', '.join(detector.rig.views)}, got none"
            f"{f' ({first})' if first else ''}; name images <sample>/<view>.png or <sample>_<view>.png"
        )
    show_skipped({str(path): why_unknown(path, detector.rig.views) for path in found.unknown})
    dataset = MultiViewDataset(
        found.complete, cameras=detector.cameras, depth=reading.depth, pixel_limit=reading.pixel_limit
    )
    return dataset, wrong
