"""A detector's folder is replaced whole, and one that is broken, older or another's is refused in one line."""

import json
import os
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.test_fuzz import VALUES, changed, mutated, places
from vsad.detection import Detector, DetectorConfig, FrozenNetwork
from vsad.files import write_json


@pytest.fixture(scope="module")
def stored(station, rig, tmp_path_factory):
    """A detector's folder, which no test changes."""
    model, latents, _, _ = station
    folder = tmp_path_factory.mktemp("stored") / "detector"
    Detector.fit(model, rig, latents).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(stored, tmp_path):
    """A copy to be broken."""
    return shutil.copytree(stored, tmp_path / "detector")


def rewrite(folder, **changes):
    """Change fields of detector.json; ``...`` takes one away."""
    content = json.loads((folder / "detector.json").read_text())
    for name, value in changes.items():
        content = changed({**content, name: None}, (name,), value)
    write_json(folder / "detector.json", content)


def test_files_have_the_mode_that_the_umask_gives(station, rig, tmp_path):
    model, latents, _, _ = station
    before = os.umask(0o027)
    try:
        Detector.fit(model, rig, latents).save_pretrained(tmp_path / "detector")
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "detector").rglob("*") if path.is_file()]
    assert len(files) > 8
    assert {path.stat().st_mode & 0o777 for path in files} == {0o640}


def test_a_detector_that_cannot_be_written_whole_leaves_the_one_before(station, rig, folder, monkeypatch):
    model, latents, _, _ = station
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / "notes.txt").write_text("the user's own")

    def full(*_):
        raise OSError(28, "No space left on device")

    detector = Detector.fit(model, rig, latents, DetectorConfig(window=3))
    monkeypatch.setattr("vsad.detection.storage.write_weights", full)
    with pytest.raises(OSError, match="detector: must be a place that can be written, got a full disk; free some"):
        detector.save_pretrained(folder)
    assert {path: path.read_bytes() for path in before} == before
    assert len([path for path in folder.rglob("*") if path.is_file()]) == len(before) + 1
    monkeypatch.undo()
    detector.save_pretrained(folder)
    assert Detector.from_pretrained(folder).config.window == 3
    assert (folder / "notes.txt").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": ..., "version": ...}, "must be of version 1, got a detector of an older version; fit anew"),
        ({"version": 2}, "got a detector of a newer version; inspect with that version of vsad, or fit anew"),
        ({"format": "other"}, 'must be an object with "format": "vsad-detector", got another program.s; name a folder'),
        ({"format": ..., "threshold_fit": ...}, "got another program"),
        ({"threshold": "high"}, "threshold_fit.value is wrong, got 'high'"),
        ({"threshold": ...}, "threshold_fit.value is wrong, got None"),
        ({"threshold_fit": []}, "there is no|threshold_fit.* is wrong"),
        ({"smooth": "much"}, "config: smooth is wrong, got 'much'"),
        ({"smoth": 1.0}, "config: there is no field smoth; remove it or mend its name"),
        ({"memory": "disk"}, r"detector: memory must be one of \['aligned', 'prototypes'\], got 'disk'"),
        ({"network": 3}, "network must be a name, got 3"),
        ({"network": None}, "the detector has a frozen network without a name; give it as network"),
    ],
)
def test_what_detector_json_must_not_hold(folder, changes, message):
    rewrite(folder, **changes)
    with pytest.raises(ValueError, match=message) as said:
        Detector.from_pretrained(folder)
    assert str(folder) in str(said.value)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("name", ["os:abort", "contrast+os:abort", "tests.test_storage:trap"])
def test_a_file_never_has_code_run(folder, name):
    rewrite(folder, network=name)
    with pytest.raises(
        ValueError, match=r"network is made by code of somebody's own, \S+; if you trust it, give it to a command as"
    ):
        Detector.from_pretrained(folder)


def trap():
    raise AssertionError("a file had this run")


def test_a_network_that_is_given_is_taken(folder):
    rewrite(folder, network="mine:make")
    network = FrozenNetwork(torch.nn.Conv2d(3, 4, 3))
    assert Detector.from_pretrained(folder, network=network).network is network


def break_weights(folder, change):
    weights = load_file(folder / "memory.safetensors")
    change(weights)
    save_file({name: w.contiguous() for name, w in weights.items()}, folder / "memory.safetensors")


