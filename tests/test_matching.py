"""Features, matches and robust fits, on images whose geometry is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from vsad.calibration.matching import (
    Features,
    detect,
    fit_reweighted,
    fit_robustly,
    foreshorten,
    match,
    reprojection_errors,
)
from vsad.geometry import image_corners, transform_points

H_TRUE = torch.tensor([[0.9, 0.1, 12.0], [-0.15, 1.05, 20.0], [4e-4, -2e-4, 1.0]], dtype=torch.float64)


def blob(x: float, y: float, size: tuple[int, int] = (64, 80), sigma: float = 4.0) -> np.ndarray:
    ys, xs = np.mgrid[: size[0], : size[1]]
    return np.uint8(40 + 160 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * sigma**2)) + 0.5)


def texture(seed: int = 0, size: tuple[int, int] = (160, 200)) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, None, 2)
    return np.uint8(np.clip(128 + 40 * smooth / smooth.std(), 0, 255))


@pytest.mark.parametrize("center", [(40.0, 30.0), (40.25, 30.0), (39.6, 31.3)])
def test_points_are_pixel_centers(center: tuple[float, float]) -> None:
    points = detect(blob(*center)).points
    assert (points - torch.tensor(center)).norm(dim=-1).min() < 0.05


def test_points_on_a_canvas_are_its_pixels() -> None:
    """Seen through x -> 2x + 3, the blob at 40 lies at (40 - 3) / 2."""
    H_image_from_canvas = torch.tensor([[2.0, 0, 3], [0, 2, -1], [0, 0, 1]], dtype=torch.float64)
    points = detect(blob(40, 30), H_image_from_canvas, (34, 42)).points
    assert (points - torch.tensor([18.5, 15.5])).norm(dim=-1).min() < 0.05


def test_the_border_of_a_warped_image_has_no_features() -> None:
    shift = torch.tensor([[1.0, 0, 90], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    points = detect(texture(), shift).points
    assert len(points) > 50
    assert points[:, 0].max() < 200 - 90 - 4


def test_mirrored_descriptors_are_those_of_the_mirrored_image() -> None:
    image = texture()
    plain, flipped = detect(image).mirrored(), detect(np.ascontiguousarray(image[:, ::-1]))
    back = torch.stack((199 - flipped.points[:, 0], flipped.points[:, 1]), -1)
    distance, nearest = torch.cdist(plain.points, back).min(1)
    same = distance < 0.3
    assert same.double().mean() > 0.7
    # No feature is off by the quarter of a pixel that would show here as half a pixel.
    assert (plain.points - back[nearest])[same].mean(0).abs().max() < 0.01
    difference = (plain.descriptors - flipped.descriptors[nearest])[same].norm(dim=-1)
    assert difference.median() < 0.05


def test_match_is_mutual_and_distinct() -> None:
    eye = torch.eye(128)
    points = torch.arange(8.0, dtype=torch.float64).reshape(4, 2)
    target = Features(points, eye[[0, 1, 2, 3]])
    source = Features(points + 10, eye[[3, 0, 0, 2]])  # two alike: not distinct; 1 has no partner
    got_target, got_source = match(target, source)
    assert got_target.tolist() == points[[2, 3]].tolist()
    assert got_source.tolist() == (points + 10)[[3, 0]].tolist()
    near_target, near_source = match(target, Features(points + 0.5, eye[[0, 2, 1, 3]]), radius=1.0)
    assert near_target.tolist() == points[[0, 3]].tolist()
    assert near_source.tolist() == (points + 0.5)[[0, 3]].tolist()


def test_match_of_featureless_images_is_empty() -> None:
    nothing = detect(np.full((64, 64), 90, np.uint8))
    assert nothing.points.shape == (0, 2)
    for pair in ((nothing, detect(texture())), (detect(texture()), nothing)):
        assert [len(points) for points in match(*pair)] == [0, 0]


def matches(inliers: int, outliers: int, noise: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(inliers + outliers, 2, generator=generator, dtype=torch.float64) * 256
    source = transform_points(H_TRUE, target)
    source += noise * torch.randn(source.shape, generator=generator, dtype=torch.float64)
    source[inliers:] = torch.rand(outliers, 2, generator=generator, dtype=torch.float64) * 256
    return target, source


def corner_error(H: torch.Tensor) -> float:
    corners = image_corners((256, 256), dtype=torch.float64)
    return float((transform_points(H, corners) - transform_points(H_TRUE, corners)).norm(dim=-1).max())


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("inliers", "outliers"), [(60, 90), (30, 150), (200, 800)])
def test_robust_fit_finds_the_homography(inliers: int, outliers: int, mirrored: bool) -> None:
    for seed in range(5):
        target, source = matches(inliers, outliers, 0.3, seed)
        if mirrored:
            target[:, 0] = 255 - target[:, 0]
        H, agree = fit_robustly(target, source, 1.5, mirrored=mirrored, seed=seed)
        assert agree[:inliers].double().mean() > 0.9
        assert agree[inliers:].double().mean() < 0.1
        assert (torch.linalg.det(H) < 0) == mirrored


def test_robust_fit_mostly_finds_one_right_match_in_ten() -> None:
    """A single run of OpenCV's finds it in two cases of three."""
    found = 0
    for seed in range(10):
        _, agree = fit_robustly(*matches(20, 180, 0.3, seed), 1.5, seed=seed)
        found += bool(agree[:20].double().mean() > 0.8)
    assert found >= 9


def test_robust_fit_finds_no_reflection_unasked() -> None:
    target, source = matches(60, 30, 0.3, 0)
    _, agree = fit_robustly(target, source, 1.5, mirrored=True)
    assert agree.sum() < 20


def test_robust_fit_is_deterministic_and_needs_four_matches() -> None:
    target, source = matches(40, 40, 0.5, 0)
    assert torch.equal(fit_robustly(target, source, 1.5, seed=3)[0], fit_robustly(target, source, 1.5, seed=3)[0])
    H, inliers = fit_robustly(target[:3], source[:3], 1.5)
    assert H is None
    assert inliers.tolist() == [False] * 3


def test_reweighting_sharpens_a_rough_fit() -> None:
    target, source = matches(400, 60, 0.3, 1)
    rough = H_TRUE.clone()
    rough[:2, 2] += torch.tensor([4.0, -3.0])
    H = fit_reweighted(target, source, rough, 8.0)
    assert corner_error(rough) > 4
    assert corner_error(H) < 0.2


def test_errors_behind_the_camera_are_infinite() -> None:
    H = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 2]], dtype=torch.float64)
    target = torch.tensor([[0.0, 4], [5, 1]], dtype=torch.float64)
    assert reprojection_errors(H, target, torch.tensor([[0.0, 5], [0, 0]])).tolist() == [3, torch.inf]


@pytest.mark.parametrize("angle", [0.0, 36.0, 90.0, 144.0])
def test_foreshortening_shows_the_whole_image(angle: float) -> None:
    H_image_from_canvas, (height, width) = foreshorten(2.0, angle, (60, 100))
    seen = transform_points(torch.linalg.inv(H_image_from_canvas), image_corners((60, 100), dtype=torch.float64))
    assert seen.min() >= -0.5
    assert (seen <= torch.tensor([width, height]) - 0.5).all()
    assert torch.linalg.det(H_image_from_canvas) == pytest.approx(2.0)
