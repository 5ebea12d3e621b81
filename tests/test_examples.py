"""Every example runs, and reaches what examples/README.md says, with a margin."""

import importlib.util
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_align_in_your_model_learns_what_only_the_neighbor_knows():
    with_homographies, without = example("align_in_your_model").main()
    assert min(with_homographies[0], without[0]) > 0.1
    assert with_homographies[-1] < 0.01
    assert without[-1] > 5 * with_homographies[-1]


def test_patchcore_tells_defects_from_normal_bricks(tmp_path):
    found = example("patchcore").main(tmp_path / "station")
    assert 0.8 < found["sample AUROC"] <= 1  # 0.89
    assert 0.88 < found["pixel AUROC"] <= 1  # 0.93
    assert 0.7 < found["AUPRO"] <= 1  # 0.79


def test_plane_sweep_finds_the_depth(tmp_path):
    pytest.importorskip("skimage")
    import cv2

    share, surest = example("plane_sweep").main(str(tmp_path / "depth.png"))
    assert share > 0.72  # 75.9 %
    assert surest > share + 0.05  # 85.6 %
    assert cv2.imread(str(tmp_path / "depth.png")).shape == (500, 3 * 741, 3)


def test_plane_sweep_projects_as_the_calibration_says():
    """A point 3 m away is seen f b / Z - shift further left by the right camera, wherever it lies."""
    sweep = example("plane_sweep")
    homography = sweep.right_from_left(torch.tensor([3.0], dtype=torch.float64))[0]
    point = torch.tensor([400.0, 100.0, 1.0], dtype=torch.float64)
    disparity = sweep.FOCAL * sweep.BASELINE / 3 - sweep.SHIFT
    torch.testing.assert_close(homography @ point, point - torch.tensor([disparity, 0, 0]).double(), rtol=0, atol=1e-5)


def test_every_example_has_a_test_and_a_row():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    source, table = Path(__file__).read_text(), (EXAMPLES / "README.md").read_text()
    assert {name for name in names if f'example("{name}").main(' in source and f"[{name}.py]" in table} == names
