"""HomographyNet: what it promises before any training, and that it learns from agreement alone."""

import pytest
import torch

from tests.small_station import randn
from vsad.geometry import corners_to_homography, homography_to_corners, translation
from vsad.models.homography_net import HomographyNet, displacement_by_corners, positive_part
from vsad.models.losses import homography_loss

NEIGHBORS = torch.tensor([[1, 2], [0, -1], [1, 0]])
PAIR = torch.tensor([[1], [0]])


def smooth(*shape, seed=0):
    """Images of smooth noise, mean 0 and deviation 1."""
    x = torch.nn.functional.avg_pool2d(randn(*shape, seed=seed).flatten(0, -4), 3, 1, 1).view(shape)
    return x / x.std()


def random_homographies(*shape, size, pixels=1.0, seed=0):
    return corners_to_homography(pixels * randn(*shape, 4, 2, seed=seed), size)


def woken(net, gain=0.1):
    """The network with gains of one, as training finds them."""
    for name, parameter in net.named_parameters():
        if name.endswith("gain"):
            parameter.data.fill_(0.1 if "search" in name else gain)
    return net


def shifted_pair(shift, size=32, seed=0):
    """Two views of one surface, the second ``shift`` pixels to the right and down, and their homographies."""
    wide = smooth(1, 6, size + shift, size + shift, seed=seed)
    views = torch.stack([wide[..., :size, :size], wide[..., shift:, shift:]], 1)  # (1, 2, 6, size, size)
    truth = torch.stack([translation(-shift, -shift), translation(shift, shift)])[None, :, None]
    return views, truth.float()


def corner_error(found, truth, size):
    difference = homography_to_corners(found.detach(), size) - homography_to_corners(truth, size)
    return float(difference.norm(dim=-1).mean())


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_new_network_returns_what_it_is_given(search, batch):
    homography = random_homographies(batch, 3, 2, size=(16, 32))
    found = HomographyNet(5, stages=3, width=8, search=search)(randn(2, 3, 5, 16, 32), homography, NEIGHBORS)
    assert len(found) == 3
    for stage in found:
        assert torch.equal(stage, homography.expand(2, 3, 2, 3, 3))


def test_empty_slots_keep_theirs_whatever_they_hold():
    net = woken(HomographyNet(5, width=8, search=True))
    homography = random_homographies(1, 3, 2, size=(16, 16))
    homography[0, 1, 1] = torch.nan
    found = net(smooth(1, 3, 5, 16, 16), homography, NEIGHBORS)
    assert all(stage[0, 1, 1].isnan().all() for stage in found)
    homography_loss(smooth(1, 3, 5, 16, 16), found, NEIGHBORS).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert not torch.equal(found[0][0, 0], homography[0, 0])


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_reach_every_parameter_the_latents_and_the_homography(search, dtype):
    net = woken(HomographyNet(6, width=8, search=search)).to(dtype)
    views, truth = shifted_pair(2)
    views, start = views.to(dtype).requires_grad_(), truth.to(dtype).requires_grad_()
    found = net(views, start, PAIR)
    assert {stage.dtype for stage in found} == {dtype}
    homography_loss(views, found, PAIR).backward()
    for name, parameter in [*net.named_parameters(), ("latents", views), ("homography", start)]:
        assert parameter.grad.abs().max() > 0, name
        assert parameter.grad.isfinite().all(), name


def test_autocast_changes_nothing():
    net = woken(HomographyNet(6, width=8, search=True))
    views, truth = shifted_pair(2)
    expected = net(views, truth, PAIR)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(views, truth, PAIR)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_corners_displace_the_pixels_as_derived():
    size = (8, 12)
    offsets = 1e-5 * randn(4, 2).double()
    y, x = torch.meshgrid(torch.arange(8), torch.arange(12), indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1).double()
    mapped = points @ corners_to_homography(offsets, size).mT
    displacement = mapped[..., :2] / mapped[..., 2:] - points[..., :2]
    torch.testing.assert_close(displacement_by_corners(*size) @ offsets.flatten(), displacement, atol=1e-9, rtol=0)


def test_loss_is_zero_where_views_agree_and_lost_overlap_does_not_pay():
    views, truth = shifted_pair(4)

    def at(shift):
        return homography_loss(views, [translation(shift, shift).expand(1, 2, 1, 3, 3)], PAIR)

    assert homography_loss(views[:, :1].repeat(1, 2, 1, 1, 1), [torch.eye(3).expand(1, 2, 1, 3, 3)], PAIR) < 1e-3
    aligned, unrelated, gone = homography_loss(views, [truth], PAIR), at(11), at(100)
    assert aligned < 1 - 0.7 * (28 / 32) ** 2
    assert gone == 1
    assert abs(unrelated - 1) < 0.1


