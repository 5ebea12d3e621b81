"""Both layouts read back what was written, and every broken input is named with its remedy."""

import json
import shutil

import cv2
import pytest
import torch

from vsad.data import SynthConfig, list_categories, open_dataset, synthesize
from vsad.data.synth.writers import REAL_IAD_CODES

VIEWS = ["C1", "C2", "C3", "C4", "C5"]
CONFIG = {"train": 2, "test_good": 1, "test_defect": 5, "size": 48, "seed": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("layouts")
    synthesize(out / "folder", SynthConfig(categories=("circuit_board",), **CONFIG))
    synthesize(out / "both", SynthConfig(categories=("circuit_board", "coins"), format="real-iad", **CONFIG))
    return out


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made / "folder", tmp_path / "root")


@pytest.fixture
def real_iad(made, tmp_path):
    return shutil.copytree(made / "both", tmp_path / "root")


def _first(dataset):
    return dataset.samples[0].images["C1"].path


def _json(root):
    path = root / "realiad_jsons" / "circuit_board.json"
    return path, json.loads(path.read_text())


def test_folder_round_trip(made):
    root = made / "folder"
    train, test = open_dataset(root, "train"), open_dataset(root, "test")
    assert list_categories(root) == ["folder"] == [train.category]
    assert (len(train), len(test)) == (2, 6)
    assert train.views == test.views == VIEWS
    assert {s.defect for s in train.samples} == {"good"}
    item = next(test[i] for i, s in enumerate(test.samples) if s.defect == "scratch")
    assert item["images"].shape == (5, 3, 48, 48)
    assert item["images"].dtype == torch.float32
    assert 0 <= item["images"].min() < item["images"].max() <= 1
    assert item["masks"].shape == (5, 48, 48)
    assert item["masks"].dtype == torch.bool
    assert torch.equal(item["view_labels"], item["masks"].flatten(1).any(1))
    assert 1 <= item["view_labels"].sum() <= 4
    assert item["sample_label"].item() is True
    assert (item["id"], item["defect"]) == ("scratch/0000", "scratch")
    batch = next(iter(torch.utils.data.DataLoader(train, batch_size=2)))
    assert batch["images"].shape == (2, 5, 3, 48, 48)
    assert not batch["sample_label"].any()


def test_real_iad_round_trip(made):
    root = made / "both"
    assert list_categories(root) == ["circuit_board", "coins"]
    for category in list_categories(root):
        train, test = (open_dataset(root, split, category=category) for split in ("train", "test"))
        assert (len(train), len(test), train.category) == (2, 6, category)
        assert train.views == VIEWS
        assert {s.defect for s in test.samples} == {"good", *REAL_IAD_CODES.values()}
        assert all(_first(train).suffix == ".jpg" for _ in train.samples)
        assert {s.id for s in test.samples if s.defect == "HS"} == {f"{category}_0001_NG_HS"}
        for i, sample in enumerate(test.samples):
            labels = [sample.masks[view] is not None for view in VIEWS]
            assert test[i]["view_labels"].tolist() == labels
            assert test[i]["sample_label"].item() == any(labels)


def test_formats_hold_the_same_pictures(made):
    """JPEG at quality 97 differs from the PNG by little; masks are the same."""
    a = open_dataset(made / "folder", "test")
    b = open_dataset(made / "both", "test", category="circuit_board")
    by_kind = {REAL_IAD_CODES.get(s.defect, "good"): a[i] for i, s in enumerate(a.samples)}
    for i, sample in enumerate(b.samples):
        item, other = b[i], by_kind[sample.defect]
        assert torch.equal(item["masks"], other["masks"])
        assert (item["images"] - other["images"]).abs().mean() < 0.02


def test_real_iad_nested_jsons_double_underscores_and_gaps(real_iad):
    path, content = _json(real_iad)
    images = real_iad / "realiad_48" / "circuit_board"
    for entry in content["train"] + content["test"]:
        old = entry["image_path"]
        entry["image_path"] = old.replace("circuit_board_0", "circuit_board__0")
        (images / old).rename(images / entry["image_path"])
    content["test"].reverse()  # order and position carry no meaning
    nested = real_iad / "realiad_jsons" / "realiad_jsons"
    nested.mkdir()
    path.unlink()
    shutil.move(real_iad / "realiad_jsons" / "coins.json", nested)
    (nested / path.name).write_text(json.dumps(content))
    assert list_categories(real_iad) == ["circuit_board", "coins"]
    test = open_dataset(real_iad, "test", category="circuit_board")
    assert "circuit_board__0001_NG_HS" in {s.id for s in test.samples}
    assert {len(s.images) for s in test.samples} == {5}
    assert len(test) == 6
    assert test[0]["images"].shape == (5, 3, 48, 48)


