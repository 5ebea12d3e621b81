"""Files of another size or shape than those that were learned from: a shape is refused, a size is said."""

import json
import shutil

import cv2
import numpy as np
import pytest

from tests.stations import VIEWS, command, make_station, write_data
from vsad.data import Cameras, MultiViewDataset, Sample, ViewFile, is_resized, open_dataset
from vsad.detection import Detector


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    return make_station(tmp_path_factory.mktemp("station"))


@pytest.fixture
def folder(station, tmp_path):
    """A copy of the station, to change its files."""
    return shutil.copytree(station, tmp_path / "station")


def resize(path, width, height):
    """Write a file anew at another size."""
    assert cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (width, height)))


def sample(folder, **shapes):
    """A sample of even gray views, each of a shape."""
    folder.mkdir()
    images = {}
    for view, shape in shapes.items():
        cv2.imwrite(str(folder / f"{view}.png"), np.full(shape, 100, np.uint8))
        images[view] = ViewFile(folder / f"{view}.png")
    return Sample("parts", folder.name, "test", None, images, {})


@pytest.mark.parametrize(
    ("size", "other", "right"),
    [
        ((1080, 1920), (256, 455), True),
        ((1080, 1920), (256, 456), True),
        ((1080, 1920), (1080, 1440), False),
        ((1080, 1920), (1920, 1080), False),
        ((480, 640), (240, 320), True),
        ((512, 512), (500, 512), False),
    ],
)
def test_resized_is_what_keeps_its_shape_to_a_pixel(size, other, right):
    assert is_resized(size, other) == is_resized(other, size) == right


def test_every_camera_has_a_size_of_its_own(tmp_path):
    samples = [sample(tmp_path / name, left=(12, 16), right=(10, 10)) for name in "ab"]
    dataset = MultiViewDataset(samples, size=8)
    assert dataset.cameras.sizes == {"left": (12, 16), "right": (10, 10)}
    assert Cameras.parse(json.loads(json.dumps(dataset.cameras.content))) == dataset.cameras
    assert dataset[1]["images"].shape == (2, 3, 8, 8)


def test_a_file_that_would_be_stretched_in_another_way_is_refused(tmp_path):
    samples = [sample(tmp_path / "a", left=(12, 16)), sample(tmp_path / "b", left=(16, 16))]
    with pytest.raises(ValueError, match=r"b/left.png must have the shape of 16 x 12 pixels, like .*a/left.png, got"):
        MultiViewDataset(samples, size=8)[1]
    cameras = Cameras(("left",), (8, 8), {}, {"left": (32, 32)})
    assert MultiViewDataset(samples, cameras=cameras).read_images(1).shape == (1, 3, 8, 8)
    with pytest.raises(
        ValueError, match=r"a/left.png must have the shape of 32 x 32 pixels, in the files that this was"
    ):
        MultiViewDataset(samples, cameras=cameras).read_images(0)


def test_detector_and_model_remember_the_sizes(folder):
    expected = dict.fromkeys(VIEWS, (64, 64))
    assert Detector.from_pretrained(folder / "detector").cameras.sizes == expected
    assert json.loads((folder / "model/station.json").read_text())["sizes"] == {view: [64, 64] for view in VIEWS}
    command("detect", "data", cwd=folder)
    assert json.loads((folder / "detections/detections.json").read_text())["sizes"]["a"] == [64, 64]
    assert open_dataset(folder / "data", "test").cameras.sizes == expected


def test_detect_names_a_file_of_another_shape_and_inspects_the_others(folder):
    resize(folder / "data/test/good/001/b.png", 80, 64)
    ended = command("detect", "data", cwd=folder)
    assert ended.code == 3
    assert "good/001 was not inspected" in ended.err
    assert "good/001/b.png must have the shape of 64 x 64 pixels" in ended.err
    assert "got 80 x 64 pixels" in ended.err


def test_detect_and_fit_say_that_files_have_another_size(folder):
    for path in (folder / "data").rglob("a.png"):
        resize(path, 128, 128)
    said = "warning: a: files are of 128 x 128 pixels, and those that were learned from of 64 x 64 pixels"
    ended = command("detect", "data", cwd=folder)
    assert ended.code == 0
    assert said in ended.err
    ended = command("fit", "data", "--registration", "off", "--out", "other", cwd=folder)
    assert ended.code == 0
    assert said in ended.err


def test_training_says_that_the_rig_is_of_another_shape(folder):
    for path in (folder / "data").rglob("*.png"):
        resize(path, 96, 64)
    ended = command("train", "data", "--steps", 1, "--registration", "off", "--out", "other", cwd=folder)
    assert ended.code == 0
    assert "warning: c: files are of 96 x 64 pixels, and the rig is of pictures of 64 x 64 pixels" in ended.err


def test_run_refuses_a_shape_before_it_is_calibrated_on(tmp_path):
    data = write_data(tmp_path / "data")
    resize(data / "train/good/003/c.png", 64, 48)
    ended = command("run", "data", "--size", 64, "--steps", 1, cwd=tmp_path)
    assert ended.code == 1
    assert "train/good/003/c.png must have the shape of 64 x 64 pixels" in ended.err


def test_a_detector_without_sizes_is_read(folder):
    path = folder / "detector/detector.json"
    content = json.loads(path.read_text())
    del content["sizes"]
    path.write_text(json.dumps(content))
    assert Detector.from_pretrained(folder / "detector").cameras.sizes == {}
    assert command("detect", "data", cwd=folder).code == 0
    path.write_text(json.dumps(content | {"sizes": {"a": [0, 64]}}))
    ended = command("detect", "data", "--out", "other", cwd=folder)
    assert ended.code == 1
    assert "depths and sizes must be those of the rig's views" in ended.err
