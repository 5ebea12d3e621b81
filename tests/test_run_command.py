"""vsad run on data as people have it: layouts, categories, single views, 16 bits, and files that are broken."""

import json
import shutil

import cv2
import numpy as np
import pytest

from tests.stations import SIZE, command, shoot, write_data, write_sample
from vsad.pipeline import Detections

FAST = ("--steps", 1, "--registration", "off")


def run(folder, data, *arguments, out="out", code=0):
    ended = command("run", data, "--out", out, *FAST, *arguments, cwd=folder)
    assert ended.code == code, ended.err
    return ended


def metrics(folder, out="out"):
    return json.loads((folder / out / "metrics.json").read_text())["categories"]


def write(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture)


def blot(*views):
    """The masks of the blot side by side."""
    masks = np.zeros((len(views), *SIZE), np.uint8)
    for place, v in enumerate(views):
        masks[place, 28:36, 36 - 8 * v : 44 - 8 * v] = 255
    return np.hstack(masks)


def write_pictures(root, *views):
    """A data set as MVTec AD or MANTA has it: an image a sample, with these views side by side."""
    for split, kind, seeds in (("train", "good", range(5)), ("test", "good", (100, 101)), ("test", "bad", (200, 201))):
        for seed in seeds:
            images = shoot(seed, blot=kind == "bad")
            write(root / split / kind / f"{seed:03}.png", np.hstack([images[v] for v in views])[..., ::-1])
            if kind == "bad":
                write(root / f"ground_truth/bad/{seed:03}_mask.png", blot(*views))


def write_real_iad(root, *categories):
    """Real-IAD with JSONs of three categories, and images of those that are named."""
    for category in ("bolt", "cap", "nut"):
        entries = {"train": [], "test": []}
        for split, kind, seeds in (("train", "OK", range(4)), ("test", "OK", (100, 101)), ("test", "NG", (200,))):
            for seed in seeds:
                images = shoot(seed, blot=kind == "NG")
                folder = f"S{seed:04}" if kind == "OK" else f"HS/S{seed:04}"
                for view in range(3):
                    name = f"{category}_{seed:04}_{kind}{'_HS' * (kind == 'NG')}_C{view + 1}_2023092612340{view}"
                    image, mask = f"{kind}/{folder}/{name}.jpg", f"{kind}/{folder}/{name}.png"
                    is_bad = kind == "NG"
                    entries[split].append({
                        "category": category, "anomaly_class": "HS" if is_bad else "OK", "image_path": image,
                        "mask_path": mask if is_bad else None,
                    })  # fmt: skip
                    if category in categories:
                        write(root / "realiad_256" / category / image, images[view][..., ::-1])
                        if is_bad:
                            write(root / "realiad_256" / category / mask, blot(view))
        path = root / "realiad_jsons" / f"{category}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"meta": {"prefix": f"{category}/", "normal_class": "OK"}, **entries}))


@pytest.mark.parametrize("views", [(0,), (0, 1, 2, 1, 0)], ids=["one view", "montages"])
def test_layouts_of_single_images_go_through_all_steps_and_new_ones_are_inspected(tmp_path, views):
    write_pictures(tmp_path / "set/domain/pill", *views)
    run(tmp_path, "set")
    found = metrics(tmp_path)["pill"]
    assert found["sample"]["auroc"] == 1
    assert found["pixel"]["auroc"] > 0.95
    ended = command("detect", "set/domain/pill/test/bad/200.png", "--detector", "out/detector", cwd=tmp_path)
    assert ended.code == 0, ended.err
    new, before = (Detections.load(tmp_path / out) for out in ("detections", "out/detections"))
    assert new.rows["200"]["score"] == pytest.approx(before.rows["bad/200"]["score"], rel=1e-5)
    record = new.record("200")
    assert [view.part for view in record.views] == [*range(len(views))]
    for view, v in zip(record.views, views, strict=True):
        assert any(region.x < 40 - 8 * v < region.x + region.width for region in view.regions)


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_cameras_of_more_than_8_bits_give_what_those_of_8_give(tmp_path, bits):
    """Files of 16 bits that hold fewer are no dark pictures, and the detector remembers how many they hold."""
    for kind in ("gray", "deep"):
        write_data(tmp_path / kind, train=4, good=1, bad=1)
        for path in (tmp_path / kind).rglob("*.png"):
            if "ground_truth" not in path.parts:
                gray = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
                gray[0, :2] = 0, 255  # a camera uses its range
                top = 2**bits - 1
                cv2.imwrite(str(path), gray if kind == "gray" else np.rint(gray * (top / 255)).astype(np.uint16))
        run(tmp_path, kind, out=f"o_{kind}")
    assert json.loads((tmp_path / "o_deep/detector/detector.json").read_text())["depths"] == dict.fromkeys("abc", bits)
    gray, deep = (Detections.load(tmp_path / f"o_{kind}/detections").rows for kind in ("gray", "deep"))
    assert [row["verdict"] for row in gray.values()] == [row["verdict"] for row in deep.values()] == ["defect", "ok"]
    assert deep["good/000"]["score"] == pytest.approx(gray["good/000"]["score"], rel=0.5)
    assert f"{bits} bits" in (tmp_path / "o_deep/report.html").read_text("utf-8")
    ended = command("detect", "deep/test", "--detector", "o_deep/detector", cwd=tmp_path)  # a file alone tells no depth
    assert ended.code == 0, ended.err
    again = Detections.load(tmp_path / "detections").rows
    assert again["good/000"]["score"] == pytest.approx(deep["good/000"]["score"], rel=1e-5)


