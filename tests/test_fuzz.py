"""Whatever a file holds, its reader gives what was asked for or an error in words: no crash, no hang, no traceback."""

import contextlib
import copy
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vsad.config import read_config
from vsad.detection.config import DetectorConfig
from vsad.files import (
    RunFolder,
    read_array,
    read_json,
    read_run,
    read_text,
    read_weights,
    write_array,
    write_json,
    write_weights,
)
from vsad.geometry import Rig
from vsad.training import write_latents
from vsad.training.shards import LatentShards

REMEDY = "write it anew"
RIG = {
    "format": "vsad-rig", "version": 1, "comment": "", "views": ["a", "b"], "height": 48, "width": 64,
    "pairs": [{"target": "a", "source": "b", "homography": [[1, 0, 8.5], [0, 1, 0], [0, 0, 1]], "inliers": 7,
               "error_px": 0.5}],
}  # fmt: skip
RUN = {"format": "vsad-run", "version": 1, "command": "detect", "vsad": "0.1.0", "options": {"size": 448}}
CONFIG = {"memory": "aligned", "weights": [1.0, 0.5], "smooth": 1.0, "batch": None, "references": 40}
YAML = "memory: aligned\nweights: [1.0, 0.5]\nsmooth: 1.0\nbatch: null\nreferences: 40  # of them\n"


def read_journal(path):
    """A journal lies beside its manifest."""
    write_json(path.with_name("run.json"), RUN)
    record = read_run(path.parent)
    RunFolder.open(path.parent, command="detect", options=RUN["options"], fresh=True).close()
    return record


READERS = {
    "json": ("a.json", lambda path: read_json(path, REMEDY)),
    "text": ("a.txt", lambda path: read_text(path, REMEDY)),
    "weights": ("a.safetensors", lambda path: read_weights(path, REMEDY)),
    "array": ("a.npy", lambda path: read_array(path, REMEDY)),
    "rig": ("rig.json", Rig.load),
    "yaml": ("a.yaml", lambda path: read_config(DetectorConfig, path)),
    "config": ("a.json", lambda path: read_config(DetectorConfig, path)),
    "run": ("run.json", lambda path: read_run(path.parent)),
    "journal": ("run.jsonl", read_journal),
    "shards": ("index.json", lambda path: LatentShards(path.parent)),
}
JSON_OF = {"json": RUN, "rig": RIG, "config": CONFIG, "run": RUN}


def is_read_or_refused(reader, data):
    """Whether a reader gives something of the bytes of a file, or an error in words that names the file."""
    name, read = READERS[reader]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(data)
        try:
            read(Path(folder, name))
        except (ValueError, OSError) as error:
            return folder in str(error) and not isinstance(error, UnicodeError)
    return True


def valid(reader):
    """The bytes of a file that the reader takes."""
    if reader in JSON_OF:
        return json.dumps(JSON_OF[reader]).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, READERS[reader][0])
        if reader == "weights":
            write_weights(path, {"w": torch.ones(2, 3), "n": torch.arange(3)})
        elif reader == "array":
            write_array(path, torch.ones(2, 3))
        elif reader == "shards":
            path = write_latents(Path(folder, "latents"), torch.rand(3, 2, 3, 4, 4), 2).folder / "index.json"
        elif reader == "journal":
            with RunFolder.open(folder, command="detect", options=RUN["options"]) as run:
                run.file("a.txt")
                run.mark("S1", score=1)
        else:
            path.write_text(YAML)
        return path.read_bytes()


VALID = {reader: valid(reader) for reader in READERS}
SOON = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
ODD_NUMBERS = st.sampled_from([0, -1, 2**31, 2**63, 2**70, 10**400, 1e308, -1e308, 5e-324, 1e-30, float("nan"), True])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | ODD_NUMBERS | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner), max_leaves=8
)


def places(content, place=()):
    """Where in nested lists and objects something stands."""
    if place:
        yield place
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield from places(value, (*place, key))


def changed(content, place, value):
    """The same content with another value at a place; the key is taken away for ``...``."""
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return content


