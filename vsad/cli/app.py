"""The application that the commands belong to."""

import typer

app = typer.Typer(
    help="Homography-guided multi-view anomaly detection: calibrate a station, learn its good products, find defects.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
