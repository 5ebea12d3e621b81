"""Files are read back as they were written, and a bad one is named with the remedy."""

import math

import pytest
import torch

from vsad.files import read_array, read_json, read_weights, write_array, write_json, write_text, write_weights

REMEDY = "run `vsad fit` again"


def test_what_is_written_is_read_back_and_folders_are_made(tmp_path):
    content = {"text": "Kamera ü", "numbers": [0.1, 1e-300], "nothing": None}
    assert read_json(write_json(tmp_path / "a" / "b.json", content), REMEDY) == content
    weights = {"w": torch.rand(2, 3).T, "n": torch.arange(3)}
    read = read_weights(write_weights(tmp_path / "c" / "d.safetensors", weights), REMEDY)
    assert all(torch.equal(read[name], weights[name]) for name in weights)
    array = torch.rand(2, 4, 5)
    assert torch.equal(read_array(write_array(tmp_path / "e" / "f.npy", array), REMEDY), array)


@pytest.mark.parametrize("read", [read_json, read_weights, read_array])
def test_a_missing_file_is_named_with_the_remedy(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"absent is missing: run `vsad fit` again"):
        read(tmp_path / "absent", REMEDY)


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_json, b"{", "must be JSON, got .*line 1"),
        (read_json, b"[1]", "must be a JSON object, got list"),
        (read_json, b'{"view": "\xfc"}', "must be UTF-8 text"),
        (read_weights, b"{}", "must be a safetensors file"),
        (read_array, b"", "must be a .npy array of numbers"),
        (read_array, b"no array", "must be a .npy array of numbers"),
    ],
)
def test_a_broken_file_is_named_with_the_remedy(tmp_path, read, content, message):
    path = tmp_path / "broken"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"broken: {message}.*run `vsad fit` again"):
        read(path, REMEDY)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_cannot_hold_is_not_written(tmp_path, value):
    with pytest.raises(ValueError, match=r"score\.json: must hold finite numbers"):
        write_json(tmp_path / "score.json", {"score": value})
    assert not (tmp_path / "score.json").exists()


def test_text_is_utf_8(tmp_path):
    assert write_text(tmp_path / "t", "ü").read_bytes() == "ü".encode()
