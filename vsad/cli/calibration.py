"""The command that finds how a station's cameras see each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vsad.cli.app import app
from vsad.cli.options import (
    READ,
    Category,
    Changes,
    Data,
    Depth,
    File,
    Format,
    Graph,
    PixelLimit,
    Quiet,
    Seed,
    Size,
    SkipBad,
    Threads,
    chosen,
)
from vsad.terminal import Bars, ListCommand, console, say, show_skipped

if TYPE_CHECKING:
    from vsad.calibration import CalibrationReport
    from vsad.data import MultiViewDataset
    from vsad.pipeline import Reading

# Columns that a narrow terminal goes without, the least first.
_DISPENSABLE = ("found by", "overlap", "agree", "mirror")


@app.command(cls=ListCommand)
def calibrate(
    data: Data,
    out: Annotated[Path, typer.Option(help="The rig's JSON file, written anew.")] = Path("rig.json"),
    category: Category = None,
    size: Size = None,
    graph: Graph = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples to pool matches over.")] = 8,
    features: Annotated[
        str, typer.Option(help="sift, akaze or orb; auto takes the next where those before fit no pair.")
    ] = "auto",
    chessboard: Annotated[
        str | None,
        typer.Option(
            help="Inner corners of a chessboard, such as 9x6, that lies where products lie: DATA then holds a folder "
            "of views for each sample, or the views of one."
        ),
    ] = None,
    mirrored: Annotated[
        list[str] | None, typer.Option(help="Views that see in a mirror, which a chessboard does not tell.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for pictures of the matches, and of views before and after alignment.")
    ] = None,
    seed: Seed = None,
    format: Format = None,
    depth: Depth = None,
    pixel_limit: PixelLimit = None,
    skip_bad: SkipBad = False,
    threads: Threads = None,
    quiet: Quiet = False,
    file: File = None,
    changes: Changes = None,
) -> None:
    """Estimate the homographies between the cameras from normal images, or from those of a chessboard."""
    made = chosen(
        file, changes, reads=(*READ, "graph", "seed"), size=size, graph=graph, seed=seed, format=format, depth=depth,
        pixel_limit=pixel_limit, skip_bad=skip_bad or None,
    )  # fmt: skip
    board = None if chessboard is None else parse_board(chessboard)
    if board is None and mirrored:
        raise ValueError("--mirrored: must go with --chessboard; images of products tell by themselves")
    if board is not None and features != "auto":
        raise ValueError(f"--features: must be left out with --chessboard, which has corners, got {features}")

    from vsad.calibration.feature_kinds import choose_kinds
    from vsad.data import choose_category
    from vsad.files import check_writable

    check_writable(out, "file")
    if pictures is not None:
        check_writable(pictures)
    if board is None:
        choose_kinds(features)
        choose_category(data, category, format=made.format, split="train")
    elif not data.is_dir():
        raise FileNotFoundError(f"{data} must be a folder of pictures of a chessboard; check the path")

    from vsad.calibration import calibrate as estimate  # torch takes seconds to import
    from vsad.calibration import calibrate_chessboard, write_calibration_pictures

    reading = made.reading
    if board is None:
        with Bars() as bars:
            dataset = reading.normal(data, category=category, size=made.size, progress=bars)
            rig, report = estimate(
                dataset, graph=made.graph, max_samples=samples, features=features, seed=made.seed, progress=bars
            )
    else:
        dataset = board_samples(data, category, made.size, reading)
        with Bars() as bars:
            rig, report = calibrate_chessboard(
                dataset, board=board, mirrored=mirrored or (), graph=made.graph, max_samples=samples, progress=bars
            )
    rig.save(out)
    show_skipped(reading.skipped)
    if not console.is_quiet:
        _show(report, rig.views)
    if report.mirrors_unknown and not mirrored and len(rig.views) > 1:
        say(
            "a chessboard looks alike in a mirror, and nothing around it tells whether "
            f"{', '.join(report.mirrors_unknown)} see in one; name those that do with --mirrored"
        )
    print(out)
    if pictures is not None:
        write_calibration_pictures(pictures, dataset[0]["images"], rig, report)
        print(pictures)


def parse_board(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,3})x(\d{1,3})", text.strip().lower())
    if found is None:
        raise ValueError(f"--chessboard: must be the inner corners along its sides, such as 9x6, got {text!r}")
    return int(found[1]), int(found[2])


def board_samples(
    folder: Path, category: str | None, size: int | tuple[int, int] | None, reading: Reading
) -> MultiViewDataset:
    """Samples of a chessboard: a data set's, a folder of views for each, or the views of a single one."""
    from vsad.data import MultiViewDataset, Sample, ViewFile
    from vsad.data.listing import folders, pictures

    if (folder / "train").is_dir():
        return reading.normal(folder, category=category, size=size)
    if category is not None:
        raise ValueError(f"--category: must be left out where {folder} holds pictures of a board only, got {category}")
    inside = {each.name: pictures(each) for each in folders(folder)} or {folder.name: pictures(folder)}
    found = [
        Sample(folder.name, name, "new", None, {file.stem: ViewFile(file) for file in files}, {})
        for name, files in inside.items()
        if files
    ]
    if not found:
        raise FileNotFoundError(
            f"{folder} must hold pictures of a chessboard, <sample>/<view>.png, got none; put those that were taken at "
            "once in one folder"
        )
    return MultiViewDataset(found, size, depth=reading.depth, pixel_limit=reading.pixel_limit)


def _show(report: CalibrationReport, views: tuple[str, ...]) -> None:
    """Print the pairs, a line for each, without what a narrow terminal has no room for."""
    rows = report.rows()
    if not rows:
        console.print(f"one view, {views[0]}: there are no pairs to calibrate", highlight=False, markup=False)
        return
    widths = {name: 2 + max(map(len, (name, *(row[name] for row in rows)))) for name in rows[0]}
    for name in _DISPENSABLE:
        if sum(widths.values()) > console.width:
            del widths[name]
    for row in ({name: name for name in widths}, *rows):
        line = "".join(row[name].ljust(width) for name, width in widths.items())
        console.print(line.rstrip(), highlight=False, markup=False, soft_wrap=True)
