"""What is stored of a sample: read as it was written, by later versions too, and refused in words where it is not."""

import json
import math
import warnings

import cv2
import numpy as np
import pytest
import torch

from vsad.data import Cameras, Sample, ViewFile
from vsad.detection import Detection
from vsad.files import RunFolder
from vsad.geometry import Rig
from vsad.pipeline import Detections, Header, decide_anew, threshold_at
from vsad.pipeline.record import SampleRecord, range_of, read_map, record_of, regions_of, write_map


@pytest.fixture
def record(tmp_path):
    maps = torch.zeros(2, 8, 10)
    maps[0, 2:4, 3:6] = 5.0
    maps[0, 3, 4] = 7.0
    sample = Sample("part", "dent/1", "new", None, {v: ViewFile(tmp_path / f"{v}.png") for v in "ab"}, {})
    return record_of(sample, Detection.of(maps, (8, 10)), 4.0, ["a", "b"], maps=True, overlays=False)


def test_a_record_is_read_as_it_was_written(record, tmp_path):
    path = tmp_path / "1.json"
    record.write(path)
    assert SampleRecord.read(path) == record
    assert record.is_defect
    (region,) = record.views[0].regions
    assert (region.x, region.y, region.width, region.height, region.area) == (3, 2, 3, 2, 6)
    assert (region.peak_x, region.peak_y, region.score) == (4, 3, 7.0)
    assert record.views[1].regions == ()
    assert record.files == {v: ViewFile(tmp_path / f"{v}.png") for v in "ab"}


def test_fields_that_a_later_version_adds_are_passed_over(record, tmp_path):
    path = tmp_path / "1.json"
    record.write(path)
    content = json.loads(path.read_text())
    content["operator"] = content["views"][0]["lens"] = content["views"][0]["regions"][0]["kind"] = "new"
    path.write_text(json.dumps(content))
    assert SampleRecord.read(path) == record


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("score"),
        lambda c: c.update(score="high"),
        lambda c: c.update(views=3),
        lambda c: c["views"][0].update(low=[1]),
        lambda c: c["views"][0]["regions"][0].update(x="left"),
        lambda c: c.update(format="other"),
        lambda c: c.update(version=2),
    ],
)
def test_what_is_no_record_is_refused_in_words(record, tmp_path, change):
    path = tmp_path / "1.json"
    record.write(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"1\.json: must be .*inspect anew"):
        SampleRecord.read(path)


