"""Practice defects, the levels that they choose, and frozen networks as levels."""

import sys
import types

import pytest
import torch
from torch import nn

from tests.small_station import SIZE
from vsad.detection import Detector, FrozenNetwork, Practice, load_network, paint_defects, weighing
from vsad.training import encode


def test_a_practice_defect_shows_where_the_rig_says(rig):
    images = torch.full((3, 3, *SIZE), 0.5)
    painted = paint_defects(images, rig, torch.Generator().manual_seed(3), count=6)
    assert painted.images.shape == images.shape
    assert painted.marks.shape == (6, 3, *SIZE)
    assert painted.marks.flatten(2).any(2).any(1).all()
    changed = (painted.images - images).abs().amax(1)
    assert float(changed.amax()) > 0.1
    assert float(changed[~painted.marks.any(0)].max()) < 0.05
    # Views a and b look at one plane, eight pixels apart; a and c are no neighbors.
    both = [marks for marks in painted.marks if marks[0, :, 9:48].any() and not marks[2].any()]
    both += [marks for marks in painted.marks if marks[0].any() and marks[1].any()]
    assert both
    for marks in both:
        assert torch.equal(marks[1, :, 1:40], marks[0, :, 9:48])


def test_painting_is_repeatable_and_leaves_the_sample_alone(rig):
    images = torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    one, two = (paint_defects(images, rig, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(images, before)
    assert torch.equal(one.images, two.images)
    assert float(one.images.min()) >= 0
    assert float(one.images.max()) <= 1


def test_levels_that_are_about_as_good_as_the_best_count_alike(monkeypatch):
    worth = {0: 0.9, 1: 0.94, 2: 0.6}
    monkeypatch.setattr(weighing, "_separation", lambda _, weights, *rest: worth[weights.index(1)])
    detector = types.SimpleNamespace(levels=[None] * 3)
    assert weighing.choose_weights(detector, ["normal"], ["painted"], torch.ones(1)) == (1, 1, 0)
    assert weighing.choose_weights(detector, ["normal"], [], torch.ones(1)) == (1, 1, 1)


class Noise(nn.Module):
    """A network whose maps say nothing: the same noise for every image, but for a little more of it each time."""

    def forward(self, images):
        maps = torch.randn(len(images), 4, 16, 16, generator=torch.Generator().manual_seed(int(images.sum() * 1e3)))
        return [maps]


def practiced(model, images, rig, network):
    generator = torch.Generator().manual_seed(0)
    painted = [paint_defects(sample, rig, generator, 5) for sample in images]
    maps = tuple(torch.stack(level) for level in zip(*(network(p.images) for p in painted)))
    encoded = encode(model, (p.images for p in painted))
    return Practice(encoded, tuple(range(len(images))), torch.stack([p.marks for p in painted]), maps)


def test_a_level_that_tells_nothing_gets_no_weight_and_a_network_survives_saving(station, rig, tmp_path):
    model, latents, good, bad = station
    images = torch.stack([(good + 0.02 * torch.randn(good.shape)).clamp(0, 1) for _ in range(len(latents))])
    latents = encode(model, images)
    network = FrozenNetwork(Noise())
    maps = tuple(torch.stack(level) for level in zip(*(network(sample) for sample in images)))
    practice = practiced(model, images, rig, network)
    detector = Detector.fit(model, rig, latents, practice=practice, network=network, maps=maps)
    weights = detector.config.weights
    assert len(weights) == len(detector.levels) == 3
    assert weights[0] == 1
    assert weights[2] == 0
    # Practice defects that show nowhere say nothing of any level.
    hidden = practice._replace(marks=torch.zeros_like(practice.marks))
    assert Detector.fit(model, rig, latents, practice=hidden, network=network, maps=maps).config.weights == (1, 1, 1)
    found = detector(bad)
    assert found.sample_score > 2 * detector(good).sample_score
    detector.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has a frozen network without a name; give it"):
        Detector.from_pretrained(tmp_path)
    assert torch.equal(Detector.from_pretrained(tmp_path, network=network)(bad).maps, found.maps)


def test_a_detector_without_a_network_takes_none(station, rig, tmp_path):
    model, latents, _, _ = station
    Detector.fit(model, rig, latents).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="fitted without a frozen network; leave network out"):
        Detector.from_pretrained(tmp_path, network=FrozenNetwork(Noise()))


def test_a_network_is_loaded_by_name_and_frozen(monkeypatch):
    module = types.ModuleType("my_networks")
    module.small = lambda: nn.Conv2d(3, 2, 1)
    module.nothing = lambda: 3
    module.needs = lambda size: nn.Conv2d(3, size, 1)
    monkeypatch.setitem(sys.modules, "my_networks", module)
    network = load_network("my_networks:small")
    assert network.name == "my_networks:small"
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.train().training
    gray = torch.tensor(network.mean)[:, None, None].expand(2, 3, 4, 4)
    torch.testing.assert_close(network(gray)[0][0, :, 0, 0], network.network.bias)
    for name, message in [
        ("my_networks", "there is no network 'my_networks'; name contrast"),
        ("my_networks:missing", "cannot be loaded"),
        ("no_such_module:f", "cannot be loaded, No module named 'no_such_module'; name contrast, timm:MODEL"),
        ("my_networks:nothing", "must return a network, got int"),
        ("my_networks:needs", "cannot be loaded, TypeError: .* missing 1 required positional argument"),
        ("./my_networks.py:small", r"cannot be loaded, TypeError: .*; name contrast.*a module's name, not its path"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_network(name)


def test_several_networks_are_joined_by_plus(monkeypatch):
    module = types.ModuleType("my_networks")
    module.small = lambda: nn.Conv2d(3, 2, 1)
    monkeypatch.setitem(sys.modules, "my_networks", module)
    images = torch.rand(2, 3, 32, 32)
    alone, both = load_network("contrast"), load_network("contrast+my_networks:small")
    contrast, theirs = both(images)
    assert both.name == "contrast+my_networks:small"
    torch.testing.assert_close(contrast, alone(images)[0])
    assert theirs.shape == (2, 2, 32, 32)
    with pytest.raises(ValueError, match="there is no network 'nothing'"):
        load_network("contrast+nothing")


def test_of_a_timm_model_the_maps_of_strides_4_and_8_are_taken(monkeypatch):
    """With a stand-in for timm, which needs torchvision and weights from a hub."""
    asked = []

    class Model(nn.Module):
        feature_info = types.SimpleNamespace(reduction=lambda: [2, 4, 8, 16])

        def forward(self, images):
            assert images.shape[-1] == 32, "Input width doesn't match model"
            return [images[..., ::4, ::4], images[..., ::8, ::8]]

    class Last(Model):
        output_fmt = "NHWC"

        def forward(self, images):
            return [level.movedim(1, -1) for level in super().forward(images)]

    class Coarse(Model):
        feature_info = types.SimpleNamespace(reduction=lambda: [16, 16])

    models = {"some_net": Model, "channels_last": Last, "coarse": Coarse}

    def create_model(name, **options):
        asked.append((name, options))
        return models[name]()

    config = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    data = types.SimpleNamespace(resolve_model_data_config=lambda model: config)
    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model, data=data))
    network = load_network("timm:some_net")
    assert asked[-1] == ("some_net", {"pretrained": True, "features_only": True, "out_indices": [1, 2]})
    assert (network.mean, network.deviation) == (config["mean"], config["std"])
    images = torch.rand(1, 3, 32, 32)
    assert [tuple(level.shape) for level in network(images)] == [(1, 3, 8, 8), (1, 3, 4, 4)]
    assert all(map(torch.equal, network(images), load_network("timm:channels_last")(images)))
    with pytest.raises(
        ValueError, match=r"'timm:coarse' cannot be loaded, its maps have strides \[16, 16\] and none 4 or 8"
    ):
        load_network("timm:coarse")
    with pytest.raises(ValueError, match=r"timm:some_net failed on images of 64 x 64, Input width doesn't match"):
        network(torch.rand(1, 3, 64, 64))


def test_a_network_that_returns_something_else_is_refused():
    with pytest.raises(TypeError, match=r"must return maps \(N, C, h, w\) of 2 images, got \[\[2, 192\]\]; wrap it"):
        FrozenNetwork(nn.Flatten())(torch.rand(2, 3, 8, 8))
