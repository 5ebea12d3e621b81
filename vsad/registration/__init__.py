"""Registration: one pose per sample from all views together, for products that do not lie in place."""

from vsad.registration.pose import Pose
from vsad.registration.registration import Registration
from vsad.registration.selection import RegistrationGain, choose_canonical, registration_helps

__all__ = ["Pose", "Registration", "RegistrationGain", "choose_canonical", "registration_helps"]