@pytest.mark.parametrize("scores", [np.linspace(-3, 9, 12).reshape(3, 4), np.full((3, 4), 2.5)])
def test_maps_keep_scores_to_sixteen_bits(scores, tmp_path):
    scores = scores.astype(np.float32)
    write_map(tmp_path / "map.png", scores)
    low, high = float(scores.min()), float(scores.max())
    found = read_map(tmp_path / "map.png", low, high).numpy()
    assert np.abs(found - scores).max() <= (high - low) / 131070 + 1e-6
    (tmp_path / "map.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"map\.png: must be a 16-bit gray picture"):
        read_map(tmp_path / "map.png", low, high)


def test_a_record_of_before_is_read(record, tmp_path):
    path = tmp_path / "1.json"
    record.write(path)
    content = json.loads(path.read_text())
    for view in content["views"]:
        del view["blind"], view["gap"]
    path.write_text(json.dumps(content))
    assert SampleRecord.read(path) == record  # what was not known is None


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_place_without_a_number_belongs_to_a_region_and_comes_first(wrong):
    scores = np.zeros((4, 6), np.float32)
    scores[0, 4:6] = 7.0
    scores[1:3, 1] = 3.0, wrong
    first, second = regions_of(scores, 1.0)
    assert (first.x, first.y, first.area, first.peak_x, first.peak_y) == (1, 1, 2, 1, 2)
    assert math.isnan(first.score)
    assert (second.x, second.y, second.score) == (4, 0, 7.0)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("values", [np.linspace(-3, 9, 12), np.full(12, 2.5), np.full(12, np.nan), [3e38, -3e38] * 6])
def test_maps_keep_places_without_a_number(values, wrong, tmp_path):
    scores = np.array(values, np.float32).reshape(3, 4)
    scores[1, 2] = scores[2, 0] = wrong
    write_map(tmp_path / "map.png", scores)
    low, high, gap = range_of(scores)
    found = read_map(tmp_path / "map.png", low, high, gap).numpy()
    known = np.isfinite(scores)
    assert (np.isnan(found) == ~known).all()
    assert np.abs(found - scores, dtype=np.float64)[known].max(initial=0) <= (high - low) / 131070 + 1e-6
    # A program that does not know of them takes them for more than any score.
    plain = read_map(tmp_path / "map.png", low, high).numpy()
    assert plain[~known].min() > plain[known].max(initial=low)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_sample_without_a_number_is_a_defect_and_written_and_read(wrong, tmp_path):
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), np.full((8, 10), 90, np.uint8))
    sample = Sample("part", "dent/1", "new", None, dict.fromkeys("ab", ViewFile(image)), {})
    maps = torch.linspace(-1, 0.5, 160).reshape(2, 8, 10)
    maps[1, 4, 5] = wrong
    found = Detection.of(maps, (8, 10), unjudged=torch.zeros(2), blind=torch.tensor([0.25, 0.5]))
    header = Header("part", Cameras(("a", "b"), (8, 10), {}), 1.0, "as given")
    rig = Rig.from_pairs(["a", "b"], (8, 10), {("a", "b"): torch.eye(3, dtype=torch.float64)})
    with Detections.open(tmp_path / "out", header, {}, rig) as out, warnings.catch_warnings():
        warnings.simplefilter("error")
        out.write(sample, found, torch.rand(2, 3, 8, 10))
        out.finish()
    files = ("detections.json", "samples/dent/1.json")
    row, record = (json.loads((tmp_path / "out" / name).read_text(), parse_constant=pytest.fail) for name in files)
    assert (row["samples"][0]["score"], row["samples"][0]["views"]) == (
        None,
        {"a": pytest.approx(0.5 - 0.75 - 0.0047, abs=0.01), "b": None},
    )
    assert [record["score"], *(view["score"] for view in record["views"])] == [
        None,
        row["samples"][0]["views"]["a"],
        None,
    ]
    assert (row["samples"][0]["verdict"], record["verdict"]) == ("defect", "defect")
    assert [view["gap"] for view in record["views"]] == [None, 65535]
    stored = Detections.load(tmp_path / "out")
    assert (
        json.loads(stored.record("dent/1").line, parse_constant=pytest.fail)["views"][1]["regions"][0]["score"] is None
    )
    read = stored.detection("dent/1")
    assert math.isnan(read.sample_score)
    assert torch.equal(read.view_scores.isnan(), torch.tensor([False, True]))
    assert torch.equal(read.maps.isnan(), ~found.maps.isfinite())
    torch.testing.assert_close(read.maps.nan_to_num(0), found.maps.where(found.maps.isfinite(), 0), atol=2e-5, rtol=0)
    assert torch.equal(read.blind, found.blind)
    (verdict,) = stored.verdicts.found
    assert (math.isnan(verdict.score), verdict.defect, verdict.blind) == (True, True, (0.25, 0.5))
    # Another threshold decides it anew, and it stays what it is.
    again = decide_anew(tmp_path / "out", threshold_at(stored, 5.0), "as given")
    assert again.record("dent/1").verdict == "defect"
    assert again.detection("dent/1").maps.isnan().sum() == (~found.maps.isfinite()).sum()
    assert [len(view.regions) for view in again.record("dent/1").views] == [0, 1]
    overlay = cv2.imread(str(tmp_path / "out/overlays/dent/1/b.jpg"))
    assert overlay.shape == (8, 10, 3)


def test_a_view_that_judges_nothing_makes_a_defect_whatever_the_threshold(tmp_path):
    sample = Sample("part", "1", "new", None, {v: ViewFile(tmp_path / f"{v}.png") for v in "ab"}, {})
    for share, verdict in ((0.99, "ok"), (1.0, "defect")):
        found = Detection.of(torch.zeros(2, 8, 10), (8, 10), blind=torch.tensor([0.1, share]))
        assert record_of(sample, found, 4.0, ["a", "b"], maps=True, overlays=False).verdict == verdict


def test_detections_know_the_files_again_that_were_inspected(tmp_path):
    there, moved, other = (tmp_path / name / "a.png" for name in ("there", "moved", "other"))
    for path, size in ((there, 100), (moved, 100), (other, 101)):
        path.parent.mkdir()
        path.write_bytes(bytes(size))
    with RunFolder.open(tmp_path / "found", command="detect") as run:
        run.mark("1", files=[[str(there), 100, 0]])
    header = Header("part", Cameras(("a",), (8, 8), {}), 1.0, "as given")
    found = Detections(tmp_path / "found", header)

    def sample(path, name="1"):
        return Sample("part", name, "test", "good", {"a": ViewFile(path)}, {})

    assert found.is_of(sample(there))
    assert found.is_of(sample(moved))
    assert not found.is_of(sample(other))
    assert found.is_of(sample(other, "2"))  # of another sample nothing is known
    assert found.is_of(sample(tmp_path / "gone.png"))  # reading it says what is wrong
