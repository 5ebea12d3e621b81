"""The processes that train together, as accelerate knows them."""

from __future__ import annotations

import platform
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, parse_flag_from_env, patch_environment
from torch import distributed
from torch.distributed.fsdp import MixedPrecisionPolicy

from vsad.training.config import TrainConfig

Made = TypeVar("Made")
# How long processes wait for what one of them makes, such as the latents of all samples.
_LONGEST = timedelta(days=30)
_SHARDED = "ACCELERATE_USE_FSDP"


def new_accelerator(config: TrainConfig, *, shards: bool = False, **more: Any) -> Accelerator:
    """An accelerator of its own for a training: precision and accumulation are not those of an earlier one.

    Args:
        config: how to train.
        shards: whether weights may be spread over processes, where ``accelerate launch --use_fsdp`` asks for it.
        more: further arguments.

    Raises:
        ValueError: this device has no such precision, or shards are asked for that cannot be trained.
    """
    cpu = _on_cpu()
    if cpu and config.mixed_precision == "fp16":
        raise ValueError("train: mixed_precision must be 'no' or 'bf16' on a CPU, got 'fp16'; choose one of them")
    plugin = sharding(config) if shards else None
    # The kind of an earlier training, shards or none, goes with the state of the processes; their group stays.
    AcceleratorState._reset_state(reset_partial_state=True)
    with patch_environment(**{_SHARDED: "true" if plugin else "false"}):
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=config.mixed_precision,
            gradient_accumulation_plugin=GradientAccumulationPlugin(config.accumulation),
            step_scheduler_with_optimizer=False,
            fsdp_plugin=plugin,
            **more,
        )
    if plugin and accelerator.distributed_type == DistributedType.MULTI_CPU:
        # accelerate has shards on accelerators alone, and would train on whole weights here without a word.
        for state in (accelerator.state, PartialState()):
            state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    return accelerator


def sharding(config: TrainConfig) -> FullyShardedDataParallelPlugin | None:
    """How weights are spread over processes, as the launcher says; None where it says nothing of it.

    Raises:
        ValueError: it asks for what cannot be trained.
    """
    if not parse_flag_from_env(_SHARDED):
        return None
    asked = FullyShardedDataParallelPlugin(cpu_ram_efficient_loading=False)  # every process has the weights
    if asked.fsdp_version != 2:
        raise ValueError("train: FSDP must be of version 2, got 1; add --fsdp_version 2 to `accelerate launch`")
    if asked.auto_wrap_policy is not None:
        raise ValueError(
            "train: FSDP must find the blocks of the model by itself, got a policy; leave out --fsdp_auto_wrap_policy"
        )
    if asked.activation_checkpointing:
        raise ValueError(
            "train: FSDP's own activation checkpointing must be off, got on; add --set train.checkpointing=true"
        )
    if config.mixed_precision == "fp16":
        raise ValueError("train: mixed_precision must be 'no' or 'bf16' with FSDP, got 'fp16'; choose one of them")
    # Weights stay float32 between processes too. What is computed in less, autocast says, as it does without shards.
    asked.mixed_precision_policy = MixedPrecisionPolicy()
    return asked


def _on_cpu() -> bool:
    # Without "cpu" accelerate takes the processes of torchrun for single ones where there is no GPU.
    return not torch.accelerator.is_available()


def processes() -> PartialState:
    """The processes that train together, and which of them this is."""
    return PartialState(cpu=_on_cpu())


def is_main_process() -> bool:
    """Whether this is the process that writes files and speaks, of those that train together."""
    return bool(processes().is_main_process)


def check_alone(command: str) -> None:
    """Refuse several processes for what one does alone.

    Args:
        command: of vsad, such as ``fit``.

    Raises:
        ValueError: there are several.
    """
    count = processes().num_processes
    if count > 1:
        raise ValueError(
            f"{command}: must be started in one process, got {count}; only `vsad train` shares its work, so start "
            f"`vsad {command}` without a launcher"
        )


def check_shared(path: Path) -> None:
    """Refuse a file of the main process that is not there in this one, as on another machine's disk.

    Raises:
        FileNotFoundError: it is not there.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing on {platform.node()}, though the main process has written it: processes that train "
            "together must share the folder; name one on a disk that all machines have"
        )


def once(work: Callable[[], Made]) -> Made:
    """What the main process makes, in all processes: one works, the others wait for it and take what it has made.

    Args:
        work: called in the main process; what it returns can be pickled.

    Raises:
        SystemExit: the main process failed, in the others, of which each would say the same.
    """
    state = processes()
    if state.num_processes == 1:
        return work()
    # A group of its own: others give up waiting after minutes.
    group = distributed.new_group(backend="gloo", timeout=_LONGEST)
    told: list[Any] = [None, False]
    try:
        if state.is_main_process:
            told = [work(), True]
    finally:
        distributed.broadcast_object_list(told, 0, group)
        distributed.destroy_process_group(group)
    if not told[1]:
        raise SystemExit(1)
    made: Made = told[0]
    return made
