"""Weights in shards, one in each process: made whole for files, and spread again."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from vsad.models import VALDM
from vsad.training.config import TrainConfig
from vsad.training.processes import is_main_process, sharding

# What of a model is whole in a process only while it is computed. All else is called part by part, and gathered first.
_BLOCKS = (ResnetBlock2D, BasicTransformerBlock)


def check_shards(model: VALDM, config: TrainConfig) -> None:
    """Refuse what cannot be trained in shards, where the launcher asks for them.

    Raises:
        ValueError: FSDP's settings or version, the precision, or weights that are single numbers.
    """
    if sharding(config) is None:
        return
    single = [name for name, parameter in model.named_parameters() if not parameter.ndim]
    if single:
        raise ValueError(
            f"train: FSDP must have no weights that are single numbers, as the network of homographies has, got "
            f"{single[0]}; set model.homographies=fixed, or launch without --use_fsdp"
        )


def to_shard(model: VALDM, accelerator: Accelerator) -> VALDM:
    """Make the copy of a model that accelerate spreads over processes; the model itself waits on the CPU, whole."""
    plugin, copy = accelerator.state.fsdp_plugin, deepcopy(model.cpu())
    blocks = [block for part in (copy.unet, copy.adapter) for block in part.modules() if isinstance(block, _BLOCKS)]
    plugin.auto_wrap_policy = transformer_auto_wrap_policy
    plugin.transformer_cls_names_to_wrap = sorted({type(block).__name__ for block in blocks})
    plugin.ignored_modules = [copy.vae]  # latents are trained on
    return copy


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which every process may have a shard, as one process alone has it; all processes ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def for_file(tensor: Tensor) -> Tensor:
    """The same on the CPU in the main process, which writes it, and nothing of it in the others."""
    full = whole(tensor)
    return full.cpu() if is_main_process() else full.new_empty(0)


@torch.no_grad()
def assign(tensor: Tensor, values: Tensor) -> None:
    """Set the values of a tensor, or those of this process's shard of it, to whole ``values``."""
    tensor.copy_(_like(tensor, values))


def keep_whole(optimizer: torch.optim.Optimizer) -> None:
    """Let the state of an optimizer be one of whole weights where it is asked for, and in shards where it is set.

    So a file tells nothing of how many processes there were. Of the whole state the main process alone has the values.
    """

    def leave(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = tree_map_only(DTensor, for_file, state)
        return made

    def enter(known: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        parameters: Iterable[Tensor] = (p for group in known.param_groups for p in group["params"])
        places = dict(zip((index for group in state["param_groups"] for index in group["params"]), parameters))
        spread = {
            index: {
                name: _like(places[index], value) if getattr(value, "shape", None) == places[index].shape else value
                for name, value in values.items()
            }
            for index, values in state["state"].items()
        }
        return {**state, "state": spread}

    optimizer.register_state_dict_post_hook(leave)
    optimizer.register_load_state_dict_pre_hook(enter)


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    """Whole ``values``, or this process's shard of them where ``tensor`` is in shards."""
    if not isinstance(tensor, DTensor):
        return values
    # Every process has the values, and none sends them.
    spread: Tensor = distribute_tensor(
        values.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None
    )
    return spread
