"""OpenCV: warpPerspective, on images whose channels lie last in memory."""

from __future__ import annotations

import torch

from vsad.bench.operators import Problem

from . import Peer, Run, UnsupportedError, needs

INTERPOLATIONS = {"nearest": "INTER_NEAREST", "bilinear": "INTER_LINEAR", "bicubic": "INTER_CUBIC"}
BORDERS = {"zeros": "BORDER_CONSTANT", "border": "BORDER_REPLICATE", "reflection": "BORDER_REFLECT"}


def homography_warp(problem: Problem) -> Run:
    import cv2

    s, input = problem.case.sizes, problem.tensors["input"]
    if problem.case.dtype not in ("float32", "uint8"):
        raise UnsupportedError(f"has no {problem.case.dtype}")
    if problem.cotangent is not None:
        raise UnsupportedError("has no gradients")
    if s["C"] > 4:
        raise UnsupportedError("is right for at most 4 channels")
    homographies = problem.tensors["homography"].double().numpy()
    flags = getattr(cv2, INTERPOLATIONS[s["mode"]]) | cv2.WARP_INVERSE_MAP
    border = getattr(cv2, BORDERS[s["padding"]])

    def run() -> torch.Tensor:
        images = input.movedim(1, -1).contiguous()  # (B, H, W, C): free where the channels are last already
        out = torch.empty_like(images)
        for image, H, to in zip(images.numpy(), homographies, out.numpy()):
            cv2.warpPerspective(image, H, (s["W"], s["H"]), dst=to, flags=flags, borderMode=border)
        return out.movedim(-1, 1)

    return run


PEERS = [Peer("OpenCV", {"homography_warp": homography_warp}, needs("cv2", "opencv-python-headless"))]
