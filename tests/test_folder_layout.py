"""The layout of our own as people fill it: other names of masks, endings that are not read, junk, one bad sample."""

import os

import cv2
import numpy as np
import pytest

from vsad.data import Cameras, is_data_set, list_categories, missing_categories, open_dataset

VIEWS = ["left", "right"]


def write(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((8, 8), 90, np.uint8))


@pytest.fixture
def root(tmp_path):
    for sample in ("part10", "part2", "part1"):
        write(*(tmp_path / "train" / "good" / sample / f"{view}.png" for view in VIEWS))
    write(*(tmp_path / "test" / "dent" / "part1" / f"{view}.png" for view in VIEWS))
    write(tmp_path / "ground_truth" / "dent" / "part1" / "left.png")
    return tmp_path


def test_samples_come_in_natural_order(root):
    assert [sample.id for sample in open_dataset(root, "train").samples] == ["good/part1", "good/part2", "good/part10"]
    assert missing_categories(root) == []


@pytest.mark.parametrize("name", ["left_mask.png", "LEFT.png", "Left_Mask.PNG", "left.bmp", "left_mask.tif"])
def test_masks_of_these_names_are_found(root, name):
    truth = root / "ground_truth" / "dent" / "part1"
    (truth / "left.png").unlink()
    write(truth / name.lower())
    (truth / name.lower()).rename(truth / name)
    (sample,) = open_dataset(root, "test", format="folder").samples
    assert sample.masks["left"].path == truth / name
    assert sample.masks["right"] is None


def test_a_mask_is_never_ignored(root):
    truth = root / "ground_truth" / "dent" / "part1"
    write(truth / "left_mask.png")
    with pytest.raises(ValueError, match=r"one file per view, got left\.png and left_mask\.png; remove one of them"):
        open_dataset(root, "test")
    (truth / "left_mask.png").rename(truth / "left-mask.png")
    with pytest.raises(ValueError, match=r"left-mask\.png must be the mask of a view among left, right, got no such"):
        open_dataset(root, "test")


def test_a_view_whose_own_name_ends_in_mask_keeps_its_mask(root):
    for view in ("gas", "gas_mask"):
        write(
            root / "test" / "dent" / "part1" / f"{view}.png", root / "ground_truth" / "dent" / "part1" / f"{view}.png"
        )
    (sample,) = open_dataset(root, "test").samples
    assert sample.masks["gas_mask"].path.name == "gas_mask.png"
    assert sample.masks["gas"].path.name == "gas.png"


def test_view_names_of_other_letters_are_named_as_the_reason(root):
    folder = root / "train" / "good" / "part2"
    (folder / "left.png").rename(folder / "LEFT.png")
    with pytest.raises(ValueError, match=r"good/part2 .* got none for left and also LEFT; rename the file or remove"):
        open_dataset(root, "train")


def test_a_file_that_no_other_sample_has_is_named_rather_than_the_others(root):
    write(root / "train" / "good" / "part2" / "copy.png")
    with pytest.raises(ValueError, match=r"sample good/part2 .* got also copy; remove the file or remove the sample$"):
        open_dataset(root, "train")
    reasons = {}
    train = open_dataset(root, "train", on_bad=reasons.__setitem__)
    assert [sample.id for sample in train.samples] == ["good/part1", "good/part10"]
    assert list(reasons) == ["good/part2"]


def test_every_kind_of_bad_sample_can_be_left_out(root):
    good = root / "train" / "good"
    write(good / "part1" / "left.bmp")
    (good / "part2" / "right.png").rename(good / "part2" / "right.heic")
    (good / "part3").mkdir()
    (good / "part4").mkdir()
    (good / "part4" / "frame.dat").write_bytes(b"x")
    reasons = {}
    train = open_dataset(root, "train", on_bad=reasons.__setitem__)
    assert [sample.id for sample in train.samples] == ["good/part10"]
    assert "must hold one file per view, got left.bmp and left.png" in reasons["good/part1"]
    assert "part2: images must end in ." in reasons["good/part2"]
    assert "got right.heic; convert them" in reasons["good/part2"]
    assert "must hold an image of each view, got no files; images that end in" in reasons["good/part3"]
    assert "got only files ending in .dat; images that end in" in reasons["good/part4"]
    (root / "ground_truth" / "dent" / "part1" / "left.png").unlink()
    write(*(root / "test" / "good" / "1" / f"{view}.png" for view in VIEWS))
    test = open_dataset(root, "test", on_bad=reasons.__setitem__)
    assert [sample.id for sample in test.samples] == ["dent/part1", "good/1"]
    assert [bool(item["mask_empty"]) for item in test.iter_truth()] == [True, False]


