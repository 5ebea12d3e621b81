"""Homographies in the model: fixed, refined, learned and identity, and the rig that a detector takes of them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from vsad.geometry import Rig, homography_to_corners
from vsad.models import HomographyNet, Projection, new_model, refined_rig, tiny
from vsad.models.valdm import nearest


def latents(samples=2, seed=0):
    return torch.randn(samples, 3, 18, 16, 16, generator=torch.Generator().manual_seed(seed))


def model_with(homographies):
    model = new_model(replace(tiny(), homographies=homographies), 0).eval()
    for mvam in model.adapter.mvams.values():  # so that what views see of each other counts
        nn.init.normal_(mvam.out.weight, generator=torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize(("new", "old"), [("refined", "fixed"), ("learned", "identity")])
def test_a_network_that_was_not_trained_leaves_the_homographies_that_it_starts_from(rig, new, old):
    model, plain = model_with(new), model_with(old)
    model.adapter.homography_net = HomographyNet(18, width=16, search=new == "learned")
    plain.load_state_dict(model.state_dict(), strict=False)
    times = torch.tensor([0, 200])
    with torch.no_grad():
        ours, theirs = model(latents(), times, rig), plain(latents(), times, rig)
    torch.testing.assert_close(ours.prediction, theirs.prediction, atol=1e-6, rtol=1e-6)
    assert (len(ours.projections), len(theirs.projections)) == (3, 1)


def test_homographies_matter_and_gradients_reach_the_network(rig):
    fixed, identity = model_with("fixed"), model_with("identity")
    times = torch.tensor([0, 200])
    with torch.no_grad():
        assert not torch.allclose(fixed(latents(), times, rig).prediction, identity(latents(), times, rig).prediction)
    model = model_with("refined")
    model(latents(), times, rig).prediction.square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.adapter.homography_net.parameters())


def test_the_coarse_stages_take_the_coarse_homographies():
    sizes = [torch.eye(3)[None, None, None] * scale for scale in (1.0, 2.0, 3.0)]
    projections = [Projection(H, torch.zeros(1, 1, dtype=torch.int64), (64, 64)) for H in sizes]
    for size, scale in ((64, 3.0), (32, 2.0), (16, 1.0), (8, 1.0)):
        assert nearest(projections, (size, size)).homography[0, 0, 0, 2, 2] == scale
    assert nearest(projections[2:], (16, 16)).homography[0, 0, 0, 2, 2] == 3


class Shifting(nn.Module):
    """Stands in for a HomographyNet that moves every homography by some latent pixels, by sample other ones."""

    def __init__(self, shifts):
        super().__init__()
        self.shifts = iter(shifts)

    def forward(self, latents, homography, neighbors):
        move = torch.eye(3)
        move[0, 2] = next(self.shifts)
        return [homography @ move]


@pytest.mark.parametrize("homographies", ["refined", "learned"])
def test_the_refined_rig_is_the_median_of_what_samples_show(monkeypatch, rig, homographies):
    for least in ("_MORE", "_BETTER"):
        monkeypatch.setattr(f"vsad.models.rig_refinement.{least}", -1)  # noise agrees nowhere
    model = model_with(homographies)
    model.adapter.homography_net = Shifting([1.0, 2.0, 9.0])  # latent pixels are 4 image pixels
    found = refined_rig(model, latents(3), rig)
    assert [(p.target, p.source) for p in found.pairs] == [(p.target, p.source) for p in rig.pairs]
    for new, old in zip(found.pairs, rig.pairs):
        start = old.homography if homographies == "refined" else torch.eye(3, dtype=torch.float64)
        moved = homography_to_corners(new.homography, rig.size) - homography_to_corners(start, rig.size)
        torch.testing.assert_close(moved, torch.tensor([[8.0, 0.0]] * 4, dtype=torch.float64), atol=1e-4, rtol=0)


def test_a_rig_stays_where_views_agree_no_better_by_another(rig):
    model = model_with("refined")
    model.adapter.homography_net = Shifting([1.0, 2.0, 9.0])
    found = refined_rig(model, latents(3), rig)
    assert torch.equal(found.homographies, rig.homographies)


def test_a_rig_is_cropped_as_it_was_padded(rig):
    again = rig.padded(12).cropped(12)
    assert again.size == rig.size
    torch.testing.assert_close(again.homographies, rig.homographies)
    with pytest.raises(ValueError, match="less than half of 64, got 32"):
        rig.cropped(32)


def test_an_uncalibrated_rig_knows_its_views_alone():
    rig = Rig.uncalibrated(["a", "b", "c"], (64, 64))
    assert rig.neighbors.tolist() == [[1, 2], [0, 2], [0, 1]]
    assert torch.equal(rig.homographies, torch.eye(3, dtype=torch.float64).expand(3, 2, 3, 3))


def test_a_rig_hands_out_the_same_homographies_again(rig):
    first, again = rig.to_operator((16, 16)), rig.to_operator((16, 16))
    assert all(a is b for a, b in zip(first, again))
    assert rig.to_operator((16, 16), dtype=torch.float64)[0].dtype == torch.float64
