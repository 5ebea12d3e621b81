"""New samples without labels: names are parsed as people write them, and what is ambiguous is said, not guessed."""

import gc
import os

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsad.data import ViewFile, group_by_view, new_samples

VIEWS = ["left", "right", "top"]
CAMERAS = ["C1", "C2", "C3", "C4", "C5"]


def write(*paths, width=8, height=8):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((height, width), 90, np.uint8))


def complete(names, views=VIEWS):
    grouped = group_by_view(names, views)
    assert not grouped.incomplete
    assert not grouped.unknown
    assert not grouped.ambiguous
    return grouped.complete


@pytest.mark.parametrize(
    ("pattern", "sample_id"),
    [
        ("{sample}/{view}.png", "{sample}"),
        ("{sample}_{view}.png", "{sample}"),
        ("{view}_{sample}.png", "{sample}"),
        ("{view}-{sample}.PNG", "{sample}"),
        ("{sample} {view}.tif", "{sample}"),
        ("{sample}.{view}.jpg", "{sample}"),
        ("line-3_{view}_{sample}.bmp", "line-3_{sample}"),
        ("day1/{sample}_{view}.png", "day1/{sample}"),
        ("day1/{sample}/{view}.png", "day1/{sample}"),
        ("{view}/{sample}.png", "{sample}"),
        ("{view}/day1/{sample}.png", "day1/{sample}"),
        ("part__{sample}__{view}.png", "part__{sample}"),
        ("20231019144040_{sample}_{view}.png", "20231019144040_{sample}"),
        ("{sample}_{view}_2023-10-19T14-40-40.123.png", "{sample}_2023-10-19T14-40-40.123"),
    ],
)
def test_names_are_read_as_people_write_them(pattern, sample_id):
    found = complete(pattern.format(sample=s, view=v) for v in ("RIGHT", "left", "Top") for s in ("p10", "p2"))
    assert list(found) == [sample_id.format(sample=s) for s in ("p2", "p10")]
    assert list(found[sample_id.format(sample="p2")]) == VIEWS
    assert found[sample_id.format(sample="p2")]["right"] == pattern.format(sample="p2", view="RIGHT")


TIMES = [
    "2023101914{:02d}40",
    "20231019_14{:02d}40",
    "2023-10-19 14.{:02d}.40",
    "20231019T14{:02d}40Z",
    "2023-10-19_14-{:02d}-40-",
]


@pytest.mark.parametrize("time", TIMES)
def test_times_that_differ_between_the_views_of_a_sample_are_left_out(time):
    names = [f"audiojack__000{s}_OK_{view}_{time.format(10 * s + i)}.jpg".replace("-.", ".")
             for s in (1, 2) for i, view in enumerate(CAMERAS)]  # fmt: skip
    found = complete(names, CAMERAS)
    assert list(found) == ["audiojack__0001_OK", "audiojack__0002_OK"]
    assert list(found["audiojack__0002_OK"].values()) == names[5:]


def test_times_that_the_views_share_tell_samples_apart_even_where_images_were_lost():
    names = [f"line3_202310191440{second}_{view}.png" for second in (10, 20, 30, 40) for view in VIEWS]
    del names[0], names[3:5]  # together, what is left of the first two samples is a whole one
    grouped = group_by_view(names, VIEWS)
    assert list(grouped.complete) == ["line3_20231019144030", "line3_20231019144040"]
    assert grouped.incomplete == {"line3_20231019144010": ["left"], "line3_20231019144020": ["right", "top"]}
    assert not grouped.ambiguous


def test_views_a_second_apart_are_one_sample_where_times_are_shared_as_a_rule():
    names = [f"p{s}_{view}_202310191440{s}0.png" for s in (1, 2, 3) for view in VIEWS]
    names[-1] = "p3_top_20231019144031.png"
    assert list(complete(names)) == ["p1_20231019144010", "p2_20231019144020", "p3"]


def test_one_part_that_was_inspected_twice_is_not_mixed():
    names = [f"p1_{view}_2023101914{minute}0{i}.png" for minute in (10, 20) for i, view in enumerate(VIEWS)]
    grouped = group_by_view(names, VIEWS)
    assert not grouped.complete
    assert len(grouped.incomplete) == 6


def test_what_is_missing_or_unknown_is_listed():
    grouped = group_by_view(["a_left.png", "b_right.png", "b_left.png", "img10.png", "img2.png", "a_lefty.png"], VIEWS)
    assert grouped.incomplete == {"a": ["right", "top"], "b": ["top"]}
    assert grouped.unknown == ["a_lefty.png", "img2.png", "img10.png"]


def test_the_longest_view_is_meant_and_digits_of_a_time_are_none():
    views = ["side", "side_1", "10"]
    names = ["p_side.png", "p_side_1.png", "p_10.png"]
    assert complete(names, views) == {"p": dict(zip(views, names))}
    names = [f"p_{view}_2023-10-10T10-10-10.png" for view in views]
    assert complete(names, views) == {"p_2023-10-10T10-10-10": dict(zip(views, names))}


