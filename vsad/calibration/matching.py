"""Match two images of one surface: features that survive a mirror, and robust homographies from their matches.

Convention: points are ``(x, y)`` with pixel centers at integers, as everywhere; images are uint8 ``(H, W)`` arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from vsad.geometry import Size, homography_from_points, transform_points

# The nearest descriptor must be nearer than this share of the distance to the second nearest.
_RATIO = 0.85
# Two descriptors of one mark lie within this squared distance. Unrelated ones are near 1 apart, and near 2 where they
# are signs, of which 1 is a quarter of the bits.
_SAME, _SAME_SIGNS = 0.5, 1.0
_MOST = 2000
_REWEIGHTINGS = 12
# In pixels, about what SIFT localizes to.
_FINEST = 0.3
# With one right match in ten, one run in three misses the homography.
_RESTARTS = 4
# A place is a cell of a grid with this many cells per side: matches in eight samples show one mark eight times.
PLACES = 16


@dataclass(frozen=True)
class Features:
    """Points ``(K, 2)`` float64 and their unit descriptors ``(K, D)`` float32.

    Two descriptors of one mark lie within the squared distance ``same``.
    """

    points: Tensor
    descriptors: Tensor
    same: float = _SAME

    def mirrored(self) -> Features:
        """Return the SIFT descriptors that the mirrored image would give, at the same points.

        A descriptor is 4 rows x 4 columns x 8 directions in a frame that turns with the feature; a reflection about
        the feature's own direction reverses the rows and the directions.
        """
        bins = self.descriptors.reshape(-1, 4, 4, 8).flip(1)[..., (8 - torch.arange(8)) % 8]
        return Features(self.points, bins.reshape(-1, 128))

    def mapped(self, homography: Tensor) -> Features:
        """Return the same features with their points moved by a homography."""
        return replace(self, points=transform_points(homography, self.points))


def detect(
    image: np.ndarray, H_image_from_canvas: Tensor | None = None, size: Size | None = None, *, kind: str = "sift"
) -> Features:
    """Find the features of an image, or of the canvas that a homography fills with it.

    Args:
        image: uint8 ``(H, W)``.
        H_image_from_canvas: ``(3, 3)`` float64; None finds features in the image itself.
        size: ``(height, width)`` of the canvas; default the image's.
        kind: "sift", "akaze" or "orb".

    Returns:
        Features in pixels of the canvas, none of them at the image's edge or beyond. Descriptors are square roots
        of SIFT's (Arandjelovic and Zisserman, 2012), or the signs of a binary descriptor's bits.
    """
    mask = None
    if H_image_from_canvas is not None:
        height, width = size or image.shape
        H, canvas = H_image_from_canvas.numpy(), (width, height)
        mask = cv2.warpPerspective(np.full_like(image, 255), H, canvas, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
        mask = cv2.erode(mask, np.ones((9, 9), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        image = cv2.warpPerspective(image, H, canvas, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    keypoints, descriptors = find_keypoints(image, mask) if kind == "sift" else _find_binary(image, mask, kind)
    points = torch.tensor([keypoint.pt for keypoint in keypoints], dtype=torch.float64).reshape(-1, 2)
    return Features(points, descriptors, _SAME if kind == "sift" else _SAME_SIGNS)


def detect_mirrored(image: np.ndarray, *, kind: str) -> Features:
    """Find the features of the mirrored image, with their points in pixels of the image itself."""
    found = detect(np.ascontiguousarray(image[:, ::-1]), kind=kind)
    return replace(found, points=torch.stack([image.shape[1] - 1 - found.points[:, 0], found.points[:, 1]], -1))


def find_keypoints(image: np.ndarray, mask: np.ndarray | None = None) -> tuple[Sequence[cv2.KeyPoint], Tensor]:
    """Find a uint8 image's keypoints, where a mask allows them, and their root descriptors ``(K, 128)`` float32."""
    # Without the precise upscaling every point is off by a quarter of a pixel, and the other way in a mirrored view.
    sift = cv2.SIFT.create(nfeatures=_MOST, contrastThreshold=0.01, enable_precise_upscale=True)
    keypoints, counts = sift.detectAndCompute(image, mask)
    if counts is None:
        return (), torch.empty(0, 128)
    descriptors = torch.from_numpy(counts)
    return keypoints, (descriptors / descriptors.sum(-1, keepdim=True).clamp_min(1)).sqrt()