def test_files_of_other_programs_are_refused_in_one_line(folder):
    save_file({"weight": torch.ones(3)}, folder / "memory.safetensors")
    with pytest.raises(ValueError, match="must belong together, got 'reach'; fit anew"):
        Detector.from_pretrained(folder)
    write_json(folder / "detector.json", {"name": "my-app", "version": "1.0.0", "scripts": {}})
    with pytest.raises(
        ValueError, match=r"detector.json: must be an object with .* got another program's; name a folder"
    ):
        Detector.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w["levels.0.mean"][0, 0].fill_(torch.nan), "levels.0.mean with NaN or infinity"),
        (lambda w: w["levels.0.deviation"].zero_(), "levels.0.deviation that is not positive"),
        (lambda w: w["levels.0.memory.transform"][0].fill_(torch.inf), "levels.0.memory.transform with NaN"),
        (lambda w: w["reach"].fill_(torch.nan), "reach with NaN or infinity"),
        (lambda w: w.update(reach=torch.ones(2, 5)), r"reach of shape \[2, 5\], not \[2, 3\]"),
        (lambda w: w.update({"levels.0.known": w["levels.0.known"][:2]}), "levels.0.known of shape"),
        (lambda w: w.update({"levels.0.mean": torch.ones(3)}), "levels.0"),
        (lambda w: w.update({"levels.99999999999.mean": torch.ones(3)}), "levels 0, 1, 99999999999"),
        (lambda w: w.update({"levels.x.mean": torch.ones(3)}), "levels 0, 1, x"),
        (lambda w: w.update({"levels.0.memory.transform": torch.eye(5)}), "levels.0.memory"),
        (lambda w: w.pop("glare.bright"), "glare.bright"),
        (lambda w: w.update({"registration.size": torch.tensor([8, 8])}), "margin"),
    ],
)
def test_a_memory_that_does_not_fit_is_refused(folder, change, message):
    break_weights(folder, change)
    with pytest.raises(
        ValueError, match=f"detector.json and memory.safetensors must belong together, got .*{message}.*; fit"
    ):
        Detector.from_pretrained(folder)


def test_prototypes_that_do_not_fit_are_refused(station, rig, tmp_path):
    model, latents, _, _ = station
    Detector.fit(model, rig, latents, DetectorConfig(memory="prototypes", prototypes=50)).save_pretrained(tmp_path)
    assert Detector.from_pretrained(tmp_path).config.memory == "prototypes"
    break_weights(tmp_path, lambda w: w.update({"levels.1.memory.unknown": w["levels.1.memory.unknown"].float()}))
    with pytest.raises(ValueError, match=r"got levels.1.memory.unknown of torch.float32, not torch.int64; fit anew"):
        Detector.from_pretrained(tmp_path)
    break_weights(tmp_path, lambda w: w.update({"levels.0.memory.prototypes": torch.ones(3, 1, 50, 7)}))
    with pytest.raises(
        ValueError, match=r"got levels.0.memory.prototypes of shape \[3, 1, 50, 7\], not \[3, 1, 50, 18\]"
    ):
        Detector.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("unet/config.json", "block_out_channels", [65536, 65536, 65536]),
        ("unet/config.json", "layers_per_block", 10**9),
        ("vae/config.json", "block_out_channels", [12, 48, 99999]),
        ("vae/config.json", "down_block_types", [{}, {}, {}]),
        ("vae/config.json", "norm_num_groups", 0),
        ("adapter/config.json", "latent_channels", 10**12),
        ("adapter/config.json", "stage_channels", {"up0": 10**5}),
        ("adapter/config.json", "valdm", []),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 10**11),
        ("scheduler/scheduler_config.json", "trained_betas", [[]]),
        ("scheduler/scheduler_config.json", "beta_start", 1e308),
    ],
)
def test_a_models_configuration_that_asks_for_too_much_is_refused_at_once(folder, file, name, value):
    path = folder / "model" / file
    write_json(path, {**json.loads(path.read_text()), name: value})
    with pytest.raises(ValueError, match=r"must belong together|must hold arguments that fit") as said:
        Detector.from_pretrained(folder)
    assert str(path.parent) in str(said.value)
    assert "\n" not in str(said.value)


def test_weights_that_are_not_finite_are_refused(folder):
    file = folder / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_in.bias"][0] = torch.nan
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"unet: config and weights must belong together, got conv_in.bias with NaN"):
        Detector.from_pretrained(folder)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_change_of_a_detectors_files(stored, tmp_path_factory, data):
    """Is read, or refused in one line that names the folder."""
    folder = shutil.copytree(stored, tmp_path_factory.mktemp("any") / "detector")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    path = folder / data.draw(st.sampled_from(files))
    if path.suffix == ".json" and data.draw(st.booleans()):
        content = json.loads(path.read_text())
        place = data.draw(st.sampled_from(list(places(content))))
        path.write_text(json.dumps(changed(content, place, data.draw(VALUES | st.just(...)))))
    else:
        path.write_bytes(data.draw(mutated(path.read_bytes()[:5000])))
    refused = ""
    try:
        Detector.from_pretrained(folder)
    except (ValueError, OSError) as error:
        refused = str(error)
    assert not refused or (str(folder) in refused and "\n" not in refused)
