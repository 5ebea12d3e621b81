"""Plots from results: how many times as fast as each peer, and how time and memory grow. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vsad.bench import operators
from vsad.bench.cases import COPY, PRODUCT, Case
from vsad.bench.peers import is_kernel
from vsad.bench.report import cases_of, ours, ratio
from vsad.bench.results import Results, Row

# Okabe and Ito's colors, told apart by the color-blind; every peer also has a marker of its own.
STYLES = {
    "vsad cpu": ("#000000", "o"),
    "vsad cuda": ("#000000", "s"),
    "vsad triton": ("#000000", "^"),
    "vsad torch": ("#999999", "o"),
    "unfused": ("#D55E00", "s"),
    "unfused, compiled": ("#E69F00", "D"),
    "unfused model": ("#D55E00", "s"),
    "MVDiffusion loop": ("#0072B2", "^"),
    "grid_sample": ("#D55E00", "s"),
    "kornia": ("#009E73", "v"),
    "OpenCV": ("#CC79A7", "P"),
    "faiss": ("#0072B2", "D"),
    "cdist": ("#E69F00", "^"),
    "matmul": ("#D55E00", "s"),
    "scikit-learn": ("#009E73", "v"),
    "PyKeOps": ("#CC79A7", "P"),
    "torch loop": ("#D55E00", "s"),
    "grid_sample, contiguous": ("#E69F00", "D"),
    "matmul, bf16": ("#E69F00", "D"),
    "flash-kmeans": ("#009E73", "P"),
    COPY: ("#999999", "x"),
    PRODUCT: ("#999999", "x"),
}
OTHER = ("#56B4E9", "X")
AXES = {
    "V": "views",
    "N": "neighbors per view",
    "R": "window side R",
    "H": "pixels per view",
    "P": "prototypes in the bank",
    "size": "points picked",
}
POWERS = {"R": 2, "H": 2}  # these sizes are sides; cost grows with their squares
SHORT = {
    "homography_align": "align",
    "homography_warp": "warp",
    "prototype_distance": "nearest prototype",
    "greedy_coreset": "coreset",
    "model": "model",
}

TIME = "time of one call, ms\n(dotted: linear growth)"
MEMORY = "memory beside inputs, MB\n(dotted: the result alone)"


def draw(results: Results, stem: Path) -> list[Path]:
    """Write ``<stem>-speedup.svg``, ``-time.svg`` and ``-memory.svg``; what has no rows is left out."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"font.size": 9, "svg.hashsalt": "vsad", "svg.fonttype": "path", "axes.grid": True})
    matplotlib.rcParams.update({"grid.color": "#dddddd", "axes.axisbelow": True})
    pictures = []
    for suffix, figure in (
        ("speedup", _speedup(results)),
        ("time", _curves(results, TIME, lambda row: 1e3 * (row.median_s or 0))),
        ("memory", _curves(results, MEMORY, lambda row: (row.peak_bytes or 0) / 1e6)),
    ):
        if figure is not None:
            path = Path(f"{stem}-{suffix}.svg")
            figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
            pictures.append(path)
    return pictures


def _speedup(results: Results) -> Any:
    """One line a target case: a marker for each peer at (its time / ours), and a bar at the target."""
    lines = []
    for case in (case for case in cases_of(results) if case.target):
        rows = results.of_case(case.id)
        mine = ours(rows.values())
        others = {p: ratio(mine, row) for p, row in rows.items() if mine and row.state == "timed" and row != mine}
        if others:
            lines.append((case, others))
    if not lines:
        return None
    figure, axes = _figure(1, 1, (9, 1.2 + 0.24 * len(lines)))
    ax = axes[0][0]
    for y, (case, others) in enumerate(lines):
        assert case.target is not None
        ax.plot([case.target.ratio] * 2, [y - 0.4, y + 0.4], color="#000000", linewidth=2.5, solid_capstyle="butt")
        for peer, times in others.items():
            color, marker = STYLES.get(peer, OTHER)
            ax.scatter(times, y, color=color, marker=marker, s=30, zorder=3, alpha=0.9)
    ax.axvline(1, color="#666666", linewidth=1, linestyle="--")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_yticks(range(len(lines)), [_short(case) for case, _ in lines])
    ax.invert_yaxis()
    ax.set_xlabel("peer's time / our time (dashed: equal; left of it we lose; black bar: the target)")
    _legend(figure, ax, {peer for _, others in lines for peer in others})
    return figure


