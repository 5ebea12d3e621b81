"""The pictures of a calibration, and the command that writes rigs and pictures or says in a line what is wrong."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

import vsad.cli.calibration
from tests.flat_surfaces import as_tensor, camera, chessboard, mean_error, photograph, texture, turned
from vsad.calibration import CalibrationReport, calibrate, write_calibration_pictures
from vsad.cli import app
from vsad.geometry import Rig
from vsad.terminal import StderrConsole

pytestmark = pytest.mark.usefixtures("one_thread")

CAMERAS = {"cam 1": camera(0, 0), "über": turned(camera(25, 40), 60), "m/3": turned(camera(20, 200), 10, mirrored=True)}


@pytest.fixture(scope="module")
def calibrated() -> tuple[torch.Tensor, Rig, CalibrationReport]:
    """Two cameras and a mirrored one, and a fourth that sees nothing."""
    surface = texture(5)
    images = as_tensor(*(photograph(surface, H) for H in CAMERAS.values()), np.full_like(surface, 90))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return images, *calibrate([images], [*CAMERAS, "alone"])


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(float)


def jumps(overlay: np.ndarray) -> float:
    """How much brighter or darker a tile's first row and column is than its neighbor's last, where both are lit."""
    steps = []
    for line in range(50, 400, 50):
        for ahead, behind in ((overlay[line], overlay[line - 1]), (overlay[:, line], overlay[:, line - 1])):
            lit = np.minimum(ahead, behind) > 70
            steps.append(np.abs(ahead - behind)[lit])
    return float(np.concatenate(steps).mean())


def test_there_is_a_picture_of_every_view_and_of_every_pair(calibrated, tmp_path: Path) -> None:
    images, rig, report = calibrated
    files = write_calibration_pictures(tmp_path / "new" / "pictures", images, rig, report)
    names = [path.name for path in files]
    assert names[:4] == ["view-cam 1.jpg", "view-über.jpg", "view-m_3.jpg", "view-alone.jpg"]
    assert sorted(names[4:]) == ["pair-cam 1-and-m_3.jpg", "pair-cam 1-and-über.jpg", "pair-über-and-m_3.jpg"]
    assert sorted(path.name for path in (tmp_path / "new" / "pictures").iterdir()) == sorted(names)


def test_pairs_of_an_earlier_calibration_do_not_stay(calibrated, tmp_path: Path) -> None:
    images, rig, report = calibrated
    for name in ("pair-cam 1-and-alone.jpg", "pair-mine.jpg"):
        (tmp_path / name).touch()
    write_calibration_pictures(tmp_path, images, rig, report)
    assert not (tmp_path / "pair-cam 1-and-alone.jpg").exists()
    assert (tmp_path / "pair-mine.jpg").exists()


def test_lines_go_on_across_tiles_after_alignment_only(calibrated, tmp_path: Path) -> None:
    for path in write_calibration_pictures(tmp_path, *calibrated):
        if path.name.startswith("pair"):
            picture = read(path)
            panel = picture.shape[0] // 2
            width = picture.shape[1] // 2
            before, after = picture[panel + 30 : panel + 430, 12:412], picture[panel + 30 : panel + 430, width + 12 :]
            assert jumps(after[:, :400]) < 0.6 * jumps(before), path.name


def test_coverage_is_bright_where_matches_lie(tmp_path: Path) -> None:
    """The right half of the surface is bare, and the partner does not see the upper rows."""
    surface = texture(7)
    surface[:, 120:] = 128
    H = np.array([[1.0, 0, 0], [0, 1, -60], [0, 0, 1]])
    images = as_tensor(surface, photograph(surface, H))
    rig, report = calibrate([images], ["a", "b"])
    picture = read(write_calibration_pictures(tmp_path, images, rig, report)[0])[30:430, 12:412]
    unseen, matched, bare = picture[:80, 20:180], picture[140:380, 20:180], picture[140:380, 230:380]
    assert unseen.mean() < 0.25 * 128
    assert bare.mean() == pytest.approx(0.5 * 128, abs=6)
    assert matched.mean() > 0.85 * 128


def test_images_must_be_those_of_the_rig(calibrated, tmp_path: Path) -> None:
    images, rig, report = calibrated
    with pytest.raises(ValueError, match=r"write_calibration_pictures: images must be \[4 3 240 240\]"):
        write_calibration_pictures(tmp_path, images[:3], rig, report)
    assert not list(tmp_path.iterdir())


def write(folder: Path, images: torch.Tensor, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for name, image in zip(names, images):
        rgb = (image.permute(1, 2, 0) * 255).round().byte().numpy()
        cv2.imwrite(str(folder / f"{name}.png"), rgb[..., ::-1])


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Normal samples of two cameras; a board that both see, in two places; and the views of one board alone."""
    folder, cameras = tmp_path_factory.mktemp("station"), list(CAMERAS.values())[:2]
    for n in range(2):
        images = as_tensor(*(photograph(texture(n), H) for H in cameras))
        write(folder / "data" / "train" / "good" / str(n), images, ["a", "b"])
        board = as_tensor(*(photograph(chessboard(square=12, corner=(40 + 30 * n, 60)), H) for H in cameras))
        write(folder / "boards" / f"board {n}", board, ["a", "b"])
    write(folder / "board", board, ["a", "b"])
    (folder / "empty").mkdir()
    return folder


