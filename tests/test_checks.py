"""Whatever takes images refuses what it would read wrongly in silence."""

import pytest
import torch

from tests.small_station import SIZE
from vsad.calibration import calibrate
from vsad.checks import check_images
from vsad.detection import Detector, FrozenNetwork, gaussian_derivatives
from vsad.detection.practice import paint_defects
from vsad.registration import Registration, choose_canonical, choose_margin, registration_helps

GOOD = torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))
NOT_A_NUMBER = GOOD.clone()
NOT_A_NUMBER[1, 2, 3, 4] = torch.nan
WRONG = {
    "bytes": ((GOOD * 255).byte(), TypeError, "got torch.uint8; divide bytes by 255"),
    "numpy": (GOOD.numpy(), TypeError, "got ndarray"),
    "not a number": (NOT_A_NUMBER, ValueError, r"finite and in \[0, 1\], got nan"),
    "floats of bytes": (GOOD * 255, ValueError, r"in \[0, 1\], got .* to 25"),
    "standardized": ((GOOD - 0.5) / 0.25, ValueError, r"in \[0, 1\], got -"),
    "no view": (GOOD[0], ValueError, r"got .*3, 64, 64\]"),
    "channels last": (GOOD.movedim(1, -1), ValueError, r"got .*3, 64, 64, 3\]"),
}


@pytest.fixture(scope="module")
def takers(station, rig):
    model, latents, _, _ = station
    registration = Registration.fit(GOOD, rig)
    return {
        "Detector": Detector.fit(model, rig, latents),
        "VALDM": lambda images: model.encode(images[None]),
        "network": FrozenNetwork(torch.nn.Conv2d(3, 4, 3)),
        "Registration.fit": lambda images: Registration.fit(images, rig),
        "Registration.estimate": registration.estimate,
        "choose_canonical": lambda images: choose_canonical([images], rig),
        "registration_helps": lambda images: registration_helps([images, images], registration),
        "choose_margin": lambda images: choose_margin([images], registration),
        "calibrate: sample 0": lambda images: calibrate([images], rig.views),
        "gaussian_derivatives": gaussian_derivatives,
        "paint_defects": lambda images: paint_defects(images, rig, torch.Generator().manual_seed(0)),
    }


@pytest.mark.parametrize("wrong", WRONG)
def test_every_taker_of_images_refuses_others(takers, wrong):
    images, kind, message = WRONG[wrong]
    for name, take in takers.items():
        if name == "Detector" and wrong in ("bytes", "numpy"):
            continue  # it converts them
        with pytest.raises(kind, match=f"^{name}: images must be .*{message}"):
            take(images)


@pytest.mark.parametrize("wrong", [GOOD[:2], GOOD[..., :32]], ids=["a view too few", "another size"])
def test_samples_that_do_not_go_together_are_refused(takers, rig, wrong):
    for name in ("Detector", "Registration.estimate", "registration_helps", "choose_margin"):
        with pytest.raises(ValueError, match=f"^{name}: images must be"):
            takers[name](wrong)
    with pytest.raises(ValueError, match=r"^choose_canonical: images must be"):
        choose_canonical([GOOD, wrong], rig)


def test_what_interpolation_overshoots_is_taken():
    check_images("f", torch.tensor([-0.005, 1.005])[None, None, None], (1, 1, "H", "W"))
    check_images("f", torch.empty(0, 3, 8, 8), ("V", 3, "H", "W"))
