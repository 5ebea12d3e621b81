"""``bench.gpu.ncu`` beside a command that answers as Nsight Compute does, in words that were made up for it."""

import os
import sys

import pytest

from vsad.bench.gpu import ncu

DETAILS = """\
  mma_kernel (328, 1, 1)x(256, 1, 1), Context 1, Stream 7, Device 0, CC 9.0
    Section: GPU Speed Of Light Throughput
    Duration                         us       880.1
    OPT   The kernel's tensor pipe waits for shared memory.
"""
KERNEL = '"void vsad::cuda::(anonymous namespace)::mma_kernel<__nv_bfloat16, 3, 5>(PackedAlignArguments, Sharing)"'
RAW = f"""\
"ID","Kernel Name","gpu__time_duration.sum","sm__throughput.avg.pct_of_peak_sustained_elapsed",\
"l1tex__throughput.avg.pct_of_peak_sustained_active","lts__t_sector_hit_rate.pct",\
"smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",\
"smsp__average_warps_issue_stalled_mio_throttle_per_issue_active.ratio",\
"l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum","smsp__cycles_active.avg"
"","","us","%","%","%","inst","inst","",""
"0",{KERNEL},"880.1","61.25","82.5","97.31","3.215","0.5","1,234,567","9"
"""
COLUMNS = (
    '"#","Source","Warp Stall Sampling (All Samples)","# Samples","stall_long_sb","stall_mio",'
    '"stall_long_sb (Not Issued)","L1 Wavefronts Shared"'
)
SASS = f"""\
"Kernel Name",{KERNEL}
{COLUMNS}
"0","      LDG.E.128 R4, desc[UR4][R2.64] ","10","10","0","2","0",""
"1","@!P0  HMMA.16816.F32.BF16 R4, R8, R12, R4 ","70","70","70","0","50","0"
"2","      LDSM.16.M88.4 R8, [R3] ","20","20","5","15","5","640"
"Kernel Name","another_kernel"
{COLUMNS}
"0","      EXIT ","1","1","0","0","0",""
"""


PAGES = {"details": DETAILS, "raw": RAW, "source": SASS}


@pytest.fixture
def fake(tmp_path):
    """A command that profiles nothing, writes a report, and shows its pages."""
    path = tmp_path / "ncu"
    path.write_text(
        f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\nwords = sys.argv[1:]\n"
        f"pages = {PAGES!r}\n"
        "if '--import' in words:\n"
        "    assert Path(words[words.index('--import') + 1]).read_text() == 'report'\n"
        "    print(pages[words[words.index('--page') + 1]])\n"
        "elif 'regex:none' in words:\n"
        "    print('==WARNING== No kernels were profiled.')\n"
        "else:\n"
        "    print('==PROF==', *words)\n"
        "    Path(words[words.index('--export') + 1] + '.ncu-rep').write_text('report')\n"
    )
    os.chmod(path, 0o755)

    def run(kernel):
        report = tmp_path / "profiles" / "forward.1"
        return ncu.main(["--ncu", str(path), "--kernel", kernel, "--report", str(report), "some-case"])

    return run


def test_a_person_reads_what_binds_a_kernel(fake, capfd, tmp_path):
    assert fake("mma_kernel") == 0
    said = capfd.readouterr().out
    assert "The kernel's tensor pipe waits for shared memory." in said
    assert "100 samples in 3 instructions" in said
    assert "by kind: HMMA 70%, LDSM 20%, LDG 10%" in said
    assert "by reason: long_sb 75%, mio 17%" in said
    assert "L1 Wavefronts Shared: 640" in said
    lines = [
        line.split(maxsplit=2) for line in said.splitlines() if line.lstrip().startswith(("70.0%", "20.0%", "10.0%"))
    ]
    assert [(share, row) for share, row, _ in lines] == [("70.0%", "1"), ("20.0%", "2"), ("10.0%", "0")]
    assert lines[1][2].split() == ["LDSM.16.M88.4", "R8,", "[R3]", "mio", "75%,", "long_sb", "25%"]
    assert "another_kernel: 1 samples in 1 instructions" in said
    assert "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum" in said
    assert "smsp__cycles_active" not in said
    assert said.splitlines()[-1] == (
        "mma_kernel: multiprocessors 61 %, L1 82 %, hits in L2 97 %; "
        "an instruction waits for long_scoreboard 3.21, mio_throttle 0.50"
    )
    assert (tmp_path / "profiles" / "forward.1.sass.csv").read_text().strip() == SASS.strip()


def test_a_kernel_that_was_not_launched_is_named(fake, capfd):
    fake("mma_kernel")
    assert fake("none") == 1
    assert capfd.readouterr().out.splitlines()[-1] == "no launch of a kernel 'none' was profiled: exit status 0"


def test_what_another_version_writes_ends_nothing():
    assert ncu.hottest("==ERROR== unknown page\n") == ["no samples of instructions"]
    assert ncu.counters_of("==ERROR== unknown page\n") == []
    assert ncu.verdict({"Kernel Name": "f", "other": "n/a"}) == "f: no counter that is known here"
    assert ncu.verdict({"lts__t_sector_hit_rate.pct": "n/a"}) == ": no counter that is known here"


def test_the_command_leaves_clocks_alone_and_has_cold_caches(tmp_path):
    words = ncu.command("ncu", "mma_kernel", 1, tmp_path / "report", "some-case")
    assert words[words.index("--clock-control") + 1] == "none"
    assert "--cache-control" not in words  # Nsight Compute empties them by itself
    assert words[-4:] == [sys.executable, "-m", "vsad.bench.gpu.once", "some-case"]
