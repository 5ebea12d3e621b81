"""homography_warp on photographs whose geometry is known, and against OpenCV's independent resampling."""

import cv2
import numpy as np
import pytest
import torch

from vsad.ops import homography_warp

MODES = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
TOLERANCE = 1e-4 if cv2.__version__ >= "5" else 0.03  # OpenCV 4 tabulates its weights in steps of 1/32 pixel
BORDERS = {"zeros": cv2.BORDER_CONSTANT, "border": cv2.BORDER_REPLICATE, "reflection": cv2.BORDER_REFLECT}


def gray(path):
    return torch.from_numpy(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)).float()[None, None] / 255


def correlation(a, b):
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()


def test_the_published_homography_aligns_two_views_of_a_wall(shared_data):
    one, three = gray(shared_data / "graf1.png"), gray(shared_data / "graf3.png")
    storage = cv2.FileStorage(str(shared_data / "H1to3p.xml"), cv2.FILE_STORAGE_READ)
    H = storage.getNode("H13").mat()
    aligned, valid = homography_warp(three, torch.from_numpy(H), tuple(one.shape[-2:]), return_mask=True)
    assert valid.float().mean().item() == pytest.approx(0.976, abs=1e-3)
    assert correlation(aligned[0, 0][valid[0]], one[0, 0][valid[0]]) == pytest.approx(0.855, abs=2e-3)
    assert correlation(three.flatten(), one.flatten()) < 0.1


def smooth_image(height, width):
    """Every pixel differs from its neighbors, none by much: resampling errors show, tabulated weights do not."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([np.sin(0.31 * x + 0.17 * y), np.cos(0.13 * x - 0.29 * y), np.sin(0.02 * x * y)]).astype(np.float32)


@pytest.mark.parametrize("padding", BORDERS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mirrored", [False, True])
def test_agrees_with_opencv(mode, padding, mirrored):
    image, size = smooth_image(37, 45), (41, 33)
    H = np.array([[1.11, 0.21, -6.3], [-0.13, 1.27, -4.7], [0.0011, -0.0017, 1.0]])  # leaves the image on every side
    if mirrored:
        H = np.array([[-1.0, 0, 40], [0, 1, 0], [0, 0, 1]]) @ H
    ours = homography_warp(torch.from_numpy(image)[None], torch.from_numpy(H), size, mode=mode, padding=padding)
    flags = MODES[mode] | cv2.WARP_INVERSE_MAP
    theirs = cv2.warpPerspective(image.transpose(1, 2, 0), H, size[::-1], flags=flags, borderMode=BORDERS[padding])
    np.testing.assert_allclose(ours[0].numpy(), theirs.transpose(2, 0, 1), atol=TOLERANCE, rtol=0)


def test_nothing_behind_the_camera_is_seen():
    """Beyond the horizon x = 10 the image would appear again, turned upside down."""
    H = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-0.1, 0, 1]])
    for padding in BORDERS:
        out, valid = homography_warp(torch.ones(1, 1, 20, 20), H, padding=padding, return_mask=True)
        assert out[..., 10:].eq(0).all()
        assert not valid[..., 10:].any()
        assert out[..., :5, :5].sub(1).abs().max() < 1e-6
