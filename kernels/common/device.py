"""Where Triton launches: on the current device, which need not be that of the tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def on_its_device(launcher: Callable[..., Any]) -> Callable[..., Any]:
    """Makes the device of the first tensor the current one while ``launcher`` runs; on a CPU nothing changes."""

    @wraps(launcher)
    def run(*arguments: Any) -> Any:
        with torch.cuda.device_of(arguments[0]):
            return launcher(*arguments)

    return run
