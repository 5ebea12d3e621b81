"""Names of a package whose modules are imported when somebody asks for one: torch takes a second, diffusers more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any


def names_in(package: str, names: Sequence[str], modules: str) -> Callable[[str], Any]:
    """Make a package's ``__getattr__`` (PEP 562), which looks for its names in modules of it.

    Args:
        package: its name.
        names: that it gives.
        modules: without the package's name, with spaces between them, those that are fast to import first: the later
            ones are not imported for a name that is found before. No name may be called as a module.
    """

    def get(name: str) -> Any:
        for module in modules.split() if name in names else ():
            found = vars(import_module(f"{package}.{module}"))
            if name in found:
                return found[name]
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get
