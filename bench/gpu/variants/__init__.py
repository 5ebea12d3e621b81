"""Variants of the Triton kernels that are compiled ahead of time, to check what a GPU would run.

Every operator has a module with ``variants(capability)``: those that a GPU of this compute capability would run.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

OPERATORS = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


class Variant(NamedTuple):
    """One compilation of a kernel; a type that ends in ``:16`` is a pointer or an integer that 16 divides.

    A named tuple of arguments has a named tuple of types, and a constant in it is named by its path.
    """

    kernel: Any
    signature: dict[str, Any]
    constants: dict[Any, Any]
    options: dict[str, Any]
    wanted: tuple[str, ...] = ()  # regular expressions of instructions that must be in the machine code
    may_spill: int = 0  # bytes of registers, where the variant is known to spill


def variants_of(operator: str, capability: tuple[int, int]) -> Iterator[Variant]:
    """The variants of an operator's kernels; needs Triton."""
    module = importlib.import_module(f"{__name__}.{operator}")
    yield from module.variants(capability)


def signature(kernel: Any, pointers: dict[str, str], constants: dict[str, Any]) -> dict[str, str]:
    """Triton's types of all arguments. Pointers are aligned to 16 bytes, as everything that torch allocates is."""
    types = {n: f"{t}:16" if t.startswith("*") else t for n, t in pointers.items()}
    return {n: "constexpr" if n in constants else types.get(n, "i32") for n in kernel.arg_names}
