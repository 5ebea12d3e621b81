"""Images as cameras and programs write them: read as they were meant, or refused in words."""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from vsad.data.decode import decode
from vsad.data.images import IMAGE_SUFFIXES, is_image, read_image

ORIENTATION, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 274, 262, 284, 339
COLOR = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (30, 44, 3), np.uint8), (0, 0), 2)
COLOR[0, :2] = [[255], [0]]  # all of the range
GRAY = np.ascontiguousarray(COLOR[..., 1])
DEEP = GRAY.astype(np.uint16)


def three(gray):
    return np.repeat(gray[..., None], 3, 2)


def save(path, picture, **options):
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path, **options)
    return path


def write_png(path, width, height, rows, chunks=(), bits=16, kind=0):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    for name, data in chunks:
        head += chunk(name, data)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


def test_names_of_images():
    for name in ("a.png", "A.PNG", "a.jfif", "a.jpe", "a.jp2", "a.avif", "a.gif", "a.pgm", "a.b.tif"):
        assert is_image(Path(name)), name
    for name in ("._a.png", ".png", "a.png.txt", "a.heic", "png"):
        assert not is_image(Path(name)), name
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE_SUFFIXES)


LOSSLESS = {suffix: {} for suffix in (".png", ".bmp", ".dib", ".tiff", ".jp2", ".j2k", ".ppm", ".pnm")}
LOSSLESS |= {".tif": {"compression": "tiff_lzw"}, ".webp": {"lossless": True}}


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_bytes_arrive_as_they_are(tmp_path, suffix):
    image = read_image(save(tmp_path / f"a{suffix}", COLOR, **LOSSLESS[suffix]))
    assert image.dtype == np.uint8
    assert np.array_equal(image, COLOR)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".jpe", ".jfif", ".avif", ".gif"])
def test_lossy_files_arrive_nearly_as_they_are(tmp_path, suffix):
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    options = {"progressive": True} if suffix == ".jpe" else {}
    path = save(tmp_path / f"a{suffix}", COLOR if suffix == ".gif" else Image.fromarray(COLOR), quality=95, **options)
    assert np.abs(read_image(path).astype(int) - COLOR).mean() < 6


def test_the_content_counts_whatever_the_name_says(tmp_path):
    path = save(tmp_path / "a.png", COLOR, format="BMP")
    assert np.array_equal(read_image(path), COLOR)


def test_modes(tmp_path):
    opaque = np.full_like(GRAY, 255)
    bit = Image.fromarray(GRAY > 90)
    cases = {
        "gray": (GRAY, three(GRAY)), "one bit": (bit, three((GRAY > 90) * np.uint8(255))),
        "gray, alpha": (np.dstack([GRAY, opaque]), three(GRAY)), "RGB, alpha": (np.dstack([COLOR, opaque]), COLOR),
        "palette": (Image.fromarray(GRAY).convert("P"), three(GRAY)),
    }  # fmt: skip
    for name, (picture, expected) in cases.items():
        assert np.array_equal(read_image(save(tmp_path / "a.png", picture)), expected), name
    inks = read_image(save(tmp_path / "a.jpg", Image.fromarray(COLOR).convert("CMYK"), quality=98))
    assert np.abs(inks.astype(int) - COLOR).mean() < 3


def test_transparent_pixels_become_black(tmp_path):
    alpha = np.full_like(GRAY, 255)
    alpha[:, :10], alpha[:, 10:20] = 0, 51
    expected = COLOR.copy()
    expected[:, :10], expected[:, 10:20] = 0, (expected[:, 10:20].astype(int) * 51 + 127) // 255
    assert np.array_equal(read_image(save(tmp_path / "a.png", np.dstack([COLOR, alpha]))), expected)
    red = np.zeros((4, 4, 3), np.uint8)
    red[:2] = 255, 0, 0
    path = save(tmp_path / "b.png", Image.fromarray(red), transparency=(255, 0, 0))
    assert not read_image(path).any()
    palette = Image.fromarray(GRAY).convert("P")
    assert not read_image(save(tmp_path / "c.png", palette, transparency=255))[0, 0].any()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_deep_files_keep_their_bits(tmp_path, suffix, bits):
    """Right-aligned as Mono10 and Mono12 are, gray and color, all values exact to float32."""
    gray = np.random.default_rng(1).integers(0, 1 << bits, (8, 9, 3), np.uint16)
    gray[0, 0] = (1 << bits) - 1
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), gray[..., ::-1])
    image = read_image(path)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, gray / ((1 << bits) - 1), rtol=2e-7)
    cv2.imwrite(str(path), np.ascontiguousarray(gray[..., 0]))
    np.testing.assert_allclose(read_image(path), three(gray[..., 0] / ((1 << bits) - 1)), rtol=2e-7)


