"""Whether a JPEG's picture ends where its data end.

JPEG has no checksum. A damaged stretch leads its decoder out of step until it has taken too many or too few of the
bytes, of which libjpeg warns and Pillow says nothing. What Pillow asks of a file shows it: a sound picture is complete
when its last bytes were read, neither long before nor after them.
"""

from __future__ import annotations

import io
import struct

_SLACK = 64  # bytes by which a sound picture may end before its data: cameras fill up to a multiple of some number
_FILL = b"\0\xff"
_PADDING = b"\xff\0" * 16  # bits that are 1, as those that fill the last byte are; decoders look 8 bytes ahead


class WatchedJpeg(io.BytesIO):
    """A JPEG to decode from, which afterwards tells whether it looks sound.

    It watches pictures of one scan, which are all but progressive ones; others always look sound.

    Args:
        content: of the file.
    """

    def __init__(self, content: bytes) -> None:
        start = _only_scan(content)
        end = content.find(b"\xff\xd9", start) if start else -1  # a scan holds no other marker but restarts
        last = len(content[:end].rstrip(_FILL)) - _SLACK  # cameras fill up with bytes that mean nothing
        self._stops = (last, end + len(_PADDING)) if last > start > 0 else ()
        self._furthest = 0
        super().__init__(content[:end] + _PADDING + content[end:] if self._stops else content)

    def read(self, size: int | None = -1, /) -> bytes:
        for stop in self._stops:
            if self.tell() < stop:
                size = stop - self.tell() if size is None or size < 0 else min(size, stop - self.tell())
                break
        data = super().read(size)
        self._furthest = max(self._furthest, self.tell())
        return data

    @property
    def damage(self) -> str:
        """What is wrong with the picture that was decoded; empty where it looks sound."""
        if self._stops and self._furthest <= self._stops[0]:
            return "a picture that is complete before its data end, so that they are damaged"
        if self._stops and self._furthest > self._stops[1]:
            return "data that end before their picture is complete, so that they are damaged"
        return ""


def _only_scan(content: bytes) -> int:
    """The place of the data of a sequential JPEG of one scan; 0 where the content is anything else."""
    place, components = 2, -1
    while content[place : place + 1] == b"\xff" and place + 10 <= len(content):
        kind, length = struct.unpack(">BH", content[place + 1 : place + 4])
        if kind in (0xC0, 0xC1):  # the frame of a sequential picture, coded by Huffman
            components = content[place + 9]
        if kind == 0xDA:
            return place + 2 + length if content[place + 4] == components else 0
        place += 1 if kind == 0xFF else 2 + length
    return 0
