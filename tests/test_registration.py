"""Registration against known poses: a station whose products lie anywhere, and samples that must be refused."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from vsad.data.synth.product import load_product
from vsad.data.synth.station import Station
from vsad.files import read_weights, write_weights
from vsad.geometry import Rig, scale_homography, transform_points
from vsad.ops import homography_warp
from vsad.registration import Registration, canonical_rig, choose_canonical, choose_margin, registration_helps
from vsad.registration.features import Matches, gray_pictures, look
from vsad.registration.frame import Frame, shared_frames
from vsad.registration.photometric import Template
from vsad.registration.pose import why_implausible
from vsad.registration.robust import find_motions

SIZE = 256
# Degrees, and shares of the product's long side; the first sample is the canonical one.
POSES = ((0, 0, 0), (75, 0.05, -0.03), (-160, -0.04, 0.06), (33, 0, -0.05))


pytestmark = pytest.mark.usefixtures("one_thread")


class Bench:
    """A station, its rig, and how the products lie on it."""

    def __init__(self):
        self.station = Station(SIZE)
        self.views = [camera.name for camera in self.station.cameras]
        self.P = torch.stack([torch.from_numpy(camera.H_view_from_plane) for camera in self.station.cameras])
        V = range(len(self.views))
        self.rig = self.make_rig((i, j) for i in V for j in V if i != j)

    def make_rig(self, pairs, size=SIZE):
        H = {(self.views[i], self.views[j]): self.P[j] @ torch.linalg.inv(self.P[i]) for i, j in pairs}
        return Rig.from_pairs(self.views, (SIZE, SIZE), H).scaled((size, size))

    def shoot(self, product, pose, seed, size=1.0):
        """One sample's images ``(V, 3, H, W)``; ``size`` shrinks the product."""
        rng = np.random.default_rng(seed)
        H = plane_motion(*pose).numpy() @ np.diag([size, size, 1])
        scene = dataclasses.replace(self.station.set_scene(product, rng), H_plane_from_object=H)
        shot = self.station.shoot(scene, rng)
        return torch.from_numpy(np.stack([shot.images[view] for view in self.views])).movedim(-1, 1).float() / 255

    def truth(self, pose, canonical=POSES[0]):
        """Sample from canonical in every view."""
        return self.P @ plane_motion(*pose) @ torch.linalg.inv(plane_motion(*canonical)) @ torch.linalg.inv(self.P)


def plane_motion(degrees, x, y):
    t = np.deg2rad(degrees)
    return torch.tensor([[np.cos(t), -np.sin(t), x], [np.sin(t), np.cos(t), y], [0, 0, 1]], dtype=torch.float64)


