"""Lenses: found from boards, taken out of pictures, and the commands that do it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from tests.flat_surfaces import as_tensor, camera, chessboard, photograph, turned
from vsad.calibration import Lens, calibrate_chessboard, estimate_lenses, load_lenses, save_lenses
from vsad.cli import app
from vsad.data.images import write_image
from vsad.geometry import Rig
from vsad.pipeline import undistort_folder

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 240
# (tilt, azimuth, turn) of the camera before each board.
POSES = [
    (0, 0, 0),
    (30, 20, 10),
    (35, 110, 80),
    (25, 200, 190),
    (40, 290, 260),
    (20, 330, 30),
    (30, 160, 120),
    (15, 60, 300),
]
LENS = Lens((60, 80), (90.0, 90.0), (39.5, 29.5), (-0.4, 0.0, 0.0, 0.0, 0.0), 8, 1.0, 0.1, 0.5)


def bend_by(picture: np.ndarray, k1: float = -0.5) -> np.ndarray:
    """The picture as a lens of one number gives it; ``remap`` asks where each bent pixel lies in the straight one."""
    K = np.array([[300.0, 0, (SIZE - 1) / 2], [0, 300, (SIZE - 1) / 2], [0, 0, 1]])
    ys, xs = np.indices((SIZE, SIZE), np.float32)
    straight = cv2.undistortPoints(np.stack([xs, ys], -1).reshape(-1, 1, 2), K, np.array([k1, 0, 0, 0]), P=K)
    return cv2.remap(picture, straight.reshape(SIZE, SIZE, 2), None, cv2.INTER_CUBIC)


def boards(k1: float = -0.5) -> list[np.ndarray]:
    surface = chessboard(square=20, corner=(20, 50))
    return [bend_by(photograph(surface, turned(camera(tilt, around), turn)), k1) for tilt, around, turn in POSES]


def vsad(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_lens_is_found_and_taken_out(tmp_path: Path) -> None:
    pictures = boards()
    samples = [as_tensor(picture) for picture in pictures]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lens = estimate_lenses(samples, ["a"])["a"]
    assert (lens.boards, lens.size) == (8, (SIZE, SIZE))
    assert lens.bent_px > 0.5
    assert lens.straight_px < 0.12
    with pytest.warns(
        UserWarning, match=r"the lens bends the board's, which is what limits it in a \(\d\.\d\d px, 0\.\d"
    ):
        _, bent = calibrate_chessboard([as_tensor(*pictures[:3])], list("abc"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, straight = calibrate_chessboard([as_tensor(*map(lens.undistort, pictures[:3]))], list("abc"))
    assert max(pair.error_px for pair in straight.pairs) < 0.1 < 0.2 < max(pair.error_px for pair in bent.pairs)

    moved = lens.straighten(torch.tensor([[20.0, 30.0], [119.5, 119.5]], dtype=torch.float64))
    assert moved[0].norm() < torch.tensor([20.0, 30.0]).norm() - 1  # barrel: what lies outside lies farther out
    assert (moved[1] - 119.5).abs().max() < 1
    assert load_lenses(save_lenses(tmp_path / "lens.json", {"a": lens})) == {"a": lens}


def test_photographs_by_the_commands(shared_data: Path, tmp_path: Path) -> None:
    """OpenCV's thirteen photographs: all 156 ordered pairs err by less than half a pixel once they are undistorted."""
    photographs, straight = tmp_path / "photographs", tmp_path / "straight"
    photographs.mkdir()
    for path in shared_data.glob("left*.jpg"):
        shutil.copy(path, photographs)
    lens = tmp_path / "lens.json"
    done = vsad("lens", photographs, "--chessboard", "9x6", "--camera", "left", "--out", lens)
    assert done.exit_code == 0, done.output
    assert load_lenses(lens)["left"].boards == 13
    assert load_lenses(lens)["left"].straight_px < 0.25 < 1 < load_lenses(lens)["left"].bent_px
    done = vsad("undistort", photographs, "--lens", lens, "--camera", "left", "--out", straight)
    assert done.exit_code == 0, done.output
    done = vsad("calibrate", straight, "--chessboard", "9x6", "--out", tmp_path / "rig.json")
    assert done.exit_code == 0, done.output
    assert "lens" not in done.output
    errors = [pair.error_px for pair in Rig.load(tmp_path / "rig.json").pairs]
    assert len(errors) == 156
    assert max(errors) < 0.5


