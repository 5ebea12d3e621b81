"""Masks as label tools write them: no label vanishes, and antialiased edges stay where they are."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from vsad.data.masks import read_mask

SHAPE = (96, 90)
DEFECT = np.zeros(SHAPE, np.uint8)
cv2.ellipse(DEFECT, (40, 50), (20, 11), 30, 0, 360, 1, -1)
DEFECT[5:12, 60:80] = 1
WHITE = np.full((*SHAPE, 3), 255, np.uint8)


def palette(*colors):
    picture = Image.fromarray(DEFECT)
    picture.putpalette([channel for color in colors for channel in color] + [0] * (768 - 3 * len(colors)))
    return picture


def in_color(*color):
    return DEFECT[..., None] * np.array(color, np.uint8)


TWO_LEVELS = {
    "one bit": DEFECT > 0,
    "VOC's palette": palette((0, 0, 0), (128, 0, 0)),
    "a palette whose first color is the defect": Image.fromarray(1 - DEFECT),
    "red": in_color(255, 0, 0),
    "green": in_color(0, 255, 0),
    "blue": in_color(0, 0, 255),
    "dark": in_color(0, 0, 7),
    "alpha on white": np.dstack([WHITE, DEFECT * 255]),
    "alpha on black": np.dstack([WHITE * 0, DEFECT * 255]),
    "alpha and color": np.dstack([in_color(255, 255, 0), DEFECT * 255]),
    "half transparent brush": np.dstack([in_color(255, 0, 0), DEFECT * 100]),
    "opaque": np.dstack([in_color(255, 0, 0), WHITE[..., :1]]),
    "evenly transparent": np.dstack([in_color(255, 0, 0), WHITE[..., :1] // 2]),
    "gray and alpha": np.dstack([WHITE[..., 0], DEFECT * 255]),
    **{f"bytes 0 and {label}": DEFECT * np.uint8(label) for label in (1, 2, 3, 127, 128, 236, 255)},
    **{f"16 bits 0 and {label}": DEFECT.astype(np.uint16) * np.uint16(label) for label in (1, 255, 4095, 65535)},
    "32 bits": DEFECT.astype(np.int32) * 70000,
}
TWO_LEVELS["a palette whose first color is the defect"].putpalette([255, 255, 255, 0, 0, 0] + [0] * 762)


@pytest.mark.parametrize("name", TWO_LEVELS)
def test_whatever_is_not_black_is_defect(tmp_path, name):
    picture = TWO_LEVELS[name]
    path = tmp_path / ("a.tif" if name == "32 bits" else "a.png")
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path)
    mask = read_mask(path)
    assert (mask.dtype, mask.shape) == (np.float32, SHAPE)
    assert np.array_equal(mask, DEFECT)


@pytest.mark.parametrize(
    ("suffix", "picture"), [(".gif", DEFECT * 255), (".tif", DEFECT.astype(np.float32)), (".bmp", DEFECT * 255)]
)
def test_other_formats(tmp_path, suffix, picture):
    Image.fromarray(picture).save(tmp_path / f"a{suffix}")
    assert np.array_equal(read_mask(tmp_path / f"a{suffix}"), DEFECT)


def test_sixteen_bits_of_color_keep_small_labels(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([DEFECT.astype(np.uint16) * 3, *[np.zeros(SHAPE, np.uint16)] * 2]))
    assert np.array_equal(read_mask(tmp_path / "a.png"), DEFECT)


@pytest.mark.parametrize("labels", [(1, 2), (1, 255), (85, 170), (200, 20), (255, 254)])
def test_every_class_counts(tmp_path, labels):
    """Areas that touch each other and the ground, thin lines, single pixels."""
    classes = np.zeros(SHAPE, np.uint8)
    classes[10:40, 10:30], classes[10:40, 30:60] = labels
    classes[60, 5:80], classes[70, 70] = labels
    Image.fromarray(classes).save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png"), classes > 0)


def fine(shape=(384, 360)):
    """The defect at four times the resolution, and the truth at its own: half or more of the pixel's area."""
    large = np.zeros(shape, np.uint8)
    cv2.ellipse(large, (160, 200), (81, 45), 30, 0, 360, 255, -1)
    large[21:50, 241:322] = 255
    return large