def test_left_aligned_values_are_right_too(tmp_path):
    path = save(tmp_path / "a.png", (np.arange(4096, dtype=np.uint16) << 4).reshape(64, 64))
    np.testing.assert_allclose(read_image(path)[..., 0].ravel(), np.arange(4096) / 4095, atol=3e-4)


def test_a_depth_that_is_given(tmp_path):
    path = save(tmp_path / "a.png", DEEP)
    assert np.array_equal(read_image(path), three(DEEP / np.float32(255)))
    np.testing.assert_allclose(read_image(path, depth=12), three(DEEP / 4095), rtol=2e-7)
    assert np.array_equal(read_image(save(tmp_path / "b.png", GRAY), depth=12), three(GRAY))  # 8 bits are 8 bits
    save(path, DEEP << 4)
    with pytest.raises(ValueError, match=r"a\.png must hold values up to 1023, 10 bits, .* got 4080; pass depth=12"):
        read_image(path, depth=10)


def test_significant_bits_that_a_png_declares(tmp_path):
    """Scaled to 16 bits as the format wants, or right-aligned where the values say so, and never a depth between."""
    for largest, bits in ((1000, 12), (4095, 12), (9000, 16)):
        rows = b"\0" + struct.pack(">2H", 0, largest)
        path = write_png(tmp_path / "a.png", 2, 1, rows, [(b"gAMA", struct.pack(">I", 45455)), (b"sBIT", b"\x0c")])
        np.testing.assert_allclose(read_image(path)[0, 1], largest / ((1 << bits) - 1), rtol=2e-7)


def test_files_that_know_their_depth(tmp_path):
    values = np.array([[0, 100, 900]])
    for maximum in (1000, 4095):  # dark, and still not brightened
        (tmp_path / "a.pgm").write_bytes(b"P5 3 1 %d\n" % maximum + values.astype(">u2").tobytes())
        np.testing.assert_allclose(read_image(tmp_path / "a.pgm")[..., 0], values / maximum, atol=1e-5)
    assert decode(save(tmp_path / "a.jp2", DEEP)).depths == (16,)
    np.testing.assert_allclose(read_image(tmp_path / "a.jp2"), three(DEEP / 65535), rtol=2e-7)
    for head in (b"P5", b"P6"):  # 65535 says nothing
        shape = (8, 9, 3)[: 2 if head == b"P5" else 3]
        deep = np.random.default_rng(1).integers(0, 4096, shape, np.uint16)
        (tmp_path / "a.pnm").write_bytes(head + b" 9 8 65535\n" + deep.astype(">u2").tobytes())
        image = read_image(tmp_path / "a.pnm")
        np.testing.assert_allclose(image, (three(deep) if head == b"P5" else deep) / 4095, rtol=2e-7)


def test_packed_tiff_of_12_bits(tmp_path):
    entries = ((256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 1), (279, 6))
    tags = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    data = bytes([0x00, 0x00, 0x01, 0x3E, 0x8F, 0xFF])  # 0, 1, 1000, 4095
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<IH", 8, len(entries)) + tags + bytes(4) + data)
    assert decode(tmp_path / "a.tif").depths == (12,)
    np.testing.assert_allclose(read_image(tmp_path / "a.tif")[0, :, 0], np.array([0, 1, 1000, 4095]) / 4095, rtol=2e-7)