def command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: object, width: int = 200
) -> tuple[Result, str]:
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "said.txt").open("w") as file:
        monkeypatch.setattr(vsad.cli.calibration, "console", StderrConsole(file=file, width=width))
        result = CliRunner().invoke(app, ["calibrate", *map(str, arguments)])
    return result, (tmp_path / "said.txt").read_text()


@pytest.mark.parametrize("folder", ["boards", "board"])
def test_the_command_takes_boards(station: Path, tmp_path: Path, monkeypatch, folder: str) -> None:
    result, said = command(
        monkeypatch, tmp_path, station / folder, "--chessboard", "9x6", "--pictures", "look", "--out", "new/rig.json"
    )
    assert result.exit_code == 0, result.exception
    rig = Rig.load(tmp_path / "new" / "rig.json")
    a, b = list(CAMERAS.values())[:2]
    assert mean_error(rig.homographies[0, 0], b @ np.linalg.inv(a), (240, 240)) < 0.2
    assert "chessboard" in said
    assert "nothing around it tells whether a, b see in one; name those that do with --mirrored" in result.output
    assert {path.name for path in (tmp_path / "look").iterdir()} == {"view-a.jpg", "view-b.jpg", "pair-a-and-b.jpg"}
    assert result.stdout.split() == [str(Path("new/rig.json")), "look"]


def test_the_table_fits_a_narrow_terminal(station: Path, tmp_path: Path, monkeypatch) -> None:
    for width in (200, 60, 40):
        result, said = command(monkeypatch, tmp_path, station / "data", "--samples", 1, width=width)
        assert result.exit_code == 0, result.exception
        lines = [line for line in said.splitlines() if line]
        assert len(lines) == 2
        assert max(map(len, lines)) <= width
        assert re.match(r"views .*error px .*covered", lines[0])
        assert re.match(r"a - b .*0\.\d\d", lines[1])


MISTAKES = {
    "--chessboard: must be the inner corners along its sides, such as 9x6, got 'nine'": (
        "board",
        "--chessboard",
        "nine",
    ),
    "must have an odd number of inner corners along one side": ("board", "--chessboard", "8x6"),
    "got none in any view": ("board", "--chessboard", "10x7"),
    "which goes on beyond 5x4 inner corners in view": ("board", "--chessboard", "5x4"),
    "--mirrored: must go with --chessboard": ("data", "--mirrored", "a"),
    "--category: must be left out": ("board", "--chessboard", "9x6", "--category", "bolts"),
    "--features: must be left out with --chessboard": ("board", "--chessboard", "9x6", "--features", "orb"),
    "features must be auto, sift, akaze, orb, got 'surf'": ("data", "--features", "surf"),
    "must hold pictures of a chessboard": ("empty", "--chessboard", "9x6"),
    "absent must be a folder of pictures": ("absent", "--chessboard", "9x6"),
    ": must be a place that can be written, got a folder; name a file": ("data", "--out", "."),
    "said.txt, which is a file and no folder; name another place": ("data", "--pictures", "said.txt"),
    "said.txt/rig.json: must be a place that can be written, got ": ("data", "--out", "said.txt/rig.json"),
    "size must be": ("data", "--size", "0"),
    "must have at most 100 pixels": ("board", "--chessboard", "9x6", "--pixel-limit", "100"),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_refused_before_work_in_one_line(station: Path, tmp_path: Path, monkeypatch, message: str) -> None:
    folder, *options = MISTAKES[message]
    result, _ = command(monkeypatch, tmp_path, station / folder, *options)
    assert isinstance(result.exception, (ValueError, OSError))
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "rig.json").exists()


def test_no_samples_are_a_mistake(station: Path, tmp_path: Path, monkeypatch) -> None:
    result, _ = command(monkeypatch, tmp_path, station / "data", "--samples", 0)
    assert result.exit_code == 2
    assert "--samples" in result.output
