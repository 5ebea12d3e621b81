"""kornia: warp_perspective, whose homographies lead from the source to the target."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vsad.bench.operators import Problem

from . import Peer, Run, UnsupportedError, floats_only, needs, run_of


def homography_warp(problem: Problem) -> Run:
    from kornia.geometry import warp_perspective

    floats_only(problem)
    s, H = problem.case.sizes, problem.tensors["homography"]
    if s["padding"] == "reflection":
        raise UnsupportedError("mirrors at the centers of the border pixels, not at their edges")
    forward = H.double().inverse().to(H.dtype)  # target_from_source; warp_perspective inverts it again

    def function(input: Tensor) -> Any:
        return warp_perspective(
            input, forward, (s["H"], s["W"]), mode=s["mode"], padding_mode=s["padding"], align_corners=True
        )

    return run_of(function, problem, "input")


PEERS = [Peer("kornia", {"homography_warp": homography_warp}, needs("kornia", "kornia"), ("cpu", "cuda"))]
