"""Nuisances of the synthetic station: deterministic, none without strength, and each as its truth says."""

import importlib.util
import json
from dataclasses import asdict

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.test_data_synth import check_masks
from vsad.cli import app
from vsad.data import HARD_STATIONS, SynthConfig, hard_station, open_dataset, synthesize
from vsad.data.synth import NUISANCES, parse_nuisances
from vsad.data.synth.cameras import project
from vsad.data.synth.defects import KINDS
from vsad.data.synth.nuisances import disturb
from vsad.data.synth.product import load_product, to_display
from vsad.data.synth.protocol import PURPOSES
from vsad.data.synth.station import Station

SIZE = 96


@pytest.fixture(scope="module")
def station():
    return Station(SIZE, seed=1)


def scene(station, nuisances, number=0):
    """A scene with and without nuisances, and the truth of what they drew."""
    plain = station.set_scene(load_product("circuit_board", SIZE), np.random.default_rng([3, number]))
    return plain, *disturb(plain, nuisances, 1, "board/train/good", number)


def _images(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*.png"))}


def _make(out, nuisances):
    config = SynthConfig(train=1, test_good=1, test_defect=5, size=64, seed=3, nuisances=nuisances)
    return synthesize(out, config)


def test_all_nuisances_together_are_deterministic_and_none_without_strength(tmp_path):
    everything = dict.fromkeys(NUISANCES, 1)
    first, again = (_images(_make(tmp_path / name, everything)) for name in ("a", "b"))
    assert first == again
    plain = _images(_make(tmp_path / "c", {}))
    assert _images(_make(tmp_path / "d", dict.fromkeys(NUISANCES, 0.0))) == plain
    images = [path for path in plain if path.parts[0] != "ground_truth"]
    assert all(first[path] != plain[path] for path in images)
    assert len(open_dataset(tmp_path / "a", "test")) == 6
    truth = json.loads((tmp_path / "a" / "synth.json").read_text())
    assert all(list(sample["nuisances"]) == list(NUISANCES) for sample in truth["samples"])
    assert truth["config"]["nuisances"] == everything


@pytest.mark.parametrize("name", NUISANCES)
def test_every_nuisance_differs_between_samples_and_grows_with_its_strength(station, name):
    changes = []
    for strength in (0.25, 1.0):
        plain, hard, _ = scene(station, {name: strength})
        views = [[to_display(station.render(s, c)).astype(int) for c in s.cameras] for s in (plain, hard)]
        changes.append(np.abs(np.subtract(*views)).mean())
    assert 0 < changes[0] < changes[1]
    if name != "relief":  # the heights are the product's
        assert scene(station, {name: 1}, 0)[2] != scene(station, {name: 1}, 1)[2]


def test_a_nuisance_changes_nothing_that_another_draws(station):
    _, _, alone = scene(station, {"glare": 1})
    _, _, beside = scene(station, dict.fromkeys(NUISANCES, 1))
    assert beside["glare"] == alone["glare"]


def test_glare_lies_where_its_truth_says_and_differs_between_views_and_samples(station):
    bright = []
    for number in range(6):
        plain, hard, truth = scene(station, {"glare": 1}, number)
        views = truth["glare"]
        assert len({json.dumps(view) for view in views.values()}) == len(station.cameras)
        for camera in station.cameras:
            change = (station.render(hard, camera) - station.render(plain, camera)).mean(-1)
            spots = views[camera.name]["spots"]
            bright.append(change.max() > 0.25)
            assert (change >= 0.99 * views[camera.name]["veil"] - 1e-6).all()
            for spot in spots:
                assert change[round(spot["y"]), round(spot["x"])] >= 0.8 * spot["power"]
            if spots:
                y, x = np.unravel_index(change.argmax(), change.shape)
                gaps = [np.hypot(spot["x"] - x, spot["y"] - y) / max(spot["radii"]) for spot in spots]
                assert min(gaps) < 1.5
    assert np.mean(bright) > 0.7


def test_a_posed_product_lies_where_its_truth_says(station):
    angles = []
    for number in range(20):
        plain, hard, truth = scene(station, {"pose": 1}, number)
        drawn = truth["pose"]
        angles.append(drawn["angle_deg"])
        turn = np.deg2rad(drawn["angle_deg"])
        point = np.array([0.3, 0.1])
        before, after = (project(s.H_plane_from_object, point) for s in (plain, hard))
        turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ before
        np.testing.assert_allclose(after, turned + drawn["shift"], atol=1e-12)
        assert np.linalg.det(hard.H_plane_from_object) > 0
        assert np.abs(drawn["shift"]).max() <= 0.06
    assert min(angles) < -90
    assert max(angles) > 90
    # What a camera sees goes along: the turned picture, turned back, is the picture.
    camera = station.cameras[0]
    lit = [station.render(s, camera).mean(-1) for s in (plain, hard)]
    H_view_from_object = [camera.H_view_from_plane @ s.H_plane_from_object for s in (plain, hard)]
    back = cv2.warpPerspective(lit[1], H_view_from_object[0] @ np.linalg.inv(H_view_from_object[1]), (SIZE, SIZE))
    seen = back > 0
    assert np.corrcoef(back[seen], lit[0][seen])[0, 1] > 0.8


def test_surfaces_differ_in_serial_and_grain(station):
    scenes = [scene(station, {"surface": 1}, number) for number in range(6)]
    truths = [truth["surface"] for _, _, truth in scenes]
    assert len({truth["serial"] for truth in truths}) == len(truths)
    assert len({truth["grain_seed"] for truth in truths}) == len(truths)
    for plain, hard, _ in scenes:
        assert 0.1 < (hard.albedo / np.maximum(plain.albedo, 1e-3))[plain.product.inside].std() < 0.6


def test_exposure_multiplies_each_view_by_its_truth(station):
    plain, hard, truth = scene(station, {"exposure": 1})
    for camera in station.cameras:
        ratio = station.render(hard, camera) / station.render(plain, camera)
        np.testing.assert_allclose(ratio, np.broadcast_to(truth["exposure"]["factors"][camera.name], ratio.shape), 1e-5)


def test_dust_on_the_lens_stays_in_part(station):
    plain, hard, first = scene(station, {"dust": 1}, 0)
    _, _, second = scene(station, {"dust": 1}, 1)
    for camera in station.cameras:
        drawn = first["dust"][camera.name]
        assert drawn["staying"] == second["dust"][camera.name]["staying"]
        through = (station.render(hard, camera) / station.render(plain, camera)).mean(-1)
        discs = drawn["staying"] + drawn["new"]
        assert through.max() == pytest.approx(1)
        for disc in discs:
            assert 0.03 <= disc["attenuation"] <= 0.15
            assert through[round(disc["y"]), round(disc["x"])] <= 1 - disc["attenuation"] + 1e-5
    assert first["dust"] != second["dust"]


def test_a_moved_camera_sees_points_where_its_truth_says(station):
    """The picture of the moved camera, carried back by the true homographies, is the picture of the camera."""
    shifts = []
    for number in range(4):
        plain, hard, truth = scene(station, {"camera": 1}, number)
        for fixed, moved in zip(plain.cameras, hard.cameras):
            H_moved_from_plane = np.array(truth["camera"]["H_view_from_plane"][fixed.name])
            np.testing.assert_array_equal(moved.H_view_from_plane, H_moved_from_plane)
            H_fixed_from_moved = fixed.H_view_from_plane @ np.linalg.inv(H_moved_from_plane)
            shifts.append(project(H_fixed_from_moved, np.full(2, SIZE / 2)) - SIZE / 2)
            seen, carried = station.render(plain, fixed), station.render(hard, moved)
            carried = cv2.warpPerspective(carried, H_fixed_from_moved, (SIZE, SIZE))
            inner = np.s_[4:-4, 4:-4]
            assert np.abs(carried - seen)[inner].mean() < 0.03 * seen.mean() + 0.005
            # The move is the camera's and not the product's: a plane at any height moves likewise.
            raised = fixed.scaled(1, 0.04) @ np.linalg.inv(moved.scaled(1, 0.04))
            np.testing.assert_allclose(raised / raised[2, 2], H_fixed_from_moved / H_fixed_from_moved[2, 2], atol=1e-9)
    assert 0.15 < np.std(shifts) < 0.8  # one pixel of 256


def test_a_camera_sees_a_raised_point_where_its_ray_meets_the_table(station):
    """Mirrored cameras too: a point at a height h is seen where the ray through it meets the plane z = 0."""
    rng = np.random.default_rng(0)
    for camera in (*station.cameras, station.cameras[3].turned(rng.normal(0, 0.01, 3))[0]):
        for height in (0.01, 0.3):
            points = rng.uniform(-0.5, 0.5, (20, 2))
            distance = -camera.position[2]
            below = camera.position[:2] + (points - camera.position[:2]) * distance / (distance - height)
            seen, expected = project(camera.scaled(1, height), points), project(camera.H_view_from_plane, below)
            np.testing.assert_allclose(seen, expected, atol=1e-9)


@pytest.mark.parametrize("category", ["circuit_board", "coins"])
def test_parts_have_fixed_heights_and_are_seen_with_parallax(station, category):
    product = load_product(category, SIZE)
    scenes = [station.set_scene(product, np.random.default_rng([4, number])) for number in range(2)]
    raised = [disturb(s, {"relief": 1}, 1, "board/train/good", number) for number, s in enumerate(scenes)]
    truths = [truth["relief"]["parts"] for _, truth in raised]
    assert truths[0] == truths[1]
    assert [(part["x"], part["y"]) for part in truths[0]] == [(part.x, part.y) for part in product.parts]
    heights = {part["height"] for part in truths[0]}
    assert len(heights) >= 3
    assert max(heights) == pytest.approx(0.045)
    shifts = []
    for part, drawn in zip(product.parts, truths[0]):
        middle = np.array([part.x + (part.mask.shape[1] - 1) / 2, part.y + (part.mask.shape[0] - 1) / 2])
        for camera in station.cameras:
            flat, above = (
                project(camera.scaled(1, height) @ raised[0][0].H_plane_from_texture, middle)
                for height in (0, drawn["height"])
            )
            shifts.append(np.linalg.norm(above - flat))
            column, row = np.rint(above * 2 + 0.5).astype(int)  # a pixel's center in the supersampled image
            if min(column, row) >= 0 and max(column, row) < 2 * SIZE:
                sight = raised[0][0].relief.sights[camera.name]
                seen = np.array([sight.x[row, column], sight.y[row, column]])
                assert np.abs(seen - middle).max() < 3 or seen[0] > 0  # or a higher part hides it
    assert 0.5 * 12 * SIZE / 256 < max(shifts) < 1.5 * 12 * SIZE / 256


@pytest.mark.parametrize("category", ["circuit_board", "coins", "brick"])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_exact_with_relief(station, category, kind):
    """Far from the mask at most 5 of 255 levels change.

    Without relief it is 2 levels: of a scratch that a part hides, a sliver that covers less than a fifth of a pixel,
    and so is not marked, may show far from the mask.
    """
    rng = np.random.default_rng([7, KINDS.index(kind)])
    product = load_product(category, SIZE)
    plain = station.set_scene(product, rng)
    hard, _ = disturb(plain, {"relief": 1, "camera": 1, "pose": 1}, 1, "board/train/good", 0)
    check_masks(station, hard, kind, rng, draws=8, far=5)


def test_errors_name_argument_and_remedy():
    with pytest.raises(ValueError, match=r"nuisances must be of .*glare.*, got 'fog'; choose"):
        SynthConfig(nuisances={"fog": 1})
    for strength in (-1, float("nan"), float("inf"), "much"):
        with pytest.raises(ValueError, match="strength of nuisance glare must be a finite number of at least 0, got"):
            SynthConfig(nuisances={"glare": strength})
    with pytest.raises(ValueError, match="must be named once each, got pose twice"):
        parse_nuisances(["pose", "glare", "pose:0.5"])
    config = SynthConfig(nuisances={"glare": 1, "pose": 0.5})
    assert json.loads(json.dumps(asdict(config)))["nuisances"] == {"glare": 1.0, "pose": 0.5}
    assert hash(config) == hash(SynthConfig(nuisances={"glare": 1, "pose": 0.5}))


@pytest.mark.parametrize("mistake", ["fog", "glare:", "glare:much", "glare:-1", "glare:nan", "glare glare:2"])
def test_the_command_refuses_before_it_writes(tmp_path, mistake):
    options = [option for nuisance in mistake.split() for option in ("--nuisance", nuisance)]
    result = CliRunner().invoke(app, ["synth", str(tmp_path / "out"), *options])
    assert isinstance(result.exception, ValueError)
    assert not (tmp_path / "out").exists()


def test_the_command_makes_a_hard_station(tmp_path):
    out = tmp_path / "out"
    arguments = ["--train", "1", "--good", "0", "--defects", "0", "--size", "32", "--nuisance", "glare"]
    result = CliRunner().invoke(app, ["synth", str(out), *arguments, "--nuisance", "pose:0.5"])
    assert result.exit_code == 0
    assert json.loads((out / "synth.json").read_text())["config"]["nuisances"] == {"glare": 1.0, "pose": 0.5}


def test_the_protocol_keeps_development_and_report_apart():
    development, report = (PURPOSES[purpose] for purpose in ("development", "report"))
    assert not set(development.seeds) & set(report.seeds)
    names = [{photograph.split(":")[-1] for photograph in p.photographs} for p in (development, report)]
    assert not names[0] & names[1]
    with pytest.raises(ValueError, match=r"from 0 to 99 for development, got 1000; nothing may be tuned on what"):
        hard_station("glare", 1000, purpose="development")
    with pytest.raises(ValueError, match=r"from 1000 to 1099 for report, got 3; nothing may be tuned on what"):
        hard_station("glare", 3, purpose="report")
    with pytest.raises(ValueError, match=r"name must be one of in-place, .* got 'fog'"):
        hard_station("fog", 3, purpose="development")
    with pytest.raises(ValueError, match="purpose must be one of development, report, got 'fun'"):
        hard_station("glare", 3, purpose="fun")


@pytest.mark.parametrize("name", HARD_STATIONS)
def test_hard_stations_are_of_one_size_and_differ_in_one_thing(name):
    config = hard_station(name, 7, purpose="development")
    assert (config.test_good, config.test_defect, config.size) == (30, 30, 256)
    assert config.test_defect == 6 * len(KINDS)
    assert config.train == (8 if name == "eight-normals" else 40)
    assert len(config.nuisances) == (name not in ("in-place", "eight-normals"))
    assert config.categories == ("brick",)
    assert hard_station(name, 1000, purpose="report").categories == ("skimage:gravel",)


def test_a_photograph_of_scikit_image_that_is_absent_names_the_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"got 'skimage:gravel'; pip install scikit-image"):
        load_product("skimage:gravel", 32)


@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="scikit-image is not installed")
def test_the_reports_photographs_are_products(tmp_path):
    with pytest.raises(ValueError, match=r"scikit-image must be of .*gravel.*, got 'toaster'"):
        load_product("skimage:toaster", 32)
    photographs = PURPOSES["report"].photographs
    config = SynthConfig(photographs, train=1, test_good=0, test_defect=5, size=64)
    root = synthesize(tmp_path / "out", config)
    for photograph in photographs:
        assert len(open_dataset(root, "test", category=photograph.split(":")[1])) == 5
