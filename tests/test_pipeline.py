"""A run of all steps stores what the detector says."""

import json
import types
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.recorder import Recorder
from vsad.data import SynthConfig, open_dataset, synthesize
from vsad.detection import Detection, Detector
from vsad.pipeline import Detections, RunConfig, run
from vsad.training import TrainConfig, VAEConfig


@pytest.mark.parametrize("scaling_factor", [pytest.param(1.0, marks=pytest.mark.slow), 0.18215])
def test_a_run_detects_what_its_detector_detects(tmp_path, scaling_factor):
    """Stable Diffusion's autoencoder has a scaling factor of 0.18215, our own has 1."""
    changes = {"vae": {"scaling_factor": scaling_factor}}
    root = synthesize(tmp_path / "data", SynthConfig(train=3, test_good=1, test_defect=1, size=128))
    progress = Recorder()
    # With ablations, several detectors look at each sample; the work is reported to its end all the same.
    config = RunConfig(model=changes, train=TrainConfig(steps=1), ablations=scaling_factor != 1)
    run(root, tmp_path / "out", config, progress)

    detector = Detector.from_pretrained(tmp_path / "out" / "detector")
    folder = tmp_path / "out" / "detections"
    rows = json.loads((folder / "detections.json").read_text())["samples"]
    dataset = open_dataset(root, "test")
    assert [row["id"] for row in rows] == [sample.id for sample in dataset.samples]
    for row, item in zip(rows, dataset):
        found = detector(item["images"])
        stored = torch.from_numpy(np.load(folder / row["maps"]))
        torch.testing.assert_close(stored, found.maps, rtol=1e-5, atol=1e-5)
        assert row["score"] == pytest.approx(float(found.sample_score), rel=1e-5)

    stages = {label: (total, done) for label, total, done in progress.stages}
    assert stages["train"] == (1, 1)
    assert stages["encode test"] == stages["detect"] == (2, 2)
    assert stages["report"] == (1, 0)


def test_what_was_not_judged_is_saved_and_said(tmp_path):
    names = [types.SimpleNamespace(id=f"good/{i}", defect="good") for i in range(3)]
    dataset = types.SimpleNamespace(samples=names, views=("left", "top"), category="part")
    maps = torch.zeros(2, 8, 8)
    found = [
        Detection.of(maps, (8, 8), unjudged=torch.tensor([0.12, 0.0])),
        Detection.of(maps, (8, 8), unjudged=torch.tensor([0.13, 0.07])),
        Detection.of(maps, (8, 8), "too few matches", torch.tensor([0.11, 0.0])),
    ]
    made = Detections(dataset, found, 1.0)
    expected = [
        "no view judges 12% of left in most samples: it lies at the rim of the pictures, or too few normal samples "
        "show it",
        "good/1: no view judges 7% of top: it lies at the rim of the pictures, or too few normal samples show it, or a "
        "reflection hides it",
        "good/2 was judged where it lay: too few matches",
    ]
    assert list(made.warnings()) == expected
    made.save(tmp_path)
    assert list(Detections.load(tmp_path, dataset).warnings()) == expected


def test_one_conditioned_model_learns_all_categories_and_draws_them(tmp_path):
    categories = ("brick", "coins")
    config = SynthConfig(categories, train=3, test_good=1, test_defect=1, size=64)
    root = synthesize(tmp_path / "data", config)
    conditioned = {"conditioning": "class", "categories": ["brick", "coins"]}
    made = RunConfig(model=conditioned, train=TrainConfig(steps=4), vae=VAEConfig(steps=2), registration="off")
    run(root, tmp_path / "out", made)
    detectors = [Detector.from_pretrained(tmp_path / "out" / name / "detector") for name in categories]
    assert [int(d.category) for d in detectors] == [0, 1]
    first, second = (d.model.state_dict() for d in detectors)
    assert all(torch.equal(first[name], second[name]) for name in first)  # one model
    assert detectors[0].model.adapter.class_embedding.weight.abs().amax(1).min() > 0  # both were learned
    latents = torch.cat([d.model.encode(item["images"][None]) for d, name in zip(detectors, categories)
                         for item in open_dataset(root, "train", category=name)])  # fmt: skip
    torch.testing.assert_close(latents.mean((0, 1, 3, 4)), torch.zeros(18), atol=1e-3, rtol=0)
    for name in categories:
        page = (tmp_path / "out" / name / "report.html").read_text(encoding="utf-8")
        assert "Reconstructions" in page
    with pytest.raises(ValueError, match=r"must name every category of .*, got \['brick'\]; add coins"):
        run(root, tmp_path / "no", replace(made, model={**conditioned, "categories": ["brick"]}))
    assert not (tmp_path / "no").exists()
