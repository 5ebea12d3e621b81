"""vsad watch: each sample once, as soon as it is whole, whatever arrives in whatever order, and restarts."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings

import cv2
import numpy as np
import pytest

from tests.stations import VIEWS, make_station, shoot, write_sample
from vsad.detection import Detector
from vsad.pipeline import Detections, Header, Log, Watcher


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    return make_station(tmp_path_factory.mktemp("station"))


@pytest.fixture(scope="module")
def detector(station):
    return Detector.from_pretrained(station / "detector")


class Told(list):
    """What a watcher tells: (kind, sample or text)."""

    def of(self, kind):
        return [text for each, text in self if each == kind]


@contextlib.contextmanager
def watching(detector, tmp_path, **options):
    """A watcher of the folder ``in``, and what it tells."""
    (tmp_path / "in").mkdir(exist_ok=True)
    told = Told()
    header = Header("", detector.cameras, detector.threshold, "", maps=False, overlays=False)
    with Detections.open(tmp_path / "out", header, {}, detector.rig) as out:
        log = Log(out.own("log.jsonl"))
        yield Watcher(
            tmp_path / "in", detector, out,
            on_found=lambda record: (log.found(record), told.append(("found", record.id))),
            on_bad=lambda name, reason: (log.bad(name, reason), told.append(("bad", name))),
            on_problem=lambda text: told.append(("problem", text)), on_kept=log.kept, **options,
        ), told  # fmt: skip


def log_of(tmp_path):
    return [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]


def test_a_sample_is_inspected_once_all_its_views_are_there_and_rest(detector, tmp_path):
    with watching(detector, tmp_path) as (watcher, told):
        write_sample(tmp_path / "whole", 100)
        (tmp_path / "in/p1").mkdir()
        for now, view in enumerate("cab"):  # in any order
            shutil.copy(tmp_path / f"whole/{view}.png", tmp_path / f"in/p1/{view}.png")
            watcher.look(now)
            assert told == []
        watcher.look(2.4)
        assert told == []  # it does not rest for long enough
        watcher.look(2.5)
        assert told == [("found", "p1")]
        watcher.look(9)
        assert len(told) == 1
    (line,) = log_of(tmp_path)
    right = float(detector(np.ascontiguousarray(shoot(100).transpose(0, 3, 1, 2))).sample_score)
    assert (line["id"], line["score"]) == ("p1", pytest.approx(right, rel=1e-5))


def test_files_of_another_size_are_said_once(detector, tmp_path):
    with watching(detector, tmp_path, settle_s=0) as (watcher, told):
        for name in ("p1", "p2"):
            write_sample(tmp_path / "in" / name, 100)
            path = str(tmp_path / "in" / name / "b.png")
            cv2.imwrite(path, cv2.resize(cv2.imread(path), (128, 128)))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for now in range(3):
                watcher.look(now)
        assert sorted(told) == [("found", "p1"), ("found", "p2")]
        assert [str(each.message)[:35] for each in said] == ["b: files are of 128 x 128 pixels, a"]


def test_a_file_that_grows_slowly_is_waited_for(detector, tmp_path):
    with watching(detector, tmp_path) as (watcher, told):
        write_sample(tmp_path / "in/p1", 100)
        path = tmp_path / "in/p1/b.png"
        whole = path.read_bytes()
        for now in range(30):  # longer than the patience, which counts from the last change
            path.write_bytes(whole[: 100 + 10 * now])
            watcher.look(now)
        assert told == []
        path.write_bytes(whole)
        watcher.look(30)
        watcher.look(31)
        assert told == [("found", "p1")]


def test_a_file_that_stays_broken_is_said_once_and_taken_when_it_is_mended(detector, tmp_path):
    with watching(detector, tmp_path) as (watcher, told):
        write_sample(tmp_path / "in/p1", 100)
        write_sample(tmp_path / "in/p2", 101)
        path = tmp_path / "in/p1/b.png"
        whole = path.read_bytes()
        path.write_bytes(whole[:200])
        for now in range(20):
            watcher.look(now)
        assert told == [("found", "p2"), ("bad", "p1")]
        assert log_of(tmp_path)[1]["verdict"] is None
        path.write_bytes(whole)
        watcher.look(20)
        watcher.look(21)
        assert told[2:] == [("found", "p1")]
        watcher.run([])
    found = Detections.load(tmp_path / "out")
    assert (set(found.rows), found.bad) == ({"p1", "p2"}, {})


def test_another_sample_of_the_same_name_is_inspected_too(detector, tmp_path):
    with watching(detector, tmp_path) as (watcher, told):
        for now, blot in ((0, False), (2, True)):
            write_sample(tmp_path / "in/p1", 100, blot=blot)
            watcher.look(now)
            watcher.look(now + 1)
        assert told == [("found", "p1")] * 2
    assert [line["verdict"] for line in log_of(tmp_path)] == ["ok", "defect"]


def test_what_cannot_be_grouped_is_said_once_and_stops_no_other_sample(detector, tmp_path):
    with watching(detector, tmp_path) as (watcher, told):
        write_sample(tmp_path / "in/p1", 100)
        for name in ("x_a_b.png", "p7_a.png", "p7-a.png", "notes.txt", "._p1_a.png", "left.heic"):
            (tmp_path / "in" / name).write_bytes(b"")
        cv2.imwrite(str(tmp_path / "in/m1.png"), np.hstack(shoot(101))[..., ::-1])
        os.makedirs(tmp_path / "in/@eaDir/p1")
        for now in range(25):
            watcher.look(now)
        assert sorted(told.of("found")) == ["m1", "p1"]
        assert told.of("bad") == ["x_a_b.png", "p7"]
        (problem,) = told.of("problem")
        assert problem == f"{tmp_path}/in/left.heic: pictures that end in .heic are not read; convert it"
        watcher.run([])
    assert Detections.load(tmp_path / "out").bad == {
        "x_a_b.png": "its name must say one view, got a and b; rename it",
        "p7": "view a must be one file, got 'p7-a.png' and 'p7_a.png'; remove or rename one",
    }


def test_a_sample_that_lacks_a_view_is_said_once_and_taken_when_it_is_whole(detector, tmp_path):
    with watching(detector, tmp_path) as (watcher, told):
        write_sample(tmp_path / "in/p1", 100)
        write_sample(tmp_path / "in/p2", 101)
        for name in ("in/p1/b.png", "in/p2/a.png", "in/p2/b.png"):
            shutil.move(tmp_path / name, tmp_path / name.replace("/", "_"))
        for now in range(10):
            watcher.look(now)
        assert told == []
        shutil.move(tmp_path / "in_p2_a.png", tmp_path / "in/p2/a.png")  # it is not forgotten: more time
        for now in range(10, 30):
            watcher.look(now)
        assert told == [("bad", "p1"), ("bad", "p2")]
        shutil.move(tmp_path / "in_p1_b.png", tmp_path / "in/p1/b.png")
        watcher.run([True, True], clock=iter((30, 31)).__next__)
        assert told[2:] == [("found", "p1"), ("problem", "still not whole at the end: p2")]
    assert [(line["id"], line["verdict"]) for line in log_of(tmp_path)] == [("p1", None), ("p2", None), ("p1", "ok")]
    assert log_of(tmp_path)[1]["reason"] == "there is no image of b"
    found = Detections.load(tmp_path / "out")
    assert (list(found.rows), found.bad) == (["p1"], {"p2": "there is no image of b"})


def test_what_was_not_inspected_when_the_work_ends_is_said(detector, tmp_path):
    with watching(detector, tmp_path) as (watcher, told):
        write_sample(tmp_path / "in/p1", 100)
        write_sample(tmp_path / "in/p2", 101)
        (tmp_path / "in/p2/c.png").unlink()
        watcher.run([True], clock=iter((0,)).__next__)
        assert told == [("bad", "p2"), ("bad", "p1")]
    reasons = Detections.load(tmp_path / "out").bad
    assert reasons["p2"] == "there is no image of c"
    assert "had rested; watch again" in reasons["p1"]
    with watching(detector, tmp_path) as (watcher, told):
        watcher.run([True] * 2, clock=iter((0, 1)).__next__)
        assert told == [("found", "p1"), ("bad", "p2")]


def test_files_that_are_cleared_away_or_copied_after_the_inspection_change_no_verdict(detector, tmp_path):
    with watching(detector, tmp_path) as (watcher, told):
        for name in ("p1", "p2"):
            write_sample(tmp_path / "in" / name, 100)
        watcher.look(0)
        watcher.look(1)
        (tmp_path / "in/p1/a.png").unlink()
        shutil.copy(tmp_path / "in/p2/a.png", tmp_path / "in/p2/a.bmp")
        for now in range(2, 20):
            watcher.look(now)
        watcher.run([])
        assert told.of("bad") == []
        assert told.of("problem") == [
            "p2: view a must be one file, got 'p2/a.bmp' and 'p2/a.png'; remove or rename one"
        ]
    assert (list(Detections.load(tmp_path / "out").rows), Detections.load(tmp_path / "out").bad) == (["p1", "p2"], {})


def test_what_replaces_a_sample_while_it_is_inspected_is_inspected_too(detector, tmp_path):
    with watching(detector, tmp_path) as (watcher, told):
        write_sample(tmp_path / "in/p1", 100)
        whole = watcher.detector

        class Slow:
            rig, cameras = whole.rig, whole.cameras

            def __call__(self, images):
                write_sample(tmp_path / "in/p1", 200, blot=True)
                watcher.detector = whole
                return whole(images)

        watcher.detector = Slow()
        for now in range(4):
            watcher.look(now)
        assert told == [("found", "p1")] * 2
    assert [line["verdict"] for line in log_of(tmp_path)] == ["ok", "defect"]


def test_a_broken_record_of_before_stops_nothing(detector, tmp_path):
    with watching(detector, tmp_path) as (watcher, told):
        for name in ("p1", "p2"):
            write_sample(tmp_path / "in" / name, 100)
        watcher.look(0)
        watcher.look(1)
    (tmp_path / "out/samples/p1.json").write_text("{")
    with watching(detector, tmp_path) as (watcher, told):
        write_sample(tmp_path / "in/p3", 100)
        watcher.run([True] * 3, clock=iter((0, 1, 2)).__next__)
        assert ("found", "p3") in told
    found = Detections.load(tmp_path / "out")
    assert set(found.rows) | set(found.bad) == {"p1", "p2", "p3"}


def test_a_name_in_another_encoding_is_bad_and_stops_no_other_sample(detector, tmp_path):
    with watching(detector, tmp_path) as (watcher, told):
        write_sample(tmp_path / "in/p1", 100)
        write_sample(tmp_path / "in/pü", 100)
        os.rename(os.fsencode(tmp_path / "in/p1"), os.fsencode(tmp_path / "in") + b"/p\xff")
        for now in range(12):
            watcher.look(now)
        assert told == [("found", "pü"), ("bad", os.fsdecode(b"p\xff"))]


@pytest.mark.parametrize("lost", ["line", "half a line", "nothing", "result"])
def test_a_restart_goes_on_and_the_log_lacks_nothing(detector, tmp_path, lost):
    with watching(detector, tmp_path) as (watcher, told):
        for name in ("p1", "p2"):
            write_sample(tmp_path / "in" / name, 100)
        watcher.look(0)
        watcher.look(1)
    log = tmp_path / "out/log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:1]) + {"line": "", "half a line": lines[1][:50]}.get(lost, lines[1]))
    if lost == "result":
        (tmp_path / "out/samples/p1.json").unlink()
    with watching(detector, tmp_path) as (watcher, told):
        write_sample(tmp_path / "in/p3", 101)
        watcher.run([False] * 3, clock=iter((0, 1, 2)).__next__)
        assert told == [("found", name) for name in (["p1", "p3"] if lost == "result" else ["p3"])]
    assert [line["id"] for line in log_of(tmp_path)] == ["p1", "p2", *(["p1"] if lost == "result" else []), "p3"]
    assert set(Detections.load(tmp_path / "out").rows) == {"p1", "p2", "p3"}


def test_a_quiet_folder_is_looked_through_now_and_then_alone(detector, tmp_path, monkeypatch):
    with watching(detector, tmp_path) as (watcher, _):
        looks = []
        monkeypatch.setattr(watcher, "look", looks.append)
        watcher.run([set(), set(), {"change"}, set(), set()], clock=iter((0.0, 1.0, 2.0, 6.5, 7.5)).__next__)
    assert looks == [0.0, 2.0, 7.5]


def started(tmp_path, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "vsad.cli", "watch", "in", *arguments], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_ends_when_it_is_asked_to_and_the_summary_is_written(station, tmp_path, number):
    shutil.copytree(station / "detector", tmp_path / "detector")
    write_sample(tmp_path / "in/p1", 100)
    watch = started(tmp_path, "--settle", "0.1")
    assert watch.stdout.readline().startswith("p1: OK, score ")
    write_sample(tmp_path / "new", 200, blot=True)
    for view in VIEWS:
        shutil.copy(tmp_path / f"new/{view}.png", tmp_path / f"in/p2_{view}.png")
        time.sleep(0.05)
    assert watch.stdout.readline().startswith("p2: DEFECT, score ")
    watch.send_signal(number)
    out, errors = watch.communicate(timeout=120)
    assert "Traceback" not in errors
    if number == signal.SIGKILL:
        assert not (tmp_path / "inspected/detections.json").exists()
        watch = started(tmp_path, "--settle", "0.1", "--json")
        while "watching" not in watch.stderr.readline():
            pass
        watch.send_signal(signal.SIGINT)
        out, errors = watch.communicate(timeout=120)
        assert out == ""  # nothing is inspected again
        assert "no sample was inspected" in errors
    else:
        assert out == "inspected\n"
        assert "1 of 2 samples were called DEFECT" in errors
    assert watch.returncode == 0
    assert {name: row["verdict"] for name, row in Detections.load(tmp_path / "inspected").rows.items()} == {
        "p1": "ok", "p2": "defect",
    }  # fmt: skip
    assert [json.loads(line)["id"] for line in (tmp_path / "inspected/log.jsonl").read_text().splitlines()] == [
        "p1",
        "p2",
    ]
