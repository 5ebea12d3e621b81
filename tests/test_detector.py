"""The memories, the detector and how views agree."""

import copy
import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from tests.small_station import SIZE, randn
from vsad.detection import Detector, DetectorConfig, GaussianBank, agree, gaussian_derivatives, place
from vsad.detection.agreement import peaks
from vsad.detection.detection import Detection
from vsad.detection.glare import Glare, any_pixel
from vsad.detection.memory import AlignedMemory, MemoryConfig, PrototypeMemory
from vsad.detection.memory.scaling import scaling
from vsad.detection.placement import spread
from vsad.detection.smoothing import extend, gaussian, known_gaussian


def everywhere(features):
    """All of ``features (S, V, C, h, w)`` say something."""
    return torch.ones_like(features[:, :, 0], dtype=torch.bool)


def test_scaling_measures_in_what_normal_samples_differ_by():
    """However different the places are, and however much one direction changes from sample to sample."""
    places, changes = 5 * randn(1, 2, 4, 8, 8), randn(40, 2, 4, 8, 8, seed=1)
    changes[:, :, 0] *= 100
    features = places + torch.einsum("svchw,cd->svdhw", changes, randn(4, 4, seed=2))
    seen = everywhere(features)
    seen[3] = False
    features[3] = 1e3  # says nothing, whatever it holds
    transform = scaling(features, seen)
    residual = (features - features[seen[:, 0, 0, 0]].mean(0))[seen[:, 0, 0, 0]].movedim(2, -1).reshape(
        -1, 4
    ) @ transform
    values = torch.linalg.eigvalsh(torch.cov(residual.T))
    assert values.max() == pytest.approx(0.25, rel=0.05)
    # All but the directions that shrinkage takes for noise.
    assert values[-1] / values[-2] < 100


def test_aligned_memory_is_the_soft_smallest_distance_in_the_windows():
    features = randn(4, 2, 3, 6, 7)
    memory = AlignedMemory.fit(features, everywhere(features), MemoryConfig(window=3))
    probe = randn(2, 3, 6, 7, seed=1)
    scores = memory(probe)
    f = (probe.movedim(1, -1) @ memory.transform).double()  # (V, h, w, C)
    m = (features.movedim(2, -1) @ memory.transform).double()
    for v, y, x in ((0, 0, 0), (1, 3, 4), (0, 5, 6)):
        rows, columns = slice(max(0, y - 1), y + 2), slice(max(0, x - 1), x + 2)
        squares = (f[v, y, x] - m[:, v, rows, columns]).square().sum(-1)
        b = memory.sharpness
        expected = -2 / b * torch.logsumexp(-b / 2 * squares.flatten(), 0)
        assert float(scores[v, y, x]) == pytest.approx(float(expected), rel=1e-4, abs=1e-4)


def test_aligned_memory_finds_a_shifted_sample_and_leaves_a_reference_out():
    features = randn(5, 1, 8, 10, 10)
    memory = AlignedMemory.fit(features, everywhere(features))
    memory.sharpness = 100.0
    shifted = features[2].roll(2, -1)
    assert memory(shifted)[0, 3:7, 4:7].abs().max() < 0.1
    out = list(memory.normal_scores(features, everywhere(features)))
    assert len(out) == 5
    assert memory(features[2]).max() < 0.1 < out[2].min()


def test_aligned_memory_keeps_references_spread_over_the_samples():
    features = randn(9, 1, 4, 8, 8)
    memory = AlignedMemory.fit(features, everywhere(features), MemoryConfig(references=3))
    assert memory.key.shape[1] == 3
    memory.sharpness = 100.0
    kept = [float(memory(sample).max()) < 0.1 for sample in features]
    assert kept == [index in (0, 3, 6) for index in range(9)]
    scores = memory.normal_scores(features, everywhere(features))
    assert scores.shape == (9, 1, 8, 8)
    assert scores[0].median() > 0.1  # as if it were not kept


