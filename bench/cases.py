"""What is measured: one list of cases, small to large. Only those that we set out to win carry a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

SHAPES = {
    "homography_align": ("B", "V", "C", "H", "W"),
    "homography_warp": ("B", "C", "H", "W"),
    "prototype_distance": ("M", "C"),
    "greedy_coreset": ("M", "C"),
    "model": ("step", "preset", "V", "H", "W"),
}


# Not rivals but yardsticks: what the memory or the tensor cores would need for the work alone.
COPY, PRODUCT = "copy of as many bytes", "bf16 product alone"


@dataclass(frozen=True)
class Target:
    """At least ``ratio`` times the speed of the fastest of ``against``; with a yardstick, a share of its speed; and
    with ``memory`` at most that share of the memory of the leanest of them."""

    ratio: float
    against: tuple[str, ...]
    memory: float | None = None


@dataclass(frozen=True)
class Case:
    """One operator on one shape.

    Args:
        sizes: the operator's sizes and options, by the names of its documentation.
        dtype, layout: of the images or features; ``layout`` is "channels last" or "contiguous".
        backward: forward and backward together, else forward only.
        alone: backward without its forward.
        device: "cpu" or "cuda".
        target: the speed to reach, where there is one; ``also``: more of them.
        tflops: also reach at least this many useful operations per second, in 10^12.
        curves: sizes along which this case is one point of a curve.
        quick: belongs to the quick suite.
        compiled: peers that run a compiler first take part.
    """

    operator: str
    sizes: Mapping[str, Any]
    dtype: str = "float32"
    layout: str = "channels last"
    backward: bool = False
    alone: bool = False
    device: str = "cpu"
    target: Target | None = None
    also: tuple[Target, ...] = ()
    tflops: float | None = None
    curves: tuple[str, ...] = ()
    quick: bool = False
    compiled: bool = False

    @property
    def id(self) -> str:
        """A name without spaces or brackets; pytest and the results use it."""
        sizes = "-".join(f"{name}{value}" for name, value in self.sizes.items())
        direction = "backward" if self.alone else "train" if self.backward else "forward"
        rest = [self.device] * (self.device != "cpu") + ["contiguous"] * (self.layout == "contiguous")
        return "-".join([self.operator, direction, sizes, self.dtype, *rest])

    @property
    def label(self) -> str:
        """A line for people: the shape of the first tensor, and what is not the default."""
        s = self.sizes
        shape = ", ".join(str(s[name]) for name in SHAPES[self.operator])
        usual = {"mode": "bilinear", "padding": "zeros", "metric": "euclidean"}
        rest = [f"{n}={v}" for n, v in s.items() if n not in SHAPES[self.operator] and usual.get(n) != v]
        rest += [self.dtype] if self.dtype != "float32" else []
        rest += ["contiguous"] if self.layout == "contiguous" else []
        return ", ".join([f"({shape})", *rest])

    @property
    def direction(self) -> str:
        return "backward" if self.alone else "forward + backward" if self.backward else "forward"

    @property
    def targets(self) -> tuple[Target, ...]:
        return (() if self.target is None else (self.target,)) + self.also


def align(
    B: int, V: int, C: int, H: int, W: int, heads: int, N: int = 2, R: int = 3, same_place: bool = False, **options: Any
) -> Case:
    """``same_place``: every homography is the identity."""
    sizes = {"B": B, "V": V, "C": C, "H": H, "W": W, "heads": heads, "N": N, "R": R}
    return Case("homography_align", {**sizes, **({"homography": "identity"} if same_place else {})}, **options)


def warp(B: int, C: int, H: int, W: int, mode: str = "bilinear", padding: str = "zeros", **options: Any) -> Case:
    return Case("homography_warp", {"B": B, "C": C, "H": H, "W": W, "mode": mode, "padding": padding}, **options)


def nearest(
    M: int, P: int, C: int, k: int = 1, metric: str = "euclidean", packed: bool = False, **options: Any
) -> Case:
    """``packed``: the bank is prepared before the clock starts; the libraries that have an index always do so."""
    sizes = {"M": M, "P": P, "C": C, "k": k, **({"metric": metric} if metric != "euclidean" else {})}
    return Case("prototype_distance", {**sizes, **({"bank": "packed"} if packed else {})}, **options)


def coreset(M: int, C: int, size: int, data: str = "gaussian", **options: Any) -> Case:
    return Case("greedy_coreset", {"M": M, "C": C, "size": size, "data": data}, **options)


def detect(preset: str, references: int, V: int = 5, side: int = 64, N: int = 2, **options: Any) -> Case:
    """``vsad detect`` of one sample: its images to maps."""
    sizes = {"step": "detect", "preset": preset, "V": V, "H": side, "W": side, "N": N, "references": references}
    return Case("model", sizes, **options)


def train(preset: str, V: int = 5, side: int = 64, N: int = 2, **options: Any) -> Case:
    """One step of training on one sample: losses, gradients, new weights."""
    sizes = {"step": "train", "preset": preset, "V": V, "H": side, "W": side, "N": N}
    return Case("model", sizes, backward=True, **options)


def _targets() -> list[Case]:
    """What we set out to reach, against the best way to do the same with public libraries.

    homography_align is against the composition as one would write it down: ``grid_sample`` of all window cells,
    einsums, a masked softmax. Contiguous inputs have lower ratios, as their conversion is on our clock. A warp of
    features is held to 2 because a copy alone takes 0.4 of the better peer's time at the first shape; OpenCV's warp of
    images, written by hand, is to be equalled. faiss's flat index is exact too, and has its bank before the clock
    starts; the case with k=9 gives ours the same. greedy_coreset is against a loop that keeps a running minimum.
    """
    cases = []
    shapes = [(1, 5, 320, 32, 32, 8), (1, 5, 64, 64, 64, 4), (1, 8, 128, 64, 64, 4)]
    rows = [("channels last", False, 60), ("channels last", True, 35), ("contiguous", False, 20)]
    rows.append(("contiguous", True, 20))
    for layout, backward, ratio in rows:
        for R in (3, 5):
            for i, shape in enumerate(shapes):
                small = R == 3 and i < 2 and layout == "channels last"
                options = {"quick": small, "compiled": layout == "channels last" and R == 3 and i == 1}
                target = Target(ratio, ("unfused, einsum",))
                cases.append(align(*shape, R=R, layout=layout, backward=backward, target=target, **options))
    features = Target(2, ("kornia", "grid_sample"))
    cases += [warp(4, C, S, S, target=features, quick=True) for C, S in ((64, 128), (320, 32))]
    images = Target(1, ("OpenCV",))
    cases += [warp(1, 3, 1024, 1024, dtype=dtype, target=images, quick=True) for dtype in ("float32", "uint8")]
    exact = Target(3, ("faiss",))
    for M, P, C in ((5120, 10000, 512), (20480, 20000, 128), (784, 16384, 512)):
        cases.append(nearest(M, P, C, target=exact, quick=M == 784, compiled=M == 784))
    cases.append(nearest(5120, 10000, 512, k=9, packed=True, target=Target(2.5, ("faiss",))))
    # Gaussian points are the hardest: all lie equally far apart, and hardly any can be skipped.
    cases.append(coreset(50000, 128, 5000, target=Target(20, ("torch loop",))))
    return cases


def _models() -> list[Case]:
    """Whole models, whose convolutions take the same time whatever the operators are.

    A memory of 40 references, as many as a detector keeps at most, would need 13 GB unfused.
    """
    whole = Target(3, ("unfused model", "vsad torch"), memory=1 / 3)
    cases = [detect("small", 8, target=whole), train("small", target=whole)]
    return cases + [replace(case, dtype="bfloat16") for case in cases]


def _curves() -> list[Case]:
    """Time and memory against one size at a time."""
    cases = [align(1, V, 64, 32, 32, 4, curves=("V",)) for V in (2, 4, 8, 16, 32, 64)]
    cases += [align(1, 9, 64, 32, 32, 4, N=N, curves=("N",)) for N in (1, 2, 4, 8)]
    cases += [align(1, 5, 64, 32, 32, 4, R=R, curves=("R",)) for R in (1, 3, 5, 7)]
    cases += [align(1, 5, 64, S, S, 4, curves=("H",)) for S in (16, 32, 64, 128, 256)]
    cases += [align(1, 5, 64, S, S, 4, backward=True, curves=("H",)) for S in (16, 32, 64, 128)]
    cases += [nearest(1024, P, 128, curves=("P",)) for P in (1000, 10_000, 100_000, 1_000_000)]
    cases += [warp(1, 64, S, S, curves=("H",)) for S in (32, 64, 128, 256)]
    cases += [coreset(10_000, 128, size, curves=("size",)) for size in (10, 100, 1000)]
    return cases


def _others() -> list[Case]:
    """Shapes, types and options that the targets leave out."""
    cases = [align(1, 5, 640, 32, 32, 8), align(1, 5, 1280, 16, 16, 8), align(1, 64, 320, 32, 32, 8, N=4)]
    # About what a memory of 40 references of 5 views has to do: 205 pairs of view and slot, but 19 values and not 1.
    cases.append(align(1, 41, 19, 64, 64, 1, N=5, R=5, same_place=True))
    for dtype in ("bfloat16", "float16", "float64"):
        cases += [align(1, 5, 64, 64, 64, 4, dtype=dtype, backward=backward) for backward in (False, True)]
    cases += [warp(4, 64, 128, 128, mode=mode) for mode in ("nearest", "bicubic")]
    cases += [warp(4, 64, 128, 128, padding=padding) for padding in ("border", "reflection")]
    cases += [warp(4, 64, 128, 128, backward=True), warp(4, 64, 128, 128, layout="contiguous")]
    cases += [warp(4, 64, 128, 128, dtype="bfloat16")]
    cases += [nearest(784, 16384, 512, packed=True), nearest(784, 16384, 512, k=64)]
    cases += [nearest(1024, 4096, 256, quick=True, compiled=True), nearest(1024, 4096, 256, backward=True)]
    cases += [nearest(1024, 4096, 256, metric="cosine"), nearest(1024, 4096, 256, dtype="bfloat16")]
    cases += [coreset(5000, 64, 500, quick=True), coreset(50000, 128, 5000, data="clustered")]
    return cases


def _cuda() -> list[Case]:
    """What we set out to reach on an H200, and around it.

    The widest stage of a UNet, and many views at a fine one. Reading q, k, v and writing out once is a copy of as many
    bytes; forward may take five times as long. A bank in bfloat16 is against the product in bfloat16 with a minimum;
    in float32, where the answer must be exact to float32, against float32 and against rounding to bfloat16 first.
    """
    gpu: dict[str, Any] = {"device": "cuda"}
    half: dict[str, Any] = {"device": "cuda", "dtype": "bfloat16"}
    eager = ("unfused", "unfused, einsum")
    forward: dict[str, Any] = {
        "target": Target(30, eager),
        "also": (Target(8, ("unfused, compiled",)), Target(0.2, (COPY,))),
    }
    wide: dict[str, Any] = {"B": 8, "V": 5, "C": 320, "H": 64, "W": 64, "heads": 8, "N": 4}
    many: dict[str, Any] = {"B": 1, "V": 16, "C": 64, "H": 256, "W": 256, "heads": 4, "N": 4}
    cases = [align(**shape, **half, **forward, compiled=True, quick=True) for shape in (wide, many)]
    cases += [align(**shape, **half, backward=True, target=Target(20, eager)) for shape in (wide, many)]
    cases += [align(**wide, **gpu), align(**wide, R=5, **half), align(**wide, layout="contiguous", **half)]
    cases += [align(1, 5, 320, 32, 32, 8, **half), align(1, 5, 320, 32, 32, 8, backward=True, **half)]

    sampled = ("grid_sample", "grid_sample, contiguous")
    once: dict[str, Any] = {"target": Target(3, sampled), "also": (Target(0.7, (COPY,)),)}
    back: dict[str, Any] = {"target": Target(5, sampled), "backward": True, "alone": True}
    for B, C, S, options in ((40, 320, 64, half), (16, 64, 256, half), (16, 64, 256, gpu)):
        cases += [warp(B, C, S, S, **options, **once, quick=B == 40), warp(B, C, S, S, **options, **back)]
    cases += [warp(16, 3, 1024, 1024, device="cuda", dtype=dtype) for dtype in ("float32", "uint8")]

    M = 25_088  # 128 images of 14 x 14
    for P in (16_384, 262_144):
        for C in (512, 128, 1536):
            fast: dict[str, Any] = {"tflops": 500.0} if C >= 512 else {}
            kmeans = (Target(1.5, ("flash-kmeans",)),) if C <= 512 else ()
            low, full = Target(2, ("matmul, bf16",)), Target(10, ("cdist", "matmul"))
            quick = (P, C) == (16_384, 512)
            cases.append(nearest(M, P, C, **half, target=low, also=kmeans, quick=quick, **fast))
            cases.append(nearest(M, P, C, **gpu, target=full, also=(low,), **fast))
    cases += [nearest(M, 16_384, 512, packed=True, **half), nearest(M, 16_384, 512, k=9, **half)]
    cases += [nearest(784, 16_384, 512, **half), nearest(4096, 16_384, 512, backward=True, **half)]
    cases.append(coreset(200_000, 128, 20_000, target=Target(20, ("torch loop",)), **gpu))
    cases.append(coreset(50_000, 128, 5000, data="clustered", **gpu))
    return cases


def _join(cases: list[Case]) -> tuple[Case, ...]:
    """Each case once; a case may be a target and a point of several curves."""
    by_id: dict[str, Case] = {}
    for case in cases:
        first = by_id.setdefault(case.id, case)
        by_id[case.id] = replace(first, curves=tuple(dict.fromkeys(first.curves + case.curves)))
    return tuple(by_id.values())


CASES = _join(_targets() + _models() + _curves() + _others())
CUDA_CASES = _join(_cuda())
ALL_CASES = CASES + CUDA_CASES
