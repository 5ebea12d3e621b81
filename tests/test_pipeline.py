"""A run of all steps stores what the detector says."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from tests.recorder import Recorder
from vsad.data import Cameras, Sample, SynthConfig, ViewFile, open_dataset, synthesize
from vsad.detection import Detection, Detector
from vsad.geometry import Rig
from vsad.pipeline import Detections, Header, RunConfig, run
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
    stored = Detections.load(tmp_path / "out" / "detections")
    rows = list(stored.rows.values())
    dataset = open_dataset(root, "test")
    assert [row["id"] for row in rows] == [sample.id for sample in dataset.samples]
    for row, item in zip(rows, dataset):
        found = detector(item["images"])
        read = stored.detection(row["id"])
        # Maps are in 16 bits of their own range, and the views of a sample have a range each.
        steps = (found.maps.amax((1, 2)) - found.maps.amin((1, 2)))[:, None, None] / 65535
        assert ((read.maps - found.maps).abs() <= 0.51 * steps + 1e-5).all()
        torch.testing.assert_close(read.view_scores, found.view_scores, rtol=1e-5, atol=1e-5)
        assert row["score"] == pytest.approx(float(found.sample_score), rel=1e-5)

    stages = {label: (total, done) for label, total, done in progress.stages}
    assert stages["train"] == (1, 1)
    assert stages["detect"] == stages["evaluate"] == (2, 2)
    assert stages["report"] == (1, 0)


def test_what_was_not_judged_is_saved_and_said(tmp_path):
    views = ("left", "top")
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), np.zeros((8, 8), np.uint8))
    samples = [Sample("part", f"good/{i}", "test", "good", dict.fromkeys(views, ViewFile(image)), {}) for i in range(3)]
    maps = torch.zeros(2, 8, 8)
    found = [
        Detection.of(maps, (8, 8), unjudged=torch.tensor([0.12, 0.0])),
        Detection.of(maps, (8, 8), unjudged=torch.tensor([0.13, 0.07])),
        Detection.of(maps, (8, 8), "too few matches", torch.tensor([0.11, 0.0])),
    ]
    header = Header("part", Cameras(views, (8, 8), {}), 1.0, "as given")
    rig = Rig.from_pairs(list(views), (8, 8), {("left", "top"): torch.eye(3, dtype=torch.float64)})
    with Detections.open(tmp_path / "found", header, {}, rig) as made:
        for sample, each in zip(samples, found):
            made.write(sample, each, torch.rand(2, 3, 8, 8))
        made.finish()
    expected = [
        "no view judges 12% of left in most samples: it lies at the rim of the pictures, or too few normal samples "
        "show it",
        "good/1: no view judges 7% of top: it lies at the rim of the pictures, or too few normal samples show it, or a "
        "reflection hides it",
        "good/2 was judged where it lay: too few matches",
    ]
    assert list(made.verdicts.warnings()) == expected
    loaded = Detections.load(tmp_path / "found")
    assert list(loaded.verdicts.warnings()) == expected
    read = loaded.detection("good/2")
    assert (read.reason, read.unjudged.tolist()) == ("too few matches", found[2].unjudged.tolist())


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
