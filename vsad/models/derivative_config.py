"""The numbers of ``derivative_vae``: what its latents are made of, and its configuration of diffusers' classes."""

from __future__ import annotations

from typing import Any

# Image pixels per side of a latent pixel.
BLOCK = 4
# Coefficients of a block: all 16 of luma, the 4 lowest of each chroma.
COEFFICIENTS = 24
# Orders of the derivatives along (y, x).
ORDERS = ((0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0))
# In pixels; 3 x 3 blocks reach 6 pixels, 2.7 times the larger deviation.
LUMA_SIGMAS, CHROMA_SIGMA = (1.2, 2.2), 2.2
LATENTS = len(LUMA_SIGMAS) * len(ORDERS) + 2 * 3
# Those of order zero: two of luma, then one of each chroma, which has the first three orders alone.
SMOOTHED = [0, len(ORDERS), 2 * len(ORDERS), 2 * len(ORDERS) + 3]
# Luma, red minus blue, and green minus magenta, as weights of red, green and blue.
COLORS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))

CONFIG: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [12, 48, 48],
    "layers_per_block": 1,
    "latent_channels": LATENTS,
    "norm_num_groups": 1,
    "mid_block_add_attention": False,
    "scaling_factor": 1.0,
}