def test_real_iad_labels_are_per_view_whatever_the_folder(real_iad):
    path, content = _json(real_iad)
    scratch = [e for e in content["test"] if e["anomaly_class"] == "HS"]
    for entry in scratch:  # an object in NG whose every view is normal is normal
        entry["mask_path"] = None
    stain = [e for e in content["test"] if e["anomaly_class"] == "ZW" and e["mask_path"]]
    stain[0]["anomaly_class"] = "OK"  # the class decides, even where a mask is given
    path.write_text(json.dumps(content))
    test = open_dataset(real_iad, "test", category="circuit_board")
    by_id = {s.id: i for i, s in enumerate(test.samples)}
    item = test[by_id["circuit_board_0001_NG_HS"]]
    assert item["defect"] == "good"
    assert not item["sample_label"]
    assert not item["view_labels"].any()
    assert test[by_id["circuit_board_0001_NG_ZW"]]["view_labels"].sum() == len(stain) - 1


def test_real_iad_takes_the_resolution_that_is_asked_for(real_iad):
    big = real_iad / "realiad_96"
    shutil.copytree(real_iad / "realiad_48", big)
    for path in big.rglob("*.*g"):
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (96, 96), interpolation=cv2.INTER_NEAREST))
    assert _first(open_dataset(real_iad, "train", category="coins", size=48)).parts[-5] == "realiad_48"
    assert _first(open_dataset(real_iad, "train", category="coins", size=64)).parts[-5] == "realiad_96"
    assert _first(open_dataset(real_iad, "train", category="coins", size=500)).parts[-5] == "realiad_96"
    assert open_dataset(real_iad, "test", category="coins", size=64)[0]["masks"].shape == (5, 64, 64)


def test_folder_of_several_categories(made, tmp_path):
    for name in ("left", "right"):
        shutil.copytree(made / "folder", tmp_path / name)
    assert list_categories(tmp_path) == ["left", "right"]
    assert open_dataset(tmp_path, "train", category="right").category == "right"
    with pytest.raises(ValueError, match=r"category must be named .* choose one of left, right"):
        open_dataset(tmp_path, "train")
    with pytest.raises(ValueError, match="category must be one of left, right, got 'top'"):
        open_dataset(tmp_path, "train", category="top")


def test_missing_root(tmp_path):
    for call in (list_categories, lambda root: open_dataset(root, "train")):
        with pytest.raises(FileNotFoundError, match=r"root must be a folder, got .*nowhere; check the path"):
            call(tmp_path / "nowhere")


def test_root_of_neither_layout(tmp_path):
    with pytest.raises(ValueError, match=r"train/good/<sample>/<view>\.png.*realiad_jsons/<category>\.json"):
        open_dataset(tmp_path, "train")


def test_unknown_split(folder):
    with pytest.raises(ValueError, match=r"split must be .*got 'val'"):
        open_dataset(folder, "val")


def test_no_normal_images(folder):
    shutil.rmtree(folder / "train" / "good")
    (folder / "train" / "good").mkdir()
    with pytest.raises(FileNotFoundError, match="a folder without normal images; put each normal object"):
        open_dataset(folder, "train")


def test_no_test_folder(folder):
    shutil.rmtree(folder / "test")
    with pytest.raises(FileNotFoundError, match="must hold a folder test, got none"):
        open_dataset(folder, "test")


