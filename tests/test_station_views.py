"""Views are compared by their names wherever a rig, a model, a detector and data meet, and so are sizes."""

import json
import shutil
import time

import cv2
import pytest

from tests.stations import VIEWS, command, make_station, small_rig, write_data, write_sample
from vsad.geometry import Rig
from vsad.pipeline import Detections

FAST = ("--registration", "off")


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    return make_station(tmp_path_factory.mktemp("station"))


@pytest.fixture
def folder(station, tmp_path):
    """The station's data and files, to spoil."""
    shutil.copytree(station, tmp_path / "copy")
    return tmp_path / "copy"


def rename(root, view, name):
    for path in root.rglob(f"{view}.png"):
        path.rename(path.with_stem(name))


def refused(*arguments, cwd, named, seconds=8):
    """The command refuses at once, by the time of this process, in one line that names all of these."""
    start = time.process_time()
    ended = command(*arguments, cwd=cwd)
    assert time.process_time() - start < seconds
    assert ended.code == 1, ended.out + ended.err
    assert "Traceback" not in ended.err
    line = next(line for line in ended.err.splitlines() if line.startswith("error: "))
    for word in named:
        assert word in line
    return ended


@pytest.mark.parametrize("names", [("a", "b", "zz"), ("a", "b"), ("a", "b", "c", "d")])
@pytest.mark.parametrize("step", ["train", "fit", "detect", "detect new", "eval"])
def test_other_views_are_refused_by_name(folder, step, names):
    if step == "eval":
        assert command("detect", "data", cwd=folder).code == 0
    for path in [*(folder / "data").rglob("c.png")]:
        if len(names) == 3:
            path.rename(path.with_stem("zz"))
        elif len(names) == 2:
            path.unlink()
        else:
            shutil.copy(path, path.with_stem("d"))
    if step == "detect new" and len(names) == 4:
        ended = command("detect", "data/test/good", cwd=folder)  # images of other cameras are said, and left out
        assert ended.code == 0
        assert "left out data/test/good/000/d.png: its name says none of the views a, b, c" in ended.err
        return
    arguments = {
        "train": ["train", "data", "--out", "other"], "fit": ["fit", "data", "--out", "other"],
        "detect": ["detect", "data"], "detect new": ["detect", "data/test/good"], "eval": ["eval", "data"],
    }[step]  # fmt: skip
    named = {2: ["c"], 3: ["c", *(["zz"] if step != "detect new" else [])], 4: ["d"]}[len(names)]
    refused(*arguments, cwd=folder, named=named)
    assert not (folder / "other").exists()
    assert step == "eval" or not (folder / "detections").exists()


def test_a_model_of_other_views_is_refused(folder):
    small_rig(("a", "b", "d")).save(folder / "rig.json")
    rename(folder / "data", "c", "d")
    refused("fit", "data", "--out", "other", cwd=folder, named=["a, b, c", "a, b, d"])


@pytest.mark.parametrize("step", ["all", "fit"])
def test_a_rig_in_another_order_than_the_names_gives_right_results(folder, step):
    """Its third view is the leftmost camera, by the names of the files."""
    rig = Rig.load(folder / "rig.json")
    pairs = {(pair.target, pair.source): pair.homography for pair in rig.pairs}
    Rig.from_pairs(["c", "a", "b"], rig.size, pairs).save(folder / "rig.json")
    if step == "all":
        assert command("train", "data", "--steps", 1, *FAST, "--fresh", cwd=folder).code == 0
    ended = command("fit", "data", *FAST, "--fresh", cwd=folder)
    assert ended.code == 0, ended.err
    assert command("detect", "data", cwd=folder).code == 0
    found = Detections.load(folder / "detections")
    for name in ("blot/000", "blot/001"):
        assert found.record(name).verdict == "defect"
        for view in found.record(name).views:
            blot, centre = view.regions[0], 40 - 8 * VIEWS.index(view.view)
            assert blot.x < centre < blot.x + blot.width
    assert [found.record(name).verdict for name in ("good/000", "good/001")] == ["ok", "ok"]
    assert command("eval", "data", cwd=folder).code == 0
    metrics = json.loads((folder / "metrics.json").read_text())["categories"]["data"]
    assert metrics["sample"]["auroc"] == metrics["view"]["auroc"] == 1
    assert metrics["pixel"]["auroc"] > 0.95


