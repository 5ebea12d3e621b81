"""What a folder of detections holds after several inspections: nothing is lost, mixed, or told of other files."""

import os
import shutil

import pytest

from tests.stations import command, copy_to_inspect, make_station, write_sample
from vsad.pipeline import Detections


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    return make_station(tmp_path_factory.mktemp("station"))


@pytest.fixture
def folder(station, tmp_path):
    """A folder with the station's detector and data, and new parts."""
    copy_to_inspect(station, tmp_path)
    for place, name, seed in (("monday", "p1", 300), ("monday", "p2", 301), ("tuesday", "p3", 302)):
        write_sample(tmp_path / place / name, seed, blot=name == "p2")
    return tmp_path


def detect(folder, *arguments, code=0):
    ended = command("detect", *arguments, "--no-overlays", cwd=folder)
    assert ended.code == code, ended.err
    return ended


def verdicts(folder):
    return {name: row["verdict"] for name, row in Detections.load(folder / "detections").rows.items()}


def test_other_parts_are_added_and_what_is_printed_is_of_this_call(folder):
    detect(folder, "monday", "--fail-on-ng", code=4)
    ended = detect(folder, "tuesday", "--fail-on-ng", "--json")  # p2 is of another call
    assert "inspected before" not in ended.err
    assert len(ended.out.splitlines()) == 1
    assert '"id": "p3"' in ended.out
    assert "detections also holds samples of other inspections, 2 in all; --fresh begins anew" in ended.err
    assert verdicts(folder) == {"p3": "ok", "p1": "ok", "p2": "defect"}
    ended = detect(folder, "monday")  # nothing is left to do, and nothing is lost
    assert "detect:" not in ended.err
    assert "2 of 2 samples were inspected before, and not again; --fresh begins anew" in ended.err
    assert verdicts(folder) == {"p1": "ok", "p2": "defect", "p3": "ok"}
    detect(folder, "tuesday", "--fresh")
    assert verdicts(folder) == {"p3": "ok"}


def test_eval_takes_those_of_its_data_set(folder):
    detect(folder, "data")
    write_sample(folder / "data/test/good/009", 305)
    shutil.move(folder / "data/test/good/001", folder / "aside")
    ended = detect(folder, "data")
    assert "detect: 1 of 1" in ended.err
    assert "3 of 4 samples were inspected before, and not again" in ended.err
    assert "samples of other inspections, 1 in all" in ended.err
    assert set(verdicts(folder)) == {"blot/000", "blot/001", "good/000", "good/001", "good/009"}
    ended = command("eval", "data", "--out", "report", cwd=folder)
    assert ended.code == 0, ended.err


def test_a_sample_of_the_same_name_replaces_the_other_and_a_bad_one_takes_its_verdict_away(folder):
    detect(folder, "monday")
    for name in ("p1", "p2"):
        shutil.copytree(folder / "monday" / name, folder / "later" / name)
    write_sample(folder / "later/p1", 400, blot=True)
    ended = detect(folder, "later")
    assert (
        "warning: detections: what was found in 1 sample (p1) before was of other files, and is replaced" in ended.err
    )
    assert "detect: 1 of 1" in ended.err  # a copy of p2 is p2
    assert verdicts(folder) == {"p1": "defect", "p2": "defect"}
    (folder / "later/p2/a.png").write_bytes(b"")
    ended = detect(folder, "later", code=3)
    assert "p2 was not inspected" in ended.err
    detect(folder, "tuesday")
    found = Detections.load(folder / "detections")
    assert (set(found.rows), set(found.bad)) == ({"p1", "p3"}, {"p2"})
    detect(folder, "monday/p2")  # the files of the first time are there again
    found = Detections.load(folder / "detections")
    assert (set(found.rows), found.bad) == ({"p1", "p2", "p3"}, {})


def test_data_that_were_moved_are_not_inspected_again_and_are_found_where_they_lie(folder):
    detect(folder, "data")
    (folder / "other").mkdir()
    shutil.move(folder / "data", folder / "other/data")
    ended = detect(folder, "other/data")
    assert "detect:" not in ended.err
    record = Detections.load(folder / "detections").record("good/000")
    assert [view.image for view in record.views] == [
        str(folder / f"other/data/test/good/000/{name}.png") for name in "abc"
    ]
    path = folder / "other/data/test/good/000/a.png"
    os.utime(path)
    assert "detect: 1 of 1" in detect(folder, "other/data").err


