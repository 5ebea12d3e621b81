"""What the suite keeps of its measurements: results in JSON, tables, plots, the README's."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from vsad.bench import here, machine
from vsad.bench.cases import CASES, Target, detect
from vsad.bench.here import verdict
from vsad.bench.report import END, START, full_table, replace_between, target_table
from vsad.bench.results import Results, Row, load, save

CEILINGS = {"float32": 100.0, "bfloat16": 100.0, "int8": None, "copy": {str(1 << 20): 10.0}}


def row(case, peer, median_s=None, state="timed", **rest):
    return Row.of(case, peer, state, median_s=median_s, p20_s=median_s, p80_s=median_s, commit="abc", **rest)


def results(*rows):
    m = {"cpu": "Some CPU (R) @ 2 GHz", "cores": 2, "threads": 2, "isa": "avx2"}
    return Results(m, {"torch": "2.6"}, CEILINGS, list(rows))


def test_results_are_strict_json_and_come_back_equal(tmp_path):
    case = CASES[0]
    stored = results(row(case, "vsad cpu", 0.25, rounds=3), row(case, "faiss", state="wrong", reason='"off" | by 3'))
    path = tmp_path / "machine.json"
    save(stored, path)
    assert load(path) == stored
    json.loads(path.read_text(), parse_constant=pytest.fail)
    with pytest.raises(ValueError, match="JSON compliant"):
        save(results(row(case, "vsad cpu", float("nan"))), path)
    assert load(path) == stored  # what was there is not lost
    for spoiled, message in (('"schema": 1', "schema must be 1"), ('"median_s": 0.25', "must be finite, got NaN")):
        bad = {'"schema": 1': '"schema": 0', '"median_s": 0.25': '"median_s": NaN'}[spoiled]
        (tmp_path / "bad.json").write_text(path.read_text().replace(spoiled, bad))
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "bad.json")
    assert machine.slug(stored.machine) == "some-cpu-2-threads"


def test_a_commit_is_of_the_checkout_that_holds_vsad(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("needs git")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "vsad").mkdir()
    (tmp_path / "vsad" / "__init__.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine.vsad, "__file__", str(tmp_path / "vsad" / "__init__.py"))
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "Somebody else's."], check=True)
        assert machine.commit() is None
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-q", "-m", "Ours."], check=True)
        assert re.fullmatch("[0-9a-f]{4,}", machine.commit())


def test_newer_rows_replace_older_ones():
    case = CASES[0]
    older = results(row(case, "vsad cpu", 2.0), row(case, "unfused", 3.0))
    merged = older.merge(results(row(case, "vsad cpu", 1.0)))
    assert {r.peer: r.median_s for r in merged.rows} == {"vsad cpu": 1.0, "unfused": 3.0}


def test_tables_keep_what_we_lose_and_what_is_wrong():
    won, lost, *_ = [case for case in CASES if case.target]
    found = results(
        row(won, "vsad cpu", 1e-3), row(won, "unfused, einsum", 0.1), row(won, "unfused", 0.05),
        row(won, "kornia", state="wrong", reason="off | by 3"), row(lost, "vsad cpu", 4e-3),
        row(lost, "unfused, einsum", 1e-3), row(lost, "vsad cuda", state="skipped", reason="none"),
    )  # fmt: skip
    table = target_table(found)
    assert "| 1 ms | unfused, einsum 100 ms | 100 | 60 | unfused 50 ms, 50 times |" in table
    assert "| 4 ms | unfused, einsum 1 ms | 0.25 | 60, not reached | - |" in table
    assert len([line for line in table.splitlines() if line.startswith("| ")]) == 1 + sum(bool(c.target) for c in CASES)
    full = full_table(found)
    assert "**wrong**, not timed: off \\| by 3" in full
    assert "skipped: none" in full
    assert verdict(found.of_case(lost.id).values()) == "unfused, einsum wins: 4.0 times as fast as vsad cpu"
    assert verdict(found.of_case(won.id).values()) == "vsad cpu wins: 50 times as fast as unfused"


def test_a_target_in_memory_has_a_line_and_may_be_against_the_reference():
    case = detect("small", 8, target=Target(3, ("unfused model", "vsad torch"), memory=1 / 3))
    assert case in CASES
    table = target_table(results(
        row(case, "vsad cpu", 1.0, peak_bytes=10**8), row(case, "vsad torch", 2.0, peak_bytes=5 * 10**8),
        row(case, "unfused model", 4.0, peak_bytes=2 * 10**8),
    ))  # fmt: skip
    assert "| 1 s | vsad torch 2 s | 2.0 | 3, not reached | unfused model 4 s, 4.0 times |" in table
    assert "memory | 100 MB | unfused model 200 MB | 0.5 of it | 0.33 of it, not reached | - |" in table


def test_the_readme_has_a_place_for_the_table():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    renewed = replace_between(readme, "| new |")
    assert f"{START}\n| new |\n{END}" in renewed
    assert renewed.split(START)[0] == readme.split(START)[0]
    assert renewed.split(END)[1] == readme.split(END)[1]
    assert replace_between(renewed, "| new |") == renewed
    with pytest.raises(ValueError, match="once each"):
        replace_between(readme.replace(END, ""), "")


def test_plots_are_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib; pip install 'vsad[bench]'")
    from vsad.bench.plots import draw

    rows = [row(c, p, (i + 1) * 1e-3, peak_bytes=1 << 20) for c in CASES for i, p in enumerate(("vsad cpu", "unfused"))]
    pictures = draw(results(*rows), tmp_path / "some-machine")
    assert [p.name for p in pictures] == [f"some-machine-{kind}.svg" for kind in ("speedup", "time", "memory")]
    assert all("<svg" in p.read_text() for p in pictures)
    assert draw(results(), tmp_path / "nothing") == []


def test_the_table_of_a_case_shows_reasons_as_they_are(capsys):
    case, reason = CASES[0], "needs faiss-cpu; pip install 'vsad[bench]'"
    found = results(row(case, "vsad cpu", 0.25), row(case, "faiss", state="skipped", reason=reason))
    here.show([case], found, Console(width=200))
    assert f"faiss: {reason}" in capsys.readouterr().out


def test_the_report_command_renews_the_readme(tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib; pip install 'vsad[bench]'")
    from vsad.bench import report

    measured = results(row(CASES[0], "vsad cpu", 1e-3), row(CASES[0], "unfused, einsum", 0.1))
    save(measured, tmp_path / "results" / "m.json")
    (tmp_path / "README.md").write_text(f"before\n{START}\nold\n{END}\nafter\n")
    arguments = ["report", "--results", str(tmp_path / "results"), "--readme", str(tmp_path / "README.md")]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(sys, "argv", arguments)
        report.main()
    text = (tmp_path / "README.md").read_text()
    assert "old" not in text
    assert "| 1 ms | unfused, einsum 100 ms | 100 | 60 | - |" in text
    assert (tmp_path / "results" / "m.md").read_text().startswith("# Some CPU")
