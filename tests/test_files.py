"""Files are read back as they were written, and a bad one is named with the remedy."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from vsad.files import (
    differences,
    first_of,
    first_samples,
    read_array,
    read_json,
    read_text,
    read_weights,
    write_array,
    write_json,
    write_text,
    write_weights,
)

REMEDY = "run `vsad fit` again"
READERS = [read_json, read_text, read_weights, read_array]


def test_what_is_written_is_read_back_and_folders_are_made(tmp_path):
    content = {"text": "Kamera ü", "numbers": [0.1, 1e-300], "nothing": None}
    assert read_json(write_json(tmp_path / "a" / "b.json", content), REMEDY) == content
    weights = {"w": torch.rand(2, 3).T, "n": torch.arange(3)}
    read = read_weights(write_weights(tmp_path / "c" / "d.safetensors", weights), REMEDY)
    assert all(torch.equal(read[name], weights[name]) for name in weights)
    for array in (torch.rand(2, 4, 5), torch.rand(4, 3).T, torch.empty(0, 3), torch.tensor(7, dtype=torch.uint8)):
        assert torch.equal(read_array(write_array(tmp_path / "e" / "f.npy", array), REMEDY), array)
    np.save(tmp_path / "big-endian.npy", np.arange(3, dtype=">f4"))
    assert read_array(tmp_path / "big-endian.npy", REMEDY).tolist() == [0, 1, 2]


@pytest.mark.parametrize("read", READERS)
def test_a_missing_file_is_named_with_the_remedy(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"absent is missing: run `vsad fit` again"):
        read(tmp_path / "absent", REMEDY)


def npy(header, data=b""):
    header = header.encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_json, b"{", "must be JSON, got .*line 1"),
        (read_json, b"[1]", "must be a JSON object, got list"),
        (read_json, b'{"view": "\xfc"}', "must be UTF-8 text"),
        (read_json, '{"a": 1}'.encode("utf-16"), "must be UTF-8 text, got UTF-16; save it as UTF-8"),
        (read_json, '{"a": 1}'.encode("utf-16-le"), "must be UTF-8 text, got UTF-16-LE; save it as UTF-8"),
        (read_json, '{"a": 1}'.encode("utf-32"), "must be UTF-8 text, got UTF-32; save it as UTF-8"),
        (read_json, b'{"a": 1, "b": {"c": 1, "c": 2}}', 'must be JSON, got the key "c" twice in one object'),
        (read_json, b'{"a": NaN}', "must be JSON, got NaN, which JSON cannot hold"),
        (read_json, b'{"a": -Infinity}', "must be JSON, got -Infinity, which JSON cannot hold"),
        (read_json, b'{"a": 1e999}', "must be JSON, got the number 1e999, which is out of range"),
        (read_json, b'{"a": 18446744073709551616}', "must be JSON, got the number .* more than 64 bits"),
        (read_json, b'{"a": ' + b"9" * 10_000 + b"}", "must be JSON, got the number 9+, which has more than 64 bits"),
        (read_json, b'{"a":' * 500 + b"1" + b"}" * 500, "must be JSON, got lists and objects that are nested deeper"),
        (read_json, b'{"a":' + b"[" * 200_000, "must be JSON, got lists and objects that are nested deeper than 100"),
        (read_json, b'{"a": "\\ud800"}', "must be JSON, got a lone surrogate"),
        (read_weights, b"{}", "must be a safetensors file"),
        (read_weights, b"\xff" * 100, "must be a safetensors file, got another or a part of one"),
        (read_weights, b"\x02" + bytes(7) + b"{", "must be a safetensors file"),
        (read_array, b"", "must be a .npy array of numbers"),
        (read_array, b"no array", "must be a .npy array of numbers"),
        (read_array, npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n", b"x" * 8), "must be a .npy array"),
        (read_array, npy("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,)}\n"), "must be a .npy arr"),
        (read_array, npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}\n"), "must be a .npy array"),
        (read_array, npy("((((((((", b""), "must be a .npy array of numbers"),
    ],
)
def test_a_broken_file_is_named_with_the_remedy(tmp_path, read, content, message):
    path = tmp_path / "broken"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"broken: {message}.*run `vsad fit` again"):
        read(path, REMEDY)


def test_several_arrays_in_one_file_and_pickles_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.ones(2))
    np.save(tmp_path / "b.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("a.npz", "b.npy"):
        with pytest.raises(ValueError, match=f"{name}: must be a .npy array of numbers"):
            read_array(tmp_path / name, REMEDY)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json", REMEDY) == {"a": 1}
    assert read_text(tmp_path / "a.json", REMEDY) == '{"a": 1}'


def test_surrogates_that_make_a_character_are_one(tmp_path):
    (tmp_path / "a.json").write_text('{"a": "\\ud83d\\ude00"}')
    assert read_json(tmp_path / "a.json", REMEDY) == {"a": "😀"}


@pytest.mark.parametrize("read", READERS)
def test_a_file_that_is_too_large_is_not_read(tmp_path, read):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=r"large: must be .*run `vsad fit` again"):
        read(tmp_path / "large", REMEDY)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_cannot_hold_is_not_written(tmp_path, value):
    with pytest.raises(ValueError, match=r"score\.json: must hold finite numbers"):
        write_json(tmp_path / "score.json", {"score": value})
    assert not (tmp_path / "score.json").exists()


def test_text_is_utf_8(tmp_path):
    assert write_text(tmp_path / "t", "ü").read_bytes() == "ü".encode()
    name = os.fsdecode(b"caf\xe9.png")
    for write in (lambda path: write_text(path, name), lambda path: write_json(path, {"image": name})):
        with pytest.raises(ValueError, match=r"scores: must hold text that UTF-8 can write, got .*caf.udce9.*; rename"):
            write(tmp_path / "scores")
    assert os.listdir(tmp_path) == ["t"]


def test_a_large_split_is_read_soon(tmp_path):
    rows = [
        {"category": "audiojack", "anomaly_class": "OK", "image_path": f"OK/S{i:04}/a_{i}.jpg"} for i in range(1000)
    ]
    path = write_text(tmp_path / "split.json", json.dumps({"train": rows}))
    assert read_json(path, REMEDY, max_bytes=1 << 30)["train"] == rows
    with pytest.raises(ValueError, match=r"split.json: must be at most 100 bytes, got 8\d,\d+"):
        read_json(path, REMEDY, max_bytes=100)


def test_the_readers_of_configurations_need_no_torch():
    code = "import sys, vsad.config; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("words", "most", "separator", "said"),
    [
        (["a"], 3, ", ", "a"),
        (["a", "b", "c"], 3, ", ", "a, b, c"),
        (["a", "b", "c", "d"], 3, ", ", "a, b, c and 1 more"),
        (["a", "b", "c"], 1, "; ", "a; and 2 more"),
        ([], 3, ", ", ""),
    ],
)
def test_of_many_the_first_are_named_and_the_others_counted(words, most, separator, said):
    assert first_of(words, most, separator=separator) == said


def test_what_differs_is_said_field_by_field():
    before, now = {"train": {"steps": 2, "lr": 0.1}, "old": 1}, {"train": {"steps": 3, "lr": 0.1}}
    assert differences({"options": before}, {"options": now}) == [
        "options.train.steps 2, now 3",
        "options.old 1, now None",
    ]
    assert first_samples(["a"]) == "1 sample (a)"
    assert first_samples([*"abcde"]) == "5 samples (a, b, c and 2 more)"
