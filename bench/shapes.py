"""The sizes that the quick suite measures, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass

DTYPES = ("float32", "float64", "bfloat16", "float16")
COPIES = 12  # a case with gradients holds about as many copies of its inputs at once


@dataclass(frozen=True)
class Shapes:
    """Sizes of the user's own model. ``features`` are matched with ``prototypes``; None: all pixels of all views."""

    batch: int = 1
    views: int = 5
    size: int = 64
    channels: int = 64
    heads: int = 4
    window: int = 3
    neighbors: int = 2
    features: int | None = None
    prototypes: int = 10_000
    k: int = 1
    dtype: str = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Raises:
        ValueError: a shape is impossible, or would not fit into memory; the message names it.
        """
        least = {"batch": 1, "views": 2, "size": 2, "channels": 1, "heads": 1, "window": 1, "neighbors": 1, "k": 1}
        for option, low in {**least, "prototypes": 1, "features": 1}.items():
            value = getattr(self, option)
            if value is not None and value < low:
                raise ValueError(f"bench: {option} must be at least {low}, got {value}")
        if self.window % 2 == 0:
            raise ValueError(f"bench: window must be odd, got {self.window}")
        if self.channels % self.heads:
            raise ValueError(f"bench: heads must divide channels={self.channels}, got {self.heads}")
        if self.k > self.prototypes:
            raise ValueError(f"bench: k must be at most prototypes={self.prototypes}, got {self.k}")
        if self.dtype not in DTYPES:
            raise ValueError(f"bench: dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"bench: device must be cpu or cuda, got {self.device!r}")
        import torch  # which takes a second: what is wrong above is said before

        from vsad.bench.peers import available_bytes

        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("bench: device must be cpu, for torch finds no GPU here, got 'cuda'")
        images = self.batch * self.views * self.channels * self.size**2
        wanted = 4 * (COPIES * images + 3 * (self.prototypes + self.rows) * self.channels)
        free = available_bytes(self.device)
        if free is not None and wanted > free:
            raise ValueError(
                f"bench: shapes must fit into memory, got some {wanted / 1e9:.0f} GB where {free / 1e9:.0f} GB are "
                "free; choose a smaller batch, views, size, channels or prototypes"
            )

    @property
    def rows(self) -> int:
        return self.features or self.batch * self.views * self.size**2