def test_loose_images_are_no_samples(folder):
    shutil.rmtree(folder / "test")
    (folder / "test" / "good").mkdir(parents=True)
    (folder / "test" / "good" / "0001.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"must hold sample folders alone, got the image 0001\.png; put it in its"):
        open_dataset(folder, "test")
    (folder / "test" / "good" / "0001.png").unlink()
    with pytest.raises(FileNotFoundError, match="must hold sample folders, got none"):
        open_dataset(folder, "test")


def test_missing_view_names_sample_and_view(folder):
    (folder / "train" / "good" / "0001" / "C3.png").unlink()
    with pytest.raises(ValueError, match=r"sample good/0001 \(train/good\) must have every view .* got none for C3"):
        open_dataset(folder, "train")


def test_two_files_for_one_view(folder):
    source = folder / "train" / "good" / "0001" / "C3.png"
    shutil.copy(source, source.with_suffix(".bmp"))
    with pytest.raises(ValueError, match=r"one file per view, got C3\.bmp and C3\.png"):
        open_dataset(folder, "train")


def test_stray_files_are_passed_over(folder):
    for name in (".C9.png", "Thumbs.db", "notes.txt"):
        (folder / "train" / "good" / "0001" / name).write_bytes(b"x")
    assert open_dataset(folder, "train").views == VIEWS


def test_defective_sample_without_masks(folder):
    shutil.rmtree(folder / "ground_truth" / "crack")
    test = open_dataset(folder, "test")
    unknown = {item["defect"] for item in test.iter_truth() if item["mask_empty"]}
    assert unknown == {"crack"}  # defective, and nobody knows where
    assert all(item["sample_label"] for item in test.iter_truth() if item["mask_empty"])


def test_mask_of_no_view(folder):
    sample = next(s for s in open_dataset(folder, "test").samples if s.defect == "crack")
    path = next(mask.path for mask in sample.masks.values() if mask)
    path.rename(path.with_name("top.png"))
    with pytest.raises(ValueError, match=r"top\.png must be the mask of a view"):
        open_dataset(folder, "test")


@pytest.mark.parametrize("text", ["{", "[]", '{"meta": {}}', '{"meta": {"prefix": "a/", "normal_class": "OK"}}'])
def test_malformed_json(real_iad, text):
    path, _ = _json(real_iad)
    path.write_text(text)
    with pytest.raises(ValueError, match=r"circuit_board\.json:? must be .*JSON.*download the file again"):
        open_dataset(real_iad, "train", category="circuit_board")


def test_json_entries_without_a_field_or_with_a_strange_name(real_iad):
    path, content = _json(real_iad)
    saved = content["train"][0].pop("mask_path")
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="must give every entry of train the fields"):
        open_dataset(real_iad, "train", category="circuit_board")
    content["train"][0] |= {"mask_path": saved, "image_path": "OK/S0001/picture.jpg"}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"must name images .* got 'OK/S0001/picture\.jpg'"):
        open_dataset(real_iad, "train", category="circuit_board")


def test_real_iad_missing_view_repeated_view_and_missing_file(real_iad):
    path, content = _json(real_iad)
    dropped = content["train"].pop(2)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"sample circuit_board_0001_OK .* got none for C3"):
        open_dataset(real_iad, "train", category="circuit_board")
    content["train"] += [dropped, dropped]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="must list view C3 of circuit_board_0001_OK once"):
        open_dataset(real_iad, "train", category="circuit_board")
    content["train"].pop()
    path.write_text(json.dumps(content))
    train = open_dataset(real_iad, "train", category="circuit_board")
    train.samples[0].images["C3"].path.unlink()
    with pytest.raises(FileNotFoundError, match=r"_C3_.*\.jpg does not exist; restore the file"):
        train[0]


def test_real_iad_without_images(real_iad):
    shutil.rmtree(real_iad / "realiad_48")
    with pytest.raises(FileNotFoundError, match="must hold the images in realiad_<resolution>/circuit_board/"):
        open_dataset(real_iad, "train", category="circuit_board")


def test_a_stray_file_stops_no_sample_and_other_views_than_expected_are_the_bad_ones(folder):
    """With the views that a detector expects, samples that lack one are bad, however many they are."""
    (folder / "test" / "good" / "notes.png").write_bytes(b"")
    (folder / "test" / "good" / "left.heic").write_bytes(b"")
    known = open_dataset(folder, "train").cameras
    samples = sorted(path for path in (folder / "test").glob("*/*") if path.is_dir())
    for sample in samples[1:]:
        (sample / "C3.png").unlink()
    reasons = {}
    test = open_dataset(folder, "test", cameras=known, on_bad=reasons.__setitem__)
    assert [sample.id for sample in test.samples] == [f"{samples[0].parent.name}/{samples[0].name}"]
    assert set(reasons) == {
        "good/notes.png", "good/left.heic", *(f"{each.parent.name}/{each.name}" for each in samples[1:])
    }  # fmt: skip
    assert "put it in its sample's folder" in reasons["good/notes.png"]
    assert "good: images must end in" in reasons["good/left.heic"]
