"""What is told without torch is told in a moment, and is what torch tells."""

import ast
import ctypes
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer.main

import vsad
import vsad.info
from vsad import machine
from vsad.cli import app
from vsad.files import RunFolder
from vsad.ops.common.registry import OPERATORS

PACKAGE = Path(vsad.__file__).parent
# Packages that import what needs torch when it is asked for.
LAZY = ("calibration", "data", "detection", "detection.memory", "geometry", "models", "pipeline", "training")
# One process tries all: runs each line of arguments as the command does, and says what it printed and imported.
TRIES = """
import json, sys
from vsad import cli
for line in json.load(sys.stdin):
    sys.argv = ["vsad", *line]
    try:
        cli.main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    heavy = sorted({"torch", "diffusers", "transformers"} & set(sys.modules))
    print(json.dumps({"code": code, "heavy": heavy}), file=sys.stderr)
"""
# What is wrong with a command, and what is said of it.
MISTAKES = {
    "run data --size 2x2x2": "--size: must be a side such as 256",
    "run data --size 3": "size must be at least 16 pixels, got 3",
    "run data --depth 99": "Invalid value for '--depth'",
    "run missing": "root must be a folder, got missing",
    "run data --threads 1 --format nope": "format must be one of folder",
    "run data --format mvtec": "must hold images alone, got the folder 0000; move it away, or pass format",
    "run data --category nope": "category must be one of data",
    "run data --preset nope": "preset must be one of",
    "run data --set train.nope=1": "there is no field train.nope",
    "run data --set model.nope=1": "there is no field model.nope",
    "run data --graph nope": "graph must be overlap",
    "run data --registration nope": "registration must be one of",
    "run data --memory nope": "memory must be one of ['aligned', 'prototypes'], got 'nope'",
    "run data --false-alarms 2": "false_alarms must lie between 0 and 1",
    "run data --device gpu": "device must be usable here, got 'gpu': devices are cpu, cuda",
    "run data --network nope": "there is no network 'nope'; name contrast",
    "run data --config missing.yaml": "missing.yaml is missing",
    "run data --out data/x": "must not lie in the folder that is read",
    "run data --out file": "must be a place that can be written, got file",
    "run empty": "root must hold vsad's folders",
    "calibrate missing": "root must be a folder, got missing",
    "calibrate data --format manta": "must hold images alone, got the folder 0000",
    "detect data --detector detector --format mvtec": "data must hold a folder test, got none",
    "calibrate data --out file/rig.json": "file",
    "calibrate data --features nope": "features must be auto, sift, akaze, orb, got 'nope'",
    "calibrate data --chessboard 9": "--chessboard: must be the inner corners",
    "calibrate missing --chessboard 9x6": "missing must be a folder of pictures of a chessboard",
    "lens missing --chessboard 9x6": "missing must be a folder of pictures of a chessboard",
    "lens data --chessboard 9": "--chessboard: must be the inner corners",
    "undistort data --out data/x --lens missing.json": "must not lie in the folder that is read",
    "undistort data --out out --lens missing.json": "missing.json is missing: make it with vsad lens",
    "undistort data --out out --lens file": "file: must be JSON",
    "train data --rig missing.json": "missing.json is missing",
    "train data --rig broken.json": "broken.json: rig: version must be 1",
    "train data --rig rig.json --out file": "must be a place that can be written, got file",
    "train missing --rig rig.json": "root must be a folder, got missing",
    "fit data --rig rig.json --model missing": "missing/adapter/config.json is missing",
    "fit data --rig rig.json --model empty": "empty/adapter/config.json is missing",
    "detect data --detector missing": "missing/detector.json is missing",
    "detect missing --detector detector": "missing must be an image, a folder or a pattern",
    "detect data --detector detector --device gpu": "device must be usable here",
    "detect data --detector detector --out data/x": "must not lie in the folder that is read",
    "detect data --detector detector --out trained": "made by `vsad detect`, got a folder that `vsad train` made",
    "watch empty --detector detector --out trained": "made by `vsad detect`, got a folder that `vsad train` made",
    "run data --out trained": "made by `vsad run`, got a folder that `vsad train` made",
    "watch missing --detector detector": "missing must be a folder in which samples arrive",
    "watch empty --detector missing": "missing/detector.json is missing",
    "threshold --value 1": "detections/detections.json is missing",
    "threshold detections": "must be chosen by one of",
    "threshold --value nan": "value must be finite, got nan",
    "threshold --value inf": "value must be finite, got inf",
    "threshold --false-alarms 1": "false_alarms must lie between 0 and 1, got 1.0",
    "eval data --detections missing": "missing/detections.json is missing",
    "config --preset nope": "preset must be one of",
    "config --out file/x.yaml": "which is a file and no folder",
    "ablate out --stations nope": "stations must be some of",
    "ablate out --rows nope": "rows must be some of",
    "ablate out --seeds 5": "seeds must be from 1000 to 1099",
    "ablate file": "file",
    "synth empty --format nope": "format must be one of folder, real-iad",
    "synth data": "out must be a new or empty folder",
    "demo --samples 0 --out out": "train must be at least 1",
    "demo --out file": "must be a place that can be written, got file",
    "bench --dtype nope": "dtype must be one of",
    "bench --heads 3": "heads must divide channels=64, got 3",
    "bench --device tpu": "device must be cpu or cuda",
    "info --nope": "No such option",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of one sample, and files that are whole as far as they are looked at."""
    folder = tmp_path_factory.mktemp("startup")
    (folder / "empty").mkdir()
    (folder / "file").touch()
    picture = folder / "data" / "train" / "good" / "0000" / "C1.png"
    picture.parent.mkdir(parents=True)
    picture.touch()
    rig = {"format": "vsad-rig", "version": 1, "views": ["C1"], "height": 32, "width": 32, "pairs": []}
    (folder / "rig.json").write_text(json.dumps(rig))
    (folder / "broken.json").write_text(json.dumps({"format": "vsad-rig"}))
    (folder / "detector").mkdir()
    (folder / "detector" / "rig.json").write_text(json.dumps(rig))
    (folder / "detector" / "detector.json").write_text(json.dumps({"format": "vsad-detector", "version": 1}))
    with RunFolder.open(folder / "trained", command="train"):
        pass
    return folder


def test_what_is_wrong_with_a_command_is_said_before_torch_is_imported(folder):
    lines = [line.split() for line in MISTAKES]
    done = subprocess.run(
        [sys.executable, "-c", TRIES], input=json.dumps(lines), capture_output=True, text=True, cwd=folder,
        env={**os.environ, "COLUMNS": "500"},
    )  # fmt: skip
    said, facts, part = [], [], []
    for line in done.stderr.splitlines():
        if line.startswith('{"code"'):
            facts.append(json.loads(line))
            said.append(" ".join(part))
            part = []
        else:
            part.append(line)
    assert len(facts) == len(MISTAKES), done.stderr
    for (line, expected), text, fact in zip(MISTAKES.items(), said, facts):
        assert expected in text, f"vsad {line} said {text}"
        assert fact["code"] in (1, 2), line
        assert not fact["heavy"], f"vsad {line} imports {fact['heavy']}"
    assert {line.split()[0] for line in MISTAKES} == set(typer.main.get_command(app).commands)
    assert not (folder / "out").exists()


def test_info_and_help_import_no_torch(folder):
    for line in (["info"], ["--help"], ["run", "--help"], ["--version"], ["config"]):
        code = f"{TRIES.replace('json.load(sys.stdin)', repr([line]))}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=True)
        assert json.loads(done.stderr.splitlines()[-1]) == {"code": 0, "heavy": []}, line


@pytest.mark.parametrize("name", LAZY)
def test_packages_name_what_their_modules_define_and_import_torch_when_it_is_asked_for(name):
    """In whatever order modules were imported before."""
    package = importlib.import_module(f"vsad.{name}")
    code = f"import sys, vsad.{name}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    named = {}
    for node in ast.walk(ast.parse(Path(package.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith(f"vsad.{name}."):
            named |= {alias.name: node.module for alias in node.names}
    assert sorted(named) == sorted(package.__all__)
    for each, module in named.items():
        assert getattr(package, each) is getattr(importlib.import_module(module), each), each
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_info_says_what_the_operators_tables_say():
    text = vsad.info.info()
    assert f"torch {torch.__version__}" in text
    assert vsad.info.operators() == {name: [row.name for row in op.backends] for name, op in OPERATORS.items()}
    here = {"cpu", *(["cuda"] if torch.cuda.is_available() else [])}
    rows = [" ".join(line.split()) for line in text.splitlines()]
    for operator in OPERATORS.values():
        for row in operator.backends:
            assert (machine.missing(row.name), machine.devices(row.name)) == (row.missing, row.devices)
            usable = row.missing is None and here & set(row.devices)
            assert any(line.startswith(f"{operator.name} {row.name} {'yes' if usable else 'no: '}") for line in rows)
        assert f"{operator.name} torch yes (reference)" in rows


def test_gpus_are_those_that_torch_finds():
    assert machine.torch_build()["cuda"] == torch.version.cuda
    found = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    assert list(machine.gpus()) == found
    assert (machine.why_no_gpu() is None) == torch.cuda.is_available()


class Driver:
    """CUDA's driver as far as it is asked."""

    def __init__(self, *names, version=12040, fails=0):
        self.names, self.number, self.fails = [name.encode() for name in names], version, fails

    def cuInit(self, flags):
        return self.fails

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.names)
        return 0

    def cuDriverGetVersion(self, version):
        version._obj.value = self.number
        return 0

    def cuDeviceGet(self, device, index):
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name, length, device):
        name.value = self.names[device.value]
        return 0


