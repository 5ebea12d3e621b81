"""Configurations: read from YAML and JSON, changed field by field, refused by name, and described."""

import json
from dataclasses import fields

import pytest
from ruamel.yaml import YAML

from tests.stations import vsad
from vsad.cli.options import chosen
from vsad.config import describe_config, field_descriptions, read_config
from vsad.detection import DetectorConfig
from vsad.models import PRESETS, VALDMConfig, model_config
from vsad.pipeline import RunConfig, run_config
from vsad.training import TrainConfig


@pytest.mark.parametrize("kind", [RunConfig, TrainConfig, DetectorConfig, VALDMConfig])
def test_every_field_is_described(kind):
    described = field_descriptions(kind)
    assert {field.name for field in fields(kind)} == set(described)
    assert all(len(text) > 10 for text in described.values())


@pytest.mark.parametrize("name", ["station.yaml", "station.json"])
def test_what_is_described_is_read_again(tmp_path, name):
    made = run_config(changes=["train.lr=1e-3", "detector.weights=[1, 0]", "model.window=5", "network=none"])
    text = describe_config(made)
    if name.endswith("json"):
        text = json.dumps(YAML(typ="safe", pure=True).load(text))
    (tmp_path / name).write_text(text)
    assert run_config(tmp_path / name) == made
    assert (made.train.lr, made.detector.weights, made.valdm.window, made.network) == (1e-3, (1.0, 0.0), 5, None)


def test_files_options_and_changes_count_in_this_order(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("train: {steps: 1, lr: 0.1, batch: 2}\nseed: 4\n")
    made = run_config(file, ["train.steps=3"], {"train.steps": 2, "train.lr": 0.2, "size": None})
    assert (made.train.steps, made.train.lr, made.train.batch, made.size) == (3, 0.2, 2, None)
    assert (made.seed, made.train.seed, made.detector.seed) == (4, 4, 4)  # one seed serves every step
    assert run_config(file, ["train.seed=1"]).train.seed == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("trian: {steps: 3}", "a.yaml: config: there is no field trian; remove it or mend its name"),
        ("train: {stepz: 3}", "there is no field train.stepz"),
        ("train: {steps: many}", "config: train.steps is wrong, got 'many'"),
        ("train: {steps: 0}", "train: steps must be at least 1, got 0"),
        ("model: {windw: 3}", "there is no field model.windw"),
        ("model: {homographies: guessed}", "model.homographies is wrong, got 'guessed'.*'fixed', 'refined'"),
        ("model: {window: 4}", "model: window must be odd, got 4"),
        ("preset: huge", "preset must be one of .*, got 'huge'"),
        ("registration: maybe", "registration must be one of .*, got 'maybe'"),
        ("[1, 2]", "a.yaml: must hold fields and their values, got list"),
        ("train: [", "a.yaml: must be YAML"),
        ("train: 3", "config: train is wrong, got 3"),
        ("train: {steps: true}", "config: train.steps is wrong, got True; input should be a valid integer"),
        ("train: {steps: '5'}", "config: train.steps is wrong, got '5'"),
        ("seed: 1\nsize: 64\nseed: 2", 'must be YAML, got found duplicate key "seed" .* in line 3; write one'),
        ("seed: 2026-01-01", "config: seed is wrong, got '2026-01-01'"),
        ("seed: 9223372036854775808", r"run: seed must be at least 0 and less than 2\*\*63"),
        ("graph: tree", "graph must be overlap, ring, star, .* got 'tree'"),
        ("detector: {category: bolt}", "detector.category must be left out, since it is the data set's, got 'bolt'"),
    ],
)
def test_what_a_file_must_not_hold_is_named(tmp_path, content, message):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        run_config(tmp_path / "a.yaml")


@pytest.mark.parametrize("change", ["steps", "=3", "train.=3", "train.steps.more=1"])
def test_changes_that_name_no_field_are_refused(change):
    with pytest.raises(ValueError, match="config: "):
        run_config(changes=["train.steps=2", change])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.yaml is missing: write one with `vsad config`"):
        read_config(TrainConfig, tmp_path / "none.yaml")


def test_presets_differ_and_a_change_reaches_into_the_unet():
    assert len({str(model_config(preset)) for preset in PRESETS}) == len(PRESETS)
    changed = model_config("tiny", {"unet": {"layers_per_block": 2}})
    assert changed.unet == {**PRESETS["tiny"]().unet, "layers_per_block": 2}


def test_no_and_on_are_words_and_true_is_not(tmp_path):
    changed = run_config(changes=["train.mixed_precision=no", "registration=on", "ablations=true"])
    assert (changed.train.mixed_precision, changed.registration, changed.ablations) == ("no", "on", True)
    (tmp_path / "a.yaml").write_text("registration: off\nablations: True\n")
    read = run_config(tmp_path / "a.yaml")
    assert (read.registration, read.ablations) == ("off", True)


def test_a_part_without_fields_is_as_one_that_is_left_out(tmp_path):
    (tmp_path / "a.yaml").write_text("train:\n  # steps: 3\ndetector:\nmodel:\nseed: 3\n")
    assert run_config(tmp_path / "a.yaml") == run_config(changes=["seed=3"])
    assert run_config(tmp_path / "a.yaml", ["train.steps=7"]).train.steps == 7


def test_a_change_is_of_a_field_that_the_command_reads():
    reads = ("size", "detector")
    assert chosen(None, ["detector.window=5"], reads=reads).detector.window == 5
    with pytest.raises(ValueError, match=r"--set: model\.window must be a field that this command reads, of size, det"):
        chosen(None, ["model.window=5"], reads=reads)
    with pytest.raises(ValueError, match="there is no field windw"):
        chosen(None, ["windw=5"], reads=reads)


def test_feature_stages_come_in_the_order_in_which_they_run():
    assert model_config("tiny", {"feature_stages": ["up2", "mid", "up1", "down0"]}).feature_stages == (
        "down0", "mid", "up1", "up2",
    )  # fmt: skip


def test_a_file_whose_name_ends_in_json_is_json(tmp_path):
    vsad("config", "--out", "c.json", "--preset", "small", "--set", "train.betas=[0.5, 0.9]", cwd=tmp_path)
    assert json.loads((tmp_path / "c.json").read_text())["train"]["betas"] == [0.5, 0.9]
    assert run_config(tmp_path / "c.json") == run_config(changes=["preset=small", "train.betas=[0.5, 0.9]"])
