"""The names of frozen networks."""

from __future__ import annotations

# The built-in network, vsad.models.local_contrast.
CONTRAST = "contrast"
REMEDY = (
    "name contrast, timm:MODEL, or MODULE:FUNCTION of a function that returns a network (a module's name, not its "
    "path), or several joined by +"
)


def check_network_name(name: str) -> None:
    """Refuse what can be no name of frozen networks, as ``load_network`` takes it.

    Raises:
        ValueError: it names none.
    """
    for part in name.split("+"):
        module, _, function = part.partition(":")
        if part != CONTRAST and not (module and function):
            raise ValueError(f"network: there is no network {part!r}; {REMEDY}")
