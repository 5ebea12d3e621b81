"""``homography_align`` in a model of your own, trained end to end.

    python examples/align_in_your_model.py

The task: two cameras look at the same surface, and a part of the left picture is lost. The model is to paint it again.
What the lost part looked like only the right camera knows, and where it shows it a homography tells. Three layers
suffice: a convolution that makes features, the attention across views, a convolution that makes colors. The same
model with the homographies left out, which looks for the lost part at the same pixels of the other view, is trained
beside it: it cannot know, and stays behind.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsad.ops import homography_align, homography_warp

SIZE, CHANNELS, HEADS, WINDOW, STEPS = 64, 16, 4, 3, 60
# A target pixel (x, y) of the left view shows what the right view shows at right_from_left (x, y, 1).
RIGHT_FROM_LEFT = torch.tensor([[0.95, 0.10, -9.0], [-0.08, 1.02, 5.0], [4e-4, -2e-4, 1.0]])


class Painter(nn.Module):
    """``(B, V, 3, H, W)`` with holes to ``(B, V, 3, H, W)`` without."""

    homography: Tensor
    neighbors: Tensor

    def __init__(self, homography: Tensor, neighbors: Tensor) -> None:
        super().__init__()
        self.register_buffer("homography", homography)  # (V, N, 3, 3), between pixels of the features
        self.register_buffer("neighbors", neighbors)  # (V, N)
        self.encode = nn.Conv2d(3, 3 * CHANNELS, 3, padding=1)
        self.bias = nn.Parameter(torch.zeros(HEADS, WINDOW, WINDOW))  # which cells of the window count
        self.decode = nn.Conv2d(CHANNELS + 3, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """The operator wants ``(B, V, C, H, W)`` and is fastest with the channels last in memory."""
        views = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        query, key, value = self.encode(views).unflatten(0, images.shape[:2]).chunk(3, dim=2)
        seen_elsewhere = homography_align(
            query, key, value, self.homography, self.neighbors, heads=HEADS, window=WINDOW, bias=self.bias
        )
        joined = torch.cat([images, seen_elsewhere], dim=2).flatten(0, 1)
        return self.decode(joined).unflatten(0, images.shape[:2])


def stereo_pairs(count: int, generator: torch.Generator) -> Tensor:
    """``(count, 2, 3, SIZE, SIZE)``: surfaces of random colors, as the left and the right camera see them."""
    noise = torch.rand(count, 3, SIZE // 2, SIZE // 2, generator=generator)
    surface = F.interpolate(noise, (2 * SIZE, 2 * SIZE), mode="bicubic", align_corners=False)
    surface_from_left = torch.tensor([[1.0, 0, SIZE // 2], [0, 1, SIZE // 2], [0, 0, 1]])  # its middle
    left = homography_warp(surface, surface_from_left, (SIZE, SIZE))
    right = homography_warp(surface, surface_from_left @ RIGHT_FROM_LEFT.inverse(), (SIZE, SIZE))
    return torch.stack([left, right], dim=1)


def with_hole(images: Tensor) -> Tensor:
    """The left picture without its middle."""
    damaged = images.clone()
    damaged[:, 0, :, 24:40, 24:40] = 0
    return damaged


def train(homography: Tensor) -> list[float]:
    """The loss in the hole at every step."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = Painter(homography, torch.tensor([[1], [0]]))  # each view looks into the other
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(STEPS):
        images = stereo_pairs(4, generator)
        loss = (model(with_hole(images)) - images)[:, 0, :, 24:40, 24:40].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> tuple[list[float], list[float]]:
    """Train with the homographies and without; returns the losses of both."""
    known = torch.stack([RIGHT_FROM_LEFT, RIGHT_FROM_LEFT.inverse()])[:, None]  # (V, N, 3, 3)
    with_homography, without = train(known), train(torch.eye(3).expand_as(known))
    print(f"loss with homographies    {with_homography[0]:.4f} -> {with_homography[-1]:.4f}")
    print(f"loss without homographies {without[0]:.4f} -> {without[-1]:.4f}")
    return with_homography, without


if __name__ == "__main__":
    main()
