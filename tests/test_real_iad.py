"""Real-IAD as it is downloaded: few categories unpacked, variants of splits, gaps, junk, and paths that lead out."""

import json
import os
import shutil
import time

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vsad.data import Cameras, is_data_set, list_categories, missing_categories, open_dataset

VIEWS = ["C1", "C2", "C3", "C4", "C5"]
PICTURE = cv2.imencode(".png", np.full((8, 8, 3), 90, np.uint8))[1].tobytes()


def entries(root, category, number, code=None, masks=(), name=None, resolution=256):
    """Write the files of one sample, each view seconds after the last, and return its entries in the JSON."""
    group = f"NG/{code}" if code else "OK"
    made = []
    for i, view in enumerate(VIEWS):
        stem = (
            f"{group}/S{number:04d}/{name or category}_{number:04d}_{group.replace('/', '_')}_{view}_2023101914404{i}"
        )
        files = [f"{stem}.jpg"] + [f"{stem}_mask.png"] * (view in masks)
        for file in files:
            path = root / f"realiad_{resolution}" / category / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(PICTURE)
        made.append({"category": category, "anomaly_class": code or "OK", "image_path": files[0],
                     "mask_path": files[1] if view in masks else None})  # fmt: skip
    return made


def write_json(path, category, train, test):
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = {"prefix": f"{category}/", "normal_class": "OK"}
    path.write_text(json.dumps({"meta": meta, "train": train, "test": test}))
    return path


@pytest.fixture
def root(tmp_path):
    train = [entry for number in (1, 2, 10) for entry in entries(tmp_path, "bottle", number)]
    test = entries(tmp_path, "bottle", 1, "BX", masks=("C1", "C4")) + entries(tmp_path, "bottle", 3)
    write_json(tmp_path / "realiad_jsons" / "bottle.json", "bottle", train, test)
    return tmp_path


def change(root, edit, split="train"):
    """Edit the first entry of a split."""
    path = root / "realiad_jsons" / "bottle.json"
    content = json.loads(path.read_text())
    content[split][0] |= edit
    path.write_text(json.dumps(content))
    return content[split][0]


def ids(dataset):
    return [sample.id for sample in dataset.samples]


def test_samples_are_grouped_by_parsed_id_though_ok_and_ng_share_numbers(root):
    test = open_dataset(root, "test")
    assert ids(test) == ["bottle_0001_NG_BX", "bottle_0003_OK"]
    assert [sample.defect for sample in test.samples] == ["BX", "good"]
    masks = test.samples[0].masks
    assert [view for view in VIEWS if masks[view]] == ["C1", "C4"]
    assert masks["C1"].path.name.endswith("_C1_20231019144040_mask.png")
    assert is_data_set(root)


@pytest.mark.parametrize("resolution", ["256", "512", "1024", "raw"])
def test_every_resolution_opens_alone(root, resolution):
    (root / "realiad_256").rename(root / f"realiad_{resolution}")
    assert ids(open_dataset(root, "train", size=64)) == ["bottle_0001_OK", "bottle_0002_OK", "bottle_0010_OK"]


def test_the_resolution_is_the_smallest_that_is_large_enough_and_raw_is_the_largest(root):
    for resolution in ("512", "raw"):
        shutil.copytree(root / "realiad_256", root / f"realiad_{resolution}")
    for size, expected in ((None, "256"), (256, "256"), (448, "512"), ((256, 640), "raw")):
        sample = open_dataset(root, "train", size=size).samples[0]
        assert f"realiad_{expected}" in sample.images["C1"].path.parts


def test_the_cameras_size_counts_as_the_one_that_is_asked_for(root, monkeypatch):
    monkeypatch.setattr("vsad.data.dataset.MultiViewDataset", lambda samples, size, **given: samples)
    shutil.copytree(root / "realiad_256", root / "realiad_512")
    samples = open_dataset(root, "train", cameras=Cameras(tuple(VIEWS), (448, 448), {}))
    assert "realiad_512" in samples[0].images["C1"].path.parts


def test_splits_of_the_unsupervised_setting_are_chosen_by_name_in_both_nestings(root):
    noisy = entries(root, "bottle", 7, "BX", masks=("C2",))
    write_json(root / "realiad_jsons" / "realiad_jsons_fuiad_0.4" / "bottle.json", "bottle", noisy, [])
    write_json(root / "realiad_jsons_fuiad_0.1" / "bottle.json", "bottle", entries(root, "bottle", 8), [])
    assert len(open_dataset(root, "train")) == 3
    assert ids(open_dataset(root, "train", format="real-iad:fuiad_0.4")) == ["bottle_0007_NG_BX"]
    assert ids(open_dataset(root, "train", format="real-iad:fuiad_0.1")) == ["bottle_0008_OK"]
    with pytest.raises(ValueError, match=r'must hold realiad_jsons_fuiad_0\.2 .* pass format="real-iad" or format='):
        open_dataset(root, "train", format="real-iad:fuiad_0.2")