def errors(H, H_true, size=SIZE):
    """Distances in pixels over the canonical pixels that the sample's picture has, of all views."""
    axis = torch.linspace(0, size - 1, 40, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    expected = transform_points(H_true, grid)
    seen = ((expected >= 0) & (expected <= size - 1)).all(-1)
    assert seen.sum() > 1000
    return (transform_points(H, grid) - expected).norm(dim=-1)[seen]


@pytest.fixture(scope="module")
def bench():
    return Bench()


@pytest.fixture(scope="module")
def samples(bench):
    product = load_product("circuit_board", SIZE)
    return [bench.shoot(product, pose, seed) for seed, pose in enumerate(POSES)]


@pytest.fixture(scope="module")
def registration(bench, samples):
    return Registration.fit(samples[0], bench.rig, others=samples[1:])


@pytest.fixture(scope="module")
def poses(registration, samples):
    return [registration.estimate(images) for images in samples]


def test_a_pose_is_found_to_a_small_part_of_a_pixel(bench, poses):
    for pose, known in zip(poses[1:], POSES[1:]):
        assert pose.reason is None
        found = errors(pose.H_sample_from_canonical, bench.truth(known))
        assert found.median() < 0.1  # measured: 0.02
        assert found.max() < 0.5


def test_the_refinement_brings_it_nearer(bench, registration, samples):
    sight = look(samples[1])
    rough, fine = (registration.estimate_sight(sight, refine=refine) for refine in (False, True))
    assert (
        errors(fine.H_sample_from_canonical, bench.truth(POSES[1])).median()
        < 0.5 * errors(rough.H_sample_from_canonical, bench.truth(POSES[1])).median()
    )


def test_the_canonical_sample_itself_has_the_identity(poses, registration):
    identity = torch.eye(3, dtype=torch.float64).repeat(5, 1, 1)
    assert errors(poses[0].H_sample_from_canonical, identity).max() < 1e-3
    assert poses[0].inliers > 0.9 * registration.counts.sum()


def test_all_views_share_one_motion(bench, poses):
    """``W_j H_ji = H_ji W_i``: the rig holds between views in canonical pose."""
    for target, sources in enumerate(bench.rig.neighbors.tolist()):
        for slot, source in enumerate(sources):
            H, W = bench.rig.homographies[target, slot], poses[1].H_sample_from_canonical
            left, right = W[source] @ H, H @ W[target]
            torch.testing.assert_close(left / left.norm(), right / right.norm(), rtol=1e-6, atol=1e-9)


def test_a_chain_of_pairs_is_enough(bench, samples):
    rig = bench.make_rig([(0, 1), (1, 2), (2, 3), (3, 4)])
    assert len(shared_frames(rig)) == 1
    pose = Registration.fit(samples[0], rig).estimate(samples[1])
    assert errors(pose.H_sample_from_canonical, bench.truth(POSES[1])).median() < 0.1


def test_views_that_nothing_joins_have_motions_of_their_own(bench, samples):
    rig = bench.make_rig([(0, 1), (0, 2), (0, 4)])
    assert [sorted(frame.views) for frame in shared_frames(rig)] == [[0, 1, 2, 4], [3]]
    registration = Registration.fit(samples[0], rig)
    pose = registration.estimate(samples[3])
    assert errors(pose.H_sample_from_canonical, bench.truth(POSES[3])).median() < 0.1
    blank = samples[3].clone()
    blank[3] = 0.5
    assert registration.estimate(blank).reason.endswith("(views C4)")


def test_a_sample_that_is_turned_over_is_refused(bench, registration):
    product = load_product("circuit_board", SIZE)
    turned = dataclasses.replace(product, albedo=product.albedo[:, ::-1].copy())
    pose = registration.estimate(bench.shoot(turned, POSES[1], 7))
    assert "turned over" in pose.reason
    assert torch.equal(pose.H_sample_from_canonical, torch.eye(3, dtype=torch.float64).repeat(5, 1, 1))


@pytest.mark.parametrize(
    "images", [torch.rand(5, 3, SIZE, SIZE), torch.zeros(5, 3, SIZE, SIZE)], ids=["noise", "black"]
)
def test_what_shows_no_product_is_refused(registration, images):
    pose = registration.estimate(images)
    assert pose.reason.startswith("too few")
    assert pose.inliers == 0
    assert np.isnan(pose.error_px)


def test_another_product_is_refused(bench, registration):
    assert registration.estimate(bench.shoot(load_product("coins", SIZE), POSES[1], 8)).reason is not None


@pytest.mark.parametrize(("cell", "pose"), [(20, 90), (40, -164), (64, -164), (64, 180), (80, 90)])
def test_a_pattern_that_repeats_itself_is_refused(bench, cell, pose):
    product = load_product("circuit_board", SIZE)
    rows, columns = (np.arange(n) // cell for n in product.albedo.shape[:2])
    board = 0.2 + 0.5 * (np.add.outer(rows, columns) % 2)[..., None] * np.ones(3, np.float32)
    checkered = dataclasses.replace(product, albedo=board.astype(np.float32))
    registration = Registration.fit(bench.shoot(checkered, POSES[0], 0), bench.rig)
    assert registration.estimate(bench.shoot(checkered, (pose, 0.02, 0.03), 1)).reason is not None


def test_a_surface_that_is_new_in_every_sample_is_registered_by_what_it_shares(bench):
    product = load_product("circuit_board", SIZE)
    shared = cv2.GaussianBlur(product.albedo, None, 4)

    def shoot(seed, pose):
        rng = np.random.default_rng(seed)
        grain = cv2.GaussianBlur(rng.standard_normal(shared.shape[:2]).astype(np.float32), None, 1.5)[..., None]
        albedo = np.clip(shared + 0.5 * grain, 0, 1).astype(np.float32)
        return bench.shoot(dataclasses.replace(product, albedo=albedo), pose, seed)

    poses = [(0, 0, 0), (2, 0.01, -0.01), (-1.5, -0.01, 0.01), (1, 0.012, 0.01), (-2, 0.01, 0.008)]
    images = [shoot(seed, pose) for seed, pose in enumerate(poses)]
    registration = Registration.fit(images[0], bench.rig)
    template = registration._templates[0].fine
    for sample, pose in zip(images[1:], poses[1:]):
        found, expected = registration.estimate(sample), bench.truth(pose)
        assert found.reason is None
        found_errors = errors(found.H_sample_from_canonical, expected)
        assert found_errors.median() < 0.5
        assert found_errors.max() < 2
        true = scale_homography(expected, bench.rig.size, registration.work_size)[template.frame.views[0]]
        assert 0.15 < template.agreement(gray_pictures(sample), true) < 0.35
    gain = registration_helps(images, registration)
    assert gain.helps


def test_cameras_that_have_turned_a_little_are_followed(bench, registration, samples):
    """Every view of the sample shifted by itself: no single motion has that."""
    shifts = torch.tensor([[3.0, 0], [0, -2], [-3, 1], [2, 2], [-2, -3]])
    E = torch.eye(3).repeat(5, 1, 1)
    E[:, :2, 2] = shifts
    pose = registration.estimate(homography_warp(samples[1], E, padding="border"))
    expected = torch.linalg.inv(E.double()) @ bench.truth(POSES[1])
    assert errors(pose.H_sample_from_canonical, expected).median() < 0.2


def test_a_canonical_sample_without_features_registers_nothing(bench, samples):
    registration = Registration.fit(torch.zeros_like(samples[0]), bench.rig)
    assert "too few features" in registration.estimate(samples[0]).reason


def test_a_textured_background_does_not_outvote_a_small_product(samples):
    bench = Bench()
    rng = np.random.default_rng(0)
    for view, mat in bench.station._mats.items():
        spots = cv2.GaussianBlur(rng.standard_normal(mat.shape[:2]).astype(np.float32), None, 2)[..., None]
        bench.station._mats[view] = np.clip(0.2 + spots, 0, 1) * np.ones(3, np.float32)
    product = load_product("circuit_board", SIZE)
    images = [bench.shoot(product, pose, seed, size=0.5) for seed, pose in enumerate(POSES)]
    pose = Registration.fit(images[0], bench.rig, others=images[2:]).estimate(images[1])
    assert pose.reason is None
    assert errors(pose.H_sample_from_canonical, bench.truth(POSES[1])).median() < 0.5


@pytest.mark.parametrize("seed", range(5))
def test_matches_that_leave_out_a_corner_have_a_candidate_that_does_not_swing_there(seed):
    """A plain product matches in few places; a homography of these alone is many pixels off elsewhere."""
    rng = np.random.default_rng(seed)
    size, corner = (128, 128), torch.tensor([[120.0, 120.0]], dtype=torch.float64)
    target = torch.from_numpy(np.stack([rng.uniform(10, 60, 40), rng.uniform(10, 45, 40)], 1))
    move = torch.tensor([[0.999, -0.02, 3], [0.02, 0.999, -2], [0, 0, 1]], dtype=torch.float64)
    source = transform_points(move, target) + torch.from_numpy(rng.normal(0, 0.4, target.shape))
    matches = Matches(target, source, torch.zeros(40, dtype=torch.float64))
    candidates, _ = find_motions(matches, Frame([0], torch.eye(3, dtype=torch.float64)[None]), size)
    off = [float((transform_points(c.motion, corner) - transform_points(move, corner)).norm()) for c in candidates]
    assert candidates[0].sure
    assert min(off[1:]) < 2
    assert len(off) == 2


def test_motions_that_no_flat_product_makes():
    rig, size = torch.eye(3, dtype=torch.float64)[None], (64, 64)
    points = torch.rand(20, 2, dtype=torch.float64) * 63

    def reason(*rows):
        return why_implausible(torch.tensor(rows, dtype=torch.float64), rig, points, size)

    assert reason([0, -1, 63], [1, 0, 0], [0, 0, 1]) is None
    assert "reflection" in reason([-1, 0, 63], [0, 1, 0], [0, 0, 1])
    assert "size" in reason([2.5, 0, 0], [0, 2.5, 0], [0, 0, 1])
    assert "distortion" in reason([1.9, 0, 0], [0, 1 / 1.9, 0], [0, 0, 1])
    assert "fix no motion" in reason([float("nan"), 0, 0], [0, 1, 0], [0, 0, 1])


def test_it_is_saved_and_made_again(tmp_path, bench, registration, poses, samples):
    write_weights(tmp_path / "registration.safetensors", registration.state_dict())
    again = Registration.rebuild(read_weights(tmp_path / "registration.safetensors", "fit again"), bench.rig)
    pose = again.estimate(samples[1])
    assert torch.equal(pose.H_sample_from_canonical, poses[1].H_sample_from_canonical)
    assert pose[1:] == poses[1][1:]


def test_it_is_deterministic(bench, registration, poses, samples):
    again = Registration.fit(samples[0], bench.rig, others=samples[1:])
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), registration.state_dict().values()))
    assert torch.equal(again.estimate(samples[2]).H_sample_from_canonical, poses[2].H_sample_from_canonical)


