"""What calibration does where SIFT finds nothing, how it judges a fit, and what the pictures add to the matches."""

from __future__ import annotations

import warnings

import cv2
import numpy as np
import pytest
import torch

from tests.flat_surfaces import as_tensor, camera, mean_error, photograph, texture, turned
from tests.recorder import Recorder
from vsad.calibration import calibrate, matching
from vsad.calibration.dense import refine_densely
from vsad.calibration.feature_kinds import usable_kinds
from vsad.calibration.matching import detect_mirrored
from vsad.calibration.quality import covered_share, held_out_error, seen_places, why_weak
from vsad.geometry import transform_points, translation

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (240, 240)


def views(H: np.ndarray, seed: int = 1) -> torch.Tensor:
    surface = texture(seed)
    return as_tensor(surface, photograph(surface, H))


@pytest.mark.parametrize("kind", [kind for kind in usable_kinds() if kind != "sift"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_other_features_find_the_homography_too(kind: str, mirrored: bool) -> None:
    H_true = turned(camera(30, 40), 50, mirrored=mirrored)
    rig, report = calibrate([views(H_true)], ["a", "b"], features=kind)
    assert [(pair.features, pair.mirrored) for pair in report.pairs] == [(kind, mirrored)] * 2
    assert mean_error(rig.homographies[0, 0], H_true, SIZE) < 0.2


def test_where_sift_finds_nothing_others_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "find_keypoints", lambda image, mask=None: ((), torch.empty(0, 128)))
    H_true, progress = turned(camera(20, 40), 10), Recorder()
    rig, report = calibrate([views(H_true)], ["a", "b"], progress=progress)
    assert report.pairs[0].features == usable_kinds()[1]
    assert mean_error(rig.homographies[0, 0], H_true, SIZE) < 0.2
    assert f"finding {usable_kinds()[1]} features" in [stage[0] for stage in progress.stages]
    assert usable_kinds()[1] in str(report)


def test_features_that_opencv_lacks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "AKAZE", raising=False)
    assert usable_kinds() == ("sift", "orb")
    with pytest.raises(ValueError, match=r"installed OpenCV has \(sift, orb\), got akaze; choose one of them"):
        calibrate([torch.zeros(2, 3, 32, 32)], ["a", "b"], features="akaze")


def test_features_of_the_mirrored_image_lie_where_the_image_has_them() -> None:
    picture = np.full((160, 200), 60, np.uint8)
    picture[60:100, 50:95] = 200
    points = detect_mirrored(picture, kind="orb").points
    for corner in ((50, 60), (94, 60), (50, 99), (94, 99)):
        assert (points - torch.tensor(corner, dtype=torch.float64)).norm(dim=-1).min() < 3


def points(count: int, seed: int = 0, size: tuple[int, int] = SIZE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 2, generator=generator, dtype=torch.float64) * (min(size) - 1)


H_TRUE = torch.from_numpy(camera(30, 40))


def test_held_out_matches_show_what_the_fit_hides() -> None:
    """Noise of 0.4 pixels along x and y is one of 0.57; few matches follow it and seem better than they are."""
    target = points(400)
    noise = 0.4 * torch.randn(400, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    source = transform_points(H_TRUE, target) + noise
    assert held_out_error(H_TRUE, target, source, SIZE) == pytest.approx(0.57, abs=0.06)
    few = held_out_error(H_TRUE, target[:30], source[:30], SIZE)
    assert few > 0.57
    assert np.isnan(held_out_error(H_TRUE, target[:6], source[:6], SIZE))


def test_the_share_of_the_overlap_that_matches_cover() -> None:
    half = translation(120, 0)  # the source sees the left half of the target, as its own right half
    assert seen_places(half, SIZE).sum() == 128
    assert seen_places(half, SIZE)[:, :8].all()
    quarter = points(4000) * torch.tensor([0.25, 1.0])
    assert covered_share(half, quarter, SIZE) == pytest.approx(0.5)
    assert covered_share(half, quarter[:0], SIZE) == 0


def test_the_gate_says_why() -> None:
    def why(target: torch.Tensor, source: torch.Tensor | None = None, matches: int | None = None) -> str:
        source = transform_points(H_TRUE, target) if source is None else source
        return why_weak(H_TRUE, target, source, matches or len(target), SIZE, 1.4)

    assert why(points(200)) == ""
    assert why(points(20)) == "only 20 of 20 matches agree"
    assert why(points(200), matches=600) == "only 200 of 600 matches agree"
    assert why(points(200) / 16).endswith("of 256 places only")
    assert why(points(200) * torch.tensor([1.0, 0.01]) + 110).endswith("along a line")
    target = points(200)
    wrong = transform_points(H_TRUE, target)
    wrong[::2] += 6 * torch.randn(100, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert why(target, wrong).startswith("one half of the matches misses the other by")


def gray(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def test_the_pictures_sharpen_a_rough_homography() -> None:
    surface, everywhere = texture(2), points(2000)
    pair = gray(surface), gray(photograph(surface, H_TRUE.numpy()))
    rough = H_TRUE @ translation(0.7, -0.5)
    sharper = refine_densely(rough, everywhere, [pair, pair])
    assert mean_error(rough, H_TRUE, SIZE) > 0.7
    assert mean_error(sharper, H_TRUE, SIZE) < 0.1


def test_pixels_that_had_no_say_must_gain() -> None:
    surface, everywhere = texture(2), points(2000)
    pair = gray(surface), gray(photograph(surface, H_TRUE.numpy()))
    assert refine_densely(H_TRUE, everywhere, [pair]) is None  # there is nothing to gain
    strange = gray(texture(3))
    assert refine_densely(H_TRUE, everywhere, [(pair[0], strange)]) is None
    assert refine_densely(translation(235, 0), everywhere, [pair]) is None  # nothing is seen by both


def test_a_view_that_shows_nothing_is_named() -> None:
    images = views(camera(20, 10))
    images = torch.cat([images, torch.full_like(images[:1], 0.5)])
    with pytest.warns(UserWarning, match=r"between a and dark, b and dark \(dark shows nothing\)|dark has no partner"):
        rig, report = calibrate([images], ["a", "b", "dark"])
    assert rig.neighbors.tolist() == [[1], [0], [-1]]
    assert [pair.reason for pair in report.pairs if pair.target == "dark"] == ["dark shows nothing"] * 2


def test_two_views_of_the_same_files_are_named() -> None:
    image = views(camera(0, 0))[:1]
    with pytest.warns(UserWarning, match="views a and b hold the same pictures, which two cameras never take"):
        calibrate([torch.cat([image, image])], ["a", "b"])


def test_one_view_has_no_pairs() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rig, report = calibrate([views(camera(0, 0))[:1]], ["only"])
    assert (rig.views, rig.pairs, report.pairs) == (("only",), (), ())
    assert str(report) == "no pairs of views"