def test_categories_without_images_are_said_and_the_metrics_grow(tmp_path):
    write_real_iad(tmp_path / "set", "bolt", "nut")
    ended = run(tmp_path, "set", "--category", "bolt")
    assert set(metrics(tmp_path)) == {"bolt"}
    first = (tmp_path / "out/bolt/detector/memory.safetensors").stat().st_mtime_ns
    ended = run(tmp_path, "set")
    assert "no images of cap: these categories are left out" in ended.err
    assert set(metrics(tmp_path)) == {"bolt", "nut"}
    assert metrics(tmp_path)["nut"]["sample"]["auroc"] == 1
    assert (tmp_path / "out/bolt/detector/memory.safetensors").stat().st_mtime_ns == first  # not done again
    assert not [*(tmp_path / "out").rglob("work")]
    run(tmp_path, "set", "--category", "nut", "--category", "bolt", out="both")
    assert metrics(tmp_path, "both") == metrics(tmp_path)
    ended = run(tmp_path, "set", "--category", "cap", out="none", code=1)
    assert "bolt, nut" in ended.err
    assert not (tmp_path / "none").exists()


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_bad_files_stop_a_run_before_work_or_are_left_out_and_listed(tmp_path):
    write_data(tmp_path / "data")
    for name in ("train/good/001/b.png", "test/good/001/a.png", "ground_truth/blot/001/c.png"):
        _truncate(tmp_path / "data" / name)
    (tmp_path / "data/train/good/002/c.png").unlink()
    ended = command("run", "data", "--out", "no", *FAST, cwd=tmp_path)
    assert ended.code == 1
    assert "c" in ended.err
    assert not (tmp_path / "no").exists()
    ended = run(tmp_path, "data", "--skip-bad")
    for name in ("train/good/001", "train/good/002", "test/good/001", "test/blot/001"):
        assert f"left out {name}" in ended.err
    assert metrics(tmp_path)["data"]["sample"]["auroc"] == 1
    assert [*Detections.load(tmp_path / "out/detections").rows] == ["blot/000", "good/000"]
    report = (tmp_path / "out/report.html").read_text("utf-8")
    assert "test/blot/001" in report
    assert "train/good/002" in report


@pytest.mark.parametrize("step", ["calibrate", "train", "fit", "eval"])
def test_every_step_leaves_out_and_lists_what_is_bad_if_asked(tmp_path, step):
    write_data(tmp_path / "data")
    run(tmp_path, "data")
    shutil.copy(tmp_path / "out/rig.json", tmp_path / "rig.json")
    command("train", "data", "--out", "model", *FAST, cwd=tmp_path)
    bad = "ground_truth/blot/001/b.png" if step == "eval" else "train/good/001/b.png"
    _truncate(tmp_path / "data" / bad)
    arguments = {
        "train": ["train", "data", "--out", "new", *FAST], "fit": ["fit", "data", "--registration", "off"],
        "calibrate": ["calibrate", "data"], "eval": ["eval", "data", "--detections", "out/detections", "--out", "new"],
    }[step]  # fmt: skip
    ended = command(*arguments, cwd=tmp_path)
    assert ended.code == 1
    assert "b.png" in ended.err
    ended = command(*arguments, "--skip-bad", *(["--fresh"] if step in ("train", "fit") else []), cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert f"left out {'test/blot' if step == 'eval' else 'train/good'}/001" in ended.err


def test_a_file_that_changes_between_two_calls_of_a_run_is_said(tmp_path):
    write_data(tmp_path / "data", train=3, good=1, bad=1)
    run(tmp_path, "data")
    write_sample(tmp_path / "data/test/good/000", 105)
    ended = run(tmp_path, "data", code=1)
    assert "files of data have changed" in ended.err
    (tmp_path / "out/notes.txt").write_text("mine")
    run(tmp_path, "data", "--fresh")
    assert (tmp_path / "out/notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["rig.json", "report.html", "metrics.json", "detector/x", "detections/x", "work/x"])
def test_what_lies_in_the_folder_already_is_neither_overwritten_nor_deleted(tmp_path, name):
    write_data(tmp_path / "data", train=3, good=1, bad=1)
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    ended = run(tmp_path, "data", "--fresh", code=1)
    assert name.split("/")[0] in ended.err
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "mine"


def test_one_normal_sample_is_too_few_and_that_is_said_before_work(tmp_path):
    write_data(tmp_path / "data", train=1, good=1, bad=1)
    ended = run(tmp_path, "data", code=1)
    assert ended.err.strip() == "error: fit: train/good must hold at least 2 normal samples of data, got 1; add some"
    assert not (tmp_path / "out").exists()
    write_data(tmp_path / "data", train=2, good=1, bad=1)
    run(tmp_path, "data")
