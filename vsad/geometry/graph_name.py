"""The names of neighbor graphs."""

from __future__ import annotations

from collections.abc import Sequence


def parse_graph(graph: str, views: Sequence[str] | None = None) -> tuple[str, str]:
    """Return the kind of a graph that has a name, and the view in the middle of a star.

    Args:
        graph: overlap, ring, star or star:<view>.
        views: of the rig; None where they are not known yet, and any view may be named.

    Raises:
        ValueError: there is no such graph, or no such view.
    """
    kind, _, center = graph.partition(":")
    if kind not in ("overlap", "ring", "star") or (center and kind != "star"):
        raise ValueError(f"rig: graph must be overlap, ring, star, star:<view> or pairs of views, got {graph!r}")
    if views is None:
        return kind, center
    center = center or views[0]
    if center not in views:
        raise ValueError(f"rig: graph star:<view> must name one of {', '.join(views)}, got {center!r}")
    return kind, center
