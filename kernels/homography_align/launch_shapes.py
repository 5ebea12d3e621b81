"""Launch shapes of the Triton kernels of homography_align."""

from __future__ import annotations

import triton

from vsad.kernels.common.geometry import INTERPRETED

# Each row: the most channels per head that it serves, then the fewest and the most threads that share a pixel. What a
# thread keeps of a pixel must fit its 255 registers; what concerns the pixel as a whole, each of its threads computes.
FORWARD_LANES = ((64, 2, 4), (256, 2, 8), (1024, 4, 16))
BACKWARD_LANES = ((64, 4, 8), (256, 8, 8), (1024, 8, 16))
WIDE_BACKWARD_LANES = ((1024, 16, 16),)
# Pixels of a program: height and width. 128 are for the interpreter, whose time grows with the number of programs.
TILES = {128: (8, 16), 32: (4, 8), 16: (4, 4), 8: (2, 4)}


def launch_shape(
    channels: int, value_channels: int, element_size: int, window: int, backward: bool = False
) -> dict[str, int]:
    """Tile, blocks of channels and warps: every pixel has one group of threads, each of which loads 16 bytes."""
    table = WIDE_BACKWARD_LANES if backward and window >= 7 else BACKWARD_LANES if backward else FORWARD_LANES
    block, block_v = (channel_block(c, element_size, table) for c in (channels, value_channels))
    lanes = max(max(block, block_v) * element_size // 16, 1)
    threads = 128 if backward else 256
    pixels = 128 if INTERPRETED else min(threads // lanes, 32)
    tile_h, tile_w = TILES[pixels]
    warps = max(pixels * lanes // 32, 1)
    return {"TILE_H": tile_h, "TILE_W": tile_w, "BLOCK": block, "BLOCK_V": block_v, "num_warps": min(warps, 8)}


def channel_block(channels: int, element_size: int, table: tuple[tuple[int, int, int], ...]) -> int:
    """Channels that the threads of a pixel load at once: of the sizes that the table allows, the least wasteful."""
    least, most = next(lanes for limit, *lanes in table if channels <= limit)
    blocks = [lanes * 16 // element_size for lanes in (16, 8, 4, 2) if least <= lanes <= most]
    return min(min(blocks, key=lambda block: -channels % block), int(triton.next_power_of_2(channels)))
