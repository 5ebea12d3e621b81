"""The commands that find what lenses bend, and take it out of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vsad.cli.app import app
from vsad.cli.calibration import board_samples, parse_board
from vsad.cli.options import Depth, PixelLimit, Quiet, Threads, check_out, chosen
from vsad.terminal import Bars, say, show_table, show_warnings

if TYPE_CHECKING:
    from vsad.calibration import Lens
    from vsad.data import MultiViewDataset
    from vsad.pipeline import Reading

Camera = Annotated[
    str | None, typer.Option(help="View that all pictures are of; by default each has the name of its view.")
]


@app.command()
def lens(
    data: Annotated[
        Path,
        typer.Argument(
            help="Pictures of a chessboard held at many tilts: a folder of views for each, or with --camera those of "
            "one camera."
        ),
    ],
    chessboard: Annotated[str, typer.Option(help="Inner corners of the chessboard, such as 9x6.")],
    out: Annotated[Path, typer.Option(help="The lenses' JSON file; --camera adds to it.")] = Path("lens.json"),
    camera: Camera = None,
    samples: Annotated[int, typer.Option(min=6, help="Boards to use, at most.")] = 40,
    depth: Depth = None,
    pixel_limit: PixelLimit = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Find how each camera's lens bends what is straight, from images of a chessboard."""
    from vsad.files import check_writable

    board = parse_board(chessboard)
    made = chosen(None, None, depth=depth, pixel_limit=pixel_limit)
    check_writable(out, "file")
    if not data.is_dir():
        raise FileNotFoundError(f"{data} must be a folder of pictures of a chessboard; check the path")

    from vsad.calibration import estimate_lenses, load_lenses, save_lenses  # torch takes a second to import

    reading = made.reading
    known = load_lenses(out) if camera is not None and out.exists() else {}
    dataset = board_samples(data, None, None, reading) if camera is None else _of_one(data, camera, reading)
    with Bars() as bars:
        found = estimate_lenses(dataset, board=board, max_samples=samples, progress=bars)
    if not found:
        raise ValueError(f"{data} must show what a lens bends, got pictures as straight without one; no lens is needed")
    save_lenses(out, {**known, **found})
    show_table(_rows(found))
    print(out)


@app.command()
def undistort(
    data: Annotated[Path, typer.Argument(help="Folder of pictures, .../<view>.png at any depth, and their masks.")],
    out: Annotated[Path, typer.Option(help="New or empty folder for the copies; folders and names stay.")],
    lenses: Annotated[Path, typer.Option("--lens", help="The JSON file of `vsad lens`.")] = Path("lens.json"),
    camera: Camera = None,
    pixel_limit: PixelLimit = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Copy pictures and their masks without what the lenses bend."""
    from vsad.files import read_json

    check_out(out, data)
    read_json(lenses, "make it with vsad lens")

    from vsad.calibration import load_lenses  # torch takes a second to import
    from vsad.pipeline import undistort_folder

    known = load_lenses(lenses)
    limit = {} if pixel_limit is None else {"pixel_limit": pixel_limit}
    with Bars() as bars:
        done = undistort_folder(data, out, known, camera=camera, progress=bars, **limit)
    show_warnings(done.problems())
    for view, count in done.pictures.items():
        say(f"{view}: {count} pictures and {done.masks[view]} masks undistorted")
    print(out)


def _of_one(folder: Path, camera: str, reading: Reading) -> MultiViewDataset:
    """Pictures of one camera, each a sample."""
    from vsad.data import MultiViewDataset, Sample, ViewFile
    from vsad.data.listing import pictures

    found = [Sample(folder.name, file.name, "new", None, {camera: ViewFile(file)}, {}) for file in pictures(folder)]
    if not found:
        raise FileNotFoundError(f"{folder} must hold pictures of a chessboard by {camera}, got none; check the path")
    return MultiViewDataset(found, None, depth=reading.depth, pixel_limit=reading.pixel_limit)


def _rows(lenses: Mapping[str, Lens]) -> list[dict[str, Any]]:
    """A row for each lens: what corners lie off a flat board's picture by, with the distortion and without it."""
    return [
        {
            "view": view,
            "boards": str(lens.boards),
            "off px": f"{lens.bent_px:.2f}",
            "undistorted": f"{lens.straight_px:.2f}",
            "covered": f"{lens.covered:.0%}",
        }
        for view, lens in lenses.items()
    ]
