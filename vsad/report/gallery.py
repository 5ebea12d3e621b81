"""Which samples keep their pictures, when there is no room for all."""

from __future__ import annotations

import heapq
import math
from itertools import zip_longest
from typing import Any, NamedTuple

from vsad.report.cards import Card

Layers = list[dict[str, Any]]


class _Shown(NamedTuple):
    """A card and its pictures; the most dispensable is the smallest."""

    extremity: float
    order: int
    card: Card
    pictures: Layers


class _End:
    """The highest (sign 1) or the lowest (sign -1) scores of one truth, as many as there is room for their pictures."""

    def __init__(self, sign: int, room: int) -> None:
        self.sign, self.room, self.bytes = sign, room, 0
        self.shown: list[_Shown] = []
        # What has been given up: nothing less extreme is looked at again.
        self.given_up = -math.inf

    def wants(self, card: Card) -> bool:
        return self.sign * card.score > self.given_up

    def keep(self, card: Card, pictures: Layers) -> None:
        heapq.heappush(self.shown, _Shown(self.sign * card.score, -card.order, card, pictures))
        self.bytes += _size(pictures)
        while self.bytes > self.room:
            dropped = heapq.heappop(self.shown)
            self.bytes -= _size(dropped.pictures)
            self.given_up = max(self.given_up, dropped.extremity)


class Gallery:
    """Pictures of the samples that a reader looks for: wrong verdicts, then either end of the scores of each truth.

    A missed defect is among the lowest scores of the defective samples, and a false alarm among the highest of the
    normal ones. So it is enough to keep both ends of each truth while the samples go by, in any order: six times
    ``room`` bytes at most, and a picture is made only where there is room for it.

    Args:
        room: bytes that all pictures may take together.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self._ends = {(label, sign): _End(sign, room) for label in (True, False, None) for sign in (-1, 1)}

    def wants(self, card: Card) -> bool:
        """Whether the sample's pictures are worth making."""
        return any(self._ends[card.label, sign].wants(card) for sign in (-1, 1))

    def keep(self, card: Card, pictures: Layers) -> None:
        """Keep a sample's pictures where they are wanted, at the cost of more ordinary ones."""
        for sign in (-1, 1):
            if self._ends[card.label, sign].wants(card):
                self._ends[card.label, sign].keep(card, pictures)

    def chosen(self) -> dict[int, Layers]:
        """The pictures that fit, by the sample's ``order``: the worst of the wrong first, then each end in turn."""
        ends = [sorted(end.shown, reverse=True) for end in self._ends.values()]
        chosen: dict[int, Layers] = {}
        room = self.room
        for wrong in (True, False):
            turns = zip_longest(*([shown for shown in end if shown.card.wrong == wrong] for end in ends))
            for shown in (shown for turn in turns for shown in turn if shown is not None):
                size = 0 if shown.card.order in chosen else _size(shown.pictures)
                if size > room:
                    return chosen
                chosen[shown.card.order] = shown.pictures
                room -= size
        return chosen


def _size(pictures: Layers) -> int:
    return sum(len(layer[name]) for layer in pictures for name in ("photograph", "heat", "outline"))
