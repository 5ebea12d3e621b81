"""A data set as tensors: views by name, sizes, depths, montages, reading ahead, and bad files."""

import pickle
import threading
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from vsad.data import MultiViewDataset, Sample
from vsad.data.naming import natural_key
from vsad.data.read_ahead import read_ahead
from vsad.data.sample import Cameras, ViewFile
from vsad.progress import Progress

VIEWS = ["cam1", "cam2", "cam10"]


def write(path, array):
    path.parent.mkdir(exist_ok=True, parents=True)
    assert cv2.imwrite(str(path), array)
    return ViewFile(path)


def gray_sample(folder, values, depth=8, shape=(12, 16), defect="good", masks=()):
    """A sample of one even gray for each view."""
    dtype = np.uint8 if depth == 8 else np.uint16
    images = {view: write(folder / f"{view}.png", np.full(shape, value, dtype)) for view, value in zip(VIEWS, values)}
    return Sample("station", folder.name, "test", defect, images, dict(masks))


@pytest.fixture
def samples(tmp_path):
    return [gray_sample(tmp_path / f"{i:02}", (i, 100 + i, 200 + i)) for i in range(8)]


def levels(images):
    """The gray of each view, in 255ths."""
    return [round(value) for value in (images.mean((1, 2, 3)) * 255).tolist()]


def test_natural_order():
    names = ["b2", "a10", "cam10", "cam2", "a1b2", "a01", "a1", "cam1", "12", "9", "", "a"]
    assert sorted(names, key=natural_key) == [
        "", "9", "12", "a", "a01", "a1", "a1b2", "a10", "b2", "cam1", "cam2", "cam10"
    ]  # fmt: skip


def test_views_are_in_natural_order(samples):
    dataset = MultiViewDataset(samples)
    assert dataset.views == VIEWS
    assert levels(dataset.read_images(3)) == [3, 103, 203]
    assert dataset.cameras == Cameras(tuple(VIEWS), (12, 16), dict.fromkeys(VIEWS, 8), dict.fromkeys(VIEWS, (12, 16)))


def test_views_are_in_the_order_of_the_cameras(samples):
    cameras = Cameras(("cam10", "cam1", "cam2"), (6, 8), {})
    dataset = MultiViewDataset(samples, cameras=cameras)
    assert dataset[3]["images"].shape == (3, 3, 6, 8)
    assert levels(dataset[3]["images"]) == [203, 3, 103]
    assert dataset.cameras == replace(cameras, depths=dict.fromkeys(VIEWS, 8), sizes=dict.fromkeys(VIEWS, (12, 16)))


@pytest.mark.parametrize(
    ("views", "wrong"),
    [
        (("cam1", "cam2"), "got unexpected cam10"),
        (("cam1", "cam2", "cam10", "top"), "got none of top"),
        (("cam1", "left", "right"), "got none of left, right and unexpected cam2, cam10"),
    ],
)
def test_other_views_than_the_cameras(samples, views, wrong):
    with pytest.raises(ValueError, match=rf"must have the views {', '.join(views)}, .*{wrong}; rename the files"):
        MultiViewDataset(samples, cameras=Cameras(views, (6, 8), {}))


def test_sizes_of_two_sources(samples):
    cameras = Cameras(tuple(VIEWS), (6, 8), {})
    assert MultiViewDataset(samples, (6, 8), cameras=cameras).size == (6, 8)
    with pytest.raises(ValueError, match=r"size must be 8 x 6 pixels, .* got 12 x 12 pixels; leave it out"):
        MultiViewDataset(samples, 12, cameras=cameras)
    for size in ((0, 4), -1, (1, 2, 3)):
        with pytest.raises(ValueError, match=r"size must be \(height, width\) of at least 1"):
            MultiViewDataset(samples, size)
    with pytest.raises(ValueError, match="depth must be 1 to 31 bits, got 64"):
        MultiViewDataset(samples, depth=64)


def test_samples_must_be_of_one_kind(samples):
    with pytest.raises(ValueError, match="at least one sample, got none"):
        MultiViewDataset([])
    with pytest.raises(ValueError, match=r"of one category, got \['other', 'station'\]"):
        MultiViewDataset([samples[0], replace(samples[1], category="other")])
    partial = replace(samples[1], images={"cam1": samples[1].images["cam1"]})
    with pytest.raises(ValueError, match=r"sample 01 \(test/good\) must have every view .* got none for cam2, cam10"):
        MultiViewDataset([samples[0], partial])