def test_the_names_of_views_sort_as_people_count(tmp_path):
    """cam2 comes before cam10, in data, rig and detections alike."""
    names = ("cam1", "cam2", "cam10")
    write_data(tmp_path / "data", views=names)
    small_rig(names).save(tmp_path / "rig.json")
    assert command("train", "data", "--steps", 1, *FAST, cwd=tmp_path).code == 0
    assert command("fit", "data", *FAST, cwd=tmp_path).code == 0
    assert command("detect", "data", cwd=tmp_path).code == 0
    record = Detections.load(tmp_path / "detections").record("blot/000")
    assert [view.view for view in record.views] == list(names)
    assert [view.regions[0].x < 40 - 8 * v < view.regions[0].x + view.regions[0].width
            for v, view in enumerate(record.views)] == [True] * 3  # fmt: skip


def test_fitting_at_another_size_than_that_of_the_training_is_refused_at_once(folder):
    refused("fit", "data", "--size", 48, "--out", "other", cwd=folder, named=["64 x 64", "48 x 48"])
    assert not (folder / "other").exists()


@pytest.mark.parametrize(("size", "sides"), [("40x72", (40, 72)), ("97x131", (97, 131)), (None, (97, 131))])
def test_any_size_goes_through_all_steps_and_detect_needs_none(tmp_path, size, sides):
    """Sides that the model cannot divide too, as of 1080 lines."""
    write_data(tmp_path / "data")
    if size is None:
        for path in (tmp_path / "data").rglob("*.png"):
            flag = cv2.IMREAD_GRAYSCALE if "ground_truth" in path.parts else cv2.IMREAD_COLOR
            cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path), flag), (131, 97), interpolation=cv2.INTER_AREA))
        small_rig().scaled(sides).save(tmp_path / "rig.json")
    else:
        small_rig().save(tmp_path / "rig.json")
    given = [] if size is None else ["--size", size]
    assert command("train", "data", "--steps", 1, *FAST, *given, cwd=tmp_path).code == 0
    ended = command("fit", "data", *FAST, cwd=tmp_path)
    assert ended.code == 0, ended.err
    ended = command("detect", "data", cwd=tmp_path)
    assert ended.code == 0, ended.err
    record = Detections.load(tmp_path / "detections").record("blot/000")
    assert (record.height, record.width) == sides
    for v, view in enumerate(record.views):
        x, y = (40 - 8 * v) / 64 * sides[1], 32 / 64 * sides[0]
        assert view.regions[0].x < x < view.regions[0].x + view.regions[0].width
        assert view.regions[0].y < y < view.regions[0].y + view.regions[0].height
    picture = cv2.imread(str(tmp_path / "detections" / record.views[0].map), cv2.IMREAD_UNCHANGED)
    assert picture.shape == sides
    assert command("eval", "data", cwd=tmp_path).code == 0


def test_other_image_sizes_are_brought_to_the_detectors(folder):
    """A detector knows its size: pictures twice as large give nearly the same scores."""
    command("detect", "data", cwd=folder)
    before = Detections.load(folder / "detections").rows
    for path in (folder / "data/test").rglob("*.png"):
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (128, 128), interpolation=cv2.INTER_NEAREST))
    assert command("detect", "data", "--out", "large", "--no-overlays", cwd=folder).code == 0
    after = Detections.load(folder / "large").rows
    assert {name: row["score"] for name, row in after.items()} == {
        name: pytest.approx(row["score"], rel=1e-3) for name, row in before.items()
    }


@pytest.mark.parametrize("size", ["8", "0", "-3", "x", "64x", "64x64x64", "1e3", "99999999"])
def test_sizes_that_cannot_be_are_refused_before_work(folder, size):
    for step in ("calibrate", "train", "fit", "run"):
        refused(step, "data", f"--size={size}", "--out", "other", cwd=folder, named=["size"])
        assert not (folder / "other").exists()


def test_a_model_keeps_the_order_of_its_rig(folder):
    assert json.loads((folder / "model/station.json").read_text())["views"] == list(VIEWS)


def test_one_sample_of_many_without_a_view_is_named_and_the_others_are_inspected(folder):
    write_sample(folder / "new/p1", 100)
    write_sample(folder / "new/p2", 101)
    (folder / "new/p2/b.png").unlink()
    ended = command("detect", "new", cwd=folder)
    assert ended.code == 3
    assert "p2 was not inspected: there is no image of b" in ended.err
    assert list(Detections.load(folder / "detections").rows) == ["p1"]