def test_torchs_default_type_changes_nothing(bench, samples, poses):
    torch.set_default_dtype(torch.float64)
    try:
        pose = Registration.fit(samples[0], bench.rig, others=samples[1:]).estimate(samples[1])
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(pose.H_sample_from_canonical, poses[1].H_sample_from_canonical)


def test_pictures_and_maps_go_there_and_back(registration, poses, samples):
    there, seen = registration.to_canonical(samples[1], poses[1])
    assert there.shape == samples[1].shape
    assert seen.dtype == torch.bool
    difference = (there - samples[0]).abs().mean(1)
    assert difference[seen].median() < 0.03  # another specimen in another light
    smooth = torch.nn.functional.interpolate(torch.rand(5, 1, 6, 6), size=(64, 64), mode="bicubic")[:, 0]
    back, known = registration.from_canonical(smooth, poses[1], (SIZE, SIZE))
    assert back.shape == known.shape == (5, SIZE, SIZE)
    # To the canonical pose again, and to the maps' resolution.
    H = poses[1].H_sample_from_canonical
    H = scale_homography(H, (SIZE, SIZE), (64, 64), source_from_size=(SIZE, SIZE), source_to_size=(SIZE, SIZE))
    again, inside = homography_warp(back[:, None], H, (64, 64), return_mask=True)
    assert inside.float().mean() > 0.4
    assert (again[:, 0] - smooth)[inside].abs().max() < 0.05