def test_images_are_rgb(tmp_path):
    bgr = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
    sample = Sample("c", "a", "train", "good", {"top": write(tmp_path / "a.png", bgr)}, {})
    expected = torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1) / 255
    assert torch.equal(MultiViewDataset([sample])[0]["images"][0], expected)


def test_unequal_sizes_need_a_size(tmp_path, samples):
    write(samples[1].images["cam2"].path, np.zeros((24, 32), np.uint8))
    with pytest.raises(
        ValueError, match=r"cam2\.png must be 16 x 12 pixels like .*cam1\.png, got 32 x 24 pixels; pass"
    ):
        MultiViewDataset(samples)[1]
    assert MultiViewDataset(samples, size=8)[1]["images"].shape == (3, 3, 8, 8)


def test_the_depth_is_that_of_all_files_of_a_camera(tmp_path):
    """12 bits in files of 16: a dark picture stays dark, and each camera has its own depth."""
    values = [(40, 1000, 60000), (400, 4000, 600), (4, 100, 6)]
    dataset = MultiViewDataset([gray_sample(tmp_path / f"{i}", row, depth=16) for i, row in enumerate(values)])
    assert dataset.cameras.depths == {"cam1": 10, "cam2": 12, "cam10": 16}
    for item, row in zip(dataset, values):
        expected = torch.tensor(row) / torch.tensor([1023, 4095, 65535])
        torch.testing.assert_close(item["images"].mean((1, 2, 3)), expected)


def test_the_depth_is_remembered_or_given(tmp_path):
    samples = [gray_sample(tmp_path / "0", (400, 400, 400), depth=16)]
    cameras = Cameras(tuple(VIEWS), (12, 16), {"cam1": 12, "cam2": 16})
    dataset = MultiViewDataset(samples, cameras=cameras)
    assert dataset.cameras.depths == {"cam1": 12, "cam2": 16, "cam10": 10}
    expected = 400 / torch.tensor([4095, 65535, 1023])
    torch.testing.assert_close(dataset.read_images(0).mean((1, 2, 3)), expected)
    dataset = MultiViewDataset(samples, cameras=cameras, depth=14)
    torch.testing.assert_close(dataset.read_images(0).mean((1, 2, 3)), torch.full((3,), 400 / 16383))
    with pytest.raises(ValueError, match=r"cam10\.png must hold values up to 255, 8 bits, .* got 400; pass depth=9"):
        MultiViewDataset(samples, cameras=replace(cameras, depths={"cam1": 16, "cam2": 16, "cam10": 8})).read_images(0)


def test_a_file_that_no_look_has_seen_may_exceed_the_depth(tmp_path):
    samples = [gray_sample(tmp_path / f"{i}", (900,), depth=16) for i in range(2)]
    many = [samples[0], samples[1], *[samples[0]] * 399]  # every third is looked at
    write(samples[1].images["cam1"].path, np.full((12, 16), 2000, np.uint16))
    dataset = MultiViewDataset(many)
    assert dataset.cameras.depths == {"cam1": 10}
    with pytest.raises(ValueError, match=r"up to 1023, 10 bits, .* got 2000; pass depth=11 \(--depth 11\)"):
        dataset.read_images(1)


def test_files_of_floating_point_have_depth_0(tmp_path):
    images = {"top": write(tmp_path / "a.tif", np.full((4, 5), 0.25, np.float32))}
    dataset = MultiViewDataset([Sample("c", "a", "new", None, images, {})])
    assert dataset.cameras.depths == {"top": 0}
    assert torch.all(dataset.read_images(0) == 0.25)
    write(tmp_path / "a.tif", np.full((4, 5), 7, np.uint16))
    with pytest.raises(ValueError, match=r"of floating point, as is known of its camera, got 7; pass depth=3"):
        dataset.read_images(0)


def montage(path, parts, dtype=np.uint8):
    return write(path, np.repeat(np.array(parts, dtype)[None], 4, 0).repeat(6, 1))  # parts of 6 x 4 pixels