@pytest.mark.parametrize(
    ("driver", "build", "names", "why"),
    [
        (Driver("NVIDIA H100", "NVIDIA T4"), "12.8", ("NVIDIA H100", "NVIDIA T4"), None),
        (Driver("NVIDIA H100", version=13000), "12.8", ("NVIDIA H100",), None),
        (Driver("NVIDIA K80", version=11040), "12.8", (), "the driver is of CUDA 11.4, and torch needs 12; renew it"),
        (Driver(fails=100), "12.8", (), "CUDA's driver finds none (error 100)"),
        (Driver(), "12.8", (), "CUDA's driver finds none (no device)"),
        (None, "12.8", (), "CUDA's driver does not load (no such file)"),
        (Driver("NVIDIA H100"), None, (), "torch is built without CUDA"),
    ],
)
def test_cuda_s_driver_tells_what_gpus_there_are(monkeypatch, driver, build, names, why):
    def load(name):
        if driver is None:
            raise OSError("no such file")
        return driver

    cached = (machine.gpus, machine.why_no_gpu, machine._Driver.open)
    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(machine, "torch_build", lambda: {"cuda": build, "hip": None})
    try:
        for each in cached:
            each.cache_clear()
        assert machine.gpus() == names
        assert machine.why_no_gpu() == why
    finally:
        for each in cached:
            each.cache_clear()


