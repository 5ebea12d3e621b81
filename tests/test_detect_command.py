"""vsad detect: all that it takes, what it leaves, how it ends, and that one bad file loses no other sample."""

import json
import shutil

import cv2
import numpy as np
import pytest

from tests.stations import VIEWS, command, copy_to_inspect, make_station, shoot, write_sample
from vsad.data import open_dataset
from vsad.detection import Detector
from vsad.pipeline import Detections, SampleRecord


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    return make_station(tmp_path_factory.mktemp("station"))


@pytest.fixture
def folder(station, tmp_path):
    """A folder with the station's detector and data, to spoil."""
    return copy_to_inspect(station, tmp_path)


def scores(out):
    return {name: row["score"] for name, row in Detections.load(out).rows.items()}


def expected(folder, *images):
    """What the detector itself says of images (V, H, W, 3)."""
    detector = Detector.from_pretrained(folder / "detector")
    return [float(detector(np.ascontiguousarray(each.transpose(0, 3, 1, 2))).sample_score) for each in images]


def test_the_detector_is_never_the_output(folder):
    before = sorted(path.name for path in (folder / "detector").rglob("*"))
    for options in ([], ["--fresh"]):
        ended = command("detect", "data", "--out", "detector", *options, cwd=folder)
        assert ended.code == 1
        assert "--out: must not be the folder that is read, got detector" in ended.err
    assert sorted(path.name for path in (folder / "detector").rglob("*")) == before


def test_a_data_set_is_inspected_and_every_file_says_what_was_found(folder):
    ended = command("detect", "data", cwd=folder)
    assert (ended.code, ended.out) == (0, "detections\n")
    detector, dataset = Detector.from_pretrained(folder / "detector"), open_dataset(folder / "data", "test")
    found = Detections.load(folder / "detections")
    assert (
        list(found.rows)
        == [sample.id for sample in dataset.samples]
        == ["blot/000", "blot/001", "good/000", "good/001"]
    )
    for item in dataset:
        record = found.record(item["id"])
        right = detector(item["images"])
        assert record.score == pytest.approx(float(right.sample_score), rel=1e-5)
        assert record.verdict == ("defect" if item["id"].startswith("blot") else "ok")
        assert record.label == item["defect"]
        for v, view in enumerate(record.views):
            assert view.view == VIEWS[v]
            stored, scored = found.map(record, v).numpy(), right.maps[v].numpy()
            assert np.abs(stored - scored).max() <= (scored.max() - scored.min()) / 65535
            assert (view.low, view.high) == (scored.min(), scored.max())
            assert sum(region.area for region in view.regions) == (scored >= detector.threshold).sum()
            for region in view.regions:
                assert scored[region.peak_y, region.peak_x] == region.score
                assert region.x <= region.peak_x < region.x + region.width
            picture = cv2.imread(str(folder / "detections" / view.overlay))
            assert picture.shape == (64, 64, 3)
    for v, view in enumerate(found.record("blot/000").views):
        blot = view.regions[0]
        assert blot.x < 40 - 8 * v < blot.x + blot.width
        assert blot.y < 32 < blot.y + blot.height


INPUTS = {
    "folder of sample folders": (["parts"], lambda f: write_sample(f / "parts/p1", 100), "p1"),
    "one sample's folder": (["parts/p1"], lambda f: write_sample(f / "parts/p1", 100), "p1"),
    "flat folder": (["flat"], lambda f: write_sample(f / "flat", 100, views=VIEWS) or _prefix(f / "flat", "p1_"), "p1"),
    "pattern": (["flat/*.png"], lambda f: write_sample(f / "flat", 100) or _prefix(f / "flat", "p1_"), "p1"),
    "files": ([f"parts/p1/{v}.png" for v in "cab"], lambda f: write_sample(f / "parts/p1", 100), "p1"),
    "montage": (["m7.png"], lambda f: cv2.imwrite(str(f / "m7.png"), np.hstack(shoot(100))[..., ::-1]), "m7"),
}


def _prefix(folder, text):
    for path in folder.iterdir():
        path.rename(path.with_name(text + path.name))