def test_views_that_differ_in_capitals_alone_are_told_apart():
    assert complete(["p_a.png", "p_A.png"], ["a", "A"]) == {"p": {"a": "p_a.png", "A": "p_A.png"}}


def test_two_views_in_a_name_and_two_files_for_a_view_are_ambiguous():
    grouped = group_by_view(["left_right.png", "p_left.png", "p_left.jpg", "left/right/1.png"], VIEWS)
    assert not grouped.complete
    assert not grouped.incomplete
    assert grouped.ambiguous == {
        "left_right.png": "its name must say one view, got left and right; rename it",
        "left/right/1.png": "its name must say one view, got left and right; rename it",
        "p": "view left must be one file, got 'p_left.jpg' and 'p_left.png'; remove or rename one",
    }


def test_of_one_view_every_image_is_a_sample():
    names = ["10.png", "2.png", "day1/2.png", "p/view.png", "p_view.png"]
    assert list(complete(names, ["view"])) == ["2", "10", "day1/2", "p", "p_view"]
    assert group_by_view(["2.png", "2.jpg"], ["view"]).ambiguous


@given(st.lists(st.text(max_size=30), unique=True), st.lists(st.text(min_size=1, max_size=5), min_size=1, unique=True))
def test_every_name_is_accounted_for(names, views):
    grouped = group_by_view(names, views)
    placed = [name for files in grouped.complete.values() for name in files.values()]
    assert len(placed) == len(set(placed)) == len(views) * len(grouped.complete)
    assert set(placed) | set(grouped.unknown) <= set(names)
    if not grouped.incomplete and not grouped.ambiguous:
        assert set(placed) | set(grouped.unknown) == set(names)


@pytest.mark.parametrize("views", [[], [""], ["a", ""]])
def test_views_must_have_names(views):
    with pytest.raises(ValueError, match=r"views must be names, got .*; name each"):
        group_by_view(["a.png"], views)


@pytest.mark.parametrize("is_on", [True, False])
def test_garbage_is_looked_for_afterwards_as_before(is_on):
    try:
        gc.enable() if is_on else gc.disable()
        group_by_view(["a.png"], VIEWS)
        with pytest.raises(ValueError, match="views must be names"):
            group_by_view(["a.png"], [])
        assert gc.isenabled() == is_on
    finally:
        gc.enable()


def ids(found):
    return [sample.id for sample in found.complete]


@pytest.fixture
def parts(tmp_path):
    write(*(tmp_path / "parts" / number / f"{view}.png" for number in ("1", "2", "10") for view in VIEWS))
    return tmp_path / "parts"


def test_a_folder_of_sample_folders(parts):
    write(parts / "3" / "left.png", parts / "readme.png")
    for junk in ("@eaDir", ".hidden", "__MACOSX"):
        write(parts / "1" / junk / "left.png")
    write(parts / "1" / "._left.png")
    found = new_samples([parts], VIEWS, category="bolt")
    assert ids(found) == ["1", "2", "10"]
    assert found.incomplete == {"3": ["right", "top"]}
    assert found.unknown == [parts / "readme.png"]
    sample = found.complete[0]
    assert (sample.category, sample.split, sample.defect, sample.masks) == ("bolt", "new", None, {})
    assert sample.images == {view: ViewFile(parts / "1" / f"{view}.png") for view in VIEWS}


def test_ids_are_the_same_whichever_way_the_samples_are_named(parts, monkeypatch):
    assert ids(new_samples([parts / "2"], VIEWS)) == ["2"]
    assert ids(new_samples([f"{parts}/2/"], VIEWS)) == ["2"]
    assert ids(new_samples([parts / "2", parts / "10"], VIEWS)) == ["2", "10"]
    assert ids(new_samples([parts / "2" / f"{view}.png" for view in VIEWS], VIEWS)) == ["2"]
    assert ids(new_samples([f"{parts}/*/*.png"], VIEWS)) == ["1", "2", "10"]
    assert ids(new_samples([f"{parts}/1*"], VIEWS)) == ["1", "10"]
    assert ids(new_samples([f"{parts}/**/*.png", parts], VIEWS)) == ["1", "2", "10"]
    monkeypatch.chdir(parts / "2")
    assert ids(new_samples(["."], VIEWS)) == ["2"]
    assert ids(new_samples(["*.png"], VIEWS)) == ["2"]


def test_files_that_name_no_whole_sample(parts):
    found = new_samples([parts / "1" / "left.png", parts / "2" / "right.png", parts / "2" / "top.png"], VIEWS)
    assert not found.complete
    assert found.incomplete == {"1": ["right", "top"], "2": ["left"]}


