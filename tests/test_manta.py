"""MANTA's montages and MVTec's single images: flat and by domain, both names of masks, told apart by their shape."""

import shutil

import cv2
import numpy as np
import pytest

from vsad.data import ViewFile, is_data_set, list_categories, open_dataset

VIEWS = ["1", "2", "3", "4", "5"]


def write(path, width=40, height=8, value=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width), value, np.uint8))


def tree(root, mask="{}.png", width=40):
    """A category in MVTec's tree, with the numbers that people give."""
    for name in ("1", "2", "10"):
        write(root / "train" / "good" / f"{name}.png", width)
    write(root / "test" / "good" / "001.png", width)
    write(root / "test" / "crack" / "001.png", width)
    write(root / "ground_truth" / "crack" / mask.format("001"), width, value=255)
    return root


@pytest.mark.parametrize("mask", ["{}.png", "{}_mask.png", "{}_mask.bmp"])
@pytest.mark.parametrize("place", ["", "capsule", "medicine/capsule"])
def test_manta_opens_flat_and_by_domain_with_either_name_of_masks(tmp_path, place, mask):
    root = tmp_path / "capsule"
    tree(root / place, mask)
    assert list_categories(root) == ["capsule"]
    assert is_data_set(root)
    train, test = open_dataset(root, "train"), open_dataset(root, "test", category="capsule")
    assert [sample.id for sample in train.samples] == ["good/1", "good/2", "good/10"]
    assert [sample.id for sample in test.samples] == ["crack/001", "good/001"]
    assert train.views == test.views == VIEWS
    crack = test.samples[0]
    image = root / place / "test" / "crack" / "001.png"
    assert crack.images == {view: ViewFile(image, part, 5) for part, view in enumerate(VIEWS)}
    truth = root / place / "ground_truth" / "crack" / mask.format("001")
    assert crack.masks == {view: ViewFile(truth, part, 5) for part, view in enumerate(VIEWS)}
    assert test.samples[1].masks == dict.fromkeys(VIEWS)


def test_categories_of_one_name_in_two_domains_keep_both(tmp_path):
    for domain in ("food", "medicine"):
        tree(tmp_path / domain / "pill")
    tree(tmp_path / "flat")
    assert list_categories(tmp_path) == ["flat", "food/pill", "medicine/pill"]
    assert open_dataset(tmp_path, "train", category="food/pill").category == "food/pill"


@pytest.mark.parametrize("mask", ["{}.png", "{}_mask.png"])
def test_images_of_another_shape_are_single_views(tmp_path, mask):
    tree(tmp_path, mask, width=8)
    test = open_dataset(tmp_path, "test")
    assert test.views == ["view"]
    assert test.samples[0].images == {"view": ViewFile(tmp_path / "test" / "crack" / "001.png")}
    assert test.samples[0].masks == {"view": ViewFile(tmp_path / "ground_truth" / "crack" / mask.format("001"))}


def test_the_format_that_is_named_decides(tmp_path):
    tree(tmp_path)
    assert open_dataset(tmp_path, "train", format="mvtec").views == ["view"]
    shutil.rmtree(tmp_path / "train")
    tree(tmp_path, width=32)  # four squares
    assert open_dataset(tmp_path, "train", format="manta").views == ["1", "2", "3", "4"]
    tree(tmp_path, width=30)  # no squares: five views of 6 x 8
    assert open_dataset(tmp_path, "train", format="manta").samples[0].images["5"].parts == 5
    tree(tmp_path, width=31)
    with pytest.raises(ValueError, match=r"1\.png must be a montage of 5 views of equal width, got 31 x 8 pixels"):
        open_dataset(tmp_path, "train", format="manta")
    with pytest.raises(ValueError, match=r"format must be one of folder, real-iad, manta, mvtec, or .* got 'coco'"):
        open_dataset(tmp_path, "train", format="coco")
    with pytest.raises(ValueError, match=r"format must be one of .* got 'manta:x'"):
        list_categories(tmp_path, format="manta:x")
    with pytest.raises(ValueError, match=r'must hold sample folders alone, got the image 1\.png; .* format="mvtec" or'):
        open_dataset(tmp_path, "train", format="folder")


def test_one_broken_image_neither_decides_the_layout_nor_loses_the_others(tmp_path):
    tree(tmp_path)
    (tmp_path / "train" / "good" / "1.png").write_bytes(b"no image")
    write(tmp_path / "train" / "good" / "3.png", width=32)
    with pytest.raises(ValueError, match=r"1\.png must be an image, .* \(1 more samples are not whole\)"):
        open_dataset(tmp_path, "train")
    reasons = {}
    train = open_dataset(tmp_path, "train", on_bad=reasons.__setitem__)
    assert [sample.id for sample in train.samples] == ["good/2", "good/10"]
    assert "must hold 5 views side by side like" in reasons["good/3"]
    assert "got 32 x 8 pixels, which are 4" in reasons["good/3"]


def test_a_defective_sample_has_one_mask_or_none(tmp_path):
    tree(tmp_path)
    write(tmp_path / "ground_truth" / "crack" / "001_mask.png")
    with pytest.raises(ValueError, match=r"crack/001 must have one mask, got .*001\.png and 001_mask\.png"):
        open_dataset(tmp_path, "test")
    shutil.rmtree(tmp_path / "ground_truth")
    assert [bool(item["mask_empty"]) for item in open_dataset(tmp_path, "test").iter_truth()] == [True, False]


def test_two_images_of_one_name_are_refused(tmp_path):
    tree(tmp_path)
    write(tmp_path / "train" / "good" / "1.bmp")
    with pytest.raises(ValueError, match=r"good/1 must have one image, got .*1\.bmp and 1\.png; remove one"):
        open_dataset(tmp_path, "train")


def test_folders_among_images_are_refused_and_junk_is_passed_over(tmp_path):
    tree(tmp_path)
    for name in ("@eaDir", "__MACOSX", ".cache", "lost+found"):
        write(tmp_path / "train" / "good" / name / "1.png")
        write(tmp_path / name / "good" / "1.png")
    for name in ("._1.png", ".DS_Store", "Thumbs.db"):
        (tmp_path / "train" / "good" / name).write_bytes(b"x")
    assert len(open_dataset(tmp_path, "train")) == 3
    write(tmp_path / "train" / "good" / "more" / "1.png")
    with pytest.raises(ValueError, match=r"train/good must hold sample folders alone, got the image 1\.png; put it"):
        open_dataset(tmp_path, "train")
    with pytest.raises(ValueError, match="train/good must hold images alone, got the folder more"):
        open_dataset(tmp_path, "train", format="manta")
