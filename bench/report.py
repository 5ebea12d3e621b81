"""Tables from results: ``python -m vsad.bench.report`` writes them and the plots, ``--readme`` the README's too."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from vsad.bench.cases import ALL_CASES, COPY, PRODUCT, Case, Target
from vsad.bench.peers import is_kernel, is_ours, is_yardstick
from vsad.bench.results import Results, Row, load_all

FOLDER = Path(__file__).resolve().parent / "results"
START, END = "<!-- bench table -->", "<!-- /bench table -->"


def ours(rows: Iterable[Row]) -> Row | None:
    """Our fastest backend; the reference only where there is no kernel."""
    timed = [row for row in rows if row.state == "timed" and is_ours(row.peer)]
    kernels = [row for row in timed if is_kernel(row.peer)]
    return min(kernels or timed, key=lambda row: row.median_s or 0, default=None)


def rival(rows: Iterable[Row], names: Iterable[str] | None = None) -> Row | None:
    """The fastest of the others, or of those named; a yardstick and our reference only where they are named."""
    return min(_rivals(rows, names), key=lambda row: row.median_s or 0, default=None)


def _rivals(rows: Iterable[Row], names: Iterable[str] | None) -> list[Row]:
    names = None if names is None else set(names)
    timed = [row for row in rows if row.state == "timed"]
    if names is not None:
        return [row for row in timed if row.peer in names]
    return [row for row in timed if not is_ours(row.peer) and not is_yardstick(row.peer)]


def ratio(mine: Row | None, other: Row | None) -> float | None:
    """How many times as fast we are; below 1 we lose."""
    if mine is None or other is None or not mine.median_s or not other.median_s:
        return None
    return other.median_s / mine.median_s


def cases_of(results: Results) -> list[Case]:
    """The list's cases for the device that was measured."""
    device = "cuda" if "gpu" in results.machine else "cpu"
    return [case for case in ALL_CASES if case.device == device]


def targets(results: Results) -> list[tuple[Case, Target, Row | None, Row | None, float | None]]:
    """Every target: the case, the target, ours, the fastest that it is against, and the ratio."""
    found = []
    for case in cases_of(results):
        rows = results.of_case(case.id).values()
        mine = ours(rows)
        for target in case.targets:
            other = rival(rows, target.against)
            found.append((case, target, mine, other, ratio(mine, other)))
    return found


def target_table(results: Results) -> str:
    """The README's table: one line a target, reached or not, and whoever is faster than the peer that it names."""
    lines = ["| operator and shape | ours | against | times as fast | target | fastest other |"]
    lines.append("|---|---|---|---|---|---|")
    for case, target, mine, other, times in targets(results):
        against = f"{other.peer} {seconds(other.median_s)}" if other else " / ".join(target.against) + " -"
        reached = "" if times is None or times >= target.ratio else ", not reached"
        if mine is not None and not is_kernel(mine.peer):
            reached += ", no kernel yet"
        fastest = rival(results.of_case(case.id).values())
        nearer = "" if fastest is None or fastest == other else f"{fastest.peer} {seconds(fastest.median_s)}"
        nearer += "" if not nearer or mine is None else f", {times_text(ratio(mine, fastest) or 0)} times"
        lines.append(
            f"| {name(case)} | {seconds(mine.median_s) if mine else '-'} | {against} "
            f"| {'-' if times is None else times_text(times)} | {target.ratio:g}{reached} | {nearer or '-'} |"
        )
    return "\n".join([*lines, *rate_lines(results), *memory_lines(results), "", where(results)])


def rate_lines(results: Results) -> list[str]:
    """A line for each target in operations per second."""
    lines = []
    for case in cases_of(results):
        if case.tflops is not None:
            mine = ours(results.of_case(case.id).values())
            rate = None if mine is None or mine.gflops is None else mine.gflops / 1e3
            reached = "" if rate is None or rate >= case.tflops else ", not reached"
            lines.append(
                f"| {name(case)} | {seconds(mine.median_s) if mine else '-'} | operations a second "
                f"| {'-' if rate is None else f'{rate:.0f} TFLOP/s'} | {case.tflops:g} TFLOP/s{reached} | - |"
            )
    return lines


def memory_lines(results: Results) -> list[str]:
    """A line for each target in memory that was measured."""
    lines = []
    for case, target, mine, _, _ in targets(results):
        if target.memory is None or mine is None:
            continue
        found = [row for row in _rivals(results.of_case(case.id).values(), target.against) if row.peak_bytes]
        leanest = min(found, key=lambda row: row.peak_bytes or 0, default=None)
        share = None
        if mine.peak_bytes and leanest is not None and leanest.peak_bytes:
            share = mine.peak_bytes / leanest.peak_bytes
        reached = "" if share is None or share <= target.memory else ", not reached"
        against = f"{leanest.peer} {megabytes(leanest.peak_bytes)}" if leanest else " / ".join(target.against) + " -"
        lines.append(
            f"| {name(case)}, memory | {megabytes(mine.peak_bytes)} | {against} "
            f"| {'-' if share is None else f'{share:.2g} of it'} | {target.memory:.2g} of it{reached} | - |"
        )
    return lines