def test_montages_are_parted_and_decoded_once(tmp_path, monkeypatch):
    import vsad.data.dataset as module

    images, masks = montage(tmp_path / "a.png", [10, 20, 30]), montage(tmp_path / "m.png", [0, 255, 0])
    sample = Sample(
        "c", "a", "test", "bent", {v: images._replace(part=i, parts=3) for i, v in enumerate(VIEWS)},
        {v: masks._replace(part=i, parts=3) for i, v in enumerate(VIEWS)},
    )  # fmt: skip
    calls, decode = [], module.decode
    monkeypatch.setattr(module, "decode", lambda *args: calls.append(args[0]) or decode(*args))
    item = MultiViewDataset([sample], size=(2, 3))[0]
    assert calls == [images.path]
    assert levels(item["images"]) == [10, 20, 30]
    assert item["view_labels"].tolist() == [False, True, False]
    assert item["masks"].flatten(1).float().mean(1).tolist() == [0, 1, 0]
    dataset = MultiViewDataset([sample])
    assert dataset.cameras.size == (4, 6)
    montage(images.path, [10, 2000, 30], np.uint16)
    assert set(MultiViewDataset([sample]).cameras.depths.values()) == {12}
    write(images.path, np.zeros((4, 17), np.uint8))
    with pytest.raises(ValueError, match=r"a\.png must be 3 views of equal width side by side, got 17 pixels"):
        dataset.read_images(0)


def test_masks_labels_and_empty_masks(tmp_path):
    defect = np.zeros((12, 16), np.uint8)
    defect[0, 3] = 1
    file, blank = write(tmp_path / "m.png", defect), write(tmp_path / "e.png", defect * 0)
    values = (1, 2, 3)
    shown = gray_sample(tmp_path / "a", values, defect="dent", masks={"cam1": file, "cam2": blank, "cam10": None})
    unmarked = gray_sample(tmp_path / "b", values, defect="dent", masks={"cam2": blank})
    good = gray_sample(tmp_path / "c", values)
    unknown = replace(shown, defect=None)
    dataset = MultiViewDataset([shown, unmarked, good, unknown], size=(6, 8))
    items = list(dataset)
    assert items[0]["view_labels"].tolist() == [True, False, False]  # though no pixel survives the resizing
    assert not items[0]["masks"].any()
    assert [bool(item["sample_label"]) for item in items] == [True, True, False, False]
    assert [bool(item["mask_empty"]) for item in items] == [False, True, False, False]
    assert [item["defect"] for item in items] == ["dent", "dent", "good", ""]
    assert not items[3]["view_labels"].any()
    good.images["cam1"].path.unlink()  # of which the truth is known without looking at it
    for item, truth in zip(items, dataset.iter_truth()):
        assert truth.keys() == item.keys() - {"images"}
        assert all(torch.equal(*pair) if torch.is_tensor(pair[0]) else pair[0] == pair[1]
                   for pair in ((truth[key], item[key]) for key in truth))  # fmt: skip
    batch = next(iter(torch.utils.data.DataLoader(MultiViewDataset([shown, unknown]), batch_size=2)))
    assert batch["masks"].shape == (2, 3, 12, 16)
    assert batch["masks"].sum() == 1


def test_masks_are_resized_by_area_from_a_half_on(tmp_path):
    mask = np.zeros((12, 16), np.uint8)
    mask[0:2, 0:1] = 1  # half of the first 2 x 2 block, a quarter of the second
    mask[0, 2] = 1
    file = write(tmp_path / "m.png", mask)
    item = MultiViewDataset([gray_sample(tmp_path / "a", (9,), defect="dent", masks={"cam1": file})], size=(6, 8))[0]
    assert item["masks"].nonzero().tolist() == [[0, 0, 0]]


