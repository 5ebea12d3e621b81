"""Bases of the hub: asked for once, and what is not to be had is said in words."""

import json
import time
from dataclasses import replace

import huggingface_hub
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from tests.pretrained import save_pipeline
from vsad.models import VALDM, hub, sd, tiny

BASE = "somebody/station"


class UnknownError(RepositoryNotFoundError):
    """As the hub answers, without a response."""

    def __init__(self):
        Exception.__init__(self, "404")


@pytest.fixture
def asked(monkeypatch):
    """What the hub is asked, and what it raises."""
    asked = {"files": [], "raises": ConnectionError("Name or service not known")}

    def answer(url, **options):
        asked["files"].append(url.partition("/resolve/main/")[2])
        if asked["raises"] is not None:
            raise asked["raises"]

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", answer)
    return asked


def cache(folder, monkeypatch):
    """Put a pipeline where the hub's client keeps what was fetched."""
    source = save_pipeline(folder / "made")
    place = folder / "hub" / "models--somebody--station"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    (place / "snapshots").mkdir()
    source.rename(place / "snapshots" / ("0" * 40))
    for module in (huggingface_hub.constants, huggingface_hub.file_download.constants):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(folder / "hub"))


def test_a_hub_that_does_not_answer_is_asked_once_and_named_with_the_remedy(asked):
    words = r"the base somebody/station is no folder, and .* does not answer \(Name or .*--set model.base=FOLDER"
    with pytest.raises(FileNotFoundError, match=words):
        hub.check_base(replace(sd(), base=BASE))
    assert asked["files"] == ["unet/config.json"]
    with pytest.raises(FileNotFoundError, match=words):  # from Python too, before anything is made
        VALDM(replace(sd(), base=BASE))
    with pytest.raises(FileNotFoundError, match=r"adapter/config.json is missing, and the hub has no such repository"):
        VALDM.from_pretrained(BASE)


def test_a_repository_that_is_not_there_is_named(asked):
    asked["raises"] = UnknownError()
    with pytest.raises(
        FileNotFoundError, match=r"must be a folder or a repository .* that holds unet/config.json, got"
    ):
        hub.check_base(replace(sd(), base=BASE))
    with pytest.raises(FileNotFoundError, match=r"/missing must be a folder or a repository"):
        hub.check_base(replace(sd(), base="/missing"))


def test_a_base_that_the_hub_has_or_that_is_a_folder_is_taken(asked, tmp_path):
    asked["raises"] = None
    hub.check_base(replace(sd(), base=BASE))
    assert hub.fetch_options(BASE, "main") == {"revision": "main"}
    hub.check_base(replace(sd(), base=str(tmp_path)))
    hub.check_base(tiny())
    assert len(asked["files"]) == 2  # a folder is not asked for


def test_a_base_that_was_fetched_before_needs_no_network(asked, tmp_path, monkeypatch):
    cache(tmp_path, monkeypatch)
    began = time.perf_counter()
    model = VALDM.from_pretrained(BASE, config=replace(sd(), heads=4))
    assert time.perf_counter() - began < 20  # the hub's own functions try for longer on each file
    assert model.config.base == BASE
    model.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "adapter" / "config.json").read_text())
    assert VALDM.from_pretrained(tmp_path / "model").config == model.config