def test_single_view_splits_are_refused_with_the_remedy(root):
    (root / "realiad_jsons").rename(root / "realiad_jsons_sv")
    for name in (None, "real-iad:sv"):
        with pytest.raises(
            ValueError, match=r"got realiad_jsons_sv, whose samples are single views; download realiad_j"
        ):
            open_dataset(root, "train", format=name)


def test_all_jsons_with_few_categories_unpacked_work_on_what_is_there(root):
    for category in ("zipper", "audiojack"):
        write_json(root / "realiad_jsons" / f"{category}.json", category, [], [])
    (root / "realiad_256" / "zipper.zip").write_bytes(b"")
    assert list_categories(root) == ["bottle"]
    assert missing_categories(root) == ["audiojack", "zipper"]
    assert open_dataset(root, "train").category == "bottle"
    with pytest.raises(
        FileNotFoundError, match=r"images in realiad_<resolution>/zipper/, got none; unpack them there, or"
    ):
        open_dataset(root, "train", category="zipper")
    shutil.rmtree(root / "realiad_256" / "bottle")
    with pytest.raises(FileNotFoundError, match=r"got only splits, of audiojack, bottle, zipper; unpack"):
        list_categories(root)


def test_a_category_whose_folder_is_named_in_the_json_alone_is_found(root):
    made = entries(root, "toy__brick", 1)
    write_json(root / "realiad_jsons" / "toy_brick.json", "toy__brick", made, [])
    assert list_categories(root) == ["bottle", "toy_brick"]
    assert ids(open_dataset(root, "train", category="toy_brick")) == ["toy__brick_0001_OK"]


def test_junk_among_jsons_and_images_is_passed_over(root):
    (root / "realiad_jsons" / "._bottle.json").write_bytes(b"\0\5\x16\7")
    (root / "__MACOSX" / "realiad_jsons").mkdir(parents=True)
    (root / "realiad_jsons" / "@eaDir").mkdir()
    (root / "realiad_jsons" / "@eaDir" / "x.json").write_text("{")
    (root / "realiad_256" / ".DS_Store").write_bytes(b"")
    assert list_categories(root) == ["bottle"]
    assert missing_categories(root) == []


def test_a_file_that_is_listed_but_not_on_the_disk_is_named_or_its_sample_left_out(root):
    path = open_dataset(root, "train").samples[1].images["C3"].path
    path.unlink()
    with pytest.raises(ValueError, match=rf"{path.name} is not on the disk; restore .* entries of bottle_0002_OK"):
        open_dataset(root, "train")
    reasons = {}
    assert ids(open_dataset(root, "train", on_bad=reasons.__setitem__)) == ["bottle_0001_OK", "bottle_0010_OK"]
    assert list(reasons) == ["bottle_0002_OK"]
    mask = open_dataset(root, "test").samples[0].masks["C4"].path
    mask.unlink()
    with pytest.raises(ValueError, match=rf"{mask.name} is not on the disk"):
        open_dataset(root, "test")


def test_a_gap_in_the_entries_does_not_shift_the_samples_after_it(root):
    path = root / "realiad_jsons" / "bottle.json"
    content = json.loads(path.read_text())
    del content["train"][3]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"sample bottle_0001_OK \(train/good\) must have every .* got none for C4"):
        open_dataset(root, "train")
    train = open_dataset(root, "train", on_bad=lambda sample_id, reason: None)
    assert ids(train) == ["bottle_0002_OK", "bottle_0010_OK"]
    assert all("_0002_" in file.path.name for file in train.samples[0].images.values())


def test_where_no_sample_is_whole_the_first_reason_is_said(root):
    shutil.rmtree(root / "realiad_256" / "bottle" / "OK")
    with pytest.raises(ValueError, match=r"is not on the disk; .*\(2 more samples are not whole\)"):
        open_dataset(root, "train")
    with pytest.raises(ValueError, match=r"must hold a whole sample in train, got none, as .* is not on the disk"):
        open_dataset(root, "train", on_bad=lambda sample_id, reason: None)


OUTSIDE = [
    "/etc/passwd/a_0001_OK_C1_.jpg",
    "OK/../../../a_0001_OK_C1_.jpg",
    "..\\a_0001_OK_C1_.jpg",
    "C:/a_0001_OK_C1_.jpg",
    "OK//a_0001_OK_C1_.jpg",
    "./OK/a_0001_OK_C1_.jpg",
    "OK/\0/a_0001_OK_C1_.jpg",
]


@pytest.mark.parametrize("field", ["image_path", "mask_path"])
@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_that_leads_out_is_refused_whether_bad_samples_are_left_out_or_not(root, path, field):
    change(root, {field: path, "anomaly_class": "BX"})
    for on_bad in (None, lambda sample_id, reason: None):
        with pytest.raises(ValueError, match=r"does not lead down from .*; correct the entry"):
            open_dataset(root, "train", on_bad=on_bad)


