"""What a VALDM is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vsad.config import Strict, check_at_least

Prediction = Literal["epsilon", "v_prediction", "sample"]


@dataclass(frozen=True)
class VALDMConfig(Strict):
    """What a VALDM is made of. The paper's own values were not available: these are our choices.

    Stages are named ``down0``, ``down1``, ..., ``mid``, ``up0``, ...: the blocks of the UNet in the order in which they
    run; ``up0`` is the coarsest of the decoder.

    Args:
        base: folder or hub id of a pipeline in the layout of Stable Diffusion 1.5 or 2.1 whose autoencoder, UNet, noise
            schedule and text encoder are used; None for new ones.
        variant: of the base's files, such as ``fp16``; None for the plain ones.
        revision: of a base on the hub: branch, tag or commit.
        vae, unet: arguments of diffusers' ``AutoencoderKL`` and ``UNet2DConditionModel`` where there is no base.
        prediction: what the UNet predicts: the noise ``epsilon``, the velocity ``v_prediction`` or the clean latents
            ``sample``; None for what the base's schedule says, and for the noise where there is no base.
        tune: what is trained of a UNet: ``all`` of it, ``lora`` adapters of its attention, or with ``new`` only what
            VALDM adds to it.
        lora_rank: rank of those adapters.
        align_stages: stages followed by an MVAM; () for none.
        feature_stages: stages whose features are scored, beside the latents themselves.
        timesteps: noise levels, ascending, at which features are read: 0 are the clean latents, the others are reached
            from it by DDIM inversion.
        heads, window: of every MVAM.
        refine: whether an FRM refines the features of every feature stage.
        homographies: ``fixed`` are the rig's; ``refined`` are the rig's with a HomographyNet's residuals; ``learned``
            are a HomographyNet's alone, and those of the rig are not looked at; ``identity`` looks at the same pixel
            of every neighbor, to measure what homographies are worth.
        conditioning: of the UNet, by the ``text`` of a prompt, by a learned embedding of the ``class``, or ``none``.
        categories: products that the model tells apart, where it is conditioned.
        prompt: text of a category, whose name replaces ``{category}``.
    """

    base: str | None = None
    variant: str | None = None
    revision: str | None = None
    vae: dict[str, Any] = field(default_factory=dict)
    unet: dict[str, Any] = field(default_factory=dict)
    prediction: Prediction | None = None
    tune: Literal["new", "lora", "all"] = "all"
    lora_rank: int = 8
    align_stages: tuple[str, ...] = ("up0", "up1")
    feature_stages: tuple[str, ...] = ("up2",)
    timesteps: tuple[int, ...] = (0,)
    heads: int = 4
    window: int = 3
    refine: bool = True
    homographies: Literal["fixed", "refined", "learned", "identity"] = "fixed"
    conditioning: Literal["none", "class", "text"] = "none"
    categories: tuple[str, ...] = ()
    prompt: str = "a photo of a {category}"

    def index_of(self, category: str | None) -> int:
        """The number of a category among the model's; 0, the only one, for a model that is not conditioned.

        Raises:
            ValueError: the model is conditioned, and has no such category.
        """
        if self.conditioning == "none" or category is None:
            return 0
        if category not in self.categories:
            raise ValueError(f"model: category must be one of {list(self.categories)}, got {category!r}; add it")
        return self.categories.index(category)

    def __post_init__(self) -> None:
        # In the order in which they run: levels are made in it.
        object.__setattr__(self, "feature_stages", tuple(sorted({*self.feature_stages}, key=_running_order)))
        if self.base is None and self.tune != "all":
            raise ValueError(f"model: tune must be 'all' where there is no base, got {self.tune!r}; name a base")
        if self.base is not None and (self.vae or self.unet):
            raise ValueError("model: vae and unet must be left out where there is a base; choose the preset sd")
        if self.conditioning != "none" and not self.categories:
            raise ValueError(f"model: categories must be named for conditioning by {self.conditioning}, got none")
        if self.conditioning == "text" and self.base is None:
            raise ValueError("model: conditioning must be 'class' or 'none' where there is no base, got 'text'")
        if len(set(self.categories)) < len(self.categories):
            raise ValueError(f"model: categories must differ, got {self.categories}; name each once")
        if self.conditioning == "text" and not _names_the_category(self.prompt):
            raise ValueError(f"model: prompt must hold {{category}} and no other braces, got {self.prompt!r}; mend it")
        steps = self.timesteps
        if not steps or min(steps) < 0 or max(steps) > 999 or any(a >= b for a, b in zip(steps, steps[1:])):
            raise ValueError(f"model: timesteps must ascend from 0 or more to 999 at most, got {steps}")
        check_at_least(self, "model", 1, ("heads", "lora_rank"))
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"model: window must be odd, got {self.window}")


def _names_the_category(prompt: str) -> bool:
    rest = prompt.replace("{category}", "")
    return rest != prompt and not {"{", "}"} & set(rest)


def _running_order(stage: str) -> tuple[int, int]:
    """By which names of stages sort as the stages run; names that are no stage's come last."""
    part = stage.rstrip("0123456789")
    return {"down": 0, "mid": 1, "up": 2}.get(part, 3), int(stage[len(part) :] or 0)
