"""Every example in a docstring runs, and gives what stands beneath it."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import vsad
from vsad.data.synth import SynthConfig, synthesize


def _examples():
    """The docstrings with examples of all modules but those that only a checkout uses."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for module in pkgutil.walk_packages(vsad.__path__, "vsad."):
        if module.name.startswith(("vsad.bench", "vsad.kernels")) or module.name.endswith("__main__"):
            continue
        if module.name.rsplit(".", 1)[-1].startswith(("cuda", "triton", "_cuda")):
            continue  # launchers, which a machine may not have the libraries for
        for example in finder.find(importlib.import_module(module.name), module.name):
            if example.examples:
                yield pytest.param(example, id=example.name)


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    """A folder that holds a small station."""
    folder = tmp_path_factory.mktemp("examples")
    synthesize(folder / "station", SynthConfig(train=2, test_good=1, test_defect=5))
    return folder


@pytest.mark.parametrize("example", list(_examples()))
def test_examples_give_what_they_say(example, station, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path if "synthesize" in example.name else station)
    torch.manual_seed(0)
    example.globs |= {"torch": torch, "vsad": vsad}
    failed, tried = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example)
    assert tried > 0
    assert failed == 0


def test_every_operator_has_an_example():
    named = {param.id.rsplit(".", 1)[-1] for param in _examples()}
    assert named >= {"homography_align", "homography_warp", "prototype_distance", "pack_prototypes", "greedy_coreset"}
    assert "using" in named