@pytest.mark.parametrize("prefix", ["../bottle/", "/etc", "", "a\0", 3, None])
def test_a_prefix_that_leads_out_is_refused(root, prefix):
    path = root / "realiad_jsons" / "bottle.json"
    content = json.loads(path.read_text())
    content["meta"]["prefix"] = prefix
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"meta\.prefix must be the name of the category's folder"):
        open_dataset(root, "train")


def test_half_a_character_is_refused_naming_the_file(root):
    path = root / "realiad_jsons" / "bottle.json"
    path.write_text(path.read_text().replace("bottle/", "bottle\\ud800/"))
    with pytest.raises(ValueError, match=r"bottle\.json"):
        open_dataset(root, "train")


def test_a_link_below_the_category_must_stay_inside_and_the_category_itself_may_be_one(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    folder = root / "realiad_256" / "bottle"
    shutil.move(folder, elsewhere / "bottle")
    folder.symlink_to(elsewhere / "bottle")
    assert len(open_dataset(root, "train")) == 3
    shutil.move(folder / "OK" / "S0002", folder / "kept")
    (folder / "OK" / "S0002").symlink_to(folder / "kept")
    assert len(open_dataset(root, "train")) == 3
    shutil.move(folder / "kept", elsewhere / "S0002")
    (folder / "OK" / "S0002").unlink()
    (folder / "OK" / "S0002").symlink_to(elsewhere / "S0002")
    with pytest.raises(ValueError, match=r"S0002 is a link that leads out of .*elsewhere"):
        open_dataset(root, "train")


@pytest.mark.parametrize("edit", [{"image_path": 3}, {"mask_path": []}, {"anomaly_class": None}, {"image_path": None}])
def test_fields_of_another_kind_are_refused(root, edit):
    change(root, edit)
    with pytest.raises(ValueError, match=r"must give every entry of train the fields .*; download the file again"):
        open_dataset(root, "train")


@pytest.mark.parametrize("part", ['"train": {}', '"train": [3]', '"train": ["x"]', '"train": null', '"test": []'])
def test_splits_that_are_no_lists_of_entries_are_refused(root, part):
    text = f'{{"meta": {{"prefix": "bottle/", "normal_class": "OK"}}, {part}}}'
    (root / "realiad_jsons" / "bottle.json").write_text(text)
    with pytest.raises(ValueError, match=r"bottle\.json must .*; download the file again"):
        open_dataset(root, "train")


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
PATHS = st.lists(
    st.sampled_from(["OK", "NG", "S0001", "..", ".", "", "/", "\0", "C:", "b_0001_OK_C1_1.jpg"]) | st.text(max_size=4),
    max_size=5,
).map("/".join)
ENTRY = st.fixed_dictionaries(
    {"anomaly_class": st.sampled_from(["OK", "BX"]) | ANY, "image_path": PATHS | ANY, "mask_path": PATHS | ANY}
)
CONTENT = st.fixed_dictionaries(
    {
        "meta": ANY
        | st.fixed_dictionaries({"prefix": st.just("bottle/") | PATHS | ANY, "normal_class": st.just("OK") | ANY}),
        "train": ANY | st.lists(ENTRY | ANY, max_size=3),
    }
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(content=CONTENT)
def test_any_content_opens_or_is_refused_in_words(root, content):
    (root / "realiad_jsons" / "bottle.json").write_text(json.dumps(content))
    try:
        samples, refusal = open_dataset(root, "train").samples, ""
    except (ValueError, OSError) as error:
        samples, refusal = [], str(error)
    assert samples or refusal.startswith(("open_dataset: ", str(root)))
    inside = os.path.realpath(root / "realiad_256" / "bottle")
    paths = [file.path for sample in samples for file in sample.images.values()]
    assert all(os.path.realpath(path).startswith(inside) for path in paths)


def test_a_mask_path_of_a_normal_view_is_not_read(root):
    change(root, {"mask_path": "OK/S0001/none.png"})
    assert open_dataset(root, "train").samples[0].masks == dict.fromkeys(VIEWS)


def test_opening_is_quick(tmp_path):
    """A search among the entries for each of them would take ten seconds."""
    made = []
    for number in range(4000):
        folder = f"OK/S{number:04d}"
        os.makedirs(tmp_path / "realiad_256" / "b" / folder)
        for view in VIEWS:
            name = f"{folder}/b_{number:04d}_OK_{view}_1.jpg"
            (tmp_path / "realiad_256" / "b" / name).touch()
            made.append({"category": "b", "anomaly_class": "OK", "image_path": name, "mask_path": None})
    write_json(tmp_path / "realiad_jsons" / "b.json", "b", made, [])
    began = time.process_time()
    assert len(open_dataset(tmp_path, "train")) == 4000
    assert time.process_time() - began < 2
