"""What users write, for type checkers to read in strict mode: results need no unpacking of unions."""

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import vsad.ops
from vsad.ops import (
    Nearest,
    PackedPrototypes,
    greedy_coreset,
    homography_align,
    homography_warp,
    pack_prototypes,
    prototype_distance,
    using,
)

features = torch.randn(1, 2, 4, 8, 8)
homography = torch.eye(3).repeat(2, 1, 1, 1)

assert_type(homography_align(features, features, features, homography), Tensor)
assert_type(homography_align(features, features, features, homography, heads=2, window=5, scale=1.0), Tensor)
assert_type(homography_align(features, features, features, homography, return_lse=False).sum(), Tensor)
out, lse = homography_align(features, features, features, homography, return_lse=True)
assert_type(lse, Tensor)

image, one = features[0], homography[:, 0]
assert_type(homography_warp(image, one).mean(), Tensor)
assert_type(homography_warp(image, one, (4, 5), mode="nearest", padding="border"), Tensor)
assert_type(homography_warp(image, one, [4, 5]), Tensor)
assert_type(homography_warp(image, one, size=image.shape[-2:]), Tensor)
warped, mask = homography_warp(image, one, return_mask=True)
assert_type(warped[mask[:, None].expand_as(warped)], Tensor)


def both(return_mask: bool) -> Tensor:
    result = homography_warp(image, one, return_mask=return_mask)
    return result[0] if isinstance(result, tuple) else result


tokens, prototypes = torch.randn(3, 4), torch.randn(9, 4)
near = prototype_distance(tokens, prototypes, 2, metric="cosine")
assert_type(near, Nearest)
assert_type(near.distances, Tensor)
distances, indices = near
assert_type(indices, Tensor)
bank = pack_prototypes(prototypes, metric="sqeuclidean")
assert_type(bank, PackedPrototypes)
assert_type(bank.to("cpu"), PackedPrototypes)
assert_type(prototype_distance(tokens, bank).indices, Tensor)
assert_type(greedy_coreset(prototypes, 3, start=0, seed=1), Tensor)
with using("torch"):
    assert_type(vsad.ops.homography_warp(image, one), Tensor)


class Align(nn.Module):
    """A model of a user."""

    def forward(self, x: Tensor) -> Tensor:
        return homography_align(x, x, x, homography, heads=2)


homography_warp(image, one, mode="cubic")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
homography_warp(image, one, 4)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
prototype_distance(tokens, prototypes, metric="l2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
