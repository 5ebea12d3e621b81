"""Models: VALDM and its parts, the multi-view alignment module (MVAM) and the feature refinement module (FRM)."""

from typing import TYPE_CHECKING

from vsad.lazy import names_in
from vsad.models.config import VALDMConfig
from vsad.models.presets import PRESETS, base, model_config, sd, small, tiny

if TYPE_CHECKING:
    from vsad.models.adapter import MultiViewAdapter
    from vsad.models.frm import FRM, Aligned, align_features
    from vsad.models.homography_net import HomographyNet
    from vsad.models.local_contrast import LocalContrast
    from vsad.models.mvam import MVAM
    from vsad.models.projection import Projection
    from vsad.models.rig_refinement import refined_rig
    from vsad.models.valdm import VALDM, Denoised, new_model

__all__ = [
    "FRM",
    "MVAM",
    "PRESETS",
    "VALDM",
    "Aligned",
    "Denoised",
    "HomographyNet",
    "LocalContrast",
    "MultiViewAdapter",
    "Projection",
    "VALDMConfig",
    "align_features",
    "base",
    "model_config",
    "new_model",
    "refined_rig",
    "sd",
    "small",
    "tiny",
]

__getattr__ = names_in(
    __name__,
    __all__,
    "frm homography_net mvam projection valdm adapter local_contrast rig_refinement",
)
