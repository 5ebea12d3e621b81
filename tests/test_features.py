"""The features that a detector takes from a model: in batches, in another precision, beside a frozen network's."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.small_station import randn
from vsad.detection import Detector, DetectorConfig, load_network
from vsad.detection.placement import place
from vsad.models import mvam, new_model, tiny


def test_a_batch_of_samples_deviates_as_each_does(station, rig):
    model, latents, *_ = station
    maps = randn(*latents.shape[:2], 5, 16, 16)
    one, many = (
        Detector.fit(model, rig, latents, DetectorConfig(batch=batch, weights=(1.0,)), maps=[maps]) for batch in (1, 3)
    )
    assert one.threshold == pytest.approx(many.threshold, rel=1e-3)
    batched = list(many.deviations_of(latents, maps))
    assert len(batched) == len(latents)
    for sample, level, found in zip(latents, maps, batched):
        for a, b in zip(one.deviations(sample, level), found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_the_unet_computes_in_the_precision_that_is_asked_for(station, rig):
    model, latents, *_ = station
    before = model.features(latents[:2], rig)
    found = model.features(latents[:2], rig, precision=torch.bfloat16)
    assert torch.equal(found[0], before[0])  # the latents are none of the UNet's
    assert found[1].dtype == torch.float32
    difference = (found[1] - before[1]).square().mean().sqrt()
    assert 0 < difference < 0.05 * before[1].std()
    rounded = DetectorConfig(mixed_precision="bf16")
    plain, detector = (Detector.fit(model, rig, latents, config) for config in (DetectorConfig(), rounded))
    assert detector.threshold == pytest.approx(plain.threshold, rel=0.1)


def test_half_precision_rounds_no_homography(station, rig, monkeypatch):
    model, latents, *_ = station
    align, used = mvam.homography_align, []

    def watched(query, key, value, homography, *arguments, **options):
        used.append(homography)
        return align(query, key, value, homography, *arguments, **options)

    monkeypatch.setattr(mvam, "homography_align", watched)
    model.features(latents[:1], rig)
    plain = used.copy()
    used.clear()
    model.features(latents[:1], rig, precision=torch.bfloat16)
    assert len({homography.shape for homography in plain}) == 1 < len(plain)
    assert all(torch.equal(a, b) for a, b in zip(used, plain, strict=True))


def test_autocast_around_a_detector_changes_nothing(station, rig):
    model, latents, good, bad = station

    def everything():
        detector = Detector.fit(model, rig, latents)
        deviations = next(detector.deviations_of(latents))
        return [detector(bad).maps, detector.decide(deviations, place(good, None)[1]).maps, *deviations], detector

    expected, plain = everything()
    with torch.autocast("cpu", torch.bfloat16):
        found, detector = everything()
        steps = detector.deviations_of(latents)
        next(steps)
        assert torch.is_autocast_enabled("cpu")  # the caller's own
    assert detector.threshold == plain.threshold
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("memory", ["aligned", "prototypes"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_detector_s_files_of_any_type_are_read_in_float32(station, rig, tmp_path, dtype, memory):
    model, latents, good, bad = station
    detector = Detector.fit(model, rig, latents, DetectorConfig(memory=memory, prototypes=200))
    detector.save_pretrained(tmp_path)
    file = tmp_path / "memory.safetensors"
    save_file({k: w.to(dtype) if w.is_floating_point() else w for k, w in load_file(file).items()}, file)
    again = Detector.from_pretrained(tmp_path)
    assert {t.dtype for t in (*again.parameters(), *again.buffers()) if t.is_floating_point()} == {torch.float32}
    if dtype == torch.float64:
        assert torch.equal(again(good).maps, detector(good).maps)
    assert again(good).sample_score < again.threshold < again(bad).sample_score


@pytest.mark.parametrize(
    "cast",
    [
        lambda detector: detector.half(),
        lambda detector: detector.bfloat16(),
        lambda detector: detector.to(torch.float16),
        lambda detector: detector.to("cpu", torch.bfloat16),
        lambda detector: detector.type(torch.half),
        lambda detector: detector.levels.half(),
        lambda detector: detector.glare.half(),
        lambda detector: torch.nn.ModuleDict({"detector": detector}).half(),
    ],
)
def test_a_detector_is_not_rounded(station, rig, cast):
    model, latents, good, _ = station
    detector = Detector.fit(model, rig, latents)
    expected, dtypes = detector(good).maps, {k: w.dtype for k, w in detector.state_dict().items()}
    with pytest.raises(TypeError, match=r"must stay in float32 or float64.*; .* by DetectorConfig\(mixed_precision="):
        cast(detector)
    assert {k: w.dtype for k, w in detector.state_dict().items()} == dtypes
    assert torch.equal(detector(good).maps, expected)


def test_a_detector_that_was_one_of_doubles_judges_as_before(station, rig):
    model, latents, good, _ = station
    detector = copy.deepcopy(Detector.fit(model, rig, latents))  # the model is other tests' too
    expected = detector(good).maps
    assert torch.equal(detector.double().float().to("cpu")(good).maps, expected)


@pytest.mark.parametrize("memory", ["aligned", "prototypes"])
def test_a_detector_of_doubles_takes_a_frozen_network_s_maps(station, rig, memory):
    model, latents, *_ = station
    network = load_network("contrast")
    maps = [torch.stack(level) for level in zip(*(network(randn(3, 3, 64, 64).abs().clamp(max=1)) for _ in latents))]
    detector = Detector.fit(model, rig, latents, DetectorConfig(memory=memory), maps=maps, network=network)
    wide = copy.deepcopy(detector).double()  # the model is other tests' too
    picture = randn(3, 3, 64, 64, seed=1).abs().clamp(max=1)
    found = wide(picture.double())
    assert found.maps.isfinite().all()
    torch.testing.assert_close(found.maps.float(), detector(picture).maps, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("training", [True, False])
def test_features_stay_channels_last(rig, training):
    model, layouts = new_model(tiny(), 0).train(training), []
    for name, module in model.unet.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda _, __, y, name=name: layouts.append((name, y.is_contiguous(memory_format=torch.channels_last)))
            )
    model(randn(1, 3, 18, 32, 32), torch.tensor([10]), rig)
    assert len(layouts) > 20
    assert [name for name, last in layouts if not last] == []
