"""The synthetic station: deterministic, exact masks, true homographies, defects that only some views show."""

import json

import cv2
import numpy as np
import pytest

from tests.recorder import Recorder
from vsad.data import SynthConfig, open_dataset, photograph_names, synthesize
from vsad.data.synth.defects import KINDS, make_defect
from vsad.data.synth.product import load_product, to_display
from vsad.data.synth.station import Station

SIZE = 96


@pytest.fixture(scope="module")
def station():
    return Station(SIZE, seed=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp("synth") / "board"
    return synthesize(out, SynthConfig(train=2, test_good=2, test_defect=20, size=SIZE, seed=5))


def _files(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_same_seed_same_bytes_and_counts_change_no_other_sample(tmp_path):
    config = SynthConfig(categories=("coins",), train=1, test_good=1, test_defect=2, size=48, seed=3)
    first = _files(synthesize(tmp_path / "a", config))
    again = _files(synthesize(tmp_path / "b", config))
    assert first == again
    more = _files(
        synthesize(
            tmp_path / "c",
            SynthConfig(categories=("coins",), train=2, test_good=1, test_defect=2, size=48, seed=3),
        )
    )
    shared = [path for path in first if path.name != "synth.json"]
    assert all(more[path] == first[path] for path in shared)
    other = _files(
        synthesize(
            tmp_path / "d",
            SynthConfig(categories=("coins",), train=1, test_good=1, test_defect=2, size=48, seed=4),
        )
    )
    assert any(other.get(path) != first[path] for path in shared)


def check_masks(station, scene, kind, rng, *, draws, far):
    """Beyond 2 pixels of the mask at most ``far`` of 255 levels change; 95 % of the change lies within 1 pixel of the
    mask; and on average over the draws most of the mask changes visibly."""
    clean = {camera.name: to_display(station.render(scene, camera)).astype(int) for camera in scene.cameras}
    changed_share = []
    for _ in range(draws):
        defect = make_defect(kind, scene.product, scene.albedo, rng)
        if defect is None:
            continue
        for camera in scene.cameras:
            mask = station.mask(scene, camera, defect)
            shown = to_display(station.render(scene, camera, defect)).astype(int)
            change = np.abs(shown - clean[camera.name]).max(-1)
            near, nearer = (cv2.dilate(mask.astype(np.uint8), np.ones((n, n))) > 0 for n in (5, 3))
            if mask.sum() < 10 or change[mask].mean() < 8:
                continue
            assert change[~near].max() <= far
            assert change[nearer].sum() >= 0.95 * change.sum()
            changed_share.append((change[mask] >= 4).mean())
    assert len(changed_share) >= 3
    assert np.mean(changed_share) > 0.7


@pytest.mark.parametrize("category", photograph_names())
@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_exact_without_noise(station, category, kind):
    """The lens's blur reaches 2 pixels."""
    rng = np.random.default_rng([7, KINDS.index(kind)])
    product = load_product(category, SIZE)
    scene = station.set_scene(product, rng)
    check_masks(station, scene, kind, rng, draws=6, far=2)


def test_each_defect_shows_in_some_views_but_not_all(root):
    samples = [sample for sample in open_dataset(root, "test").samples if sample.defect != "good"]
    counts = [sum(mask is not None for mask in sample.masks.values()) for sample in samples]
    assert {sample.defect for sample in samples} == set(KINDS)
    assert all(1 <= count <= 4 for count in counts)
    assert len(set(counts)) >= 3
    hidden = {view for sample in samples for view, mask in sample.masks.items() if mask is None}
    shown = {view for sample in samples for view, mask in sample.masks.items() if mask is not None}
    assert hidden >= {"C2", "C3", "C4", "C5"}
    assert shown == {"C1", "C2", "C3", "C4", "C5"}


def test_masks_of_one_defect_meet_on_the_surface(root):
    """A mask carried to another view by the true homographies falls on that view's mask."""
    truth = json.loads((root / "synth.json").read_text())
    from_plane = {view: np.array(h) for view, h in truth["H_view_from_plane"].items()}
    overlaps = []
    for sample in open_dataset(root, "test").samples:
        masks = {v: cv2.imread(str(f.path), cv2.IMREAD_GRAYSCALE) for v, f in sample.masks.items() if f is not None}
        for a in masks:
            for b in masks:
                H_b_from_a = from_plane[b] @ np.linalg.inv(from_plane[a])
                carried = cv2.warpPerspective(masks[a], H_b_from_a, (SIZE, SIZE)) > 127
                if a != b and carried.sum() > 20:
                    near = cv2.dilate(masks[b], np.ones((5, 5))) > 127
                    overlaps.append(near[carried].mean())
    assert len(overlaps) > 10
    assert min(overlaps) > 0.9


def test_true_homographies_align_the_views_of_every_sample(root):
    truth = json.loads((root / "synth.json").read_text())
    from_plane = {view: np.array(h) for view, h in truth["H_view_from_plane"].items()}
    for sample in open_dataset(root, "train").samples:
        gray = {v: cv2.imread(str(f.path), cv2.IMREAD_GRAYSCALE).astype(np.float32) for v, f in sample.images.items()}
        for view in ("C2", "C3", "C4", "C5"):
            H_view_from_top = from_plane[view] @ np.linalg.inv(from_plane["C1"])
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            aligned = cv2.warpPerspective(gray[view], H_view_from_top, (SIZE, SIZE), flags=flags)
            seen = cv2.warpPerspective(np.ones_like(gray[view]), H_view_from_top, (SIZE, SIZE), flags=flags) > 0.99
            assert seen.mean() > 0.2
            assert np.corrcoef(gray["C1"][seen], aligned[seen])[0, 1] > 0.6
            assert abs(np.corrcoef(gray["C1"][seen], gray[view][seen])[0, 1]) < 0.4


def test_object_moves_and_cameras_do_not(root):
    truth = json.loads((root / "synth.json").read_text())
    poses = np.array([sample["H_plane_from_object"] for sample in truth["samples"]])
    assert len(truth["H_view_from_plane"]) == 5
    assert np.unique(poses[:, 0, 2]).size == len(poses)
    assert np.abs(poses[:, :2, 2]).max() < 0.08


def test_one_camera_is_mirrored(station):
    signs = {camera.name: np.linalg.det(camera.H_view_from_plane) > 0 for camera in station.cameras}
    assert signs == {"C1": True, "C2": True, "C3": True, "C4": False, "C5": True}


def test_cameras_are_pinholes_with_true_perspective(station):
    """Each homography is K [r1 r2 t] up to scale: with the known K, r1 and r2 are orthogonal and of one length."""
    for camera in station.cameras:
        center = (SIZE - 1) / 2
        flip = np.diag([np.sign(np.linalg.det(camera.H_view_from_plane)), 1, 1])
        H_centered_from_plane = (
            flip @ np.array([[1, 0, -center], [0, 1, -center], [0, 0, 1]]) @ camera.H_view_from_plane
        )
        r1, r2 = H_centered_from_plane[:, 0], H_centered_from_plane[:, 1]
        if camera.name != "C1":
            assert np.abs(H_centered_from_plane[2, :2]).max() > 0.1
        # orthogonality gives the focal length: x1 x2 + y1 y2 + f^2 z1 z2 = 0 unless z1 z2 vanishes
        if abs(r1[2] * r2[2]) > 1e-3:
            focal2 = -(r1[:2] @ r2[:2]) / (r1[2] * r2[2])
            lengths = [np.sqrt(r[:2] @ r[:2] / focal2 + r[2] ** 2) for r in (r1, r2)]
            assert lengths[0] == pytest.approx(lengths[1], rel=1e-6)


def test_highlights_lie_at_different_surface_points(station):
    """The brightest surface point of a view's specular light differs from view to view by a tenth of the object."""
    from vsad.data.synth.cameras import make_lamps, project, shade

    lamps = make_lamps(np.random.default_rng(0))[:1]
    points = []
    for camera in station.cameras:
        _, specular = shade(camera, lamps)
        y, x = np.unravel_index(np.argmax(specular), specular.shape)
        points.append(project(np.linalg.inv(camera.H_view_from_plane), np.array([x, y], float)))
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(points) for b in points[:i]]
    assert min(gaps) > 0.1


def test_any_photograph_will_do(tmp_path):
    rng = np.random.default_rng(0)
    photo = cv2.GaussianBlur(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8), (0, 0), 2)
    photo = cv2.normalize(photo, None, 30, 220, cv2.NORM_MINMAX)
    path = tmp_path / "my_part.png"
    cv2.imwrite(str(path), photo)
    config = SynthConfig(categories=(str(path),), train=1, test_good=0, test_defect=5, size=64)
    root = synthesize(tmp_path / "out", config)
    assert len(open_dataset(root, "test")) == 5


def test_progress_counts_every_sample(tmp_path):
    progress = Recorder()
    config = SynthConfig(categories=("brick", "coins"), train=1, test_good=1, test_defect=0, size=32)
    synthesize(tmp_path / "out", config, progress=progress)
    assert progress.stages == [("photograph", 4, 4)]


def test_errors_name_argument_and_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"format must be one of folder, real-iad, got 'zip'"):
        SynthConfig(format="zip")
    with pytest.raises(ValueError, match="size must be at least 32 pixels, got 8"):
        SynthConfig(size=8)
    with pytest.raises(ValueError, match="train must be at least 1"):
        SynthConfig(train=0)
    with pytest.raises(ValueError, match="categories must name at least one"):
        SynthConfig(categories=())
    with pytest.raises(ValueError, match=r"categories must be of brick, circuit_board, coins .* got 'toaster'"):
        synthesize(tmp_path / "a", SynthConfig(categories=("toaster",)))
    with pytest.raises(ValueError, match="categories must differ in name"):
        synthesize(tmp_path / "a", SynthConfig(categories=("coins", "coins")))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(FileExistsError, match="out must be a new or empty folder"):
        synthesize(tmp_path / "full")