def test_integers_of_32_bits_and_signed(tmp_path):
    for largest in (255, 65535):
        wide = (DEEP.astype(np.int32) * 257) >> (0 if largest == 65535 else 8)
        np.testing.assert_allclose(read_image(save(tmp_path / "a.tif", wide)), three(wide / largest), rtol=2e-7)
    path = save(tmp_path / "a.tif", np.array([[0, 1 << 20]], np.int32))
    with pytest.raises(ValueError, match=r"values up to 65535 .* got 1048576; pass depth=21 \(--depth\)"):
        read_image(path)
    np.testing.assert_allclose(read_image(path, depth=21)[0, 1], 0.5, rtol=1e-6)
    with pytest.raises(ValueError, match="non-negative, got -3 to 5; export unsigned integers"):
        read_image(save(tmp_path / "a.tif", np.array([[-3, 5]], np.int32)))


def test_floating_point(tmp_path):
    path = save(tmp_path / "a.tif", GRAY.astype(np.float32) / 255)
    assert np.array_equal(read_image(path), three(GRAY / np.float32(255)))
    assert np.array_equal(read_image(path, depth=12), three(GRAY / np.float32(255)))
    for values in ([0, 255], [-0.1, 1], [0, np.nan], [0, np.inf]):
        with pytest.raises(ValueError, match=r"finite and in \[0, 1\], being floating point, got .*; scale them"):
            read_image(save(path, np.array([values], np.float32)))


def test_kinds_of_tiff_that_would_be_read_wrongly(tmp_path):
    path = tmp_path / "a.tif"
    for picture, tag, value, what in (
        (DEEP, PHOTOMETRIC, 0, "white as 0"),
        (GRAY, SAMPLE_FORMAT, 2, "signed bytes"),
    ):
        save(path, picture, tiffinfo={tag: value})
        data = bytearray(path.read_bytes())
        entry = data.find(struct.pack("<HHI", tag, 3, 1))
        data[entry + 8 : entry + 10] = struct.pack("<H", value)
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"unsigned gray, black as 0, .* got TIFF with {what}; export"):
            read_image(path)
    cv2.imwrite(str(path), np.full((4, 4, 3), 0.5, np.float32))
    with pytest.raises(ValueError, match="got a TIFF of floating point in color, or of another kind"):
        read_image(path)
    alpha = np.dstack([DEEP << 8] * 4)
    cv2.imwrite(str(path), alpha)
    with pytest.raises(ValueError, match="must be opaque where it has 16 bits, got transparent pixels"):
        read_image(path)
    alpha[..., 3] = 65535
    cv2.imwrite(str(path), alpha)
    np.testing.assert_allclose(read_image(path), three((DEEP << 8) / 65535), rtol=2e-7)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize(
    ("suffix", "picture"), [(".jpg", COLOR), (".png", COLOR), (".tif", COLOR), (".png", DEEP << 8), (".tif", DEEP << 8)]
)
def test_orientation_is_honored(tmp_path, suffix, picture, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = np.ascontiguousarray(np.rot90(picture, {1: 0, 3: 2, 6: 1, 8: 3}[orientation]))
    raster = decode(save(tmp_path / f"a{suffix}", stored, exif=exif))
    assert raster.turned == (orientation != 1)
    values = raster.values if picture is COLOR else raster.values[..., 0]
    assert values.shape == picture.shape
    assert np.abs(values.astype(int) - picture).mean() < (6 if suffix == ".jpg" else 1e-9)


def test_turned_deep_color_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([DEEP] * 3))
    data = (tmp_path / "a.png").read_bytes()
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(content)) + b"eXIf" + content + struct.pack(">I", zlib.crc32(b"eXIf" + content))
    (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])
    with pytest.raises(ValueError, match="must be stored upright where its color has 16 bits"):
        read_image(tmp_path / "a.png")


