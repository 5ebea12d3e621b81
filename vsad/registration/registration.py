"""One pose per sample, to a canonical sample, from all views together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vsad.calibration.matching import Features, reprojection_errors
from vsad.checks import check_images
from vsad.geometry import (
    Rig,
    Size,
    orient_homography,
    scale_homography,
    translation,
)
from vsad.geometry.checks import divisible
from vsad.ops import homography_warp
from vsad.registration.features import (
    Matches,
    Sight,
    gray_pictures,
    look,
    match_in_frame,
    repeats,
    select_moving,
    working_size,
)
from vsad.registration.frame import Frame, shared_frames
from vsad.registration.photometric import Pyramid, still_pixels
from vsad.registration.pose import Pose, motion_in_views, why_implausible
from vsad.registration.refinement import ALIKE, refine_motion, refine_views, settle
from vsad.registration.robust import TOLERANCE, count_inliers, find_motions, is_turned_over

# The correlation of locally normalized pictures: above 0.9 where both show one surface in one place, 0.6 where the
# surface differs from sample to sample or stands out of its plane, and at most 0.35
# in the wrong poses of other products and noise. It tells nothing apart where a pattern repeats itself.
_MIN_AGREEMENT = 0.5
# Below it the pose is wrong, and no view is refined by itself.
_UNRELATED = 0.25
# Without matches, the pictures must agree so much.
_NO_DOUBT = 0.8
_TURNED_OVER = "the product lies turned over: its matches agree on a reflection"
_BUFFERS = ("size", "gray", "points", "descriptors", "counts", "still", "margin")


class _Found(NamedTuple):
    """How the views of a frame lie, in working pixels, and the reprojection errors of all their matches."""

    H_sample_from_canonical: Tensor
    errors: Tensor


class Registration(nn.Module):
    """The canonical sample, and how others lie relative to it.

    A product moves in its plane by G. In view i, of homography ``P_i`` from the plane, the canonical picture goes over
    into the sample's by ``W_i = P_i G P_i^-1``, so all views share one motion: ``W_j = H_ji W_i H_ji^-1``. Features are
    matched in every view, carried into one reference view along the rig, and one homography is fitted to all of them
    (MAGSAC++, then reweighted least squares). It is refined on the pictures themselves, and every ``W_j`` derived from
    it. In canonical pose the rig stays exactly valid: ``W_j^-1 H_ji W_i = H_ji``. Only where the pictures do not quite
    agree then, as with cameras that have turned a little since, is every view refined by itself: what it shows in
    canonical pose is what the canonical sample's cameras would have seen, so the rig stays valid there too.

    Canonical pictures may reach beyond the canonical sample's own by a margin at every side: what a camera shows of a
    turned product has its place there.

    Convention: homographies map canonical pixels to the sample's (target to source); pixels are those of the images,
    counted from the canonical sample's own first pixel, margin or not.

    Args:
        weights: the buffers by name: ``size (2,)`` int64, height and width of the images; ``gray (V, h, w)`` uint8, the
            canonical pictures at working size; ``points (V, K, 3)`` float32, their features, padded: x and y in pixels
            of the working size, direction in radians; ``descriptors (V, K, 128)`` float32; ``counts (V,)`` int64, the
            number of features of each view; ``still (V, h, w)`` bool, the pixels of the background; ``margin ()``
            int64, in pixels of the images.
        rig: the station's.

    Source: Lowe 2004 (SIFT); Barath et al. 2020 (MAGSAC++); Baker and Matthews 2004 (refinement).
    """

    size: Tensor
    gray: Tensor
    points: Tensor
    descriptors: Tensor
    counts: Tensor
    still: Tensor
    margin: Tensor

    def __init__(self, weights: Mapping[str, Tensor], rig: Rig) -> None:
        super().__init__()
        for name in _BUFFERS:
            self.register_buffer(name, weights[name])
        self.image_size: Size = (int(self.size[0]), int(self.size[1]))
        self.work_size = working_size(self.image_size)
        self._margin = int(self.margin)
        self.canonical_size: Size = (self.image_size[0] + 2 * self._margin, self.image_size[1] + 2 * self._margin)
        # Estimation runs on the CPU wherever the buffers are: features and the robust fit are OpenCV's.
        self._canonical = [
            Features(points[:count].double().cpu(), descriptors[:count].cpu())
            for points, descriptors, count in zip(self.points, self.descriptors, self.counts)
        ]
        self._repeats = repeats(self._canonical)
        frames = shared_frames(rig.scaled(self.work_size))
        self._templates = [Pyramid(self.gray.cpu(), frame, self.still.cpu()) for frame in frames]
        alone = torch.eye(3, dtype=torch.float64)[None]
        self._single = [Pyramid(self.gray.cpu(), Frame([v], alone), self.still.cpu()) for v in range(len(rig.views))]
        self._names = rig.views

    @classmethod
    def fit(cls, images: Tensor, rig: Rig, *, others: Sequence[Tensor] = ()) -> Registration:
        """Take a sample as the canonical one.

        Args:
            images: ``(V, 3, H, W)`` float in [0, 1].
            rig: the station's; its homographies are scaled where the images have another size.
            others: some other normal samples, two at least and eight at most are plenty. What most of them show in the
                same place as the canonical sample is the background, and is left out; without them a textured
                background may outvote a small product.

        Returns:
            The registration of other samples to this one.

        Raises:
            ValueError: a wrong shape.
        """
        check_images("Registration.fit", images, (len(rig.views), 3, "H", "W"))
        size: Size = (images.shape[-2], images.shape[-1])
        for sample in others:
            check_images("Registration.fit", sample, (len(rig.views), 3, *size))
        return cls.from_sight(look(images), size, rig, [gray_pictures(sample) for sample in others])

    @classmethod
    def from_sight(cls, sight: Sight, size: Size, rig: Rig, others: Sequence[Tensor] = ()) -> Registration:
        """Take as the canonical sample one that ``look`` has seen.

        Args:
            sight: the sample's.
            size: ``(height, width)`` of its images.
            rig: the station's.
            others: the gray pictures of other samples, ``(V, h, w)`` each.
        """
        still = still_pixels(sight.gray, others)
        moving = [select_moving(features, pixels) for features, pixels in zip(sight.features, still)]
        counts = [len(features.points) for features in moving]
        points = torch.zeros(len(counts), max(counts), 3, dtype=torch.float32)
        descriptors = torch.zeros(len(counts), max(counts), 128, dtype=torch.float32)
        for view, (features, count) in enumerate(zip(moving, counts)):
            points[view, :count], descriptors[view, :count] = features.points.float(), features.descriptors
        made = torch.tensor(size), sight.gray, points, descriptors, torch.tensor(counts), still, torch.tensor(0)
        return cls(dict(zip(_BUFFERS, made)), rig)

    @classmethod
    def rebuild(cls, weights: Mapping[str, Tensor], rig: Rig) -> Registration:
        """Make the registration again of its saved buffers and the station's rig."""
        return cls(weights, rig)

    def estimate(self, images: Tensor) -> Pose:
        """Estimate how a sample lies.

        Args:
            images: ``(V, 3, H, W)`` float in [0, 1], of the canonical sample's shape.

        Returns:
            The pose. It is the identity, and says why, where the matches are too few, agree in too few places, or
            agree on what no flat product does: turn over, change its size, distort.

        Raises:
            ValueError: a wrong shape.
        """
        check_images("Registration.estimate", images, (len(self._names), 3, *self.image_size))
        return self.estimate_sight(look(images))

    def estimate_sight(self, sight: Sight, *, refine: bool = True) -> Pose:
        """Estimate how a sample lies that ``look`` has seen, without the refinement on request."""
        H = torch.eye(3, dtype=torch.float64).repeat(len(self._names), 1, 1)
        inliers, squares = 0, 0.0
        for template in self._templates:
            found = self._motion(template, sight, refine)
            if isinstance(found, str):
                frame = template.fine.frame
                mirrored = match_in_frame(self._canonical, sight.features, frame, mirrored=True)
                turned = is_turned_over(mirrored, self.work_size)
                return self._unregistered(_TURNED_OVER if turned else found, frame)
            errors = found.errors[found.errors < TOLERANCE]
            inliers, squares = inliers + len(errors), squares + float(errors.square().sum())
            H[template.fine.frame.views] = found.H_sample_from_canonical
        H = orient_homography(scale_homography(H, self.work_size, self.image_size), self.image_size)
        error = (squares / max(inliers, 1)) ** 0.5 * max(self.image_size) / max(self.work_size)
        return Pose(H / H.abs().amax((1, 2), keepdim=True), inliers, error, None)

    def wider(self, margin: int, rig: Rig) -> Registration:
        """The same registration, whose canonical pictures reach beyond the canonical sample's own by ``margin``.

        Args:
            margin: in pixels of the images, zero or more.
            rig: the station's.

        Raises:
            ValueError: the margin is no such number.
        """
        if not isinstance(margin, int) or isinstance(margin, bool) or margin < 0:
            raise ValueError(f"Registration.wider: margin must be a whole number of pixels, 0 or more, got {margin!r}")
        return Registration({**self.state_dict(), "margin": torch.tensor(margin)}, rig)

    def to_canonical(self, images: Tensor, pose: Pose) -> tuple[Tensor, Tensor]:
        """Bring a sample's pictures into canonical pose.

        Args:
            images: ``(V, C, h, w)``, at any resolution.
            pose: the sample's.

        Returns:
            The pictures, of ``canonical_size`` at that resolution, and where the sample's have a pixel, ``(V, ...)``
            bool; elsewhere the border is repeated.
        """
        have: Size = (images.shape[-2], images.shape[-1])
        want = _resized(self.canonical_size, self.image_size, have)
        H = pose.H_sample_from_canonical @ translation(-self._margin, -self._margin)
        H = scale_homography(H, self.canonical_size, want, source_from_size=self.image_size, source_to_size=have)
        return homography_warp(images, H.to(images.device), want, padding="border", return_mask=True)

    def from_canonical(
        self, maps: Tensor, pose: Pose, size: Size | None = None, *, canonical_size: Size | None = None
    ) -> tuple[Tensor, Tensor]:
        """Bring maps in canonical pose back to where the sample lies.

        Args:
            maps: ``(V, h, w)`` floating point, of ``canonical_size`` at any resolution, so with the margin.
            pose: the sample's.
            size: ``(height, width)`` of the result; default the images' at the maps' resolution.
            canonical_size: that of the canonical pictures, where rows and columns were added to the registration's.

        Returns:
            ``(V, *size)``, and where canonical maps exist, ``(V, *size)`` bool; elsewhere the border is repeated.
        """
        have: Size = (maps.shape[-2], maps.shape[-1])
        of = self.canonical_size if canonical_size is None else canonical_size
        want = _resized(self.image_size, of, have) if size is None else size
        H = orient_homography(torch.linalg.inv(pose.H_sample_from_canonical), self.image_size)
        H = translation(self._margin, self._margin) @ H
        H = scale_homography(H, self.image_size, want, source_from_size=of, source_to_size=have)
        out, mask = homography_warp(maps[:, None], H.to(maps.device), want, padding="border", return_mask=True)
        return out[:, 0], mask

    def _motion(self, template: Pyramid, sight: Sight, refine: bool) -> _Found | str:
        """Find how one frame's views lie, or why that cannot be told."""
        frame = template.fine.frame
        matches = match_in_frame(self._canonical, sight.features, frame)
        candidates, reason = find_motions(matches, frame, self.work_size)
        if not candidates:
            return self._as_it_lies(template, sight, matches) or str(reason)
        (motion, sure), agreement = candidates[0], 1.0
        if self._repeats and not sure:
            return "the product's pattern repeats itself, and too few matches agree to tell how it lies"
        if refine or not sure:
            motion, agreement = refine_motion(template, sight.gray, candidates, matches)
            # A checkerboard agrees by 0.70 to 0.84 where it lies wrong by some squares, by 0.90 to 0.98 where right.
            if self._repeats and agreement < ALIKE:
                return f"the product's pattern repeats itself, and agrees by {agreement:.2f} of 1 only"
        errors = reprojection_errors(motion, matches.target, matches.source)
        inliers = matches.target[errors < TOLERANCE]
        reason = why_implausible(motion, frame.H_view_from_reference, inliers, self.work_size)
        if reason is not None:
            return reason
        H = motion_in_views(motion, frame.H_view_from_reference)
        if refine and _UNRELATED < agreement < ALIKE:
            H, agreement = refine_views([self._single[view] for view in frame.views], sight.gray, H)
        if agreement < _MIN_AGREEMENT and not template.fine.stands_out(sight.gray, motion):
            return f"the pictures do not agree in the pose that the matches give, {agreement:.2f} of 1"
        return _Found(H, errors)

    def _as_it_lies(self, template: Pyramid, sight: Sight, matches: Matches) -> _Found | None:
        """With too few matches to tell: next to no motion, where the pictures and two of them leave no doubt of it."""
        if self._repeats:
            return None
        motion, agreement = settle(template, sight.gray, torch.eye(3, dtype=torch.float64), similar=True)
        sure = agreement >= _NO_DOUBT or template.fine.stands_out(sight.gray, motion)
        if not sure or count_inliers(motion, matches) < 2:
            return None
        errors = reprojection_errors(motion, matches.target, matches.source)
        return _Found(motion_in_views(motion, template.fine.frame.H_view_from_reference), errors)

    def _unregistered(self, reason: str, frame: Frame) -> Pose:
        where = "" if len(self._templates) == 1 else f" (views {', '.join(self._names[v] for v in frame.views)})"
        identity = torch.eye(3, dtype=torch.float64).repeat(len(self._names), 1, 1)
        return Pose(identity, 0, float("nan"), reason + where)


def canonical_rig(rig: Rig, registration: Registration | None, divisor: int = 1) -> Rig:
    """The rig of canonical pictures: the station's, wider by the registration's margin, if there is one.

    Rows and columns are added until ``divisor`` divides the sides: a model takes such pictures only.
    """
    if registration is not None:
        rig = rig.scaled(registration.image_size).padded(registration._margin)
    return rig.extended(divisible(rig.size, divisor))


def _resized(size: Size, of: Size, to: Size) -> Size:
    """What becomes of a size where pictures ``of`` one size are resized ``to`` another."""
    return round(size[0] * to[0] / of[0]), round(size[1] * to[1] / of[1])