def full_table(results: Results) -> str:
    """Every row, the fastest first, with the reasons of those that were not timed."""
    m = results.machine
    parts = [f"# {m['gpu']['name']}" if "gpu" in m else f"# {m['cpu']}, {m['threads']} threads", ""]
    parts += [where(results), "", ceilings(results), "", "## Targets", "", target_table(results), ""]
    for case in dict.fromkeys(row.case for row in results.rows):
        rows = sorted(results.of_case(case).values(), key=lambda row: row.median_s or float("inf"))
        parts += [f"## {title(rows[0])}", ""]
        parts += ["| | median | p20 to p80 | rounds | memory | GFLOP/s | GB/s | of ceiling | commit |"]
        parts += ["|---|---|---|---|---|---|---|---|---|", *(line(row) for row in rows), ""]
    return "\n".join(parts)


def line(row: Row) -> str:
    if row.state != "timed":
        reason = (row.reason or "").replace("|", "\\|")
        return f"| {row.peer} | {'**wrong**, not timed' if row.state == 'wrong' else 'skipped'}: {reason} ||||||||"
    spread = f"{seconds(row.p20_s)} to {seconds(row.p80_s)}"
    note = f" ({row.reason})".replace("|", "\\|") if row.reason else ""
    return (
        f"| {row.peer}{note} | {seconds(row.median_s)} | {spread} | {row.rounds} | {megabytes(row.peak_bytes)} "
        f"| {row.gflops or 0:.3g} | {row.gbs or 0:.3g} | {100 * (row.share or 0):.2g} % | {row.commit or '-'} |"
    )


def where(results: Results) -> str:
    """The machine, libraries and commits in a sentence."""
    m = results.machine
    rows = [row for row in results.rows if row.state == "timed"]
    commits = ", ".join(sorted({row.commit for row in rows if row.commit})) or "unknown"
    dates = sorted({row.date for row in rows if row.date}) or ["unknown"]
    libraries = ", ".join(f"{name} {version}" for name, version in results.libraries.items())
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    host = f"{m['cpu']}, {m['cores']} cores, {m['threads']} threads, {m['isa']}"
    if "gpu" in m:
        g = m["gpu"]
        host = (
            f"{g['name']}, {g['memory_gb']} GB, {g['multiprocessors']} multiprocessors, compute capability "
            f"{g['capability']}, CUDA {g['cuda']}, times by its own events from a cold L2"
        )
    return (
        f"Medians, peers of a case in turns in one process, each checked against float64 first. {host}; {span}; "
        f"commit {commits}; {libraries}."
    )


def ceilings(results: Results) -> str:
    c = results.ceilings
    yardstick = (
        f" *{COPY}* and *{PRODUCT}* are yardsticks, measured beside the peers: a target against one is a share of it."
        if "gpu" in results.machine
        else ""
    )
    peaks = ", ".join(f"{kind} {c[kind]:.0f}" for kind in ("float32", "bfloat16", "int8") if c[kind])
    copies = ", ".join(f"{bandwidth:.0f} at {int(size) >> 20} MB" for size, bandwidth in c["copy"].items())
    return (
        f"Ceilings, measured in the same run: matrix products {peaks} GFLOP/s; copies {copies} in GB/s. A row's share "
        "is the least time by arithmetic or by memory over its own; prototype_distance may use the fastest arithmetic, "
        f"the others float32. Memory is beside the inputs, with the result.{yardstick}"
    )


def name(case: Case) -> str:
    return f"{case.operator} {case.direction}, {case.label}"


def title(row: Row) -> str:
    """The case's name, from what is stored: a case may have left the list since."""
    alone = row.direction == "backward"
    return name(Case(row.operator, row.sizes, row.dtype, row.layout, row.direction != "forward", alone))


def seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} us"


def times_text(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def megabytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:.3g} MB"


def replace_between(text: str, table: str) -> str:
    """The text with the table between the README's markers.

    Raises:
        ValueError: the markers are not there, once each and in order.
    """
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ValueError(f"the README must hold {START!r} and {END!r}, once each, for its table to stand between")
    before, rest = text.split(START)
    return f"{before}{START}\n{table}\n{END}{rest.split(END)[1]}"


def readme_tables(found: list[Results]) -> str:
    """The targets on the CPU and on the GPU that were measured last."""

    def newest(gpu: bool) -> Results | None:
        of_kind = [results for results in found if ("gpu" in results.machine) == gpu]
        return max(of_kind, key=lambda r: max((row.date or "" for row in r.rows), default=""), default=None)

    return "\n\n".join(target_table(results) for gpu in (False, True) if (results := newest(gpu)) is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description="Tables and plots of the results of every machine.")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of *.json; the tables are written beside")
    parser.add_argument("--readme", type=Path, nargs="?", const=Path("README.md"), help="renew the table in this file")
    arguments = parser.parse_args()
    found = list(load_all(arguments.results))
    if not found:
        parser.error(f"no results in {arguments.results}; run `make bench` first")
    from vsad.bench.plots import draw

    for path, results in found:
        path.with_suffix(".md").write_text(full_table(results) + "\n")
        for picture in draw(results, path.with_suffix("")):
            print(picture)
    if arguments.readme:
        tables = readme_tables([results for _, results in found])
        arguments.readme.write_text(replace_between(arguments.readme.read_text(), tables))


if __name__ == "__main__":
    main()
