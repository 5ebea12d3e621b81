"""What the small station of the fixtures ``rig`` and ``station`` is made of."""

import torch

SIZE = (64, 64)
SHIFT = torch.tensor([[1.0, 0, 8], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
