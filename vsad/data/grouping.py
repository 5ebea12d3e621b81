"""Which sample and which view a file is of, by its name alone.

A name says its view where the view's name stands between separators: ``<sample>_<view>.png``,
``<view>-<sample>.png``, ``<sample>/<view>.png``, or, where the file's own name says nothing, ``<view>/<sample>.png``.
What is left is the sample.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vsad.data.listing import keeping_everything, split_name
from vsad.data.naming import natural_key

_SEPARATORS = "_. -"
# A date and a time of day, to the second or finer: 20231019144040, 20231019_144040123, 2023-10-19T14-40-40.123.
_TIME = re.compile(
    r"(?<![0-9])(?:19|20)[0-9]{2}([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12][0-9]|3[01])[-_. T]?"
    r"(?:[01][0-9]|2[0-3])([-_.:]?)[0-5][0-9]\2[0-5][0-9](?:\.?[0-9]{1,6})?Z?(?![0-9A-Za-z])"
)
# Views of one sample may be this far apart even where a sample's views have one time as a rule: its seconds may change
# between two of them.
_SECONDS_APART = 2

# Sample id -> view -> names.
_Found = dict[str, dict[str, list[str]]]


class Grouped(NamedTuple):
    """Names of files, grouped by the sample that they are of, in natural order.

    Args:
        complete: sample id -> view -> name, of the samples that have every view.
        incomplete: sample id -> the views that are missing.
        unknown: names that say no view.
        ambiguous: sample id, or name that says several views -> why it is in none of the others, in words.
    """

    complete: dict[str, dict[str, str]]
    incomplete: dict[str, list[str]]
    unknown: list[str]
    ambiguous: dict[str, str]


@keeping_everything()
def group_by_view(names: Iterable[str], views: Sequence[str]) -> Grouped:
    """Group the names of images by sample.

    Where there is one view, each name is a sample of its own. A date and time in a name is a part of the sample's id
    where all views of a sample have the same, and is left out where cameras wrote different ones.

    Args:
        names: paths relative to one folder, with ``/`` between their steps.
        views: the names of the views; capital and small letters are alike where views do not differ in them alone.

    Raises:
        ValueError: there are no views, or one has no name.

    Example:
        >>> group_by_view(["p2_left.png", "p2_right.png", "p10_LEFT.png"], ["left", "right"])[:2]
        ({'p2': {'left': 'p2_left.png', 'right': 'p2_right.png'}}, {'p10': ['right']})
    """
    reader = _NameReader(views)
    found: _Found = defaultdict(lambda: defaultdict(list))
    unknown: list[str] = []
    ambiguous: dict[str, str] = {}
    for name in names:
        said = reader.views_in(name)
        if len(said) > 1:
            ambiguous[name] = f"its name must say one view, got {' and '.join(view for view, _ in said)}; rename it"
        elif said:
            view, sample_id = said[0]
            found[sample_id][view].append(name)
        else:
            unknown.append(name)
    if len(views) > 1:
        found = _without_times(found, len(views))
    complete, incomplete = {}, {}
    for sample_id in sorted(found, key=natural_key):
        held = found[sample_id]
        twice = [(view, files) for view, files in held.items() if len(files) > 1]
        if twice:
            view, files = twice[0]
            ambiguous[sample_id] = (
                f"view {view} must be one file, got {' and '.join(repr(name) for name in sorted(files)[:2])}; "
                "remove or rename one"
            )
        elif len(held) == len(views):
            complete[sample_id] = {view: held[view][0] for view in views}
        else:
            incomplete[sample_id] = [view for view in views if view not in held]
    return Grouped(complete, incomplete, sorted(unknown, key=natural_key), ambiguous)


class _NameReader:
    """Reads the view and the sample out of names."""

    def __init__(self, views: Sequence[str]) -> None:
        if not views or "" in views:
            raise ValueError(f"group_by_view: views must be names, got {list(views)}; name each")
        differ = len({view.casefold() for view in views}) == len(views)
        self._fold = str.casefold if differ else str
        self._views = {self._fold(view): view for view in views}
        # The longest first, so that of side and side_1 the latter is found in part_side_1.
        either = "|".join(re.escape(view) for view in sorted(self._views, key=len, reverse=True))
        self._view = re.compile(rf"(?<![^{_SEPARATORS}])(?:{either})(?![^{_SEPARATORS}])")

    def views_in(self, name: str) -> list[tuple[str, str]]:
        """Each view that a name says, and the sample's id where it is that one."""
        folder, _, file = name.rpartition("/")
        stem = split_name(file)[0]
        if len(self._views) == 1:
            ((fold, view),) = self._views.items()
            return [(view, folder if folder and self._fold(stem) == fold else _join(folder, stem))]
        # Digits of a time are no views. Letters that fold to more letters move what comes after them.
        hidden = self._fold(_TIME.sub(lambda time: "0" * len(time[0]), stem))
        stem = stem if len(hidden) == len(stem) else hidden
        said = [(self._views[m[0]], _join(folder, _cut(stem, *m.span()))) for m in self._view.finditer(hidden)]
        return said or self._views_above(folder, stem)

    def _views_above(self, folder: str, stem: str) -> list[tuple[str, str]]:
        steps = folder.split("/") if folder else []
        found = [(self._views[self._fold(step)], i) for i, step in enumerate(steps) if self._fold(step) in self._views]
        return [(view, "/".join([*steps[:i], *steps[i + 1 :], stem])) for view, i in found]