@pytest.mark.parametrize("named", INPUTS)
def test_new_samples_are_found_however_they_lie(folder, named):
    arguments, write, name = INPUTS[named]
    write(folder)
    ended = command("detect", *arguments, cwd=folder)
    assert ended.code == 0, ended.err
    assert scores(folder / "detections") == {name: pytest.approx(expected(folder, shoot(100))[0], rel=1e-5)}
    assert Detections.load(folder / "detections").record(name).label is None


def test_json_is_all_that_stands_on_stdout_and_is_what_is_written(folder):
    ended = command("detect", "data", "--json", cwd=folder)
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert [line["id"] for line in lines] == ["blot/000", "blot/001", "good/000", "good/001"]
    for line in lines:
        written = json.loads((folder / "detections/samples" / f"{line['id']}.json").read_text())
        assert line == {name: value for name, value in written.items() if name not in ("format", "version")}
    again = command("detect", "data", "--json", cwd=folder)  # nothing is left to do, and all is said
    assert again.out == ended.out


@pytest.mark.parametrize("view", [0, 2])
def test_a_bad_file_loses_no_other_sample(folder, view):
    path = folder / f"data/test/good/000/{VIEWS[view]}.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:300])
    ended = command("detect", "data", cwd=folder)
    assert ended.code == 3
    assert "good/000 was not inspected" in ended.err
    assert path.name in ended.err
    found = Detections.load(folder / "detections")
    assert list(found.rows) == ["blot/000", "blot/001", "good/001"]
    assert list(found.bad) == ["good/000"]
    path.write_bytes(whole)  # mended, it alone is inspected
    ended = command("detect", "data", cwd=folder)
    assert (ended.code, "detect: 1 of 1" in ended.err) == (0, True)
    found = Detections.load(folder / "detections")
    assert (list(found.rows), found.bad) == (["blot/000", "blot/001", "good/000", "good/001"], {})


def test_it_ends_with_1_where_nothing_could_be_inspected_and_with_4_for_a_defect_where_asked(folder):
    assert command("detect", "data", "--fail-on-ng", "--out", "all", cwd=folder).code == 4
    shutil.rmtree(folder / "data/test/blot")
    assert command("detect", "data", "--fail-on-ng", "--out", "good", cwd=folder).code == 0
    for path in (folder / "data/test").rglob("*.png"):
        path.write_bytes(b"")
    ended = command("detect", "data", "--out", "none", cwd=folder)
    assert ended.code == 1
    assert "Traceback" not in ended.err


def test_a_sample_that_has_changed_is_inspected_again_and_no_other(folder):
    command("detect", "data", cwd=folder)
    before = scores(folder / "detections")
    write_sample(folder / "data/test/good/001", 300, blot=True)
    ended = command("detect", "data", cwd=folder)
    assert "detect: 1 of 1" in ended.err
    after = scores(folder / "detections")
    assert after["good/001"] == pytest.approx(expected(folder, shoot(300, blot=True))[0], rel=1e-5)
    assert all(after[name] == before[name] for name in before if name != "good/001")


def test_batches_change_nothing(folder):
    command("detect", "data", "--out", "one", cwd=folder)
    command("detect", "data", "--out", "three", "--batch", 3, cwd=folder)
    for name, score in scores(folder / "one").items():
        assert scores(folder / "three")[name] == pytest.approx(score, rel=1e-4)


def test_without_maps_and_overlays_there_are_none(folder):
    command("detect", "data", "--no-maps", "--no-overlays", cwd=folder)
    assert not (folder / "detections/maps").exists()
    assert not (folder / "detections/overlays").exists()
    record = Detections.load(folder / "detections").record("blot/000")
    assert all(view.map is None and view.overlay is None for view in record.views)
    assert any(view.regions for view in record.views)
    ended = command("eval", "data", cwd=folder)
    assert ended.code == 1
    assert "--maps" in ended.err


def test_quiet_prints_the_folder_and_nothing_else(folder):
    ended = command("detect", "data", "--quiet", cwd=folder)
    assert (ended.out, ended.err) == ("detections\n", "")


def test_records_are_read_again(folder):
    command("detect", "data", cwd=folder)
    path = folder / "detections/samples/blot/000.json"
    record = SampleRecord.read(path)
    record.write(folder / "again.json")
    assert (folder / "again.json").read_bytes() == path.read_bytes()
