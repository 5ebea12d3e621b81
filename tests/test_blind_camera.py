"""A camera that shows nothing of the sample does not pass without a word, whatever it shows instead."""

import json

import cv2
import numpy as np
import pytest
import torch

from tests.stations import command
from tests.test_detector_sizes import fitted
from vsad.data import SynthConfig, open_dataset, synthesize
from vsad.detection import Detector
from vsad.geometry import Rig
from vsad.pipeline import Detections

BLACK, GRAY, WHITE = 0, 128, 255


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A synthetic station's ``data``, and a ``detector`` with its true rig."""
    folder = tmp_path_factory.mktemp("station")
    synthesize(folder / "data", SynthConfig(train=6, test_good=3, test_defect=0, size=96))
    normal = open_dataset(folder / "data", "train")
    H_view_from_plane = json.loads((folder / "data/synth.json").read_text())["H_view_from_plane"]
    H = {view: torch.tensor(H_view_from_plane[view], dtype=torch.float64) for view in normal.views}
    pairs = {(t, s): H[s] @ torch.linalg.inv(H[t]) for t in H for s in H if s != t}
    rig = Rig.from_pairs(list(normal.views), (96, 96), pairs)
    fitted(torch.stack([item["images"] for item in normal]), rig).save_pretrained(folder / "detector")
    return folder


@pytest.fixture(scope="module")
def station(folder):
    dataset = open_dataset(folder / "data", "test")
    return Detector.from_pretrained(folder / "detector"), dataset.read_images(0), dataset.views


def shows(images, view, level):
    spoiled = images.clone()
    spoiled[view] = level / 255
    return spoiled


@pytest.mark.parametrize("level", [BLACK, GRAY, WHITE])
@pytest.mark.parametrize("view", range(5))
def test_a_dead_or_saturated_camera_is_blind_and_a_defect(station, view, level):
    detector, images, _ = station
    whole, found = detector(images).cpu(), detector(shows(images, view, level)).cpu()
    assert not whole.is_defect(detector.threshold)
    assert found.is_defect(detector.threshold)
    assert float(found.blind[view]) == 1
    others = [v for v in range(5) if v != view]
    assert found.blind[others].tolist() == whole.blind[others].tolist()
    assert (whole.blind < 0.5).all()
    assert (whole.blind >= whole.unjudged).all()  # what no view judges, its own view does not


@pytest.mark.parametrize("level", [BLACK, GRAY, WHITE])
def test_cameras_that_are_all_dead_or_saturated_are_a_defect(station, level):
    detector, images, _ = station
    found = detector(images.clone().fill_(level / 255))
    assert found.is_defect(detector.threshold)
    assert found.blind.tolist() == [1] * 5


def test_a_camera_of_which_only_noise_is_left_is_blind(station):
    detector, images, _ = station
    noise = 0.02 * torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(0))
    spoiled = images.clone()
    spoiled[3] = (0.1 + noise).clamp(0, 1)
    assert detector(spoiled).blind.tolist()[3] == 1
    for weaker in (0.3 * images, (images + noise).clamp(0, 1)):  # they still show the sample
        assert (detector(weaker).blind < 0.5).all()


def test_a_camera_that_is_dead_in_the_normal_samples_too_is_named(folder):
    images = torch.stack([item["images"] for item in open_dataset(folder / "data", "train")])
    noise = torch.randn(images[:, 2].shape, generator=torch.Generator().manual_seed(0))
    images[:, 2] = (0.02 + 0.01 * noise).clamp(0, 1)
    rig = Rig.load(folder / "detector/rig.json")
    with pytest.warns(UserWarning, match=f"{rig.views[2]} shows one brightness all over") as said:
        fitted(images, rig)
    assert sum("one brightness" in str(each.message) for each in said) == 1


def test_the_command_names_the_camera_and_the_files_hold_the_share(folder, station, tmp_path):
    _, _, views = station
    dataset = open_dataset(folder / "data", "test")
    for sample in dataset.samples:
        for view, file in sample.images.items():
            image = cv2.imread(str(file.path))
            if view == views[2] and sample.id != "good/0000":
                image = np.full_like(image, WHITE)
            path = tmp_path / f"parts/{sample.id.replace('/', '-')}/{view}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image)
    ended = command("detect", "parts", "--detector", folder / "detector", "--json", cwd=tmp_path, width=400)
    assert ended.code == 0
    assert (
        f"warning: each of 2 samples (good-0001, good-0002): {views[2]} itself judges nothing, so it is called"
        in ended.err
    )
    assert ended.err.count("itself judges") == 1
    whole, *blind = [[view["blind"] for view in json.loads(line)["views"]] for line in ended.out.splitlines()]
    assert max(whole) < 0.5
    assert [shares[2] for shares in blind] == [1, 1]
    found = Detections.load(tmp_path / "detections")
    assert found.detection("good-0001").blind.tolist() == blind[0]
    assert [text for text in found.warnings_of(found.record("good-0000")) if "itself" in text] == []
    assert [views[2] in text for text in found.warnings_of(found.record("good-0002")) if "itself" in text] == [True]
