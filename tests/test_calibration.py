"""Calibration against known geometry: synthetic stations, a published homography, and pairs that must fail."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.flat_surfaces import as_tensor, camera, mean_error, photograph, texture
from tests.recorder import Recorder
from vsad.calibration import calibrate
from vsad.data.synth.product import load_product
from vsad.data.synth.station import Station
from vsad.geometry import Rig, scale_homography

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def station() -> tuple[list[torch.Tensor], dict[str, np.ndarray]]:
    """Three samples of five views at 256 pixels, one of them mirrored, and the true view-from-plane homographies."""
    synth, product, samples = Station(256, seed=0), load_product("coins", 256), []
    for number in range(3):
        rng = np.random.default_rng(number)
        shot = synth.shoot(synth.set_scene(product, rng), rng)
        samples.append(as_tensor(*(shot.images[camera.name] for camera in synth.cameras)))
    return samples, {camera.name: camera.H_view_from_plane for camera in synth.cameras}


@pytest.fixture(scope="module")
def calibrated(station):
    samples, truth = station
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return calibrate(samples, list(truth))


def test_every_pair_of_a_station_is_exact(station, calibrated) -> None:
    _, truth = station
    rig, report = calibrated
    assert len(rig.pairs) == len(report.pairs) == 20
    for pair in rig.pairs:
        H_true = truth[pair.source] @ np.linalg.inv(truth[pair.target])
        assert mean_error(pair.homography, H_true, (256, 256)) < 0.15, (pair.target, pair.source)
        assert pair.inliers > 200
        assert pair.error_px < 1


def test_the_report_knows_the_mirrored_camera(station, calibrated) -> None:
    _, truth = station
    mirrored = {pair.target for pair in calibrated[1].pairs if pair.mirrored}
    handed = {view: np.linalg.det(H) > 0 for view, H in truth.items()}
    assert sum(handed.values()) == 4
    assert mirrored == set(truth)  # each view sees the mirrored one, and it sees the others
    for pair in calibrated[1].pairs:
        assert pair.mirrored == (handed[pair.target] != handed[pair.source])
    table = str(calibrated[1]).splitlines()
    assert len(table) == 11
    assert table[3].split()[:6] == ["C1", "-", "C4", "direct", "sift", "yes"]
    assert max(map(len, table)) < 80


def test_the_rig_survives_its_file_and_has_the_asked_graph(station, calibrated, tmp_path: Path) -> None:
    rig, _ = calibrated
    rig.save(tmp_path / "rig.json")
    assert torch.equal(Rig.load(tmp_path / "rig.json").homographies, rig.homographies)
    samples, truth = station
    ring, report = calibrate(samples[:1], list(truth), graph="ring")
    assert ring.neighbors.tolist() == [[1, 4], [2, 0], [3, 1], [4, 2], [0, 3]]
    assert len(report.pairs) == 20


def test_a_published_homography_of_photographs(shared_data: Path) -> None:
    """Two photographs of a painted wall, one pair of images: the error is over the valid pixels of the first."""
    file = cv2.FileStorage(str(shared_data / "H1to3p.xml"), cv2.FILE_STORAGE_READ)
    H_true = file.getNode("H13").mat()
    wall = as_tensor(*(cv2.imread(str(shared_data / f"graf{i}.png"))[..., ::-1] for i in (1, 3)))
    rig, report = calibrate([wall], ["1", "3"])
    assert mean_error(rig.homographies[0, 0], H_true, (640, 800)) < 1.0
    assert report.pairs[0].method == "direct"

    small = torch.nn.functional.avg_pool2d(wall, 2)
    rig, report = calibrate([torch.stack((small[0], small[1].flip(-1)))], ["1", "3"])
    mirror = np.array([[-1, 0, 399], [0, 1, 0], [0, 0, 1]])
    H_small = mirror @ scale_homography(torch.from_numpy(H_true), (640, 800), (320, 400)).numpy()
    assert mean_error(rig.homographies[0, 0], H_small, (320, 400)) < 0.5
    assert report.pairs[0].mirrored


@pytest.mark.parametrize("mirror", [False, True])
def test_strong_perspective_needs_simulated_slants(mirror: bool) -> None:
    surface, H_true = texture(1), camera(74, 20)
    if mirror:
        H_true = np.array([[-1, 0, 239], [0, 1, 0], [0, 0, 1]]) @ H_true
    rig, report = calibrate([as_tensor(surface, photograph(surface, H_true))], ["a", "b"])
    assert report.pairs[0].method == "tilted"
    assert mean_error(rig.homographies[0, 0], H_true, (240, 240)) < 0.3


def test_two_opposite_views_meet_through_a_third() -> None:
    surface = texture(2)
    cameras = {"a": camera(62, 0), "b": camera(62, 100), "top": camera(0, 0)}
    images = as_tensor(*(photograph(surface, H) for H in cameras.values()))
    rig, report = calibrate([images], list(cameras))
    methods = {(pair.target, pair.source): pair.method for pair in report.pairs}
    assert methods["a", "b"] == methods["b", "a"] == "composed"
    assert methods["a", "top"] == methods["top", "b"] == "direct"
    for pair in rig.pairs:
        H_true = cameras[pair.source] @ np.linalg.inv(cameras[pair.target])
        assert mean_error(pair.homography, H_true, (240, 240)) < 0.5, (pair.target, pair.source)


def test_a_pair_that_cannot_be_fitted_is_left_out_with_a_warning() -> None:
    surface, shifted = texture(3, 160), np.array([[1.0, 0, 9], [0, 1, -4], [0, 0, 1]])
    images = as_tensor(surface, photograph(surface, shifted), texture(4, 160))
    with pytest.warns(UserWarning, match="no homography between|has no partner") as caught:
        rig, report = calibrate([images], list("abc"))
    said = [str(warning.message) for warning in caught]
    assert all(warning.filename == __file__ for warning in caught)
    assert len(said) == 2
    assert "no homography between a and c, b and c (" in said[0]
    assert said[1] == "calibrate: c has no partner: it will be judged without other views"
    assert all(pair.reason for pair in report.pairs if pair.method == "failed")
    assert report.failed == (("a", "c"), ("b", "c"))
    assert rig.neighbors.tolist() == [[1], [0], [-1]]
    assert mean_error(rig.homographies[0, 0], shifted, (160, 160)) < 0.05


def test_texture_along_a_line_is_not_enough() -> None:
    """A strip fixes how points along it move, but not how the plane turns about it."""
    surface, shifted = np.full((240, 240, 3), 128, np.uint8), np.array([[1.0, 0, 6], [0, 1, 3], [0, 0, 1]])
    surface[112:128] = texture(8)[112:128]
    with pytest.warns(UserWarning, match="a and b .the matches that agree lie (in|along)|the rig has no neighbors"):
        _, report = calibrate([as_tensor(surface, photograph(surface, shifted))], ["a", "b"])
    assert report.pairs[0].inliers > 20  # they are reported though they were not enough


def test_a_rig_without_any_neighbor_is_legal_but_warned_about() -> None:
    blank = torch.full((2, 3, 96, 128), 0.5)
    with pytest.warns(UserWarning, match="a and b show nothing|the rig has no neighbors") as caught:
        rig, report = calibrate([blank, blank], ["a", "b"])
    assert len(caught) == 2
    assert rig.neighbors.tolist() == [[-1], [-1]]
    assert rig.size == (96, 128)
    assert [pair.method for pair in report.pairs] == ["failed", "failed"]


@pytest.mark.parametrize("size", [(120, 96), (720, 960)])
def test_images_of_other_sizes_keep_their_pixels(size: tuple[int, int]) -> None:
    """Features are found at another size; the homography is in pixels of the images, to a part of their width."""
    coarse = cv2.resize(texture(5), (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    center = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    turn = cv2.getRotationMatrix2D(tuple(center), 180, 1.1)  # a half turn shows any half-pixel error twice over
    H_true = np.vstack([turn, [0, 0, 1]])
    rig, _ = calibrate([as_tensor(coarse, photograph(coarse, H_true))], ["a", "b"])
    assert rig.size == size
    assert mean_error(rig.homographies[0, 0], H_true, size) < 4e-4 * max(size)


class Data:
    """A data set with names; it records which items were read."""

    views = ("a", "b")

    def __init__(self, count: int) -> None:
        surface = texture(6, 128)
        self.images = as_tensor(surface, surface[:, ::-1])
        self.count, self.read = count, []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.read.append(index)
        return {"images": self.images}


def test_data_sets_are_sampled_evenly_and_name_their_views() -> None:
    data, progress = Data(21), Recorder()
    rig, report = calibrate(data, max_samples=3, progress=progress)
    assert data.read == [0, 10, 20]
    assert rig.views == ("a", "b")
    assert report.samples == 3
    assert progress.stages == [
        ("reading samples", 3, 3), ("finding sift features", 3, 3), ("matching sift", 1, 1),
        ("matching weak sift", 0, 0), ("comparing pictures", 1, 1),
    ]  # fmt: skip
    mirror = np.array([[-1, 0, 127], [0, 1, 0], [0, 0, 1]])
    assert mean_error(rig.homographies[0, 0], mirror, (128, 128)) < 0.02


def test_iterables_are_read_no_further_than_needed() -> None:
    data = Data(5)
    stream = (data[index]["images"] for index in range(5))
    _, report = calibrate(stream, ["a", "b"], max_samples=2)
    assert data.read == [0, 1]
    assert report.samples == 2


def test_the_same_seed_gives_the_same_rig() -> None:
    surface = texture(7, 160)
    images = as_tensor(surface, photograph(surface, camera(30, 40, 160)))
    first, second = (calibrate([images], ["a", "b"], seed=5)[0] for _ in range(2))
    assert torch.equal(first.homographies, second.homographies)


IMAGES = torch.zeros(2, 3, 32, 32)
BAD_CALLS = {
    "hold at least one sample": lambda: calibrate([], ["a", "b"]),
    "views must name the views": lambda: calibrate([IMAGES]),
    r"sample 0: images must be \[3 3 H W\], got \[2, 3, 32, 32\]": lambda: calibrate([IMAGES], list("abc")),
    r"sample 1 must be of \(32, 32\) pixels": lambda: calibrate([IMAGES, IMAGES[..., :16]], ["a", "b"]),
    "features must be auto, sift, akaze, orb, got 'surf'": lambda: calibrate([IMAGES], ["a", "b"], features="surf"),
    "max_samples must be at least 1": lambda: calibrate([IMAGES], ["a", "b"], max_samples=0),
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_errors(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAD_CALLS[message]()
