"""Flat surfaces as pinhole cameras see them, whose homographies are known."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from vsad.geometry import orient_homography, transform_points


def mean_error(H: torch.Tensor, H_true: np.ndarray | torch.Tensor, size: tuple[int, int]) -> float:
    """Mean distance in source pixels over the target pixels that the source truly sees."""
    H_true = orient_homography(torch.as_tensor(H_true, dtype=torch.float64), size)
    xs, ys = (torch.arange(0.0, n, 3, dtype=torch.float64) for n in (size[1], size[0]))
    grid = torch.cartesian_prod(xs, ys)
    expected, in_front = transform_points(H_true, grid, return_mask=True)
    limit = torch.tensor([size[1] - 1, size[0] - 1])
    seen = in_front & ((expected >= 0) & (expected <= limit)).all(-1)
    assert seen.sum() > 100
    return float((transform_points(H, grid) - expected)[seen].norm(dim=-1).mean())


def as_tensor(*images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def texture(seed: int, size: int = 240) -> np.ndarray:
    """A flat object: blobs of every size, so that features are found from near and far."""
    rng = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(rng.standard_normal((size, size, 3)).astype(np.float32), None, s) for s in (1, 3, 8)]
    mixed = sum(layer / layer.std() for layer in layers)
    return np.uint8(np.clip(128 + 35 * mixed, 0, 255))


def camera(tilt: float, azimuth: float, size: int = 240, *, height: float = 0) -> np.ndarray:
    """View from texture: a pinhole camera that looks at the texture's middle from ``tilt`` degrees off its normal.

    The texture may lie higher, nearer to the camera, than where the camera looks.
    """
    theta, phi = np.deg2rad([tilt, azimuth])
    outward = np.array([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), -np.cos(theta)])
    forward, down = -outward, np.array([0.0, 1.0, 0.0])
    down -= forward * (down @ forward)
    down /= np.linalg.norm(down)
    rotation = np.stack([np.cross(down, forward), down, forward])
    distance, middle = 4.0 * size, (size - 1) / 2
    H = np.column_stack([rotation[:, 0], rotation[:, 1], distance * forward @ rotation.T - height * rotation[:, 2]])
    intrinsics = np.array([[distance, 0, middle], [0, distance, middle], [0, 0, 1]])
    return intrinsics @ H @ np.array([[1, 0, -middle], [0, 1, -middle], [0, 0, 1]])


def photograph(surface: np.ndarray, H_view_from_surface: np.ndarray) -> np.ndarray:
    """Render with supersampling, so that strong foreshortening does not alias."""
    height, width = surface.shape[:2]
    finer = np.array([[3, 0, 1], [0, 3, 1], [0, 0, 1]]) @ H_view_from_surface
    return cv2.resize(
        cv2.warpPerspective(surface, finer, (3 * width, 3 * height)),
        (width, height),
        interpolation=cv2.INTER_AREA,
    )


def chessboard(size: int = 240, square: int = 16, corner: tuple[int, int] = (40, 64)) -> np.ndarray:
    """A white surface with a board of 10 x 7 squares, the first of them black, at a corner ``(x, y)``."""
    surface = np.full((size, size, 3), 235, np.uint8)
    rows, columns = np.indices((7, 10))
    board = np.kron(20 + 215 * ((rows + columns) % 2), np.ones((square, square)))
    x, y = corner
    surface[y : y + board.shape[0], x : x + board.shape[1]] = board[..., None]
    return surface


def turned(H_view_from_surface: np.ndarray, degrees: float, size: int = 240, *, mirrored: bool = False) -> np.ndarray:
    """The camera turned about its axis, and perhaps mirrored."""
    middle = (size - 1) / 2
    turn = np.vstack([cv2.getRotationMatrix2D((middle, middle), degrees, 1.0), [0, 0, 1]])
    mirror = np.array([[-1, 0, size - 1], [0, 1, 0], [0, 0, 1]]) if mirrored else np.eye(3)
    return mirror @ turn @ H_view_from_surface
