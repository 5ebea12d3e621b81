"""Models: VALDM and its parts, the multi-view alignment module (MVAM) and the feature refinement module (FRM)."""

from typing import TYPE_CHECKING, Any

from vsad.models.frm import FRM, Aligned, align_features
from vsad.models.mvam import MVAM

if TYPE_CHECKING:
    from vsad.models.local_contrast import LocalContrast
    from vsad.models.presets import PRESETS, new_model, tiny
    from vsad.models.valdm import VALDM, VALDMConfig

__all__ = [
    "FRM",
    "MVAM",
    "PRESETS",
    "VALDM",
    "Aligned",
    "LocalContrast",
    "VALDMConfig",
    "align_features",
    "new_model",
    "tiny",
]


def __getattr__(name: str) -> Any:
    """Import what needs diffusers, which takes seconds, when it is asked for and no sooner."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vsad.models import local_contrast, presets, valdm

    return next(found for module in (presets, valdm, local_contrast) if (found := getattr(module, name, None)))