def test_a_margin_gives_what_turned_products_show_a_place(bench, registration, poses, samples):
    there, seen = registration.to_canonical(samples[1], poses[1])
    wider = registration.wider(32, bench.rig)
    more, covered = wider.to_canonical(samples[1], poses[1])
    assert wider.canonical_size == more.shape[-2:] == (SIZE + 64, SIZE + 64)
    torch.testing.assert_close(more[..., 32:-32, 32:-32], there, rtol=0, atol=1e-3)
    assert covered.sum() > 1.1 * seen.sum()
    # Back again: to the same pixels, and to some that had no place.
    y, x = torch.meshgrid(torch.linspace(0, 1, 80), torch.linspace(0, 1, 80), indexing="ij")
    back, known = wider.from_canonical((3 * x - y).expand(5, 80, 80), poses[1])
    assert back.shape == (5, 64, 64)
    inner, before = registration.from_canonical((3 * x - y)[8:-8, 8:-8].expand(5, 64, 64), poses[1])
    torch.testing.assert_close(back[before], inner[before], rtol=0, atol=1e-3)
    assert known[before].all()
    assert known.sum() > 1.1 * before.sum()
    # In the wider pictures the rig holds as it did, margin included.
    H, neighbors = canonical_rig(bench.rig, wider).to_operator()
    shown = torch.cat([more, covered[:, None].float()], dim=1)
    carried, mask = homography_warp(shown[neighbors[0, :1]], H[0, :1], return_mask=True)
    both = mask[0] & (carried[0, 3] > 0.99) & covered[0]
    pictures = torch.stack([carried[0, :3].mean(0)[both], more[0].mean(0)[both]])
    assert torch.corrcoef(pictures)[0, 1] > 0.8


