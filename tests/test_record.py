"""What is stored of a sample: read as it was written, by later versions too, and refused in words where it is not."""

import json

import numpy as np
import pytest
import torch

from vsad.data import Cameras, Sample, ViewFile
from vsad.detection import Detection
from vsad.files import RunFolder
from vsad.pipeline import Detections, Header
from vsad.pipeline.record import SampleRecord, read_map, record_of, regions_of, write_map


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


def test_a_place_without_a_number_belongs_to_a_region():
    scores = np.zeros((4, 4), np.float32)
    scores[1, 1] = np.nan
    (region,) = regions_of(scores, 1.0)
    assert (region.x, region.y, region.area) == (1, 1, 1)


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