@pytest.mark.parametrize("peak", [255, 236, 65535, 1.0])
def test_antialiased_edges_stay_in_place(tmp_path, peak):
    small = cv2.resize(fine(), SHAPE[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    stored = (small * peak).astype(np.float32 if peak == 1 else np.uint16 if peak > 255 else np.uint8)
    Image.fromarray(stored).save(tmp_path / "a.tif")
    mask = read_mask(tmp_path / "a.tif")
    np.testing.assert_allclose(mask, small, atol=0.005)
    assert ((mask >= 0.5) != (small >= 0.5)).sum() <= (small == 0.5).sum()


def test_edges_of_few_shades_and_of_many(tmp_path):
    for interpolation, shape in (
        (cv2.INTER_AREA, (192, 180)),
        (cv2.INTER_LINEAR, (800, 700)),
        (cv2.INTER_CUBIC, SHAPE),
    ):
        picture = cv2.resize(fine(), shape[::-1], interpolation=interpolation)
        Image.fromarray(picture).save(tmp_path / "a.png")
        np.testing.assert_allclose(read_mask(tmp_path / "a.png"), picture / 255, atol=1e-6)
    blurred = cv2.GaussianBlur(fine(), (0, 0), 5)
    Image.fromarray(np.dstack([blurred, blurred * 0, blurred * 0])).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_mask(tmp_path / "a.png"), blurred / 255, atol=1e-6)


@pytest.mark.parametrize("quality", [50, 75, 95])
@pytest.mark.parametrize("label", [127, 255])
def test_jpeg_rounds_no_label_away(tmp_path, quality, label):
    Image.fromarray(DEFECT * np.uint8(label)).save(tmp_path / "a.jpg", quality=quality)
    found = read_mask(tmp_path / "a.jpg") >= 0.5
    assert (found != DEFECT).sum() <= 4


def test_what_is_not_known_is_refused(tmp_path):
    Image.fromarray(DEFECT * np.uint8(2) + 0).save(tmp_path / "a.jpg", quality=100)
    with pytest.raises(ValueError, match=r"a\.jpg must hold black and white where it is a JPEG, .* export it as PNG"):
        read_mask(tmp_path / "a.jpg")
    Image.fromarray(DEFECT + np.uint8(1)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="must be 0 where there is no defect, got labels from 1 to 2"):
        read_mask(tmp_path / "a.png")
    for value in (np.nan, np.inf, -1):
        Image.fromarray(np.array([[0, 1, value]], np.float32)).save(tmp_path / "a.tif")
        with pytest.raises(ValueError, match="must hold labels of at least 0"):
            read_mask(tmp_path / "a.tif")


def test_empty_and_full(tmp_path):
    for picture, expected in (
        (DEFECT * 0, 0), (np.dstack([WHITE, DEFECT * 0]), 0), (WHITE, 1), (np.ones(SHAPE, np.uint8), 1)
    ):  # fmt: skip
        Image.fromarray(picture).save(tmp_path / "a.png")
        assert np.array_equal(read_mask(tmp_path / "a.png"), np.full(SHAPE, expected))
    buffer = io.BytesIO()
    Image.fromarray(DEFECT * 0).save(buffer, "JPEG")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    assert not read_mask(tmp_path / "a.jpg").any()


def test_broken_masks(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.png must be a complete image, got an empty file"):
        read_mask(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match=r"b\.png does not exist"):
        read_mask(str(tmp_path / "b.png"))
    Image.fromarray(DEFECT).save(tmp_path / "c.png")
    with pytest.raises(ValueError, match="at most 100 pixels"):
        read_mask(tmp_path / "c.png", pixel_limit=100)