def test_views_without_enough_boards_or_without_need_are_left_out() -> None:
    bent, good = boards(), boards(0.0)
    blank = np.full_like(bent[0], 128)
    samples = [as_tensor(b, g, b if n < 5 else blank) for n, (b, g) in enumerate(zip(bent, good))]
    with pytest.warns(UserWarning, match="too few whole boards|leave them as they are") as caught:
        lenses = estimate_lenses(samples, ["bent", "good", "rare"])
    said = " ".join(str(each.message) for each in caught)
    assert "too few whole boards: 5 in rare; take at least 6" in said
    assert "bent" in lenses
    assert "rare" not in lenses
    assert "good" not in lenses or lenses["good"].bent_px < 0.2
    with pytest.raises(ValueError, match=r"at least 6 whole boards, got 2 in a; take"):
        estimate_lenses([as_tensor(picture) for picture in bent[:2]], ["a"])


@pytest.fixture
def station(tmp_path: Path) -> Path:
    """A data set of two cameras: "a" has a lens, "b" has none."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data"
    gray = cv2.GaussianBlur(rng.integers(0, 256, (60, 80), np.uint8), (0, 0), 2)
    write_image(folder / "train/good/1/a.bmp", gray)
    write_image(folder / "train/good/1/b.jpg", gray)
    write_image(folder / "test/dent/1/a.png", (gray.astype(np.uint16) << 4) + 3)
    mask = np.zeros((60, 80), np.uint8)
    mask[2:20, 2:30] = 7
    write_image(folder / "ground_truth/dent/1/A_mask.png", mask)
    (folder / "notes.txt").write_text("Monday")
    return folder


def test_a_folder_keeps_its_layout_bits_and_labels(station: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = undistort_folder(station, out, {"a": LENS})
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == [
        "ground_truth/dent/1/A_mask.png", "test/dent/1/a.png", "train/good/1/a.png", "train/good/1/b.jpg",
        "undistorted.json",
    ]  # fmt: skip
    assert (done.pictures, done.masks, done.as_they_are) == ({"a": 2}, {"a": 1}, {"b": 1})
    assert (out / "train/good/1/b.jpg").read_bytes() == (station / "train/good/1/b.jpg").read_bytes()
    deep, given = (cv2.imread(str(root / "test/dent/1/a.png"), cv2.IMREAD_UNCHANGED) for root in (out, station))
    assert deep.dtype == np.uint16
    expected = cv2.undistort(given, LENS.matrix, np.array(LENS.distortion))
    assert np.abs(deep.astype(int) - expected).max() <= 1
    assert np.abs(deep.astype(int) - given).max() > 100
    mask = cv2.imread(str(out / "ground_truth/dent/1/A_mask.png"), cv2.IMREAD_UNCHANGED)
    assert sorted(np.unique(mask)) == [0, 255]
    assert done.problems() == [
        "there is no lens for b (1 files), copied as they are",
        "not copied, as they are no pictures: notes.txt",
    ]
    assert load_lenses(out / "undistorted.json") == {"a": LENS}
    with pytest.raises(ValueError, match=r"must hold pictures as the cameras wrote them, .* undistorted\.json says"):
        undistort_folder(out, tmp_path / "twice", {"a": LENS})
    assert not (tmp_path / "twice").exists()


def test_what_cannot_be_read_is_copied_and_named(station: Path, tmp_path: Path) -> None:
    (station / "test/dent/1/a.png").write_bytes(b"cut")
    done = undistort_folder(station, tmp_path / "out", {"a": LENS})
    assert (tmp_path / "out/test/dent/1/a.png").read_bytes() == b"cut"
    assert list(done.unread) == ["test/dent/1/a.png"]
    assert "cannot be read" in done.problems()[1]


def wrong_size(folder: Path) -> None:
    write_image(folder / "test/dent/1/a.png", np.zeros((30, 40), np.uint8))


def two_for_one(folder: Path) -> None:
    write_image(folder / "train/good/1/a.png", np.zeros((60, 80), np.uint8))


def floating(folder: Path) -> None:
    cv2.imwrite(str(folder / "train/good/1/a.tiff"), np.zeros((60, 80), np.float32))
    (folder / "train/good/1/a.bmp").unlink()


REFUSED = {
    r"a.png: undistort: picture must be of 60 x 80 pixels .* got 30 x 40": (wrong_size, {}),
    r"one file per view, got train/good/1/a.bmp and train/good/1/a.png": (two_for_one, {}),
    r"a.tiff must have 8 or 16 bits to be undistorted, got float32": (floating, {}),
    r"named as the views that have a lens, top, got a, b; rename": (lambda folder: None, {"lenses": {"top": LENS}}),
    r"camera must be one that has a lens, a, got 'c'": (lambda folder: None, {"camera": "c"}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused_leaves_nothing(station: Path, tmp_path: Path, message: str) -> None:
    change, options = REFUSED[message]
    change(station)
    with pytest.raises(ValueError, match=message):
        undistort_folder(station, tmp_path / "out", **{"lenses": {"a": LENS}, **options})
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_output_that_holds_something_is_refused(station: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="must be a new or empty folder"):
        undistort_folder(station, station / "train", {"a": LENS})


GOOD = {"format": "vsad-lenses", "version": 1, "lenses": {"a": json.loads(json.dumps(dataclasses.asdict(LENS)))}}
BAD_FILES = {
    '"format": "vsad-lenses"': {**GOOD, "format": "vsad-rig"},
    r'and "lenses"; make it with vsad lens': {**GOOD, "lenses": [1]},
    "lens of a must have size, focal": {**GOOD, "lenses": {"a": {"size": [1, 1]}}},
    "distortion must be 5 numbers": {**GOOD, "lenses": {"a": {**GOOD["lenses"]["a"], "distortion": [1, 2]}}},
    "boards must be a number": {**GOOD, "lenses": {"a": {**GOOD["lenses"]["a"], "boards": True}}},
    "size and focal must be positive": {**GOOD, "lenses": {"a": {**GOOD["lenses"]["a"], "focal": [0, 1]}}},
}


@pytest.mark.parametrize("message", BAD_FILES)
def test_files_of_lenses_are_checked(tmp_path: Path, message: str) -> None:
    path = tmp_path / "lens.json"
    path.write_text(json.dumps(GOOD))
    assert load_lenses(path) == {"a": LENS}
    path.write_text(json.dumps(BAD_FILES[message]))
    with pytest.raises(ValueError, match=message):
        load_lenses(path)


def test_cameras_can_be_added_one_by_one(tmp_path: Path) -> None:
    for view in ("a", "b"):
        for number, picture in enumerate(boards()):
            write_image(tmp_path / view / f"{number}.png", picture)
        done = vsad("lens", tmp_path / view, "--chessboard", "9x6", "--camera", view, "--out", tmp_path / "lens.json")
        assert done.exit_code == 0, done.output
    assert list(load_lenses(tmp_path / "lens.json")) == ["a", "b"]
    done = vsad("undistort", tmp_path / "a", "--lens", tmp_path / "lens.json", "--out", tmp_path / "a/out")
    assert "--out: must not lie in the folder that is read" in str(done.exception)