def test_montages(tmp_path):
    write(tmp_path / "a.png", width=40)
    write(tmp_path / "odd.png", width=35)
    views = ["1", "2", "3", "4", "5"]
    (sample,) = new_samples([tmp_path / "a.png"], views).complete
    assert sample.id == "a"
    assert sample.images == {view: ViewFile(tmp_path / "a.png", i, 5) for i, view in enumerate(views)}
    assert ids(new_samples([tmp_path / "odd.png"], views)) == ["odd"]
    found = new_samples([tmp_path], views)  # among others, only squares are sure to be one
    assert ids(found) == ["a"]
    assert found.unknown == [tmp_path / "odd.png"]
    assert new_samples([tmp_path / "odd.png"], VIEWS) == ([], {}, [tmp_path / "odd.png"], {})
    (single,) = new_samples([tmp_path / "a.png"], ["view"]).complete
    assert single.images == {"view": ViewFile(tmp_path / "a.png")}


def test_what_is_ambiguous_concerns_no_other_sample(parts):
    write(parts / "1.png", parts / "3.png", parts / "3.bmp", width=24)  # montages
    write(parts / "2" / "top.bmp", parts / "left_top.png", parts / "20" / "left.png", parts / "20" / "left.bmp")
    found = new_samples([parts], VIEWS)
    assert ids(found) == ["10"]
    assert (found.incomplete, found.unknown) == ({}, [])
    assert found.ambiguous == {
        "1": f"{parts}/1.png must have a name of its own, got that of a sample; rename it",
        "2": "view top must be one file, got '2/top.bmp' and '2/top.png'; remove or rename one",
        "3": found.ambiguous["3"],
        "20": "view left must be one file, got '20/left.bmp' and '20/left.png'; remove or rename one",
        "left_top.png": "its name must say one view, got left and top; rename it",
    }
    assert "3.png must have a name of its own" in found.ambiguous["3"]


def test_what_cannot_be_a_new_sample_is_refused(parts, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "1_left.RAW").write_bytes(b"x")
    cases = [
        ([], FileNotFoundError, "inputs must name images or folders, got none"),
        ([tmp_path / "nowhere"], FileNotFoundError, "nowhere must be an image, a folder or a pattern, got none"),
        ([f"{tmp_path}/*.jpg"], FileNotFoundError, r"\*\.jpg must match images or folders, got none"),
        ([tmp_path / "notes.txt"], ValueError, r"must be a folder or an image that ends in .* got \.txt"),
        ([tmp_path / "empty"], FileNotFoundError, r"must hold images that end in .*\.png.*, got no files"),
        ([tmp_path / "raw"], FileNotFoundError, r"must hold images that end in .*, got files ending in \.raw; convert"),
    ]
    for inputs, error, match in cases:
        with pytest.raises(error, match=match):
            new_samples(inputs, VIEWS)


def test_a_sample_in_a_folder_of_its_own_name_is_ambiguous(tmp_path):
    write(*(tmp_path / "p" / f"{view}.png" for view in VIEWS), *(tmp_path / "p" / f"p_{view}.png" for view in VIEWS))
    write(*(tmp_path / "p" / f"q_{view}.png" for view in VIEWS))
    found = new_samples([tmp_path / "p"], VIEWS)
    assert ids(found) == ["q"]
    assert found.ambiguous == {"p": "the folder must hold a sample or be one, got both of the name p; rename one"}


def test_masks_are_not_taken_for_new_samples(parts):
    write(parts / "ground_truth" / "dent" / "1" / "left.png")
    with pytest.raises(ValueError, match=r"masks in ground_truth, such as parts/ground_truth/dent/1/left\.png"):
        new_samples([parts.parent], VIEWS)


def test_links_are_followed_once(parts, tmp_path):
    write(*(tmp_path / "elsewhere" / f"{view}.png" for view in VIEWS))
    (parts / "11").symlink_to(tmp_path / "elsewhere")
    (parts / "1" / "up").symlink_to(parts)
    (tmp_path / "elsewhere" / "back").symlink_to(parts / "2")
    (parts / "2" / "forth").symlink_to(tmp_path / "elsewhere")
    found = new_samples([parts], VIEWS)
    assert {"1", "2", "10", "11"} <= set(ids(found))
    assert len(ids(found)) < 20


def test_pictures_that_are_not_read_are_listed_and_copies_passed_over(parts):
    (parts / "1" / "left.heic").write_bytes(b"x")
    (parts / "4").mkdir()
    (parts / "4" / "left.heic").write_bytes(b"x")
    assert new_samples([parts], VIEWS).unknown == [parts / "4" / "left.heic"]


def test_names_in_another_encoding(tmp_path):
    write(*(tmp_path / f"p_{view}.png" for view in VIEWS))
    for view in VIEWS:
        os.rename(tmp_path / f"p_{view}.png", os.fsencode(tmp_path) + b"/Geh\xe4use_" + view.encode() + b".png")
    (sample,) = new_samples([tmp_path], VIEWS).complete
    assert sample.id == "Geh\udce4use"
    assert all(file.path.is_file() for file in sample.images.values())