def test_files_of_the_same_name_size_and_time_elsewhere_are_others(folder):
    """As an archive without times unpacks them: pictures of no compression."""
    import cv2

    for place, seed in (("first", 1), ("second", 2)):
        write_sample(folder / place / "p1", seed, blot=place == "second")
        for path in sorted((folder / place / "p1").glob("*.png")):
            cv2.imwrite(str(path.with_suffix(".bmp")), cv2.imread(str(path)))
            path.unlink()
            os.utime(path.with_suffix(".bmp"), ns=(0, 0))
    detect(folder, "first")
    assert verdicts(folder) == {"p1": "ok"}
    detect(folder, "second")
    assert verdicts(folder) == {"p1": "defect"}


def test_a_label_that_was_corrected_is_taken(folder):
    detect(folder, "data")
    path = folder / "detections/samples/good/001.json"
    path.write_text(path.read_text().replace('"label": "good"', '"label": "blot"'))
    ended = detect(folder, "data")
    assert "detect:" not in ended.err
    assert Detections.load(folder / "detections").rows["good/001"]["label"] == "good"
    assert '"label": "good"' in path.read_text()


def test_one_broken_name_stops_no_other_sample(folder):
    shutil.copy(folder / "monday/p1/a.png", folder / "monday/p1/a.jpg")
    (folder / "monday/p9_a_b.png").write_bytes(b"")
    (folder / "monday/plan.png").write_bytes(b"")
    ended = detect(folder, "monday", code=3)
    assert "p1 was not inspected: view a must be one file, got 'p1/a.jpg' and 'p1/a.png'" in ended.err
    assert "p9_a_b.png was not inspected: its name must say one view, got a and b" in ended.err
    assert "left out monday/plan.png: its name says none of the views a, b, c" in ended.err
    found = Detections.load(folder / "detections")
    assert (set(found.rows), set(found.bad)) == ({"p2"}, {"p1", "p9_a_b.png"})
    (folder / "data/test/good/note.png").write_bytes(b"")
    ended = detect(folder, "data", "--out", "set", code=3)
    assert "good/note.png was not inspected" in ended.err
    assert len(Detections.load(folder / "set").rows) == 4


def test_a_detection_that_was_killed_lists_what_it_did_and_no_verdict_of_before(folder, monkeypatch):
    detect(folder, "monday")
    write_sample(folder / "monday/p1", 400, blot=True)
    monkeypatch.setattr("vsad.pipeline.detections.Detections.finish", lambda *_: (_ for _ in ()).throw(SystemExit(9)))
    detect(folder, "monday", code=9)
    assert verdicts(folder)["p1"] == "ok"  # of before
    monkeypatch.undo()
    detect(folder, "tuesday")
    assert verdicts(folder) == {"p3": "ok", "p1": "defect", "p2": "defect"}


def test_a_broken_record_is_inspected_again(folder):
    detect(folder, "monday")
    (folder / "detections/samples/p1.json").write_text("{")
    ended = detect(folder, "monday")
    assert "detect: 1 of 1" in ended.err
    assert verdicts(folder) == {"p1": "ok", "p2": "defect"}


def test_a_threshold_that_was_changed_in_the_folder_alone_gives_way_and_that_is_said(folder):
    detect(folder, "monday")
    assert command("threshold", "--value", 1e6, cwd=folder).code == 0
    ended = detect(folder, "tuesday")
    assert "the samples in it were decided by threshold 1e+06, and are now decided by that of the detector" in ended.err
    assert verdicts(folder) == {"p3": "ok", "p1": "ok", "p2": "defect"}
    assert "were decided by" not in detect(folder, "tuesday").err


def test_a_threshold_needs_no_maps_for_verdicts_and_leaves_regions_out(folder):
    ended = command("detect", "data", "--no-maps", cwd=folder)
    assert ended.code == 0
    ended = command("threshold", "--value", 1e-6, cwd=folder)
    assert ended.code == 0, ended.err
    assert (
        "warning: detections: there are no maps of 4 samples (blot/000, blot/001, good/000 and 1 more): their"
        in ended.err
    )
    assert set(verdicts(folder).values()) == {"defect"}
    record = Detections.load(folder / "detections").record("blot/000")
    assert (record.verdict, record.threshold) == ("defect", 1e-6)
    assert all(view.regions == () and view.overlay is None for view in record.views)
    assert not [*(folder / "detections/overlays").rglob("*.jpg")]
    command("detect", "data", "--out", "some", cwd=folder)
    (folder / "some/maps/blot/000/b.png").unlink()
    ended = command("threshold", "some", "--value", 1e-6, cwd=folder)
    assert (ended.code, "there are no maps of 1 sample (blot/000)" in ended.err) == (0, True)
    assert Detections.load(folder / "some").record("blot/001").views[0].regions
