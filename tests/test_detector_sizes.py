"""Images of any size: pictures are extended to what the model divides them by, and maps cut back."""

import pytest
import torch
from torch.nn import functional as F

from vsad.detection import Detector, place, place_all
from vsad.detection.placement import cells
from vsad.geometry import Rig, translation
from vsad.models import new_model, tiny
from vsad.registration import Registration
from vsad.training import learn_latents

SHIFT = 8


def station(height, width, samples=6):
    """Normal samples of two views, the second of which sees what the first does ``SHIFT`` pixels further right."""
    generator = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(1, 3, 20, 24, generator=generator), (height, width + SHIFT), mode="bilinear")
    base = 0.9 * torch.cat([smooth[..., :width], smooth[..., SHIFT:]])
    noise = 0.01 * torch.randn(samples, 2, 3, height, width, generator=generator)
    rig = Rig.from_pairs(["left", "right"], (height, width), {("left", "right"): translation(-SHIFT, 0)})
    return (base + noise).clamp(0, 0.9), rig


def fitted(images, rig, registration=None):
    model, placements = new_model(tiny(), 0), []
    latents = learn_latents(model, place_all(images, registration, placements, model.divisor))
    return Detector.fit(model, rig, latents, placements=placements, registration=registration)


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("size", [(120, 150), (121, 149), (97, 128)])
def test_a_detector_takes_images_of_any_size(size, registered):
    images, rig = station(*size)
    registration = Registration.fit(images[0], rig) if registered else None
    detector = fitted(images, rig, registration)
    assert detector.canonical_rig.size == tuple(16 * -(-n // 16) for n in size)
    normal = detector(images[1])
    assert normal.maps.shape == (2, *size)
    assert normal.sample_score < 2 * detector.threshold
    # Samples that are moved into one pose leave their rims unjudged, of whatever size.
    assert (normal.unjudged < (0.25 if registered else 0.01)).all()
    bad = images[1].clone()
    bottom, right = size[0] - 14, size[1] - 24  # in the last rows, which the extended pictures share with what is added
    bad[0, :, bottom : bottom + 10, right : right + 10] = 0
    bad[1, :, bottom : bottom + 10, right - SHIFT : right - SHIFT + 10] = 0
    found = detector(bad)
    assert found.sample_score > 3 * detector.threshold
    y, x = divmod(int(found.maps[0].argmax()), size[1])
    assert abs(y - bottom - 5) <= 16
    assert abs(x - right - 5) <= 16


def test_what_is_added_repeats_the_border_and_is_known_as_it_is():
    images, _ = station(33, 47)
    images[0, 0, :, -1] = 0.97
    moved, placement = place(images[0], None, 16)
    assert moved.shape[-2:] == (48, 48)
    assert torch.equal(moved[..., :33, :47], images[0])
    assert torch.equal(moved[..., 33:, :47], images[0][..., -1:, :].expand(-1, -1, 15, -1))
    assert placement.inside.all()
    assert placement.dazzled[0, 33:].all()
    assert placement.light.shape == (2, 48, 48)
    same, unchanged = place(images[0], None, 1)
    assert same.shape == images[0].shape
    assert unchanged.inside.shape == (2, 33, 47)


def test_cells_count_those_that_show_any_pixel():
    assert cells((33, 48), (48, 48), (6, 6)) == (5, 6)
    assert cells((48, 48), (48, 48), (6, 6)) == (6, 6)
