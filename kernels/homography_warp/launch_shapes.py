"""Launch shapes of the Triton kernels of homography_warp."""

from __future__ import annotations

from typing import Any

import triton

PROGRAMS = 16 * 132  # these fill an H200 several times over; with fewer, channels and tiles are spread thinner
TILES_PER_PROGRAM = 8  # at most, in the backward, for one reduction of the homography's gradient
# By mode: with planes, channels of a pixel per thread; with channels last, packs of channels per thread; warps. With 8
# warps a thread may have 255 registers; with 4 the compiler spills some of the 200 of the bicubic backward, because it
# aims at more resident programs.
FORWARD = {"nearest": (4, 4, 4), "bilinear": (4, 2, 4), "bicubic": (2, 1, 4)}
BACKWARD = {"nearest": (4, 2, 4), "bilinear": (2, 1, 4), "bicubic": (1, 1, 8)}
PLANES = (32, 1)  # width of a tile in pixels, and its rows per warp
# Width of a tile in pixels, whose taps meet in L1, and the most channels and packs of a pixel; the rows follow from the
# number of threads.
CHANNELS_LAST = (8, 64, 16)
PACK_BYTES = 16
OPTIONS = {"num_stages": 1, "enable_fp_fusion": True}

Table = dict[str, tuple[int, int, int]]


def launch_shape(mode: str, table: Table, last: bool, pack: int, channels: int) -> dict[str, Any]:
    """The constants of a kernel but for its padding; ``last`` says whether channels lie side by side."""
    channels = triton.next_power_of_2(max(channels, 1))
    in_planes, packs, warps = table[mode]
    if last:
        width, most, lanes = CHANNELS_LAST
        channels = min(channels, most, lanes * pack)
        rows = max(1, 32 * warps * packs * pack // (width * channels))
    else:
        channels = min(channels, in_planes)
        width, rows = PLANES[0], PLANES[1] * warps
    return {"MODE": mode, "LAST": last, "PACK": pack, "TILE_W": width, "TILE_H": rows, "TILE_C": channels}


def options(mode: str, table: Table) -> dict[str, Any]:
    return {**OPTIONS, "num_warps": table[mode][2]}


def backward_pack(mode: str, fixed_point: bool, capability: tuple[int, int]) -> int:
    """Channels of a pack in the backward, where they are aligned.

    Fixed-point numbers are added one by one; floats, and all that is read with them, in packs of 16 bytes. Before sm_90
    floats are added one by one too, each through a pointer of its own, which are too many for 4 of 16 taps.
    """
    if fixed_point:
        return 1
    return 2 if mode == "bicubic" and capability < (9, 0) else PACK_BYTES // 4