def test_masks_of_another_size(tmp_path):
    mask = write(tmp_path / "m.png", np.ones((16, 12), np.uint8))
    sample = gray_sample(tmp_path / "a", (9,), defect="dent", masks={"cam1": mask})
    with pytest.raises(ValueError, match=r"m\.png must be 16 x 12 pixels like .*cam1\.png, got 12 x 16 pixels; export"):
        MultiViewDataset([sample], size=8)[0]
    from PIL import Image

    exif = Image.Exif()
    exif[274] = 6
    Image.new("L", (16, 12), 9).save(sample.images["cam1"].path, exif=exif)  # shown upright it is 12 x 16
    assert MultiViewDataset([sample], size=8)[0]["masks"].all()
    write(mask.path, np.ones((12, 16), np.uint8))
    with pytest.raises(ValueError, match=r"12 x 16 pixels like .* \(turned by its EXIF orientation\), got 16 x 12"):
        MultiViewDataset([sample], size=8)[0]


def test_iterating_keeps_the_order_and_the_place_of_errors(samples):
    samples[5].images["cam2"].path.write_bytes(b"")
    dataset = MultiViewDataset(samples)
    items = iter(dataset)
    assert [next(items)["id"] for _ in range(5)] == ["00", "01", "02", "03", "04"]
    with pytest.raises(ValueError, match=r"05/cam2\.png must be a complete image"):
        next(items)
    bad = []
    rest = [(index, levels(images)[0]) for index, images in dataset.iter_images(bad.append)]
    assert rest == [(index, index) for index in (0, 1, 2, 3, 4, 6, 7)]
    assert [(found.sample.id, "an empty file" in found.reason) for found in bad] == [("05", True)]
    with pytest.raises(ValueError, match="complete image"):
        list(dataset.iter_images())


def test_bad_samples_are_left_out(samples):
    class Counting(Progress):
        def stage(self, label, total):
            stages.append((label, total))
            return super().stage(label, total)

    stages = []
    samples[0].images["cam1"].path.write_bytes(b"x")
    samples[6].images["cam2"].path.unlink()
    dataset, bad = MultiViewDataset(samples).without_bad(Counting())
    assert stages == [("check samples", 8)]
    assert [found.sample.id for found in bad] == ["00", "06"]
    assert "does not exist" in bad[1].reason
    assert [item["id"] for item in dataset] == ["01", "02", "03", "04", "05", "07"]
    assert dataset.cameras.size == (12, 16)
    again, none = dataset.without_bad()
    assert (len(again), none) == (6, [])


def test_no_good_sample_left(samples):
    samples[0].images["cam1"].path.write_bytes(b"x")
    with pytest.raises(
        ValueError, match=r"at least one normal sample .* 1 bad ones of 2, such as 00 \(read_image: .*\)"
    ):
        MultiViewDataset([samples[0], replace(samples[1], defect="dent")]).without_bad()
    with pytest.raises(ValueError, match="at least one sample must be readable, got 1 bad ones of 1"):
        MultiViewDataset([replace(samples[0], defect=None)]).without_bad()
    dented = [replace(sample, defect="dent") for sample in samples[:2]]
    assert len(MultiViewDataset(dented).without_bad()[0]) == 1


def test_a_part_of_a_data_set_has_its_cameras(tmp_path):
    dataset = MultiViewDataset([gray_sample(tmp_path / f"{v}", (v,), depth=16) for v in (50, 4000)])
    part = dataset.subset([0])
    assert [item["id"] for item in part] == ["50"]
    assert part.cameras.depths == {"cam1": 12}
    torch.testing.assert_close(part.read_images(0).mean(), torch.tensor(50 / 4095))
    assert len(dataset) == 2
    with pytest.raises(ValueError, match="at least one sample, got none"):
        dataset.subset([])
    copied = pickle.loads(pickle.dumps(part))  # as workers of a DataLoader get it
    assert torch.equal(copied.read_images(0), part.read_images(0))


def test_reading_ahead_is_bounded_and_stops_early():
    started, lock = [], threading.Lock()

    def read(key):
        with lock:
            started.append(key)
        time.sleep(0.001)
        return key

    items = read_ahead(read, range(1000), threads=3)
    assert [next(items) for _ in range(10)] == list(range(10))
    time.sleep(0.05)
    assert len(started) <= 10 + 3 + 1
    items.close()
    count = len(started)
    time.sleep(0.05)
    assert len(started) == count
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vsad-read")]
    assert list(read_ahead(str, range(5), threads=9)) == list("01234")
    assert list(read_ahead(str, [])) == []