def _find_binary(image: np.ndarray, mask: np.ndarray | None, kind: str) -> tuple[Sequence[cv2.KeyPoint], Tensor]:
    """Find keypoints and descriptors of which the squared distance is four times the share of the bits that differ."""
    # OpenCV 5's stubs know no AKAZE; a threshold below its own of 0.001 finds the marks of faint surfaces.
    finder = cv2.ORB.create(nfeatures=_MOST) if kind == "orb" else getattr(cv2, "AKAZE").create(threshold=2e-4)  # noqa: B009
    keypoints, packed = finder.detectAndCompute(image, mask)
    if packed is None:
        return (), torch.empty(0, 256)
    signs = torch.from_numpy(np.unpackbits(np.asarray(packed, np.uint8), axis=1).astype(np.float32) * 2 - 1)
    return keypoints, signs / math.sqrt(signs.shape[1])


def gray_picture(image: Tensor, size: Size) -> np.ndarray:
    """Return an image ``(3, H, W)`` in [0, 1] as a uint8 gray one of ``size``, (height, width)."""
    levels = (image.detach().cpu().float().clamp(0, 1) * 255).round().byte()
    gray = cv2.cvtColor(levels.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY)
    interpolation = cv2.INTER_AREA if size[0] < gray.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(gray, (size[1], size[0]), interpolation=interpolation)


def count_places(points: Tensor, size: Size) -> int:
    """Count the cells of a grid over an image of ``size`` in which there are ``points (K, 2)``."""
    return len(torch.unique(place_of(points, size), dim=0))


def place_of(points: Tensor, size: Size) -> Tensor:
    """The cells of a grid over an image of ``size`` in which ``points`` lie: column and row, ``(K, 2)`` int64."""
    cell = torch.tensor([size[1], size[0]], dtype=points.dtype) / PLACES
    return (points / cell).floor().long()


def match(target: Features, source: Features, radius: float | None = None) -> tuple[Tensor, Tensor]:
    """Pair the features that are each other's nearest descriptor.

    Args:
        target: features of the target view.
        source: features of the source view.
        radius: pair only points that lie so near each other; None: anywhere, where the next descriptor is
            distinctly farther.

    Returns:
        The target points and the source points, ``(K, 2)`` each.
    """
    if min(len(target.points), len(source.points)) < 2:
        return target.points[:0], source.points[:0]
    distance = 2 - 2 * target.descriptors @ source.descriptors.T  # (K_target, K_source), squared
    if radius is not None:
        distance[torch.cdist(target.points, source.points) > radius] = torch.inf
    (nearest, second), (index, _) = (part.unbind(-1) for part in distance.topk(2, largest=False))
    mutual = nearest <= distance.amin(0)[index]
    keep = mutual & (nearest < (target.same if radius is not None else _RATIO**2 * second))
    return target.points[keep], source.points[index[keep]]


