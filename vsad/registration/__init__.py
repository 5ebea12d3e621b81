"""Registration: one pose per sample from all views together, for products that do not lie in place."""

from vsad.registration.pose import Pose
from vsad.registration.registration import Registration, canonical_rig
from vsad.registration.selection import RegistrationGain, choose_canonical, choose_margin, registration_helps

__all__ = [
    "Pose",
    "Registration",
    "RegistrationGain",
    "canonical_rig",
    "choose_canonical",
    "choose_margin",
    "registration_helps",
]