def test_the_rig_of_canonical_pictures_has_their_size(bench, registration):
    wider = registration.wider(32, bench.rig)
    half = bench.rig.scaled((SIZE // 2, SIZE // 2))
    expected = bench.rig.padded(32)
    for rig in (bench.rig, half):
        found = canonical_rig(rig, wider)
        assert found.size == wider.canonical_size == expected.size
        torch.testing.assert_close(found.homographies, expected.homographies)
    assert canonical_rig(half, None) is half
    for margin in (-16, 2.5, "16"):
        with pytest.raises(ValueError, match="margin must be a whole number of pixels, 0 or more"):
            registration.wider(margin, bench.rig)


def test_the_margin_grows_where_products_lie_anywhere(bench, samples, registration):
    assert choose_margin(samples, registration) in (16, 32, 48, 64)
    product = load_product("circuit_board", SIZE)
    in_place = [bench.shoot(product, (0.1 * k, 0.001 * k, -0.001 * k), k) for k in range(3)]
    assert choose_margin(in_place, Registration.fit(in_place[0], bench.rig)) == 0
    assert choose_margin([torch.rand_like(samples[0])], registration) == 0


def test_images_of_another_size_take_the_rig_scaled(bench, samples):
    small = [torch.nn.functional.interpolate(images, size=(192, 192), mode="area") for images in samples[:2]]
    pose = Registration.fit(small[0], bench.rig).estimate(small[1])
    expected = scale_homography(bench.truth(POSES[1]), (SIZE, SIZE), (192, 192))
    assert errors(pose.H_sample_from_canonical, expected, 192).median() < 0.1


def test_wrong_shapes_are_named(registration, samples):
    with pytest.raises(
        ValueError, match=r"Registration.estimate: images must be \[5 3 256 256\], got \[4, 3, 256, 256\]"
    ):
        registration.estimate(samples[0][:4])


def test_registration_helps_where_products_lie_anywhere(bench, samples, registration):
    gain = registration_helps(samples, registration)
    assert gain.helps
    assert gain.registered == 1
    assert gain.after < 0.6 * gain.before
    assert gain.motion_px > 20


def test_registration_does_not_help_where_they_lie_in_place(bench):
    product = load_product("circuit_board", SIZE)
    in_place = [bench.shoot(product, (0.1 * k, 0.001 * k, -0.001 * k), k) for k in range(3)]
    gain = registration_helps(in_place, Registration.fit(in_place[0], bench.rig))
    assert not gain.helps
    assert gain.reason.startswith("off: normal samples lie")
    others = Registration.fit(in_place[0], bench.rig, others=in_place[1:])
    assert not registration_helps(in_place, others).helps


def test_the_canonical_sample_is_none_that_fails(bench, samples):
    assert choose_canonical([torch.rand_like(samples[0]), *samples], bench.rig) != 0
    with pytest.raises(ValueError, match="at least one"):
        choose_canonical([], bench.rig)


def test_the_jacobian_is_the_derivative_of_the_warp(bench, samples):
    """Central differences of homography_warp, whose halves take the slopes on either side of a pixel."""
    gray = gray_pictures(samples[0])
    frame = shared_frames(bench.rig.scaled((128, 128)))[0]
    template = Template(gray, frame, torch.zeros(gray.shape, dtype=torch.bool))
    A, picture = frame.H_view_from_reference @ template.H_reference_from_unit, template.picture.double()
    for parameter in range(8):
        D = torch.zeros(9, dtype=torch.float64)
        D[parameter] = 1e-4
        ahead, behind = (
            homography_warp(picture, A @ (torch.eye(3, dtype=torch.float64) + step) @ torch.linalg.inv(A))
            for step in (D.reshape(3, 3), -D.reshape(3, 3))
        )
        expected = (ahead - behind)[:, 0, 4:-4, 4:-4] / 2e-4
        found = template.jacobian()[:, 4:-4, 4:-4, parameter].double()
        assert (found - expected).norm() < 0.01 * expected.norm()
