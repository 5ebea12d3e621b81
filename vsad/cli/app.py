"""The application that the commands belong to."""

from __future__ import annotations

from typing import Annotated

import typer

import vsad

app = typer.Typer(
    help="Homography-guided multi-view anomaly detection: calibrate a station, learn its good products, find defects.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"vsad {vsad.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Homography-guided multi-view anomaly detection: calibrate a station, learn its good products, find defects."""