def _curves(results: Results, label: str, value: Callable[[Row], float]) -> Any:
    """One panel a curve, both axes logarithmic, where linear growth is a straight line of slope one."""
    panels: dict[tuple[str, str, str], dict[str, list[tuple[float, float]]]] = {}
    alone: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for case in cases_of(results):
        for axis in case.curves:
            key, x = (case.operator, case.direction, axis), float(case.sizes[axis]) ** POWERS.get(axis, 1)
            alone.setdefault(key, []).append((x, operators.of(case).result_bytes(case) / 1e6))
            for peer, row in results.of_case(case.id).items():
                if row.state == "timed" and value(row) > 0:
                    panels.setdefault(key, {}).setdefault(peer, []).append((x, value(row)))
    if not panels:
        return None
    columns = 4
    height = -(-len(panels) // columns)
    figure, axes = _figure(height, columns, (11, 0.5 + 2.6 * height))
    flat = [ax for row in axes for ax in row]
    for ax, (key, lines) in zip(flat, panels.items()):
        operator, direction, axis = key
        for peer, points in lines.items():
            color, marker = STYLES.get(peer, OTHER)
            points.sort()
            width = 2 if is_kernel(peer) else 1
            ax.plot(*zip(*points), color=color, marker=marker, markersize=4, linewidth=width)
        guide = _linear(next(iter(lines.values()))) if label == TIME else sorted(alone[key])
        ax.plot(*zip(*guide), color="#000000", linestyle=":", linewidth=1)
        _ticks(ax, sorted({x for points in lines.values() for x, _ in points}))
        ax.set_title(f"{SHORT[operator]}, {direction}", fontsize=9)
        ax.set_xlabel("cells in the window, R x R" if axis == "R" else AXES[axis])
    for ax in flat[len(panels) :]:
        ax.set_visible(False)
    for row in axes:
        row[0].set_ylabel(label)
    _legend(figure, flat[0], {peer for lines in panels.values() for peer in lines})
    return figure


def _ticks(ax: Any, xs: list[float]) -> None:
    """Both axes logarithmic, with a plain number at every point measured, and at 1, 2 and 5 upwards."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(FixedLocator(xs))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _number(x)))
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _number(x: float) -> str:
    """1000 is 1k, as ticks have little room."""
    return f"{x / 1e6:.3g}M" if x >= 1e6 else f"{x / 1e3:.3g}k" if x >= 1e3 else f"{x:g}"


def _linear(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A line of slope one through the last point of ours."""
    (first, _), (last, top) = points[0], points[-1]
    return [(first, top * first / last), (last, top)]


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _legend(figure: Any, ax: Any, peers: set[str]) -> None:
    """Above the panels; peers of different operators that share a style share an entry."""
    entries: dict[tuple[str, str], list[str]] = {}
    for peer in [peer for peer in STYLES if peer in peers] + sorted(peers - STYLES.keys()):
        entries.setdefault(STYLES.get(peer, OTHER), []).append(peer)
    for (color, marker), names in entries.items():
        ax.plot([], [], color=color, marker=marker, markersize=5, linestyle="", label=" / ".join(names))
    figure.tight_layout()
    handles = ax.get_legend_handles_labels()
    figure.legend(*handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def _short(case: Case) -> str:
    both = " fwd+bwd" if case.backward else ""
    return f"{SHORT[case.operator]}{both} {case.label}"