@st.composite
def mutated(draw, data):
    """Bytes of which some are others, missing or doubled."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = draw(st.integers(at, min(len(data), at + 8)))
        data[at:end] = draw(
            st.binary(max_size=8) | st.sampled_from([b"", b"{", b"[" * 150, b'"', b"\xff\xfe", b"9" * 30])
        )
    return bytes(data)


@pytest.mark.parametrize("reader", READERS)
@SOON
@given(st.data())
def test_any_bytes(reader, data):
    assert is_read_or_refused(reader, data.draw(st.binary(max_size=200) | mutated(VALID[reader])))


@pytest.mark.parametrize("reader", JSON_OF)
@SOON
@given(st.data())
def test_any_value_anywhere_in_json(reader, data):
    content = JSON_OF[reader]
    place = data.draw(st.sampled_from(list(places(content))))
    content = changed(content, place, data.draw(VALUES | st.just(...)))
    assert is_read_or_refused(
        reader, json.dumps(content, ensure_ascii=data.draw(st.booleans())).encode(errors="surrogatepass")
    )


@SOON
@given(
    st.lists(
        st.sampled_from([*"[]{}:,-?&*!|>%@`'\"#~<\n\t \r\0", "- ", ": ", "&a ", "*a", "<<: ", "---\n", "  "])
        | st.sampled_from(["!!int ", "!!set ", "!!omap ", "!!timestamp 2001-99-99", ".nan", "memory", "smooth: 1"])
        | st.sampled_from(["0x" + "f" * 9000, "9" * 5000])
        | st.text(max_size=4), max_size=25,
    )
)  # fmt: skip
def test_any_yaml(parts):
    assert is_read_or_refused("yaml", "".join(parts).encode(errors="surrogatepass"))


@SOON
@given(st.dictionaries(st.sampled_from(["w", "__metadata__", "n"]), VALUES | st.fixed_dictionaries({
    "dtype": st.sampled_from(["F32", "BOOL", "F4", "F8_E4M3", "C64", "I64", "X"]),
    "shape": st.lists(st.sampled_from([0, 1, 2, 2**31, 2**63 - 1, 2**64, -1]), max_size=4),
    "data_offsets": st.lists(st.integers(-1, 16), max_size=3),
})), st.binary(max_size=16))  # fmt: skip
def test_any_header_of_weights(header, data):
    written = json.dumps(header).encode()
    assert is_read_or_refused("weights", len(written).to_bytes(8, "little") + written + data)


@SOON
@given(
    st.sampled_from(["<f4", ">f8", "|O", "<U9", "<c16", "|V8", "<M8[s]", "|b1", "<f16", "x", "f" * 99, [("a", "<f4")]]),
    st.lists(st.sampled_from([0, 1, 2, -1, 2**40, 2**63, 1.5, True, "a"]), max_size=4).map(tuple),
    st.binary(max_size=32),
    st.sampled_from([(1, 0), (2, 0), (3, 0), (9, 9)]),
)
def test_any_header_of_an_array(dtype, shape, data, version):
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    length = len(header).to_bytes(2 if version == (1, 0) else 4, "little")
    assert is_read_or_refused("array", b"\x93NUMPY" + bytes(version) + length + header + data)


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 40))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, r"bomb.yaml: must be YAML, got the alias \*a0 in line 2, which must be written out; write one with"),
        (MERGES, r"must be YAML, got the alias \*a0 in line 2"),
        ("a: &a [*a]", r"must be YAML, got the alias \*a in line 1"),
        ("memory: " + "[" * 100_000, "must be YAML, got fields and lists that are nested deeper than 100"),
        ("".join(" " * i + "a:\n" for i in range(500)), "must be YAML, got fields and lists that are nested deeper"),
        ("a: 1\n" * 1_000_000, "must be at most 1,048,576 bytes, got 5,000,000"),
        ("1: 2", "must be YAML, got the field 1, whose name must be text"),
        ("seed: 0x" + "f" * 5000, "must be YAML, got a number of more than 64 bits"),
        ("a: !!timestamp 2001-99-99", "must be YAML, got"),
        ("a: !!python/object:os.system x", "must be YAML, got"),
    ],
)
def test_yaml_that_would_fill_the_memory(tmp_path, text, message):
    (tmp_path / "bomb.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(DetectorConfig, tmp_path / "bomb.yaml")


def test_what_is_valid_is_read():
    """Else the tests above would try nothing but the first check of each reader."""
    for reader, (name, read) in READERS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_bytes(VALID[reader])
            with pytest.raises(FileNotFoundError) if reader == "shards" else contextlib.nullcontext():
                read(path)


@pytest.mark.parametrize("reader", READERS)
def test_bytes_that_coverage_chooses(reader):
    pytest.importorskip("atheris", reason="needs atheris")
    command = [sys.executable, "-m", "tests.fuzz", reader, "-max_total_time=2", "-runs=20000", "-timeout=20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
