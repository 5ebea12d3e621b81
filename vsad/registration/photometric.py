"""Refine a motion until the canonical pictures and the sample's agree, all views at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import torch
from torch import Tensor
from torch.nn import functional as F

from vsad.geometry import Size, scale_homography, translation
from vsad.ops import homography_warp
from vsad.registration.frame import Frame
from vsad.registration.pose import motion_in_views

# Local mean and contrast are those of a window of this many pixels a side.
_WINDOW = 9
# In gray levels of 1: contrast below it is noise, and is not amplified.
_FAINT = 0.02
_STEPS = 10
# A step that moves no corner of the picture by more than this many pixels is the last.
_CONVERGED = 0.02
# Normalized pictures differ by 0.05 where they show one surface in one place, otherwise by 0.6 to 0.8.
_STILL = 0.5
# An agreement that stands out is at least this, and exceeds those at these distances in pixels by so many of their
# deviations, and in most views for themselves by so many.
_LEAST, _BESIDE, _DEVIATIONS, _OF_A_VIEW = 0.15, (8.0, 16.0, 24.0, 32.0), 7.0, 2.5
# Of all pixels the share with the strongest gradients, which is all that fixes a motion.
_SHARE = 0.35
# So many pixels tell the scale of the residuals.
_PLENTY = 4096
# The directions of D in which a similarity goes, ``(4, 8)``: shifts along x and y, a turn, a scale.
_SIMILAR = torch.tensor(
    [[0, 0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0], [0, -1, 0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0, 0, 0]],
    dtype=torch.float64,
)


class Template:
    """The canonical pictures of one frame's views, prepared for inverse-compositional Gauss-Newton steps.

    Minimizes ``sum_v,x rho(S_v(W_v x) - T_v(x))`` over the eight parameters of one motion M in the reference view,
    ``W_v = H_vr M H_vr^-1``; T and S are pictures of zero local mean and unit local contrast, so brightness and gain
    drop out, and rho is Geman and McClure's, so highlights and defects do. The step is taken on the template's side,
    ``M <- M (I + D)^-1``, so that its Jacobian is computed once for all samples. Of a ``similar`` motion, D is one of
    the four directions in which similarities go, and M stays a similarity if it was one.

    Args:
        gray: ``(V, h, w)`` uint8, the canonical sample's pictures.
        frame: the views that share the motion.
        still: ``(V, h, w)`` bool, the pixels of the background, which are left out.

    Source: Baker and Matthews, "Lucas-Kanade 20 years on", 2004.
    """

    def __init__(self, gray: Tensor, frame: Frame, still: Tensor) -> None:
        self.frame = frame
        height, width = gray.shape[-2:]
        self.size: Size = (height, width)
        self.picture = normalized(_levels(gray[frame.views]))  # (v, 1, h, w)
        # Reference pixels -> [-1, 1], where the eight parameters are of one order.
        half = max(height, width) / 2
        self.H_reference_from_unit = torch.tensor(
            [[half, 0, (width - 1) / 2], [0, half, (height - 1) / 2], [0, 0, 1]], dtype=torch.float64
        )
        J = self.jacobian()  # (v, h, w, 8)
        strength = (J.square().sum(-1) * ~still[frame.views]).flatten()
        self.chosen = strength.topk(max(8, int(_SHARE * len(strength)))).indices.sort().values
        self._ours = self.picture.flatten()[self.chosen]
        self.texture = max(float(self._ours.square().sum()), 1e-6)
        # Of either kind of motion, the parameters' rows: (8, K) and (4, K), products with which run along memory.
        J = J.reshape(-1, 8)[self.chosen].T
        self._J = {False: J.contiguous(), True: _SIMILAR.float() @ J}
        self.view_of_chosen = self.chosen // (height * width)

    def jacobian(self) -> Tensor:
        """Derivatives ``(v, h, w, 8)`` of ``T_v(A (I + D) A^-1 x)`` by D at 0, A the view from unit coordinates.

        D has no entry at the lower right, which would only scale the homography.
        """
        height, width = self.size
        gradient_y, gradient_x = torch.gradient(self.picture[:, 0], dim=(1, 2))
        y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
        pixels = torch.stack([x, y, torch.ones_like(x)], -1)  # (h, w, 3)
        A = self.frame.H_view_from_reference @ self.H_reference_from_unit  # (v, 3, 3)
        unit = torch.einsum("vkl,hwl->vhwk", torch.linalg.inv(A), pixels)
        # A unit = pixels has Z = 1, so d(x, y) / dX_k = (A_1k - x A_3k, A_2k - y A_3k).
        toward_x = A[:, None, None, 0] - x[..., None] * A[:, None, None, 2]
        toward_y = A[:, None, None, 1] - y[..., None] * A[:, None, None, 2]
        along = gradient_x[..., None] * toward_x + gradient_y[..., None] * toward_y  # (v, h, w, 3)
        return (along[..., :, None] * unit[..., None, :]).flatten(-2)[..., :8].float()

    def refine(self, gray: Tensor, motion: Tensor, *, similar: bool = False) -> tuple[Tensor, float]:
        """Take Gauss-Newton steps from ``motion``.

        Args:
            gray: ``(V, h, w)`` uint8, the sample's pictures.
            motion: ``(3, 3)`` float64, sample from canonical in the reference view.
            similar: whether to turn, shift and scale it only.

        Returns:
            The motion of the highest agreement that was met, and that agreement.
        """
        levels = _levels(gray[self.frame.views])
        best, best_agreement = motion, -1.0
        for step in range(_STEPS + 1):
            residual, seen, agreement = self._compare(levels, motion)
            if agreement > best_agreement:
                best, best_agreement = motion, agreement
            elif step:
                break
            if step == _STEPS or int(seen.sum()) < 8 * _WINDOW:
                break
            motion, moved = self._step(residual, seen, motion, similar)
            if moved < _CONVERGED:
                best = motion
                break
        return best, best_agreement

    def agreement(self, gray: Tensor, motion: Tensor) -> float:
        """Compare without a step: the correlation of the textured pixels that both see."""
        return self._compare(_levels(gray[self.frame.views]), motion)[2]

    def stands_out(self, gray: Tensor, motion: Tensor) -> bool:
        """Whether the pictures agree far more in a motion than a few pixels beside it, and most views for themselves.

        A surface of which much is new in every sample agrees by 0.2 to 0.6 where it lies right: 8 to 50 deviations
        above what it agrees by beside that. What lies wrong was 5 above at most in 250 trials, but one wrong pose of a
        smooth picture passed since. A pattern that repeats itself agrees beside it as well, if at one of these
        distances.
        """
        levels = _levels(gray[self.frame.views])
        here = self._agreements(levels, motion)
        if here[-1] < _LEAST:
            return False
        shifts = [(r * math.cos(a), r * math.sin(a)) for r in _BESIDE for a in (math.tau * k / 8 for k in range(8))]
        beside = torch.stack([self._agreements(levels, motion @ translation(x, y)) for x, y in shifts])
        above = (here - beside.mean(0)) / beside.std(0).clamp_min(1e-3)
        # A view without texture has no say.
        pixels = torch.bincount(self.view_of_chosen, minlength=len(self.frame.views))
        most = (above[:-1] > _OF_A_VIEW)[pixels > 0.02 * len(self.chosen)].float().mean() > 0.5
        return bool(most and above[-1] > _DEVIATIONS and here[-1] > 2 * beside[:, -1].max())

    def _agreements(self, levels: Tensor, motion: Tensor) -> Tensor:
        """The agreement of every view and, last, of all together, ``(v + 1,)``."""
        theirs, inside = self._chosen_pixels(levels, motion)
        products = torch.stack([theirs * self._ours, theirs.square(), self._ours.square()], 1) * inside[:, None]
        sums = products.new_zeros(len(self.frame.views), 3).index_add_(0, self.view_of_chosen, products)
        both, theirs, ours = torch.cat([sums, sums.sum(0, keepdim=True)]).unbind(1)
        return both / (theirs * ours).sqrt().clamp_min(1e-6)

    def _compare(self, levels: Tensor, motion: Tensor) -> tuple[Tensor, Tensor, float]:
        """Residuals and visibility of the chosen pixels, and the robust agreement of the pictures."""
        (theirs, inside), ours = self._chosen_pixels(levels, motion), self._ours
        norm = (theirs.square() * inside).sum() * (ours.square() * inside).sum()
        agreement = float((theirs * ours * inside).sum() / norm.sqrt().clamp_min(1e-6))
        return (theirs - ours) * inside, inside, agreement

    def _chosen_pixels(self, levels: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        """The sample's normalized pixels at the chosen ones, and whether it sees them, ``(K,)`` each."""
        H = motion_in_views(motion, self.frame.H_view_from_reference).float()
        warped, seen = homography_warp(levels, H, padding="border", return_mask=True)
        theirs, inside = (t.flatten().index_select(0, self.chosen) for t in (normalized(warped), seen))
        return theirs, inside

    def _step(self, residual: Tensor, seen: Tensor, motion: Tensor, similar: bool) -> tuple[Tensor, float]:
        every = max(1, int(seen.sum()) // _PLENTY)
        scale = 1.4826 * float(residual[::every][seen[::every]].abs().median()) + 1e-3
        weights = (1 + (residual / scale).square()).pow(-2) * seen
        J = self._J[similar]
        weighted = J * weights
        normal, right = (weighted @ J.T).double(), (weighted @ residual).double()
        normal = normal + 1e-6 * torch.diag(normal.diagonal().clamp_min(1e-6))
        solution = torch.linalg.solve(normal, right)
        D = F.pad(solution @ _SIMILAR if similar else solution, (0, 1)).reshape(3, 3)
        to_unit = torch.linalg.inv(self.H_reference_from_unit)
        back = self.H_reference_from_unit @ torch.linalg.inv(torch.eye(3, dtype=D.dtype) + D) @ to_unit
        return motion @ back, float(D.abs().sum()) * max(self.size) / 2


class Pyramid:
    """A template at half the resolution and at full, for motions that start several pixels off.

    Args:
        gray: ``(V, h, w)`` uint8, the canonical sample's pictures.
        frame: the views that share the motion.
        still: ``(V, h, w)`` bool, the pixels of the background.
    """

    def __init__(self, gray: Tensor, frame: Frame, still: Tensor) -> None:
        self.fine = Template(gray, frame, still)
        small = _halved(gray)
        height, width = small.shape[-2:]
        self.size: Size = (height, width)
        H = scale_homography(frame.H_view_from_reference, self.fine.size, self.size)
        coarsely_still = F.adaptive_avg_pool2d(still.float(), self.size) > 0.5
        self.coarse = Template(small, Frame(frame.views, H), coarsely_still)

    def refine(self, gray: Tensor, motion: Tensor, *, similar: bool = False) -> tuple[Tensor, float]:
        """As ``Template.refine``, but first at half the resolution."""
        start = scale_homography(motion, self.fine.size, self.size)
        found, _ = self.coarse.refine(_halved(gray), start, similar=similar)
        near = self.fine.refine(gray, scale_homography(found, self.size, self.fine.size), similar=similar)
        if near[1] > self.fine.agreement(gray, motion):
            return near
        return max(near, self.fine.refine(gray, motion, similar=similar), key=lambda refined: refined[1])


def still_pixels(gray: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Find the pixels where the canonical pictures show what most other samples show in the same place.

    That is the background, if the products lie anywhere: a mat or a fixture, and highlights of fixed lamps. Its
    features agree on no motion at all, and outvote those of a small product.

    Args:
        gray: ``(V, h, w)`` uint8, the canonical pictures.
        others: the same of other samples; with fewer than two nothing is known to stand still.

    Returns:
        ``(V, h, w)`` bool.
    """
    if len(others) < 2:
        return torch.zeros(gray.shape, dtype=torch.bool)
    ours = normalized(_levels(gray))
    differences = torch.stack([(normalized(_levels(other)) - ours).abs() for other in others])
    return _box(differences.median(0).values)[:, 0] < _STILL


def normalized(pictures: Tensor) -> Tensor:
    """Subtract the local mean of ``pictures (V, 1, h, w)`` on the CPU and divide by the local contrast."""
    mean = _box(pictures)
    contrast = _box(pictures.square()).sub_(mean.square()).clamp_(min=0).sqrt_()
    return (pictures - mean).div_(contrast.add_(_FAINT))


def _box(pictures: Tensor) -> Tensor:
    # OpenCV's running sums take 0.15 ms for five pictures, where avg_pool2d takes 4.
    means = torch.empty_like(pictures)
    for picture, mean in zip(pictures[:, 0].numpy(), means[:, 0].numpy()):
        cv2.boxFilter(picture, -1, (_WINDOW, _WINDOW), dst=mean)
    return means


def _halved(gray: Tensor) -> Tensor:
    size = max(1, gray.shape[-2] // 2), max(1, gray.shape[-1] // 2)
    return F.adaptive_avg_pool2d(gray.float(), size).round().byte()


def _levels(gray: Tensor) -> Tensor:
    return gray[:, None].float() / 255
