"""HomographyNet: how views lie to each other, corrected from a rig or found without one, coarse to fine."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vsad.geometry import corners_to_homography, image_corners, orient_homography, scale_homography
from vsad.geometry.checks import full_precision
from vsad.ops import homography_align, homography_warp

# The gains start at zero and belong near one. This factor lets the learning rate of the convolutions suit them too.
GAIN = 10.0
# The search is worth its whole translation or nothing, and a part of it leads nowhere: its gain passes quickly to one.
SEARCH_GAIN = 30.0
# The search leaves out translations that would leave less than this share of the largest possible overlap: a few
# cells agree by chance.
LEAST_OVERLAP = 0.2
# Cells squared: a match is not more certain than the quantization of its features.
LEAST_VARIANCE = 0.1
# Against the information of all cells together: it keeps the corners where they are when no cell is seen.
LEAST_DAMPING = 0.1
# Logit of a source cell that the neighbor does not see, against cosines times the sharpness.
UNSEEN = -1e4


class HomographyNet(nn.Module):
    """Correct homographies between views by four corner offsets at a time, at every stage from coarse to fine.

    Each step brings the source's latents over by the homography so far, encodes them beside the target's, and asks
    where every cell went: ``H <- H @ DLT(offsets)``, where the corner offsets explain the cells' displacements best
    (``Match``). The source is encoded after it is brought over, so that both features are seen from the same side
    even where a camera is turned or looks through a mirror. Every step's offsets are multiplied by a gain that
    starts at zero, so a new network returns the homographies that it is given, exactly.

    Args:
        channels: C of the latents.
        stages: number of stages; the last works at the latents' resolution, each one before at half of the next's.
        width: channels of the features.
        search: whether the first stage starts with a search for the translation over the whole image (``Search``),
            for views that no rig relates. It matches with features that are learned as well from rigs that are a
            little off; after such training, ``net.search.gain.data.fill_(1.0)`` switches it on.
        window: odd side of the window in which ``Match`` looks for a cell, in cells of its stage.
        iterations: number of ``Match`` steps at each stage, with shared weights.

    Shape: latents ``(B, V, C, h, w)``, homography ``(1 or B, V, N, 3, 3)``, neighbors ``(V, N)`` int64 with -1 for an
        empty slot -> for each stage ``(B, V, N, 3, 3)``.

    Convention: homographies map target pixels to source pixels of the latents and are oriented, as a rig's; see
        ``vsad.geometry``. Empty slots keep theirs. Latents have about mean 0 and deviation 1 in every channel.

    Raises:
        ValueError: a shape, dtype or size that does not fit; the message says which and what to do.

    Example:
        >>> net = HomographyNet(channels=4, stages=2, width=8)
        >>> neighbors = torch.tensor([[1], [0]])
        >>> coarse, fine = net(torch.randn(1, 2, 4, 16, 16), torch.eye(3).expand(1, 2, 1, 3, 3), neighbors)
        >>> fine[0, 0, 0].diagonal().tolist()
        [1.0, 1.0, 1.0]

    Source: residual homographies as corner offsets, DeTone et al., "Deep image homography estimation", 2016; warping
        the input at every step, Lin and Lucey, "Inverse compositional spatial transformer networks", 2017; training
        by photometric agreement, Nguyen et al., "Unsupervised deep homography", 2018. An independent implementation.
    """

    def __init__(
        self,
        channels: int,
        stages: int = 3,
        width: int = 32,
        *,
        search: bool = False,
        window: int = 3,
        iterations: int = 2,
    ) -> None:
        super().__init__()
        self.channels, self.iterations = channels, iterations
        self.encoder = Pyramid(channels, width, stages)
        self.search = Search() if search else None
        self.matches = nn.ModuleList(Match(width, window) for _ in range(stages))

    @property
    def factor(self) -> int:
        """What the network divides the sides of latents by."""
        return int(2 ** (len(self.matches) - 1))

    @property
    def least(self) -> int:
        """The least side of latents: four cells of the coarsest stage."""
        return 4 * self.factor

    def forward(self, latents: Tensor, homography: Tensor, neighbors: Tensor) -> list[Tensor]:
        self._check(latents, homography, neighbors)
        with full_precision(latents.device):
            return self._correct(latents, homography, neighbors)

    def _correct(self, latents: Tensor, homography: Tensor, neighbors: Tensor) -> list[Tensor]:
        B, V, _, h, w = latents.shape
        N = neighbors.shape[1]
        source = latents[:, neighbors.clamp(min=0).flatten()].flatten(0, 1)  # (S, C, h, w), S = B V N slots
        levels = self.encoder(latents.flatten(0, 1))
        target = [level.repeat_interleave(N, 0) for level in levels]  # of each (S, width, h / 2^k, w / 2^k)
        start = homography.to(latents).expand(B, V, N, 3, 3)
        occupied = (neighbors >= 0)[:, :, None, None]
        H = torch.where(occupied, start, torch.eye(3).to(start)).flatten(0, 2)  # (S, 3, 3)

        def moved(step: nn.Module, level: int, H: Tensor) -> Tensor:
            warped, seen = homography_warp(source, H, return_mask=True)
            feature = self.encoder(warped, level)[0]
            size = (feature.shape[-2], feature.shape[-1])
            mask = F.adaptive_avg_pool2d(seen[:, None].to(feature), size) == 1
            residual = corners_to_homography(step(target[level], feature, mask), size)
            return H @ scale_homography(residual, size, (h, w))

        results = []
        for level, match in enumerate(self.matches):
            if level == 0 and self.search is not None:  # with the finest features, which tell places apart best
                H = moved(self.search, len(target) - 1, H)
            for _ in range(self.iterations):
                H = moved(match, level, H)
            H = orient_homography(H, (h, w))
            results.append(torch.where(occupied, H.unflatten(0, (B, V, N)), start))
        return results

    def _check(self, latents: Tensor, homography: Tensor, neighbors: Tensor) -> None:
        """Refuse what does not fit."""
        B, V, N = (*latents.shape[:2], neighbors.shape[-1]) if latents.ndim == 5 else (0, 0, 0)
        if latents.ndim != 5 or latents.shape[2] != self.channels:
            raise ValueError(
                f"HomographyNet: latents must be [B V {self.channels} h w], got {list(latents.shape)}; stack the "
                f"views, or make the network for these channels"
            )
        dtype = self.encoder.stem.weight.dtype
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"HomographyNet: the parameters must be float32 or float64, got {dtype}, too coarse for geometry; "
                "keep them and compute the rest in half precision by torch.autocast"
            )
        if latents.dtype != dtype:
            raise ValueError(
                f"HomographyNet: latents must have the dtype of the parameters, {dtype}, got {latents.dtype}; "
                f"convert either"
            )
        if any(side % self.factor or side < self.least for side in latents.shape[-2:]):
            raise ValueError(
                f"HomographyNet: latents must have sides divisible by {self.factor} and of at least {self.least}, "
                f"got {list(latents.shape)}; resize the images, or take fewer stages"
            )
        if neighbors.ndim != 2 or len(neighbors) != V or neighbors.dtype != torch.int64:
            raise ValueError(
                f"HomographyNet: neighbors must be [V N] int64 with V={V}, got {list(neighbors.shape)} "
                f"{neighbors.dtype}; take Rig.neighbors of the rig of these views"
            )
        if homography.shape not in ((1, V, N, 3, 3), (B, V, N, 3, 3)):
            raise ValueError(
                f"HomographyNet: homography must be [1 {V} {N} 3 3], or [{B} {V} {N} 3 3] with a rig for each sample, "
                f"got {list(homography.shape)}; add the batch in front of Rig.to_operator's"
            )


class Pyramid(nn.Module):
    """Features of latents ``(S, C, h, w)``, coarse to fine: of each level ``(S, width, h / 2^k, w / 2^k)``.

    A nonlinear layer stands before every halving of the resolution: latents may be derivatives of the image, which
    would average away. Kernels of even size keep a cell in the middle of the pixels that it sums up.
    """

    def __init__(self, channels: int, width: int, levels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.halve = nn.ModuleList(nn.Conv2d(width, width, 4, stride=2, padding=1) for _ in range(levels - 1))
        # Without bias: features are taken about their mean.
        self.heads = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(levels))

    def forward(self, latents: Tensor, level: int | None = None) -> list[Tensor]:
        """All levels, or one of them."""
        fine_to_coarse = [F.silu(self.stem(latents))]
        for halve in self.halve if level is None else self.halve[: len(self.heads) - 1 - level]:
            fine_to_coarse.append(F.silu(halve(fine_to_coarse[-1])))
        if level is not None:
            return [self.heads[level](fine_to_coarse[-1])]
        return [head(x) for head, x in zip(self.heads, reversed(fine_to_coarse))]


class Search(nn.Module):
    """Find the translation by a vote of all cells: normalized cross-correlation of the features, by FFT.

    ``z(d) = sum_p <f(p) - f_d, g(p + d) - g_d> / sqrt(n(d))`` over the n(d) cells p that d leaves in view, with unit
    features f and g and their means f_d and g_d there. The sum of n unrelated terms grows as sqrt(n), so z compares
    translations of any overlap. The result is ``tanh(gain) * sum_d softmax(sharpness * z)(d) d``, alike at all corners.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(()))
        self.log_sharpness = nn.Parameter(torch.tensor(1.0))

    def forward(self, target: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """``(S, C, h, w)``, ``(S, C, h, w)``, bool ``(S, 1, h, w)`` -> corner offsets ``(S, 4, 2)`` in cells."""
        h, w = target.shape[-2:]
        size = (2 * h, 2 * w)  # no translation wraps around

        def spectrum(x: Tensor) -> Tensor:
            return torch.fft.rfft2(x, s=size)

        everywhere = torch.ones_like(mask)
        f, in_f = spectrum(unit(target, everywhere)).conj(), spectrum(everywhere.to(target)).conj()
        g, in_g = spectrum(unit(source, mask)), spectrum(mask.to(target))
        n = torch.fft.irfft2(in_f * in_g, s=size).round()  # (S, 1, 2h, 2w)
        mean_f, mean_g = torch.fft.irfft2(f * in_g, s=size), torch.fft.irfft2(in_f * g, s=size)
        joint = torch.fft.irfft2((f * g).sum(1, keepdim=True), s=size)
        z = (joint - (mean_f * mean_g).sum(1, keepdim=True) / n.clamp(min=1)) * n.clamp(min=1).rsqrt()

        possible = n >= (LEAST_OVERLAP * n.amax((2, 3), keepdim=True)).clamp(min=1)
        possible[..., 0, 0] = True
        logits = (self.log_sharpness.exp() * z).masked_fill(~possible, -torch.inf)
        votes = torch.softmax(logits.flatten(1), 1).view(-1, *size)
        dy, dx = (torch.fft.fftfreq(side, 1 / side).to(target) for side in size)
        translation = torch.stack([votes.sum(1) @ dx, votes.sum(2) @ dy], -1)  # (S, 2)
        return torch.tanh(SEARCH_GAIN * self.gain) * translation[:, None].expand(-1, 4, 2)


class Match(nn.Module):
    """Find four corner offsets by where the cells of the target are found again near their place in the source.

    A cell's match is a softmax over a window, ``softmax(sharpness * cos(f(p), g(p + d)))(d)``, with mean e(p) and
    covariance S(p) of d. What it says is what it adds to the belief of who has not looked, all of the window alike of
    covariance S_0: the information ``I(p) = max(0, S(p)^-1 - S_0^-1)``, in the sense of matrices. Along an edge it is
    that across the edge, and where nothing is to be seen it is none. With J(p) the derivative of p's displacement with
    respect to the corners and r(p) a learned reliability, the offsets solve
    ``(sum_p r J' I J + damping) offsets = sum_p r J' S^-1 e``, the Gauss-Markov least squares: two normal beliefs add
    up like that. Damping keeps corners that nothing pulls. The result is ``limit * tanh(gain * offsets / limit)``.
    """

    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.gain = nn.Parameter(torch.zeros(()))
        self.log_sharpness = nn.Parameter(torch.tensor(2.3))
        self.log_damping = nn.Parameter(torch.tensor(-2.0))
        self.reliability = nn.Conv2d(2 * width, 1, 1)

    def forward(self, target: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """``(S, C, h, w)``, ``(S, C, h, w)``, bool ``(S, 1, h, w)`` -> corner offsets ``(S, 4, 2)`` in cells."""
        h, w = target.shape[-2:]
        f, g = unit(target, mask), unit(source, mask)
        mean, covariance = self.matches(f, g, mask)  # (S, h, w, 2), (S, h, w, 2, 2)
        precision = inverse(covariance)
        pull = (precision @ mean[..., None])[..., 0]
        unseen = 1 / ((self.window**2 - 1) / 12 + LEAST_VARIANCE)  # the precision of a window of which all is alike
        information = positive_part(precision - unseen * torch.eye(2).to(f))
        # A window that is cut off draws toward its middle, which is where more is in view.
        whole = -F.max_pool2d(F.pad(-mask.to(f), [self.window // 2] * 4), self.window, 1)
        reliable = torch.sigmoid(self.reliability(torch.cat([f * g, (f - g).square()], 1))) * whole  # (S, 1, h, w)
        J = displacement_by_corners(h, w).to(f)  # (h, w, 2, 8)
        A = torch.einsum("yxai,syx,syxab,yxbj->sij", J, reliable[:, 0], information, J)  # (S, 8, 8)
        b = torch.einsum("yxai,syx,syxa->si", J, reliable[:, 0], pull)
        damping = self.log_damping.exp() * A.diagonal(dim1=1, dim2=2).mean(-1) + LEAST_DAMPING
        A = A + damping[:, None, None] * torch.eye(8).to(A)
        offsets = torch.linalg.solve(A, b).unflatten(-1, (4, 2))
        # Corners that move by less than a quarter of the side leave a convex quadrilateral, so that nothing folds.
        limit = min(h, w) / 4
        return limit * torch.tanh(GAIN * self.gain * offsets / limit)

    def matches(self, f: Tensor, g: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``(S, h, w, 2)`` and covariance ``(S, h, w, 2, 2)`` of the displacements of unit features."""
        S, _, h, w = f.shape
        y, x = torch.meshgrid(torch.arange(h).to(f) - (h - 1) / 2, torch.arange(w).to(f) - (w - 1) / 2, indexing="ij")
        places = torch.stack([x, y, x * x, x * y, y * y]).expand(S, 1, 5, h, w)
        query = torch.cat([self.log_sharpness.exp() * f, torch.ones_like(f[:, :1])], 1)
        key = torch.cat([g, UNSEEN * (~mask)], 1)
        same_place = torch.eye(3).to(f).expand(1, 1, 1, 3, 3)
        only = torch.zeros(1, 1, dtype=torch.int64, device=f.device)
        found = homography_align(query[:, None], key[:, None], places, same_place, only, window=self.window, scale=1.0)
        mx, my, mxx, mxy, myy = found[:, 0].unbind(1)  # moments of the matched places, (S, h, w) each
        mean = torch.stack([mx - x, my - y], -1)
        vxx, vxy, vyy = mxx - mx * mx + LEAST_VARIANCE, mxy - mx * my, myy - my * my + LEAST_VARIANCE
        return mean, torch.stack([vxx, vxy, vxy, vyy], -1).unflatten(-1, (2, 2))


def inverse(matrix: Tensor) -> Tensor:
    """Inverse of symmetric ``(..., 2, 2)``."""
    a, b, c = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 1]
    return torch.stack([c, -b, -b, a], -1).unflatten(-1, (2, 2)) / (a * c - b * b)[..., None, None]


def positive_part(matrix: Tensor) -> Tensor:
    """Symmetric ``(..., 2, 2)`` without what is negative: eigenvalues below zero become zero."""
    a, b, c = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 1]
    middle, x = (a + c) / 2, (a - c) / 2
    radius = (x * x + b * b + 1e-8).sqrt()  # eigenvalues are middle +- radius; a root of 0 has no gradient
    high, low = (middle + radius).clamp(min=0), (middle - radius).clamp(min=0)
    mean, tilt = (high + low) / 2, (high - low) / (2 * radius)
    return torch.stack([mean + tilt * x, tilt * b, tilt * b, mean - tilt * x], -1).unflatten(-1, (2, 2))


def unit(feature: Tensor, mask: Tensor) -> Tensor:
    """Features about their mean over the mask, of length 1, and 0 outside the mask."""
    m = mask.to(feature)
    mean = (feature * m).sum((2, 3), keepdim=True) / m.sum((2, 3), keepdim=True).clamp(min=1)
    return F.normalize(feature - mean, dim=1) * m


def displacement_by_corners(h: int, w: int) -> Tensor:
    """The derivative of every pixel's displacement with respect to the four corner offsets, ``(h, w, 2, 8)`` float64.

    To first order a homography displaces by ``(a + b x + c y + x q, d + e x + f y + y q)``, ``q = g x + h y``: eight
    motions, which the displacements of the four corners tell apart.
    """
    center = torch.tensor([(w - 1) / 2, (h - 1) / 2], dtype=torch.float64)

    def motions(points: Tensor) -> Tensor:
        x, y = ((points - center) / max(h, w)).unbind(-1)
        one, none = torch.ones_like(x), torch.zeros_like(x)
        along_x = torch.stack([one, x, y, none, none, none, x * x, x * y], -1)
        along_y = torch.stack([none, none, none, one, x, y, x * y, y * y], -1)
        return torch.stack([along_x, along_y], -2)  # (..., 2, 8)

    corners = motions(image_corners((h, w), dtype=torch.float64)).flatten(0, 1)  # (8, 8)
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return motions(torch.stack([x, y], -1).double()) @ torch.linalg.inv(corners)