def fit_robustly(
    target: Tensor, source: Tensor, tolerance: float, *, mirrored: bool = False, seed: int = 0
) -> tuple[Tensor | None, Tensor]:
    """Fit a homography to matches of which many are wrong, by MAGSAC++ (Barath et al., 2020).

    Args:
        target: ``(K, 2)`` float64.
        source: ``(K, 2)`` float64.
        tolerance: reprojection error of a right match, in pixels.
        mirrored: look for a homography that mirrors; otherwise for one that does not.
        seed: seed of the random samples.

    Returns:
        The homography, source from target, or None; and which matches agree with it, ``(K,)`` bool.
    """
    best, best_cost, best_inliers = None, math.inf, torch.zeros(len(target), dtype=torch.bool)
    if len(target) < 4:
        return best, best_inliers
    # OpenCV refuses samples of four points that turn the other way in the source, so it never finds a reflection.
    flip = torch.tensor([-1.0 if mirrored else 1.0, 1.0, 1.0], dtype=torch.float64)
    params = cv2.UsacParams()
    params.confidence, params.maxIterations, params.threshold = 0.9999, 10000, tolerance
    params.score, params.loMethod = cv2.SCORE_METHOD_MAGSAC, cv2.LOCAL_OPTIM_GC
    params.sampler = cv2.SAMPLING_UNIFORM
    for restart in range(_RESTARTS):
        params.randomGeneratorState = seed * _RESTARTS + restart
        H, _ = cv2.findHomography(target.numpy(), (source * flip[:2]).numpy(), params)
        if H is None:
            continue
        fitted = flip[:, None] * torch.from_numpy(H)
        errors = reprojection_errors(fitted, target, source)
        cost = float((errors / tolerance).clamp(max=1).square().sum())
        if cost < best_cost:
            best, best_cost, best_inliers = fitted, cost, errors < tolerance
    return best, best_inliers


def fit_reweighted(target: Tensor, source: Tensor, start: Tensor, coarse: float) -> Tensor:
    """Minimize a robust reprojection error (Geman-McClure) whose scale follows the errors as they shrink.

    Args:
        target: ``(K, 2)`` float64.
        source: ``(K, 2)`` float64.
        start: ``(3, 3)`` float64, source from target.
        coarse: first scale in pixels; matches that err by more never set the scale.

    Returns:
        ``(3, 3)``, source from target.
    """
    H, scale = start, coarse
    for _ in range(_REWEIGHTINGS):
        weights = (1 + (reprojection_errors(H, target, source) / scale).square()).pow(-2)
        H = homography_from_points(target, source, weights=weights)
        errors = reprojection_errors(H, target, source)
        deviation = 1.4826 * float(errors[errors < coarse].median())  # NaN when there is none
        scale = min(scale, max(deviation, _FINEST))
    return H


def reprojection_errors(homography: Tensor, target: Tensor, source: Tensor) -> Tensor:
    """Return the distances of source points from the mapped target points, infinite behind the camera, ``(K,)``."""
    mapped, in_front = transform_points(homography, target, return_mask=True)
    errors: Tensor = torch.linalg.vector_norm(mapped - source, dim=-1)
    return errors.where(in_front, torch.inf)


def foreshorten(tilt: float, angle: float, size: Size) -> tuple[Tensor, Size]:
    """Return the canvas on which an image is turned by ``angle`` degrees, then shrunk by ``tilt`` vertically.

    Args:
        tilt: at least 1.
        angle: angle in degrees.
        size: ``(height, width)`` of the image.

    Returns:
        ``H_image_from_canvas``, ``(3, 3)`` float64, and the canvas size that shows the whole image.
    """
    height, width = size
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    A = torch.tensor([[c, -s], [s / tilt, c / tilt]], dtype=torch.float64)  # canvas from image, about the centers
    canvas_width, canvas_height = (A.abs() @ torch.tensor([width, height], dtype=torch.float64)).ceil().int().tolist()
    center = torch.tensor([width - 1, height - 1], dtype=torch.float64) / 2
    canvas_center = torch.tensor([canvas_width - 1, canvas_height - 1], dtype=torch.float64) / 2
    H_canvas_from_image = torch.eye(3, dtype=torch.float64)
    H_canvas_from_image[:2, :2], H_canvas_from_image[:2, 2] = A, canvas_center - A @ center
    return torch.linalg.inv(H_canvas_from_image), (canvas_height, canvas_width)