@pytest.mark.parametrize("ending", ["raw", "heic", "DNG", "mp4"])
def test_pictures_of_an_ending_that_is_not_read_are_refused_and_copies_passed_over(root, ending):
    folder = root / "train" / "good" / "part1"
    (folder / f"left.{ending}").write_bytes(b"x")
    assert len(open_dataset(root, "train")) == 3
    (folder / "left.png").unlink()
    with pytest.raises(ValueError, match=rf"part1: images must end in .*\.png .* got left\.{ending}; convert them"):
        open_dataset(root, "train")


def test_junk_is_passed_over_in_every_folder(root):
    for place in ("", "train", "train/good", "train/good/part1", "test/dent", "ground_truth/dent/part1"):
        for name in ("@eaDir", "__MACOSX", ".git", "lost+found", "#recycle", "System Volume Information"):
            write(root / place / name / "left.png")
            write(root / place / name / "train" / "good" / "x" / "left.png")
        for name in ("._left.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (root / place / name).write_bytes(b"x")
    assert len(open_dataset(root, "train")) == 3
    assert len(open_dataset(root, "test")) == 1
    assert list_categories(root) == [root.name]


def test_normal_samples_under_another_name_are_named(root):
    (root / "train" / "good").rename(root / "train" / "OK")
    with pytest.raises(
        FileNotFoundError, match="must hold normal samples, got no such folder beside OK; put each normal"
    ):
        open_dataset(root, "train")


def test_names_in_another_encoding_are_read(root):
    os.rename(root / "train" / "good" / "part1", os.fsencode(root / "train" / "good") + b"/Geh\xe4use")
    train = open_dataset(root, "train")
    assert "good/Geh\udce4use" in [sample.id for sample in train.samples]
    assert all(file.path.is_file() for sample in train.samples for file in sample.images.values())


def test_a_root_of_no_layout_is_told_what_was_looked_for_and_what_is_there(tmp_path):
    write(tmp_path / "images" / "1.png")
    match = r"train/good/<sample>/<view>\.png.*train/good/<sample>\.png.*realiad_jsons.* with images; arrange"
    for name in (None, "folder", "manta", "real-iad"):
        with pytest.raises(ValueError, match=match):
            open_dataset(tmp_path, "train", format=name)
    assert not is_data_set(tmp_path)
    assert not is_data_set(tmp_path / "images" / "1.png")


def test_a_folder_of_very_many_samples_is_not_looked_through_for_categories(tmp_path, monkeypatch):
    monkeypatch.setattr("vsad.data.layouts._MOST_CATEGORIES", 3)
    for name in "abc":
        write(tmp_path / name / "train" / "good" / "1" / "left.png")
    assert list_categories(tmp_path) == ["a", "b", "c"]
    (tmp_path / "d").mkdir()
    assert not is_data_set(tmp_path)


def test_what_a_data_set_reads_by_is_handed_on_if_it_is_given(root, monkeypatch):
    def made(samples, size, **given):
        return size, given

    monkeypatch.setattr("vsad.data.dataset.MultiViewDataset", made)
    assert open_dataset(root, "train", size=8) == (8, dict.fromkeys(("cameras", "depth", "pixel_limit")))
    cameras = Cameras(("left", "right"), (8, 8), {})
    given = {"cameras": cameras, "depth": 12, "pixel_limit": 100}
    assert open_dataset(root, "train", **given) == (None, given)
