"""Whether pictures have the pixels that verdicts need, said before any work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vsad.data import MultiViewDataset

# The shorter side of the pictures that are worked on, below which verdicts mean little on synthetic stations:
# docs/station_guide.md has the figures.
LEAST = 64


def resolution_warnings(dataset: MultiViewDataset) -> Iterator[str]:
    """Say where the pictures that are worked on are too small to judge, and where they are enlarged."""
    try:
        cameras = dataset.cameras
    except (OSError, ValueError):
        return  # reading the sample says what is wrong with it
    height, width = cameras.size
    if min(height, width) < LEAST:
        yield (
            f"pictures are worked on at {width} x {height} pixels: below {LEAST} a side most defects are missed, and "
            "many pairs of views are not found; take larger ones, or a larger --size"
        )
    small = {view: size for view, size in cameras.sizes.items() if size[0] < height or size[1] < width}
    if small:
        view, (own_height, own_width) = next(iter(small.items()))
        more = f" and of {len(small) - 1} more views" if len(small) > 1 else ""
        yield (
            f"pictures of {view}{more} are enlarged, from {own_width} x {own_height} pixels to {width} x {height}: it "
            "takes time and memory and shows nothing new; choose a smaller --size"
        )
