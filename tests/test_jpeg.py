"""Damage inside a JPEG is seen where it leads the decoder out of step, and sound files are never refused."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from vsad.data.images import read_image

PICTURE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (90, 125, 3), np.uint8), (0, 0), 1)
NOISE = np.random.default_rng(1).integers(0, 256, (90, 125, 3), np.uint8)


def encoded(picture=PICTURE, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def read(path, content):
    path.write_bytes(content)
    return read_image(path)


@pytest.mark.parametrize("picture", [PICTURE, NOISE, NOISE[:7, :9], PICTURE * 0])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_sound_files(tmp_path, picture, mode):
    for quality in (30, 75, 95, 100):
        for options in (
            {}, {"subsampling": 0}, {"subsampling": 2}, {"optimize": True}, {"progressive": True},
            {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}, {"comment": b"\xff\xd9" * 9}
        ):  # fmt: skip
            content = encoded(picture, mode, quality=quality, **options)
            expected = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
            assert np.array_equal(read(tmp_path / "a.jpg", content), expected)


@pytest.mark.parametrize("filling", [b"\0" * 500, b"\xff" * 500, b"\x5a\x17" * 10])
def test_filling_that_cameras_add_is_no_damage(tmp_path, filling):
    content = encoded()
    expected = np.array(Image.open(io.BytesIO(content)))
    assert np.array_equal(read(tmp_path / "a.jpg", content[:-2] + filling + content[-2:]), expected)
    assert np.array_equal(read(tmp_path / "a.jpg", content + filling), expected)  # as previews after the picture are


def test_data_that_end_too_late_or_too_early(tmp_path):
    content = encoded()
    middle = len(content) // 2
    for damaged, what in (
        (content[:-2] + NOISE.tobytes()[:3000].replace(b"\xff", b"") + content[-2:], "complete before its data end"),
        (content[:middle] + content[middle + 200 :], "end before their picture is complete"),
    ):
        with pytest.raises(ValueError, match=rf"a\.jpg must be a complete image, got .*{what}.*; copy or export"):
            read(tmp_path / "a.jpg", damaged)


def test_most_damage_that_shows_is_found(tmp_path):
    """Twenty bytes are lost at places all over the picture; a few leave the decoder in step."""
    content = encoded(quality=95)
    expected = read(tmp_path / "a.jpg", content).astype(int)
    found = shown = 0
    for place in range(800, len(content) - 30, (len(content) - 830) // 50):
        try:
            image = read(tmp_path / "a.jpg", content[:place] + bytes(20) + content[place + 20 :])
            shown += np.abs(image - expected).mean() > 4
        except ValueError:
            found += 1
    assert found >= 25
    assert found > shown
