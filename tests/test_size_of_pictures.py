"""Pictures that are too small for learned homographies are refused before any work."""

from dataclasses import replace

import pytest
import torch

from tests.small_training import small_model
from tests.stations import command, small_rig, write_data
from vsad.models import new_model, tiny
from vsad.models.checks import check_picture_size

REFINED = ("--set", "model.homographies=refined")
IMAGES = torch.rand(1, 3, 3, 64, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("station")
    write_data(folder / "data")
    small_rig().save(folder / "rig.json")
    return folder


@pytest.mark.parametrize("name", ["train", "run"])
def test_a_command_names_the_size_and_makes_no_folder(folder, name):
    ended = command(name, "data", "--size", 48, *REFINED, "--out", "new", cwd=folder)
    assert ended.code == 1
    said = " ".join(ended.err.split())
    assert "pictures must be more than 48 pixels high and wide where homographies are refined, got 48 x 48" in said
    assert "choose a larger size, or model.homographies=fixed" in said
    assert not (folder / "new").exists()


def test_what_is_let_through_is_what_the_network_takes():
    model = new_model(replace(tiny(), homographies="learned"), 0)
    check_picture_size(model, (49, 64))
    with pytest.raises(ValueError, match=r"more than 48 pixels high and wide where homographies are learned, got 64 x"):
        check_picture_size(model, (64, 48))
    check_picture_size(new_model(tiny(), 0), (48, 48))
    net, latents = model.adapter.homography_net, (model.encode_raw(IMAGES).shape[-2:])
    assert min(latents) == net.least


def test_a_network_that_halves_more_often_than_the_unet_needs_multiples():
    model = small_model(homographies="refined")  # the UNet divides by 2, the network by 4
    check_picture_size(model, (64, 80))
    with pytest.raises(
        ValueError, match=r"a multiple of 16 pixels, 64 at least, high and wide .*, got 72 x 80; choose"
    ):
        check_picture_size(model, (72, 80))
