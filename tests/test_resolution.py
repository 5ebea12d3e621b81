"""Pictures too small to judge, and enlarged ones, are said once, before any work."""

import cv2
import pytest

from tests.stations import VIEWS, command, small_rig, write_data


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    """Samples of 64 x 64 pixels, and their rig."""
    folder = tmp_path_factory.mktemp("station")
    write_data(folder / "data", train=3, good=1, bad=1)
    small_rig().save(folder / "rig.json")
    return folder


SMALL = "warning: pictures are worked on at 48 x 40 pixels: below 64 a side most defects are missed"
LARGE = "warning: pictures of a and of 2 more views are enlarged, from 64 x 64 pixels to 80 x 80"


@pytest.mark.parametrize(("size", "said"), [("40x48", [SMALL]), ("80", [LARGE]), (None, []), ("80x40", [])])
def test_too_few_pixels_and_enlarged_ones_are_said_once(station, tmp_path, size, said):
    """Quiet or not; of pictures that are small and enlarged both is said."""
    given = [] if size is None else ["--size", size]
    ended = command("calibrate", "data", "--out", tmp_path / "rig.json", *given, "--quiet", cwd=station)
    assert ended.code == 0, ended.err
    assert all(line in ended.err for line in said)
    for words, sizes in (("pictures are worked on", ("40x48", "80x40")), ("enlarged, from", ("80", "80x40"))):
        assert ended.err.count(words) == (size in sizes)


@pytest.mark.parametrize("step", ["train", "run"])
def test_it_is_said_before_any_work(station, tmp_path, step):
    arguments = [step, "data", "--steps", 1, "--registration", "off", "--out", tmp_path / "out"]
    ended = command(*arguments, "--size", "40x48", cwd=station)
    assert next(line for line in ended.err.splitlines() if line).startswith(SMALL)
    assert ended.err.count("pictures are worked on") == 1


def test_a_first_sample_that_cannot_be_read_is_said_by_who_reads_it(station, tmp_path):
    write_data(tmp_path / "data", train=2)
    (tmp_path / f"data/train/good/000/{VIEWS[0]}.png").write_bytes(b"no picture")
    ended = command("calibrate", "data", cwd=tmp_path)
    assert ended.code == 1
    assert "train/good/000/a.png must be a complete image" in ended.err


def test_cameras_of_several_sizes_are_judged_each_by_its_own(tmp_path):
    write_data(tmp_path / "data", train=3)
    for path in (tmp_path / "data/train").rglob("b.png"):
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (128, 128)))
    ended = command("calibrate", "data", "--size", 96, cwd=tmp_path)
    assert "pictures of a and of 1 more views are enlarged, from 64 x 64 pixels to 96 x 96" in ended.err