@pytest.mark.parametrize("count", [1, 2])
def test_threads_that_are_asked_for_are_torch_s(count):
    code = (
        "from vsad.cli.options import _use_threads; import sys; "
        f"_use_threads({count}); assert 'torch' not in sys.modules; import torch; print(torch.get_num_threads()); "
        f"_use_threads({3 - count}); print(torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(count), str(3 - count)]


def test_a_base_that_the_hub_does_not_give_is_named_at_once(folder, tmp_path):
    """Without a network, or with one that is told to be none."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    code = TRIES.replace("json.load(sys.stdin)", repr([["train", "data", "--rig", "rig.json", "--preset", "sd"]]))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment, check=True
    )
    said, facts = " ".join(done.stderr.split()).split('{"code"')
    assert "the base stable-diffusion-v1-5/stable-diffusion-v1-5 is no folder, and the hub of Hugging Face does" in said
    assert "--set model.base=FOLDER" in said
    assert json.loads('{"code"' + facts) == {"code": 1, "heavy": []}


@pytest.mark.parametrize(
    ("given", "running", "expected"),
    [
        ({}, "1/99", {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "10000"}),
        ({}, "65/99", {"OMP_WAIT_POLICY": "passive"}),
        ({"GOMP_SPINCOUNT": "7"}, "1/99", {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, "1/99", {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_threads_without_work_sleep_soon_and_on_a_busy_machine_at_once(monkeypatch, given, running, expected):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Path, "read_text", lambda path: f"0.1 0.2 0.3 {running} 4321\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    machine.let_threads_sleep()
    assert {name: os.environ[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ} == expected
