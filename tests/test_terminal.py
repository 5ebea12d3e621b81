"""The command in a shell: pipes that close, Ctrl-C, narrow terminals, names in any encoding, locks, full disks."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.stations import command, make_station, write_sample
from vsad.files import RunFolder
from vsad.pipeline import Detections


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    return make_station(tmp_path_factory.mktemp("station"))


@pytest.fixture
def folder(station, tmp_path):
    shutil.copytree(station, tmp_path / "copy")
    return tmp_path / "copy"


def hear_control_c():
    """Undo what a shell does to the children of what it runs in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(folder, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "vsad.cli", *map(str, arguments)], cwd=folder, text=True,
        env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=hear_control_c if os.name == "posix" else None,
    )  # fmt: skip


def more_samples(folder, count):
    for i in range(2, count):
        shutil.copytree(folder / "data/test/good/000", folder / f"data/test/good/{i:03}", copy_function=os.link)


def test_a_pipe_that_is_closed_early_ends_it_quietly(folder):
    more_samples(folder, 60)
    process = started(folder, "detect", "data", "--json")
    assert json.loads(process.stdout.readline())["id"] == "blot/000"
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=120) == 1
    assert "Traceback" not in errors
    assert "Exception" not in errors
    ended = command("detect", "data", cwd=folder)  # and what was done is not done again
    assert ended.code == 0
    assert len(Detections.load(folder / "detections").rows) == 62


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_control_c_shows_no_traceback_and_ends_with_130(folder):
    more_samples(folder, 300)
    process = started(folder, "detect", "data", "--json", "--no-overlays")
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert out.count("\n") < 290
    assert not (folder / "detections/detections.json").exists()


NAMES = {"latin-1 bytes": b"p\xff1", "umlauts": "pü1".encode(), "Japanese": "部品".encode(), "emoji": "🔩".encode()}


@pytest.mark.parametrize("environment", [{}, {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}])
def test_names_in_any_encoding_are_inspected_or_named(folder, environment):
    for number, each in enumerate((*NAMES.values(), b"plain")):
        write_sample(folder / "new" / f"x{number}", 100 + number)
        os.rename(folder / "new" / f"x{number}", os.fsencode(folder / "new") + b"/" + each)
    process = started(folder, "detect", "new", "--json", **environment)
    out, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors
    ids = [json.loads(line)["id"] for line in out.splitlines()]
    assert process.returncode == 3
    assert sorted(ids) == sorted(["plain", *(name.decode() for key, name in NAMES.items() if key != "latin-1 bytes")])
    assert errors.count("was not inspected: ") == 1
    assert "must be a name in UTF-8" in errors


@pytest.mark.parametrize("width", [20, 40, 80])
def test_narrow_terminals_cut_no_word_of_a_verdict(folder, width):
    ended = command("detect", "data", cwd=folder, width=width)
    assert ended.code == 0
    for word in ("blot/000", "DEFECT", "good/001", "OK"):
        assert word in ended.err
    assert command("eval", "data", cwd=folder, width=width).code == 0


@pytest.mark.parametrize("arguments", [["detect", "data"], ["threshold", "--value", 5], ["eval", "data"]])
def test_json_alone_is_on_stdout_and_quiet_leaves_stderr_empty(folder, arguments):
    assert command("detect", "data", cwd=folder).code == 0
    ended = command(*arguments, "--json", "--quiet", cwd=folder)
    assert ended.code == 0
    assert ended.err == ""
    assert [type(json.loads(line)) for line in ended.out.splitlines()] == [dict] * (
        4 if arguments[0] == "detect" else 1
    )


def test_two_processes_never_write_one_folder(folder):
    for name, arguments in (("detections", ["detect", "data"]), ("new", ["fit", "data"]), ("run", ["run", "data"])):
        with RunFolder.open(folder / name, command=arguments[0]):
            ended = command(*arguments, "--out", name, cwd=folder)
        assert ended.code == 1
        assert f"process {os.getpid()}" in ended.err


def test_a_full_disk_is_said_and_what_was_done_is_kept(folder, monkeypatch):
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    ended = command("detect", "data", cwd=folder)
    assert ended.code == 1
    assert "got a full disk; free some space" in ended.err.splitlines()[-1]
    monkeypatch.undo()
    ended = command("detect", "data", cwd=folder)
    assert ended.code == 0
    assert "detect: 4 of 4" not in ended.err  # some were done
    assert len(Detections.load(folder / "detections").rows) == 4


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root, who can become another user")
def test_a_folder_that_may_not_be_written_is_said_before_work(station):
    import tempfile

    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are not for other users
        os.chmod(place, 0o755)
        shutil.copytree(station, f"{place}/copy")
        os.chmod(f"{place}/copy", 0o755)
        for arguments in (["detect", "data"], ["train", "data"], ["fit", "data"], ["run", "data"], ["eval", "data"],
                          ["calibrate", "data", "--seed", 1], ["config"]):  # fmt: skip
            os.seteuid(65534)
            try:
                ended = command(*arguments, "--out", "new", cwd=f"{place}/copy")
            finally:
                os.seteuid(0)
            assert ended.code == 1, arguments
            assert "Traceback" not in ended.err
            if arguments[0] != "eval":  # which reads detections first
                assert "no permission" in ended.err or "can be written" in ended.err, ended.err
            assert not os.path.exists(f"{place}/copy/new")


def test_a_network_of_ones_own_is_run_only_where_it_is_named(folder, monkeypatch):
    (folder / "own_network.py").write_text(
        "import torch\n"
        "class Gray(torch.nn.Module):\n"
        "    def forward(self, images):\n"
        "        return [torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 4)]\n"
        "def make():\n"
        "    return Gray()\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    fit = ["fit", "data", "--registration", "off", "--out", "own", "--network", "own_network:make"]
    ended = command(*fit, cwd=folder)
    assert ended.code == 0, ended.err
    ended = command("detect", "data", "--detector", "own", cwd=folder)
    assert ended.code == 1
    assert "own_network:make" in ended.err
    ended = command("detect", "data", "--detector", "own", "--network", "own_network:make", cwd=folder)
    assert ended.code == 0, ended.err
