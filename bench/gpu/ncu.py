"""Asks Nsight Compute what binds a kernel, and prints it as lines that a person can read.

    python -m vsad.bench.gpu.ncu --kernel mma_kernel --report out/align homography_align-forward-...-cuda

Prints Nsight Compute's own page, with its tables of memory and its advice; the instructions at which warps were found
most often, with what they waited for; counters by name; and in the last line what the kernel is bound by. Beside the
report, ``REPORT.sass.csv`` has the counters of every instruction.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

# Of Nsight Compute 2022.3 (the first for Hopper) and later. The tables have shared memory's wavefronts and conflicts.
SECTIONS = (
    *("SpeedOfLight", "LaunchStats", "Occupancy", "SchedulerStats", "WarpStateStats", "ComputeWorkloadAnalysis"),
    *("MemoryWorkloadAnalysis", "MemoryWorkloadAnalysis_Tables", "InstructionStats", "SourceCounters"),
)
# Rates, each the first name that the report has.
RATES = {
    "multiprocessors": ("sm__throughput.avg.pct_of_peak_sustained_elapsed",),
    "issue slots": (
        "sm__inst_issued.avg.pct_of_peak_sustained_active",
        "smsp__issue_active.avg.pct_of_peak_sustained_active",
    ),
    "L1": (
        "l1tex__throughput.avg.pct_of_peak_sustained_active",
        "l1tex__throughput.avg.pct_of_peak_sustained_elapsed",
    ),
    "L2": ("lts__throughput.avg.pct_of_peak_sustained_elapsed",),
    "memory": (
        "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
        "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    ),
    "warps": ("sm__warps_active.avg.pct_of_peak_sustained_active",),
    "hits in L1": ("l1tex__t_sector_hit_rate.pct",),
    "hits in L2": ("lts__t_sector_hit_rate.pct",),
}
STALL = re.compile(r"smsp__average_warps?_(?:issue|latency_issue)_stalled_(\w+?)_per_issue_active\.ratio")
TOLD = re.compile(
    r"gpu__time_duration\.sum|smsp__inst_executed\.sum|launch__registers_per_thread|dram__bytes_\w+\.sum"
    r"|l1tex__data_(bank|pipe)\w*\.sum|l1tex__average_t_sectors_per_request\w*\.ratio|lts__t_sectors_op_\w+\.sum"
    r"|sm__inst_executed_pipe_\w+\.avg\.pct_of_peak_sustained_active|smsp__inst_executed_op_shared\w*\.sum"
)
SAMPLES = ("Warp Stall Sampling (All Samples)", "# Samples", "Sampling Data (All)")
REASON = re.compile(r"^(stall|smsp__pcsamp_warps_issue_stalled)_")
LONGEST = 40  # number of instructions that are listed
COUNTED = ("L1 Wavefronts Shared", "L1 Wavefronts Shared Excessive", "L2 Theoretical Sectors Global Excessive")


def command(ncu: str, kernel: str, launches: int, report: Path, case: str) -> list[str]:
    """What profiles the first launches of a kernel; clocks stay as they are, and every pass begins with cold caches."""
    return [
        *(ncu, "--force-overwrite", "--clock-control", "none", "--launch-count", str(launches)),
        *("--kernel-name", f"regex:{kernel}", "--export", str(report)),
        *(f"--section={name}" for name in SECTIONS),
        *(sys.executable, "-m", "vsad.bench.gpu.once", case),
    ]


def page(ncu: str, report: Path, *options: str) -> str:
    """A page of a report; what Nsight Compute says where it has none."""
    done = subprocess.run([ncu, "--import", str(report), *options], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else f"{done.stdout}{done.stderr}"


def counters_of(raw: str) -> list[dict[str, str]]:
    """Counters by name for each launch, with their units, from the raw page as CSV: names, units, then launches."""
    rows = [row for row in csv.reader(io.StringIO(raw)) if len(row) > 1]
    start = next((i for i, row in enumerate(rows) if "Kernel Name" in row), None)
    if start is None or len(rows) < start + 3:
        return []
    names, units, *launches = rows[start:]
    return [{n: f"{v} {u}".strip() for n, v, u in zip(names, row, units)} for row in launches]


def number(text: str) -> float | None:
    """The number in front of a unit; thousands may be set apart by commas."""
    try:
        return float(text.split()[0].replace(",", ""))
    except (ValueError, IndexError):
        return None


def verdict(counters: dict[str, str]) -> str:
    """What binds a launch, in one line: shares of what the GPU can do, and what warps wait for, in cycles."""
    found = {}
    for what, names in RATES.items():
        rate = next((r for name in names if (r := number(counters.get(name, ""))) is not None), None)
        if rate is not None:
            found[what] = f"{what} {rate:.0f} %"
    stalls = {m[1]: n for name, text in counters.items() if (m := STALL.fullmatch(name)) and (n := number(text))}
    worst = sorted(stalls.items(), key=lambda item: -item[1])[:6]
    waits = "; an instruction waits for " + ", ".join(f"{n} {c:.2f}" for n, c in worst) if worst else ""
    kernel = re.sub(r"^void |\(anonymous namespace\)::|<.*", "", counters.get("Kernel Name", "")).split("(")[0]
    return f"{kernel.rsplit('::', 1)[-1]}: {', '.join(found.values()) or 'no counter that is known here'}{waits}"


def hottest(sass: str) -> list[str]:
    """Lines about the instructions of every kernel, from the source page as CSV."""
    kernels: list[list[list[str]]] = [[]]
    for row in csv.reader(io.StringIO(sass)):
        if row and row[0] == "Kernel Name":
            kernels.append([])
        kernels[-1].append(row)
    return [line for rows in kernels for line in instructions(rows)] or ["no samples of instructions"]


def instructions(rows: list[list[str]]) -> list[str]:
    """Those of one kernel by samples, with what their warps waited for; nothing where there are none."""
    start = next((i for i, row in enumerate(rows) if "Source" in row and set(SAMPLES) & set(row)), None)
    if start is None:
        return []
    names, body = rows[start], [row for row in rows[start + 1 :] if len(row) == len(rows[start])]
    count = next(name for name in SAMPLES if name in names)
    # Reasons occur twice, for all samples and for those in which nothing was issued: the first are meant.
    reasons = [n for n in names if REASON.match(n) and not re.search("not.issued", n, re.IGNORECASE)]
    kept = dict.fromkeys([count, *reasons, *(name for name in COUNTED if name in names)])
    values = {name: [number(row[names.index(name)]) or 0.0 for row in body] for name in kept}
    source = [row[names.index("Source")].strip() for row in body]
    total = sum(values[count])
    kinds: dict[str, float] = {}
    for line, samples in zip(source, values[count]):
        kinds[opcode(line)] = kinds.get(opcode(line), 0.0) + samples
    lines = ["", f"{','.join(rows[0])[:150]}: {total:.0f} samples in {len(body)} instructions"] if start else [""]
    lines += ["by kind: " + shares(kinds, total, 20)]
    lines += ["by reason: " + shares({n: sum(values[n]) for n in dict.fromkeys(reasons)}, total, 10)]
    lines += [f"{name}: {sum(values[name]):.0f}" for name in COUNTED if name in values]
    for i in sorted(range(len(body)), key=lambda i: -values[count][i])[:LONGEST]:
        samples = values[count][i]
        why = shares({n: values[n][i] for n in reasons}, samples, 3)
        lines.append(f"{samples / max(total, 1):6.1%} {i:6}  {source[i]:60}  {why}")
    return lines


def shares(counts: dict[str, float], total: float, most: int) -> str:
    best = sorted(counts.items(), key=lambda item: -item[1])[:most]
    return ", ".join(f"{REASON.sub('', name)} {count / total:.0%}" for name, count in best if count)


def opcode(instruction: str) -> str:
    """``HMMA`` of ``@!P0 HMMA.16816.F32.BF16 R4, ...``."""
    words = [word for word in instruction.split() if not word.startswith("@")]
    return words[0].split(".")[0].rstrip(";") if words else "?"


def told(counters: dict[str, str]) -> Iterable[str]:
    """The counters worth reading by name."""
    wanted = (name for name in sorted(counters) if TOLD.fullmatch(name) or STALL.fullmatch(name))
    return (f"  {name:90} {counters[name]}" for name in wanted)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Ask Nsight Compute what binds a kernel.")
    parser.add_argument("case", help="name of a case of the suite, or how it begins")
    parser.add_argument("--ncu", default="ncu", help="path of Nsight Compute's command")
    parser.add_argument("--kernel", required=True, help="regular expression for names of kernels")
    parser.add_argument("--launches", type=int, default=1, help="number of launches that are looked at")
    parser.add_argument("--report", type=Path, required=True, help="file to write, without .ncu-rep")
    options = parser.parse_args(arguments)
    report = options.report.with_name(f"{options.report.name}.ncu-rep")
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    asked = command(options.ncu, options.kernel, options.launches, options.report, options.case)
    status = subprocess.run(asked, check=False).returncode
    if status or not report.exists():
        print(f"no launch of a kernel {options.kernel!r} was profiled: exit status {status}")
        return 1
    print(page(options.ncu, report, "--page", "details", "--print-details", "all"))
    sass = page(options.ncu, report, "--page", "source", "--csv", "--print-source", "sass")
    options.report.with_name(f"{options.report.name}.sass.csv").write_text(sass)
    print("\n".join(hottest(sass)))
    launches = counters_of(page(options.ncu, report, "--page", "raw", "--csv"))
    for counters in launches:
        print("\n".join([counters.get("Kernel Name", "")[:150], *told(counters)]))
    print(" | ".join(verdict(counters) for counters in launches) or "the report holds no counters")
    return 0 if launches else 1


if __name__ == "__main__":
    sys.exit(main())