def _without_times(found: _Found, count: int) -> _Found:
    """Join samples that lack views and differ in times alone.

    That is wrong where the time is what tells parts apart, and images were lost. So it is done only where it completes
    no fewer samples than are complete with their times, or where the times are seconds apart.
    """
    alike: dict[str, dict[str, float]] = defaultdict(dict)
    for sample_id, held in found.items():
        folder, _, stem = sample_id.rpartition("/")
        time = _TIME.search(stem) if len(held) < count else None
        short = _cut(stem, *time.span()) if time else ""
        if time and short and _join(folder, short) not in found:
            alike[_join(folder, short)][sample_id] = _seconds(time[0])
    joined = {short: _union(found[sample_id] for sample_id in times) for short, times in alike.items()}
    once = {short for short, held in joined.items() if all(len(files) == 1 for files in held.values())}
    is_usual = sum(len(joined[short]) == count for short in once) >= sum(len(held) == count for held in found.values())
    result = dict(found)
    for short in once:
        times = alike[short]
        if is_usual or max(times.values()) - min(times.values()) <= _SECONDS_APART:
            for sample_id in times:
                del result[sample_id]
            result[short] = joined[short]
    return result


def _union(samples: Iterable[dict[str, list[str]]]) -> dict[str, list[str]]:
    result: dict[str, list[str]] = defaultdict(list)
    for held in samples:
        for view, files in held.items():
            result[view] += files
    return result


def _seconds(time: str) -> int:
    """Count the seconds of a time; months are as long as the longest, as only short spans matter."""
    digits = re.sub("[^0-9]", "", time)
    total = 0
    for start, size, unit in ((0, 4, 12), (4, 2, 31), (6, 2, 24), (8, 2, 60), (10, 2, 60), (12, 2, 1)):
        total = (total + int(digits[start : start + size])) * unit
    return total


def _cut(stem: str, start: int, end: int) -> str:
    """Take a part out of a name, and the separators on one side of it."""
    before, after = stem[:start], stem[end:]
    if before.rstrip(_SEPARATORS) and after.lstrip(_SEPARATORS):
        return before + after.lstrip(_SEPARATORS)
    return before.rstrip(_SEPARATORS) or after.lstrip(_SEPARATORS)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name else folder or name
