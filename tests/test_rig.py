"""Rigs: graphs, tensors for the operator, and a file that a person can edit."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from vsad.geometry import Rig, RigPair, corners_to_homography, overlap_fraction, transform_points

SIZE = (48, 64)
VIEWS = ("C1", "C2", "C3", "C4", "C5")
PLANE = {  # view from reference plane; C4 is mirrored
    view: corners_to_homography(
        torch.randn(4, 2, generator=torch.Generator().manual_seed(v), dtype=torch.float64) * 5, SIZE
    )
    for v, view in enumerate(VIEWS)
}
PLANE["C4"] = torch.diag(torch.tensor([-1.0, 1, 1], dtype=torch.float64)) @ PLANE["C4"]
PLANE["C4"][0] += 63 * PLANE["C4"][2]


def homography(target: str, source: str) -> torch.Tensor:
    return PLANE[source] @ torch.linalg.inv(PLANE[target])


def every_pair(measured: bool = False) -> list[RigPair]:
    return [
        RigPair(target, source, homography(target, source), *((100 + i, 0.25 * i) if measured else ()))
        for i, (target, source) in enumerate(itertools.permutations(VIEWS, 2))
    ]


def make(graph="overlap", **options) -> Rig:
    return Rig.from_pairs(VIEWS, SIZE, every_pair(), graph=graph, **options)


def sources(rig: Rig) -> dict[str, list[str]]:
    return {view: [rig.views[j] for j in row if j >= 0] for view, row in zip(rig.views, rig.neighbors.tolist())}


def test_ring_and_star_graphs() -> None:
    assert sources(make("ring")) == {
        "C1": ["C2", "C5"], "C2": ["C3", "C1"], "C3": ["C4", "C2"], "C4": ["C5", "C3"], "C5": ["C1", "C4"],
    }  # fmt: skip
    star = make("star")
    assert sources(star) == {"C1": ["C2", "C3", "C4", "C5"], **{view: ["C1"] for view in VIEWS[1:]}}
    assert star.neighbors.tolist()[1] == [0, -1, -1, -1]
    assert torch.equal(star.homographies[1, 1:], torch.eye(3, dtype=torch.float64).repeat(3, 1, 1))
    assert sources(make("star:C3", max_neighbors=1)) == {**{v: ["C3"] for v in VIEWS}, "C3": ["C1"]}


def test_a_ring_of_two_has_one_neighbor_each() -> None:
    rig = Rig.from_pairs(["a", "b"], SIZE, {("a", "b"): torch.eye(3)}, graph="ring")
    assert rig.neighbors.tolist() == [[1], [0]]


def test_overlap_graph_prefers_common_pixels() -> None:
    def shift(pixels: float) -> list[list[float]]:
        return [[1, 0, pixels], [0, 1, 0], [0, 0, 1]]

    known = {("a", "b"): shift(30), ("a", "c"): shift(-10), ("b", "c"): shift(-40), ("a", "d"): shift(500)}
    rig = Rig.from_pairs(list("abcd"), SIZE, known)
    assert sources(rig) == {"a": ["c", "b"], "b": ["a", "c"], "c": ["a", "b"], "d": []}
    overlap = overlap_fraction(rig.homographies[0], SIZE)
    torch.testing.assert_close(overlap, torch.tensor([54 / 64, 34 / 64], dtype=torch.float64))
    assert sources(Rig.from_pairs(list("abcd"), SIZE, known, max_neighbors=1))["a"] == ["c"]


def test_explicit_graph_keeps_order_and_needs_homographies() -> None:
    rig = make([("C1", "C3"), ("C1", "C2"), ("C4", "C1")])
    assert sources(rig) == {"C1": ["C3", "C2"], "C2": [], "C3": [], "C4": ["C1"], "C5": []}
    with pytest.raises(ValueError, match="pair C1 <- C2 but no homography"):
        Rig.from_pairs(VIEWS, SIZE, {("C1", "C3"): torch.eye(3)}, graph=[("C1", "C2")])


def test_missing_direction_is_the_inverse() -> None:
    one_way = [pair for pair in every_pair() if pair.target < pair.source]
    rig = Rig.from_pairs(VIEWS, SIZE, one_way)
    points = torch.tensor([[30.0, 20.0], [35.0, 25.0]], dtype=torch.float64)
    for pair in rig.pairs:
        expected = transform_points(homography(pair.target, pair.source), points)
        torch.testing.assert_close(transform_points(pair.homography, points), expected)
    assert len(rig.pairs) == 20


def test_ring_leaves_out_unknown_pairs_and_a_rig_may_be_empty() -> None:
    rig = Rig.from_pairs(VIEWS, SIZE, {("C1", "C2"): torch.eye(3)}, graph="ring")
    assert sources(rig) == {"C1": ["C2"], "C2": ["C1"], "C3": [], "C4": [], "C5": []}
    alone = Rig(VIEWS, SIZE, ())
    assert alone.neighbors.tolist() == [[-1]] * 5
    assert alone.homographies.shape == (5, 1, 3, 3)


def test_homographies_are_oriented_float64() -> None:
    flipped = [RigPair(pair.target, pair.source, -2 * pair.homography.float()) for pair in every_pair()]
    rig = Rig(VIEWS, SIZE, tuple(flipped))
    assert rig.homographies.dtype == torch.float64
    assert (rig.homographies[..., 2, :] @ torch.tensor([31.5, 23.5, 1.0], dtype=torch.float64) > 0).all()
    assert (torch.linalg.det(rig.homographies) < 0).sum() == 8  # C4 mirrors its four pairs, both ways


def test_operator_tensors_follow_the_feature_size() -> None:
    rig = make("ring")
    homographies, neighbors = rig.to_operator((12, 16))
    assert homographies.shape == (5, 2, 3, 3)
    assert homographies.dtype == torch.float32
    assert torch.equal(neighbors, rig.neighbors)
    point = torch.tensor([[40.0, 20.0]], dtype=torch.float64)
    small = transform_points(homographies[0, 1].double(), (point + 0.5) / 4 - 0.5)
    torch.testing.assert_close(
        small, (transform_points(rig.homographies[0, 1], point) + 0.5) / 4 - 0.5, rtol=0, atol=1e-5
    )
    assert torch.equal(rig.to_operator(dtype=torch.float64)[0], rig.homographies)


def test_padding_moves_both_sides_of_every_pair() -> None:
    rig = make("ring")
    padded = rig.padded(16)
    assert padded.size == (rig.size[0] + 32, rig.size[1] + 32)
    point = torch.tensor([[40.0, 20.0]], dtype=torch.float64)
    there = transform_points(rig.homographies[0, 1], point)
    torch.testing.assert_close(transform_points(padded.homographies[0, 1], point + 16), there + 16)
    for margin in (-1, 2.5, True):
        with pytest.raises(ValueError, match="margin must be a whole number of pixels, zero or more"):
            rig.padded(margin)


def test_scaling_scales_errors() -> None:
    rig = Rig(VIEWS, SIZE, tuple(every_pair(measured=True))).scaled((96, 128))
    assert rig.size == (96, 128)
    assert [pair.error_px for pair in rig.pairs[:3]] == [0, 0.5, 1.0]
    assert rig.pairs[2].inliers == 102


def test_file_round_trip_is_exact(tmp_path: Path) -> None:
    rig = Rig(("Kamera ü", *VIEWS[1:]), SIZE, tuple(p for p in every_pair(True) if "C1" not in (p.target, p.source)))
    rig.save(tmp_path / "rig.json")
    loaded = Rig.load(tmp_path / "rig.json")
    assert (loaded.views, loaded.size) == (rig.views, rig.size)
    assert torch.equal(loaded.homographies, rig.homographies)
    assert torch.equal(loaded.neighbors, rig.neighbors)
    assert [(p.inliers, p.error_px) for p in loaded.pairs] == [(p.inliers, p.error_px) for p in rig.pairs]
    Rig(VIEWS, SIZE, ()).save(tmp_path / "empty.json")
    assert Rig.load(tmp_path / "empty.json").pairs == ()


def test_file_is_readable(tmp_path: Path) -> None:
    shift = [[1.0, 0.0, 8.5], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    Rig(("left", "right"), SIZE, (RigPair("left", "right", shift, 12, 0.5),)).save(tmp_path / "rig.json")
    lines = (tmp_path / "rig.json").read_text().splitlines()
    assert lines[4:] == [
        '  "views": ["left", "right"],',
        '  "height": 48,',
        '  "width": 64,',
        '  "pairs": [',
        "    {",
        '      "target": "left", "source": "right",',
        '      "homography": [',
        "        [1.0, 0.0, 8.5],",
        "        [0.0, 1.0, 0.0],",
        "        [0.0, 0.0, 1.0]",
        "      ],",
        '      "inliers": 12, "error_px": 0.5',
        "    }",
        "  ]",
        "}",
    ]


def written(tmp_path: Path, **changes) -> Path:
    """A valid file with some top-level keys changed (None removes), or keys of its first pair (``pair_<key>``)."""
    make("ring").save(tmp_path / "rig.json")
    content = json.loads((tmp_path / "rig.json").read_text())
    for key, value in changes.items():
        place, name = (content["pairs"][0], key[5:]) if key.startswith("pair_") else (content, key)
        place[name] = value
        if value is None:
            del place[name]
    (tmp_path / "rig.json").write_text(json.dumps(content))
    return tmp_path / "rig.json"


NAN = float("nan")
BAD_FILES = {
    "version must be 1, got 7": {"version": 7},
    '"format": "vsad-rig"': {"format": "other"},
    "must have pairs": {"pairs": None},
    "must not have neighbors": {"neighbors": []},
    "pairs must be a list": {"pairs": [[1, 2]]},
    "views must be a list of unique names": {"views": ["C1", "C1"]},
    "views must be a list of unique names, at": {"views": []},
    "size must be .height, width., two positive integers": {"height": 0},
    "size must be .height, width., two": {"width": "64"},
    r"pair C9 <- C2 must join views of the rig \(C1, C2, C3, C4, C5\), got 'C9'": {"pair_target": "C9"},
    "pair C2 <- C2 must join two different": {"pair_target": "C2"},
    "pair C1 <- C2 must have homography": {"pair_homography": None},
    r"pair pairs\[0\] <- C2 must have target": {"pair_target": None},
    "pair C1 <- C2 must not have homografy": {"pair_homografy": 1},
    "pair C1 <- C2 homography must be 3 rows": {"pair_homography": [[1, 0, 0], [0, 1, 0]]},
    "pair C1 <- C2 homography must be 3 rows of": {"pair_homography": [[1, 0, 0], [0, 1], [0, 0, 1]]},
    "pair C1 <- C2 homography must be 3 rows of 3": {"pair_homography": [["a", 0, 0], [0, 1, 0], [0, 0, 1]]},
    "must be JSON, got NaN, which JSON cannot hold": {"pair_homography": [[NAN, 0, 0], [0, 1, 0], [0, 0, 1]]},
    "pair C1 <- C2 homography must be invertible": {"pair_homography": [[1, 0, 0], [2, 0, 0], [0, 0, 1]]},
    "must not send the image center": {"pair_homography": [[1, 0, 0], [0, 1, 0], [1, 0, -31.5]]},
    "pair C1 <- C2 inliers must be a number": {"pair_inliers": "many"},
    "pair C1 <- C5 must appear once": {"pair_source": "C5"},
}


@pytest.mark.parametrize("message", BAD_FILES)
def test_bad_files_say_what_to_mend(tmp_path: Path, message: str) -> None:
    path = written(tmp_path, **BAD_FILES[message])
    with pytest.raises(ValueError, match=message) as caught:
        Rig.load(path)
    assert str(path) in str(caught.value)


def test_files_that_are_no_rig(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.json is missing: make one with `vsad calibrate`"):
        Rig.load(tmp_path / "absent.json")
    (tmp_path / "broken.json").write_text('{"format": "vsad-rig",\n "views": [}')
    with pytest.raises(ValueError, match=r"broken.json: must be JSON.*line 2"):
        Rig.load(tmp_path / "broken.json")
    (tmp_path / "latin.json").write_bytes(b'{"views": ["\xfc"]}')
    with pytest.raises(ValueError, match=r"latin.json: must be UTF-8"):
        Rig.load(tmp_path / "latin.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match=r"list.json: must be a JSON object, got list"):
        Rig.load(tmp_path / "list.json")


def test_comments_are_welcome(tmp_path: Path) -> None:
    path = written(tmp_path, comment="bench 3", pair_comment="refitted by hand")
    assert len(Rig.load(path).pairs) == 10


@pytest.mark.parametrize("graph", ["rings", "ring:C1", "star:C9", ""])
def test_unknown_graphs(graph: str) -> None:
    with pytest.raises(ValueError, match="graph"):
        make(graph)


def test_max_neighbors_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_neighbors must be at least 1"):
        make(max_neighbors=0)
