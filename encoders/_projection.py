"""Boxes, points and pixels: what lies where, with augmentations undone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Augmentation", "NEAR", "box_corners", "inside_box", "project", "region_of_box"]

NEAR = 0.1
"""Depth in metres below which a point is not in front of the camera."""
_SIGNS = np.array([[a, b, c] for a in (1, -1) for b in (1, -1) for c in (1, -1)], dtype=float)
_EDGES = [(i, j) for i in range(8) for j in range(i + 1, 8) if (_SIGNS[i] != _SIGNS[j]).sum() == 1]


@dataclass(frozen=True)
class Augmentation:
    """A change of a whole scene in training: flip, then rotate, then scale, then shift.

    Parameters
    ----------
    flip : bool, default=False
        Mirror left and right (y).
    angle : float, default=0.0
        Rotation about the upward axis in radians.
    scale : float, default=1.0
        Factor of all three coordinates.
    shift : tuple of 3 floats, default=(0.0, 0.0, 0.0)
        Metres.

    Notes
    -----
    Points and boxes are changed, the picture is not, so LoGoNet undoes the change, last step
    first, before it looks up pixels. `matrix` holds all steps, and its inverse undoes them.
    """

    flip: bool = False
    angle: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def matrix(self) -> np.ndarray:
        """Homogeneous matrix of shape (4, 4): coordinates as measured to changed ones."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        matrix = np.eye(4)
        turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        mirror = np.diag([1.0, -1.0 if self.flip else 1.0, 1.0])
        matrix[:3, :3] = self.scale * turn @ mirror
        matrix[:3, 3] = self.shift
        return matrix

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Change points of shape (n, 3 or more); columns after the third stay."""
        return _transform(points, self.matrix)

    def undo(self, points: np.ndarray) -> np.ndarray:
        """Give points back as they were measured."""
        return _transform(points, np.linalg.inv(self.matrix))

    def apply_to_box(self, box: tuple[float, ...]) -> tuple[float, ...]:
        """Change a box (x, y, z, length, width, height, heading)."""
        centre = self.apply(np.array([box[:3]], dtype=float))[0]
        size = np.array(box[3:6]) * self.scale
        heading = (-box[6] if self.flip else box[6]) + self.angle
        return tuple(float(value) for value in (*centre, *size, heading))


def box_corners(box: tuple[float, ...]) -> np.ndarray:
    """Return the corners of a box (x, y, z, length, width, height, heading): (8, 3)."""
    cos, sin = np.cos(box[6]), np.sin(box[6])
    local = _SIGNS * np.array(box[3:6]) / 2
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return local @ turn.T + np.array(box[:3])


def inside_box(points: np.ndarray, box: tuple[float, ...], reach: float = 0.0) -> np.ndarray:
    """Tell which points lie in a box that is larger by `reach` metres on every side: (n,) bool."""
    cos, sin = np.cos(box[6]), np.sin(box[6])
    moved = np.asarray(points[:, :3], dtype=float) - np.array(box[:3])
    along = cos * moved[:, 0] + sin * moved[:, 1]
    across = -sin * moved[:, 0] + cos * moved[:, 1]
    half = np.array(box[3:6]) / 2 + reach
    return (
        (np.abs(along) <= half[0]) & (np.abs(across) <= half[1]) & (np.abs(moved[:, 2]) <= half[2])
    )


def project(
    points: np.ndarray,
    projection: np.ndarray,
    size: tuple[int, int],
    augmentation: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Look up the pixels of points.

    Parameters
    ----------
    points : ndarray of shape (n, 3 or more)
        LiDAR coordinates in metres.
    projection : ndarray of shape (3, 4)
        LiDAR coordinates to (depth u, depth v, depth).
    size : (int, int)
        Height and width of the picture in pixels.
    augmentation : ndarray of shape (4, 4), optional
        What was done to the points (`Augmentation.matrix`); it is undone first.

    Returns
    -------
    pixels : ndarray of shape (n, 2)
        u to the right and v down; NaN for points that are not in front of the camera.
    seen : ndarray of shape (n,), bool
        Whether the point is in front of the camera and in the picture.

    Notes
    -----
    A point behind the camera has a pixel too if the sign of its depth is ignored, as the published
    code does; here it is refused.
    """
    if augmentation is not None:
        projection = projection @ np.linalg.inv(augmentation)
    flat = _homogeneous(points) @ projection.T
    front = flat[:, 2] >= NEAR
    pixels = np.full((len(flat), 2), np.nan)
    pixels[front] = flat[front, :2] / flat[front, 2:]
    height, width = size
    with np.errstate(invalid="ignore"):
        inside = (pixels >= 0).all(axis=1) & (pixels < [width, height]).all(axis=1)
    return pixels, front & inside


def region_of_box(
    box: tuple[float, ...], projection: np.ndarray, size: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """Return the part of the picture that a box covers: left, top, right, bottom in pixels.

    Edges that pass the camera are cut where they do. None if less than a pixel is covered.
    """
    flat = _homogeneous(box_corners(box)) @ projection.T
    kept = [corner for corner in flat if corner[2] >= NEAR]
    for i, j in _EDGES:
        if (flat[i, 2] < NEAR) != (flat[j, 2] < NEAR):
            share = (NEAR - flat[i, 2]) / (flat[j, 2] - flat[i, 2])
            kept.append(flat[i] + share * (flat[j] - flat[i]))
    if not kept:
        return None
    pixels = np.array([corner[:2] / corner[2] for corner in kept])
    height, width = size
    left, top = np.clip(pixels.min(axis=0), 0, [width, height])
    right, bottom = np.clip(pixels.max(axis=0), 0, [width, height])
    if (right - left) * (bottom - top) < 1:
        return None
    return float(left), float(top), float(right), float(bottom)


def _homogeneous(points: np.ndarray) -> np.ndarray:
    return np.column_stack([np.asarray(points[:, :3], dtype=float), np.ones(len(points))])


def _transform(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    points = np.asarray(points, dtype=float)
    moved = _homogeneous(points) @ matrix[:3].T
    return np.column_stack([moved, points[:, 3:]])
