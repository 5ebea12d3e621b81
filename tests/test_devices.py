"""No step assumes the CPU: a sample is inspected, and a step trained, on a device whose values nobody can look at.

Tensors on ``meta`` have shapes and no values. Whatever would wait for a GPU, or mix its tensors with the CPU's, fails.
Operators take their reference there, which loops over the cells of a window: one cell is enough.
"""

from dataclasses import replace

import pytest
import torch

from vsad.detection import Detector, DetectorConfig, load_network
from vsad.models import align_features, new_model, tiny
from vsad.models.losses import alignment_loss, diffusion_loss, homography_loss, refine_loss
from vsad.registration import Pose, Registration

META = torch.device("meta")


@pytest.mark.parametrize(("memory", "registered"), [("aligned", True), ("prototypes", False)])
def test_a_sample_is_inspected_without_a_look_at_its_values(station, rig, monkeypatch, memory, registered):
    """Registration's estimate alone is the CPU's, since its features are OpenCV's."""
    _, _, good, blot = station
    model = new_model(replace(tiny(), timesteps=(0, 50), window=1), 0).eval()
    normal = torch.stack([(good + 0.01 * i).clamp(0, 1) for i in range(3)])
    latents, network = model.encode(normal), load_network("contrast")
    registration = Registration.fit(good, rig) if registered else None
    config = DetectorConfig(memory=memory, window=1, weights=(1.0,))
    maps = [torch.stack([network(views)[0] for views in normal])]
    detector = Detector.fit(model, rig, latents, config, registration=registration, network=network, maps=maps)
    expected = detector(blot)
    pose = Pose(torch.eye(3, dtype=torch.float64).repeat(3, 1, 1), 9, 0.1, None)
    monkeypatch.setattr(Registration, "estimate", lambda self, images: pose)

    found = detector.to(META)(blot.to(META))
    for name in ("maps", "view_scores", "sample_score", "unjudged"):
        there, here = getattr(found, name), getattr(expected, name)
        assert (there.device, there.shape, there.dtype) == (META, here.shape, here.dtype)


@pytest.mark.parametrize("homographies", ["fixed", "learned"])
def test_a_step_is_trained_without_a_look_at_its_values(rig, homographies):
    model = new_model(replace(tiny(), homographies=homographies, window=1), 0).to(META)
    clean = torch.empty(2, 3, 18, 16, 16, device=META)
    times = torch.empty(2, dtype=torch.int64, device=META)
    noise = torch.empty_like(clean)
    noisy = model.add_noise(clean, noise, times)
    found = model(noisy, times, rig)
    aligned = [align_features(level, found.projections[-1]) for level in found.levels]
    loss = diffusion_loss(found.prediction, model.target(clean, noise, times)) + alignment_loss(found.levels, aligned)
    if model.adapter.homography_net is not None:
        found_by_stage = [projection.homography for projection in found.projections]
        loss = loss + homography_loss(model.appearance(clean), found_by_stage, found.projections[-1].neighbors)
    (loss + refine_loss(model.refine(found.levels, aligned), found.levels)).backward()
    assert {p.grad.device for p in model.parameters() if p.requires_grad} == {META}