def test_a_few_steps_on_one_pair_reduce_the_corner_error():
    torch.manual_seed(0)
    views, truth = shifted_pair(2)
    start = truth @ random_homographies(1, 2, 1, size=(32, 32), pixels=1.0, seed=3)
    net = HomographyNet(6, width=8)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(30):
        optimizer.zero_grad()
        homography_loss(views, net(views, start, PAIR), PAIR).backward()
        optimizer.step()
    found = net(views, start, PAIR)[-1]
    assert corner_error(found, truth, (32, 32)) < 0.3 * corner_error(start, truth, (32, 32))


def test_search_finds_a_third_of_the_image_before_any_training():
    """Random features that move with the surface tell where it went; only the gain is learned."""
    torch.manual_seed(0)
    views, truth = shifted_pair(14)  # 18 of 32 pixels each way: 32 % of the area
    net = woken(HomographyNet(6, width=8, search=True))
    found = net(views, torch.eye(3).expand(1, 2, 1, 3, 3), PAIR)[-1]
    assert corner_error(found, truth, (32, 32)) < 2


@pytest.mark.parametrize(
    ("latents", "homography", "neighbors", "message"),
    [
        ((2, 5, 16, 16), (1, 2, 1, 3, 3), PAIR, r"latents must be \[B V 5 h w\], got \[2, 5, 16, 16\]; stack"),
        ((1, 2, 4, 16, 16), (1, 2, 1, 3, 3), PAIR, r"latents must be \[B V 5 h w\], got \[1, 2, 4, 16, 16\]"),
        ((1, 2, 5, 18, 16), (1, 2, 1, 3, 3), PAIR, "latents must have sides divisible by 4 and of at least 16"),
        ((1, 2, 5, 16, 16), (2, 1, 3, 3), PAIR, r"homography must be \[1 2 1 3 3\].* got \[2, 1, 3, 3\]; add"),
        ((1, 2, 5, 16, 16), (1, 2, 1, 3, 3), PAIR[:1], r"neighbors must be \[V N\] int64 with V=2, got \[1, 1\]"),
        ((1, 2, 5, 16, 16), (1, 2, 1, 3, 3), PAIR.int(), r"neighbors must be .* got \[2, 1\] torch.int32; take"),
    ],
)
def test_wrong_arguments_are_refused_in_words(latents, homography, neighbors, message):
    with pytest.raises(ValueError, match="HomographyNet: " + message):
        HomographyNet(5, width=8)(torch.zeros(latents), torch.zeros(homography), neighbors)
    with pytest.raises(ValueError, match=r"latents must have the dtype of the parameters, torch\.float32, got"):
        HomographyNet(5, width=8)(torch.zeros(1, 2, 5, 16, 16).double(), torch.zeros(1, 2, 1, 3, 3), PAIR)


def test_cells_that_show_nothing_do_not_hold_back_those_that_do():
    """Where the lower half of the surface is bare, one step still goes most of the way."""
    torch.manual_seed(0)
    net = woken(HomographyNet(6, stages=1, width=8))
    wide = smooth(1, 6, 33, 33)
    wide[..., 16:, :] = 0
    views = torch.stack([wide[..., :32, :32], wide[..., 1:, 1:]], 1)
    truth = torch.stack([translation(-1, -1), translation(1, 1)])[None, :, None].float()
    start = torch.eye(3).expand(1, 2, 1, 3, 3)
    assert corner_error(net(views, start, PAIR)[-1], truth, (32, 32)) < 0.4 * corner_error(start, truth, (32, 32))


def test_the_positive_part_is_that_of_the_eigenvalues():
    matrix = randn(100, 2, 2).double()
    matrix = matrix + matrix.mT
    values, vectors = torch.linalg.eigh(matrix)
    expected = vectors @ torch.diag_embed(values.clamp(min=0)) @ vectors.mT
    torch.testing.assert_close(positive_part(matrix), expected, atol=1e-7, rtol=0)


def test_no_pair_has_no_loss():
    views, none = smooth(2, 1, 5, 16, 16), torch.full((1, 1), -1)
    for neighbors in (none, none[:, :0]):
        start = torch.eye(3).expand(2, 1, neighbors.shape[1], 3, 3).clone().requires_grad_()
        loss = homography_loss(views, [start], neighbors)
        loss.backward()
        assert float(loss) == 0
        assert not start.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parameters_that_are_too_coarse_are_refused(dtype):
    net = HomographyNet(channels=5).to(dtype)
    with pytest.raises(ValueError, match=f"parameters must be float32 or float64, got {dtype}, too coarse"):
        net(smooth(1, 3, 5, 16, 16).to(dtype), torch.eye(3).expand(1, 3, 2, 3, 3), NEIGHBORS)