def test_a_reference_that_does_not_show_a_place_has_no_say_there():
    features, seen = randn(4, 1, 3, 8, 8), torch.ones(4, 1, 8, 8, dtype=torch.bool)
    seen[2, :, :, :4] = False
    features[2, :, :, :, :4] = features[0, :, :, :, :4]
    memory = AlignedMemory.fit(features, seen, MemoryConfig(window=1))
    assert memory(features[2])[0, :, 4:].max() < 0.1
    left_out = AlignedMemory.fit(features[[0, 1, 3]], seen[[0, 1, 3]], MemoryConfig(window=1))
    left_out.transform.copy_(memory.transform)
    alone = AlignedMemory(left_out.key, memory.transform, window=1)
    same = [torch.einsum("vchw,cd->vdhw", f, memory.transform) for f in features[[0, 1, 3]].movedim(1, 0)[0][:, None]]
    alone.key = torch.stack([torch.cat([m, -0.5 * m.square().sum(1, keepdim=True)], dim=1) for m in same], dim=1)
    probe = randn(1, 3, 8, 8, seed=5)
    torch.testing.assert_close(memory(probe)[..., :4], alone(probe)[..., :4])
    # Three references show the right half: two beside the sample that is judged. Fewer cannot judge.
    assert memory.known(seen).all()
    seen[1, :, :, :2] = False
    known = AlignedMemory.fit(features, seen).known(seen)
    assert known[0].any(0).tolist() == [False] * 2 + [True] * 6


def test_no_memory_judges_a_place_that_hardly_any_normal_sample_shows():
    features, seen = randn(10, 1, 3, 8, 8), torch.ones(10, 1, 8, 8, dtype=torch.bool)
    seen[2:, :, 0] = False  # the rim, in two samples alone
    seen[3:, :, 1] = False
    for kind in (AlignedMemory, PrototypeMemory):
        known = kind.fit(features, seen, MemoryConfig(prototypes=20)).known(seen)
        assert known[0].all(1).tolist() == [False] + [True] * 7


def test_prototype_memory_is_the_distance_to_the_nearest_wherever_it_stands():
    features = randn(4, 2, 3, 5, 5)
    memory = PrototypeMemory.fit(features, everywhere(features), MemoryConfig(prototypes=10_000, parts=1))
    moved = features[1].flip(-1).flip(-2)
    assert memory(moved).max() < 1e-3
    assert memory(randn(2, 3, 5, 5, seed=9) + 8).min() > 3
    with pytest.raises(ValueError, match="at least 2 samples"):
        memory.normal_scores(features, everywhere(features))


@pytest.mark.parametrize(("samples", "banks"), [(2, 2), (3, 3), (4, 6), (10, 10)])
def test_a_sample_is_scored_by_banks_that_do_not_know_it(samples, banks):
    features = randn(samples, 2, 3, 5, 5)
    memory = PrototypeMemory.fit(features, everywhere(features), MemoryConfig(prototypes=10_000))
    assert memory.prototypes.shape[1] == banks
    scores = memory.normal_scores(features, everywhere(features))
    scaled = (features.movedim(2, -1) @ memory.transform).flatten(2, 3).transpose(0, 1)  # (V, S, h w, C)
    parts, left_out = min(5, samples), min(2, samples - 1)
    part = torch.arange(samples) % parts
    expected = []
    for without in itertools.combinations(range(parts), left_out):
        known = [i for i in range(samples) if int(part[i]) not in without]
        nearest = torch.cdist(scaled[:, 0], scaled[:, known].flatten(1, 2)).amin(-1)
        if 0 in without:
            expected.append(nearest.unflatten(-1, (5, 5)))
    torch.testing.assert_close(scores[0], torch.stack(expected).mean(0), atol=1e-3, rtol=0)
    again = PrototypeMemory.rebuild(memory.state_dict(), MemoryConfig())
    torch.testing.assert_close(again(features[0]), memory(features[0]))


