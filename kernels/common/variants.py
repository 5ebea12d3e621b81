"""Variants of Triton kernels that are compiled ahead of time, to check what a GPU would run.

A module of kernels may define ``variants()``, or ``variants(capability)`` where launch shapes depend on the GPU.
"""

from __future__ import annotations

from typing import Any

# Kernel, signature, constants, compile options, regular expressions of instructions that must be in the machine code;
# a named tuple of arguments has a named tuple of types, and a constant in it is named by its path.
Variant = tuple[Any, dict[str, Any], dict[Any, Any], dict[str, Any], tuple[str, ...]]


def signature(kernel: Any, pointers: dict[str, str], constants: dict[str, Any]) -> dict[str, str]:
    """Triton's types of all arguments. Pointers are aligned to 16 bytes, as everything that torch allocates is."""
    types = {n: f"{t}:16" if t.startswith("*") else t for n, t in pointers.items()}
    return {n: "constexpr" if n in constants else types.get(n, "i32") for n in kernel.arg_names}