def test_several_pictures_in_one_file(tmp_path):
    pages = [Image.fromarray(COLOR), Image.fromarray(255 - COLOR)]
    for suffix in (".tif", ".gif", ".png", ".webp"):
        pages[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=pages[1:])
        with pytest.raises(ValueError, match=r"must hold one picture, got 2 pages or frames; store each"):
            read_image(tmp_path / f"a{suffix}")
    pages[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=pages[1:], quality=95)  # as telephones do
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - COLOR).mean() < 6


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp", ".gif", ".ppm", ".jp2"])
def test_truncated_files(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", COLOR)
    data = path.read_bytes()
    for length in (len(data) // 2, 20, 3):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=rf"a\{suffix} must be a complete image, .*copy or export the file again"):
            read_image(path)


def test_what_is_no_image(tmp_path):
    path = tmp_path / "a.png"
    for data, what in (
        (b"", "an empty file"),
        (b"<html>404", r"what begins with b'<html>404'"),
        (b"%!PS-Adobe", "%!PS"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"a\.png must be a complete image, got .*{what}"):
            read_image(path)
    data = bytearray(save(path, COLOR).read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(ValueError, match="must be a complete image"):
        read_image(path)


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.png does not exist; restore the file"):
        read_image(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(ValueError, match=r"b\.png must be a file, got a folder"):
        read_image(tmp_path / "b.png")
    with pytest.raises(ValueError, match="got a NUL character in it"):
        read_image("a\0.png")
    with pytest.raises(OSError, match="must be readable, got File name too long"):
        read_image(tmp_path / ("x" * 300 + ".png"))


@pytest.mark.skipif(os.name == "nt", reason="needs links, pipes and permissions of POSIX")
def test_links_pipes_and_permissions(tmp_path, monkeypatch):
    (tmp_path / "link.png").symlink_to(tmp_path / "away.png")
    with pytest.raises(FileNotFoundError, match=r"link\.png is a link to .*away\.png, which does not exist"):
        read_image(tmp_path / "link.png")
    save(tmp_path / "away.png", COLOR)
    assert np.array_equal(read_image(tmp_path / "link.png"), COLOR)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="must be a file, got a device or pipe"):
        read_image(tmp_path / "pipe.png")

    def denied(*_):  # root may read everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(PermissionError, match=r"away\.png must be readable, got permission denied; chmod it"):
        read_image(tmp_path / "away.png")


def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path):
    saved = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's warning of decompression bombs does not leak
        for side in (16_000, 60_000):
            path = write_png(tmp_path / "a.png", side, side, b"0", bits=8)
            with pytest.raises(ValueError, match=rf"at most 250,000,000 pixels, got {side} x {side}; raise the limit"):
                read_image(path)
        for size in ((11_000, 9_000), (0, 5)):
            with pytest.raises(ValueError, match="must be a complete image"):
                read_image(write_png(tmp_path / "a.png", *size, b"0", bits=8))
    for suffix in (".png", ".jpg"):
        with pytest.raises(ValueError, match="at most 1,000 pixels, got 44 x 30"):
            read_image(save(tmp_path / f"b{suffix}", COLOR), pixel_limit=1000)
    assert saved == Image.MAX_IMAGE_PIXELS


def encoded(suffix, picture, **options):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, Image.registered_extensions()[suffix], **options)
    return buffer.getvalue()


FILES = [encoded(suffix, COLOR) for suffix in (".png", ".jpg", ".bmp", ".tif", ".webp", ".gif", ".ppm", ".jp2")]
FILES += [encoded(".tif", COLOR, compression="tiff_lzw"), encoded(".png", DEEP), encoded(".tif", DEEP)]
FILES += [cv2.imencode(suffix, COLOR.astype(np.uint16))[1].tobytes() for suffix in (".png", ".tif")]
CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of tags
@settings(deadline=None, max_examples=300)
@given(st.sampled_from(FILES), CHANGES, st.floats(0, 1), st.booleans())
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path_factory, content, changes, length, in_its_head):
    data = bytearray(content[: max(1, int(len(content) * (1 if length > 0.5 else 2 * length)))])
    for place, value in changes:
        data[int(place * min(len(data), 64 if in_its_head else len(data)))] = value
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(data)
    try:
        outcome = str(read_image(path, pixel_limit=1_000_000).shape[2])
    except ValueError as error:
        outcome = str(error)
    assert outcome == "3" or outcome.startswith(f"read_image: {path} must ")