@pytest.mark.parametrize("inference", [False, True])
def test_prototypes_that_are_loaded_replace_the_packed_ones(inference):
    features = torch.randn(3, 2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(inference):
        memory, other = (
            PrototypeMemory.fit(f, everywhere(f), MemoryConfig(prototypes=20)) for f in (features, features + 1)
        )
        assert memory.prototypes.is_inference() == inference
        before, expected = memory(features[0]), other(features[0])
        assert not torch.equal(before, expected)
        memory.load_state_dict(other.state_dict())
        assert torch.equal(memory(features[0]), expected)


def test_prototypes_that_change_in_place_are_packed_again():
    features = torch.randn(3, 2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    memory = PrototypeMemory.fit(features, everywhere(features), MemoryConfig(prototypes=20))
    before = memory(features[0])
    again = copy.deepcopy(memory)
    for changed in (memory, again):
        changed.prototypes += 1
        expected = PrototypeMemory(changed.prototypes, changed.transform, changed.unknown)(features[0])
        assert not torch.equal(before, expected)
        assert torch.equal(changed(features[0]), expected)


@pytest.mark.parametrize("kind", [AlignedMemory, PrototypeMemory])
def test_an_empty_memory_is_refused(kind):
    with pytest.raises(ValueError, match="must hold at least"):
        kind.fit(torch.empty(0, 2, 3, 4, 4), torch.empty(0, 2, 4, 4, dtype=torch.bool))


ONES = torch.ones(2, 3)


def test_what_others_confirm_counts_up_to_a_views_own_evidence(rig):
    own, known = torch.zeros(3, 16, 16), torch.ones(3, 16, 16, dtype=torch.bool)
    own[0, 8, 8] = 4.0
    own[1, 8, 6] = 2.0  # the same surface point: view b lies two latent pixels to the right
    own[2, 3, 3] = 5.0  # nobody else sees anything there
    confirmed = [2 / rig_views_that_see(rig, 0, 8), min(2, 4 / rig_views_that_see(rig, 1, 6)), 0]
    highest = peaks(own, known, rig)
    torch.testing.assert_close(highest, torch.tensor([[4, 2, 5], confirmed]))
    # Normal samples reach 8 by single views, and a tenth of what is confirmed here.
    reach = torch.stack([torch.full((3,), 8.0), torch.tensor([*confirmed[:2], 1.0]) / 10])
    result = agree(own, known, known, rig, reach).maps
    assert float(result[0, 8, 8]) == pytest.approx(10, abs=1e-3)
    assert float(result[1, 8, 6]) == pytest.approx(10, abs=1e-3)
    assert float(result[2, 3, 3]) == pytest.approx(5 / 8)  # a highlight, by what normal samples show
    # A view that does not show what others see gets nothing of it.
    homographies, neighbors = rig.to_operator((16, 16))
    x, y, _ = (
        torch.linalg.inv(homographies[2, 0]) @ torch.tensor([8.0, 8, 1]) if int(neighbors[2, 0]) == 0 else (4, 8, 1)
    )
    assert float(result[2, int(y), int(x)]) == 0
    torch.testing.assert_close(agree(-own, known, known, rig, ONES).maps, -own)  # disagreement takes nothing away


def test_the_others_stand_in_where_a_view_knows_nothing(rig):
    own, known = torch.zeros(3, 16, 16), torch.ones(3, 16, 16, dtype=torch.bool)
    own[0, 8, 8] = 4.0
    known[1, 8, 6] = False
    own[1, 8, 6] = 100.0  # of no account
    result, nobody = agree(own, known, known, rig, 2 * ONES)
    assert not nobody[:2, 8, 8].any()
    assert float(result[1, 8, 6]) == pytest.approx(2 / rig_views_that_see(rig, 1, 6), abs=1e-4)
    assert float(result[0, 8, 8]) == pytest.approx(2)
    known[:] = False
    nothing = agree(own, known, known, rig, ONES)
    assert torch.equal(nothing.maps, torch.zeros_like(own))
    assert nothing.unjudged.all()
    assert torch.equal(peaks(own, known, rig), torch.zeros(2, 3))
    # What dazzles every camera is bright itself: a reflection hides another place from each.
    result, nobody = agree(own, known, torch.ones_like(known), rig, 2 * ONES)
    assert float(result[0, 8, 8]) == 2
    assert not nobody[0, 8, 8]
    # What dazzles the only camera that shows it cannot be judged.
    shown = torch.zeros_like(known)
    shown[0, 8, 8] = True
    assert torch.equal(agree(own, known, shown, rig, ONES).maps, torch.zeros_like(own))


def rig_views_that_see(rig, view, column):
    homographies, neighbors = rig.to_operator((16, 16))
    count = 0
    for H, source in zip(homographies[view], neighbors[view]):
        x = float(H[0] @ torch.tensor([column, 8.0, 1.0]))
        count += int(source) >= 0 and 0 <= x <= 15
    return count


def test_saturated_light_says_nothing():
    images = torch.full((2, 3, 64, 64), 0.5)
    images[0, :, 20:24, 30:34] = 1.0
    images[1, :2, 40:44, 10:14] = 1.0  # yellow: a color, not the lamp's own
    moved, placement = place(images, None)
    assert torch.equal(moved, images)
    assert placement.pose is None
    assert placement.inside.all()
    rows, columns = torch.nonzero(placement.dazzled[0], as_tuple=True)
    assert (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())) == (19, 24, 29, 34)
    assert not placement.dazzled[1].any()


@pytest.mark.parametrize("size", [(1, 7), (30, 3), (64, 40)])
@pytest.mark.parametrize("radius", [0, 1, 2, 5, 10])
def test_masks_spread_as_a_pooling_spreads_them(size, radius):
    mask = randn(2, *size) > 2
    pooled = F.max_pool2d(mask[:, None].float(), 2 * radius + 1, stride=1, padding=radius)[:, 0] > 0
    assert torch.equal(spread(mask, radius), pooled)


def test_a_level_without_weight_is_not_computed(station, rig):
    model, latents, *_ = station
    detector = Detector.fit(model, rig, latents, DetectorConfig(weights=(1.0, 0.0)))
    first, second = detector.deviations(latents[0])
    with torch.no_grad():
        expected = detector.levels[0](model.features(latents[:1], rig)[0][0])  # the UNet changes nothing of it
    torch.testing.assert_close(first, expected)
    assert torch.equal(second, torch.zeros_like(detector.levels[1].mean))


def test_the_halo_of_a_reflection_belongs_to_it():
    normal = torch.full((2, 3, 64, 64), 0.4)
    normal[1, :, 48:56, 48:56] = 1.0  # a bright part, in every sample
    glare = Glare.fit([place(normal * gain, None)[1] for gain in (1.0, 1.0, 0.9)], (16, 16))
    assert not glare(place(normal, None)[1]).any()
    lit = 1.2 * normal.clamp(max=0.8)  # exposed longer: nothing but the reflection is a reflection
    lit[0, :, 16:40, 16:40] = 0.7
    lit[0, :, 24:32, 24:32] = 1.0  # the lamp, with a halo around it
    lit[0, :, 56:60, 4:8] = 0.7  # as bright as the halo, but by itself
    hidden = glare(place(lit, None)[1])
    expected = torch.zeros(2, 16, 16, dtype=torch.bool)
    expected[0, 4:10, 4:10] = True
    assert torch.equal(hidden, expected)


def test_a_views_score_is_not_what_others_say_of_its_rim():
    maps = torch.zeros(2, 4, 4)
    maps[0, 0, 2], maps[1, 2, 2] = 5, 3
    hearsay = torch.zeros(2, 4, 4, dtype=torch.bool)
    hearsay[0, 0] = True
    found = Detection.of(maps, (4, 4), hearsay=hearsay)
    assert found.view_scores.tolist() == [0, 3]
    assert float(found.sample_score) == 5
    assert torch.equal(found.maps, maps)


@pytest.mark.parametrize("size", [(16, 12), (5, 7), (64, 48)])
def test_any_pixel_of_a_block(size):
    mask = torch.rand(3, 64, 48, generator=torch.Generator().manual_seed(0)) > 0.97
    assert torch.equal(any_pixel(mask, size), F.adaptive_max_pool2d(mask.float(), size) > 0)


def test_several_masks_are_smoothed_as_one_by_one():
    maps, masks = randn(3, 20, 16), randn(2, 3, 20, 16, seed=1) > -1
    both = known_gaussian(maps.expand(masks.shape), masks, 1.0)
    torch.testing.assert_close(both, torch.stack([known_gaussian(maps, mask, 1.0) for mask in masks]))


def test_gaussian_keeps_the_mean_and_spreads():
    maps = torch.zeros(2, 15, 15)
    maps[:, 7, 7] = 1
    smooth = gaussian(maps, 1.0)
    assert float(smooth[0].sum()) == pytest.approx(1, abs=1e-4)
    assert float(smooth[0, 7, 7]) == pytest.approx(1 / (2 * math.pi), rel=0.02)
    assert torch.equal(gaussian(maps, 0.0), maps)


@pytest.mark.parametrize("size", [(8, 8), (7, 11), (1, 5), (1, 1)])
def test_maps_go_on_where_nobody_judges(size):
    maps, known = 1 + torch.rand(3, *size), torch.rand(3, *size) < 0.5
    known[0], known[1, 0, 0], known[2] = False, True, True
    maps[0, 0, 0] = math.nan  # of no account
    found = extend(maps, known)
    assert torch.equal(found[0], torch.zeros(size))
    assert torch.equal(found[known], maps[known])
    assert found[1].min() >= maps[1][known[1]].min() - 1e-6
    assert found[1].max() <= maps[1][known[1]].max() + 1e-6


def test_a_map_goes_on_as_it_is_nearby():
    maps, known = torch.zeros(1, 16, 16), torch.zeros(1, 16, 16, dtype=torch.bool)
    known[0, :, :12] = True
    maps[0, 8:, :12] = 5.0
    found = extend(maps, known)
    assert found[0, :4, 12:].max() < 0.5
    assert found[0, 12:, 12:].min() > 4.5


@pytest.mark.parametrize("memory", ["aligned", "prototypes"])
def test_detector_finds_a_blot_and_survives_saving(station, rig, tmp_path, memory):
    model, latents, good, bad = station
    detector = Detector.fit(model, rig, latents, DetectorConfig(memory=memory, prototypes=200))
    clean, found = detector(good), detector(bad)
    assert found.maps.shape == (3, *SIZE)
    assert float(found.sample_score) == float(found.view_scores.max()) == float(found.maps.max())
    assert found.sample_score > 2 * clean.sample_score
    assert found.sample_score > detector.threshold
    row, column = divmod(int(found.maps[0].argmax()), SIZE[1])
    assert abs(row - 32) <= 8
    assert abs(column - 40) <= 8

    detector.save_pretrained(tmp_path)
    again = Detector.from_pretrained(tmp_path)
    assert again.threshold == detector.threshold
    assert torch.equal(again(bad).maps, found.maps)


def test_detector_refuses_other_images_and_broken_folders(station, rig, tmp_path):
    model, latents, good, _ = station
    detector = Detector.fit(model, rig, latents)
    with pytest.raises(ValueError, match=r"Detector: images must be \[3 3 64 64\], got \[2, 3, 64, 64\]"):
        detector(good[:2])
    detector.save_pretrained(tmp_path)
    (tmp_path / "memory.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"memory.safetensors: must be a safetensors file"):
        Detector.from_pretrained(tmp_path)
    (tmp_path / "detector.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"detector.json is missing"):
        Detector.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "disk"}, "memory must be one of"),
        ({"false_alarms": 0}, "false_alarms must lie between"),
        ({"weights": (0.0,)}, "weights must be finite, not negative, nor all zero"),
        ({"weights": (1.0, math.nan)}, "weights must be finite"),
        ({"smooth": math.nan}, "smooth must be finite and at least 0, got nan"),
        ({"smooth": -1.0}, "smooth must be finite and at least 0, got -1"),
        ({"window": 4}, "window must be odd, got 4"),
        ({"prototypes": 0}, "prototypes must be at least 1, got 0"),
    ],
)
def test_detector_config_is_checked(options, message):
    with pytest.raises(ValueError, match=message):
        DetectorConfig(**options)


def test_gaussian_derivatives_of_a_ramp_and_their_bank():
    ramp = torch.arange(64.0).expand(1, 3, 64, 64) / 64
    jet = gaussian_derivatives(ramp).unflatten(1, (3, 6, 3))[0, :, :, :, 5:11, 5:11]
    for scale, sigma in enumerate((1.0, 2.0, 4.0)):
        assert jet[scale, 1].mean() == pytest.approx(sigma / 64, rel=0.02)  # sigma d/dx
        assert jet[scale, 2:].abs().max() < 1e-3
    bank = GaussianBank(torch.stack([gaussian_derivatives(torch.rand(1, 3, 32, 32)) for _ in range(3)]), size=50)
    found = bank(torch.rand(1, 3, 32, 32))
    assert found.maps.shape == (1, 32, 32)
    assert float(found.sample_score) == float(found.maps.max())
