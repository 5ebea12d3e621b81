"""Which views of a rig look at which: the neighbor graphs that have a name, and explicit ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vsad.geometry.checks import Size
from vsad.geometry.graph_name import parse_graph
from vsad.geometry.homography import overlap_fraction
from vsad.geometry.rig_file import pair_name
from vsad.geometry.rig_pair import RigPair


def choose_sources(
    graph: str | Iterable[tuple[str, str]],
    views: tuple[str, ...],
    size: Size,
    known: Mapping[tuple[str, str], RigPair],
) -> dict[str, list[str]]:
    """List the wanted sources of every target, in slot order."""
    if not isinstance(graph, str):
        return _explicit_sources(graph, views, known)
    kind, center = parse_graph(graph, views)
    overlap = {key: float(overlap_fraction(pair.homography, size)) for key, pair in known.items()}
    sources: dict[str, list[str]] = {}
    for v, target in enumerate(views):
        if kind == "ring":
            wanted = [views[(v + 1) % len(views)], views[v - 1]]
        elif kind == "star":
            wanted = [source for source in views if center in (source, target)]
        else:
            wanted = [source for source in views if overlap.get((target, source), 0) > 0]
            wanted.sort(key=lambda source: -overlap[target, source])
        sources[target] = [source for source in dict.fromkeys(wanted) if (target, source) in known]
    return sources


def _explicit_sources(
    graph: Iterable[tuple[str, str]], views: tuple[str, ...], known: Mapping[tuple[str, str], RigPair]
) -> dict[str, list[str]]:
    sources: dict[str, list[str]] = {view: [] for view in views}
    for target, source in graph:
        if (target, source) not in known:
            name = pair_name(target, source)
            raise ValueError(f"rig: graph has {name} but no homography for it; add one or drop it")
        sources[target].append(source)
    return sources
