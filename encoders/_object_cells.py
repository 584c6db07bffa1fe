"""One object in one frame, as the cell of a column: what it holds and how that is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from mmfuse.encoders._frames_kept import FRAMES, file_key
from mmfuse.encoders._kitti import check_points, read_calibration, read_points
from mmfuse.encoders._pictures import read_picture
from mmfuse.exceptions import SampleError
from mmfuse.table.cells import is_missing, is_tensor, to_numpy

__all__ = [
    "ObjectInFrame",
    "SENSORS",
    "asked",
    "box_of",
    "picture_of",
    "points_of",
    "projection_of",
    "relevant",
    "unrecorded",
]

SENSORS: dict[str, tuple[str, ...]] = {"lidar": ("points",), "camera": ("image",)}
"""The key of each sensor's recording."""
_KEYS = {
    "lidar": ("points", "box"),
    "camera": ("image", "calib", "box", "augmentation"),
    "both": ("points", "image", "calib", "box", "augmentation"),
}


class ObjectInFrame(TypedDict, total=False):
    """One object in one frame; a plain dict at run time.

    Attributes
    ----------
    box : sequence of 7 floats
        Centre x, y, z, length, width, height in metres and heading in radians, in LiDAR
        coordinates (x ahead, y left, z up; heading 0 along x, growing to the left).
    points : Path, str or array of shape (n_points, 4), optional
        The sweep of the frame: a KITTI ``.bin`` file, or x, y, z in metres and reflectance from
        0 to 1. The whole sweep or any part of it that holds the box and its surroundings.
    image : Path, str, bytes, PIL image or array of pixels, optional
        The picture of the frame.
    calib : Path, str or array of shape (3, 4), optional
        A KITTI calibration file, or the matrix that takes LiDAR coordinates to (depth u, depth v,
        depth) in pixels and metres. Needed with an image.
    augmentation : array of shape (4, 4), optional
        What was done to points and box but not to the image (`Augmentation.matrix`); undone
        before pixels are looked up.

    Examples
    --------
    >>> from mmfuse.encoders import ObjectInFrame
    >>> car = ObjectInFrame(points="000008.bin", box=(14.7, -1.1, -0.7, 3.7, 1.6, 1.5, 0.2))
    >>> sorted(car)
    ['box', 'points']
    """

    box: Any
    points: Any
    image: Any
    calib: Any
    augmentation: Any


def relevant(cell: Any, sensors: str) -> Any:
    """Return what matters to the sensors, files as `Path`; what is no dict is returned as is."""
    if not isinstance(cell, Mapping) or set(cell) - set(_KEYS["both"]):
        return cell
    kept = {key: cell[key] for key in _KEYS[sensors] if not is_missing(cell.get(key))}
    if "image" not in kept:
        kept = {key: value for key, value in kept.items() if key not in ("calib", "augmentation")}
    paths = ("points", "image", "calib")
    return {
        key: Path(value) if key in paths and isinstance(value, str) else value
        for key, value in kept.items()
    }


def unrecorded(cell: Any, sensors: str) -> bool:
    """Tell whether a cell is an object of which none of the sensors has a recording."""
    if not isinstance(cell, Mapping) or set(cell) - set(_KEYS["both"]):
        return False  # a broken cell is not a missing one
    keys = [key for sensor in asked(sensors) for key in SENSORS[sensor]]
    return all(is_missing(cell.get(key)) for key in keys)


def asked(sensors: str) -> tuple[str, ...]:
    """Return the names of the sensors that "lidar", "camera" or "both" stands for."""
    return tuple(SENSORS) if sensors == "both" else (sensors,)


def check_cell(cell: Any) -> Mapping[str, Any]:
    """Return the cell, or raise SampleError where it is no object in a frame."""
    if not isinstance(cell, Mapping):
        raise SampleError(
            f"expected a dict with the keys of ObjectInFrame, got {type(cell).__name__}"
        )
    if unknown := sorted(map(str, set(cell) - set(_KEYS["both"]))):
        raise SampleError(
            f"an object in a frame has no {unknown[0]!r}; its keys are {', '.join(_KEYS['both'])}"
        )
    return cell


def box_of(cell: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the box of an object as seven floats."""
    box = cell.get("box")
    try:
        values = tuple(float(value) for value in np.asarray(box, dtype=float).reshape(-1))
    except (TypeError, ValueError):
        values = ()
    if len(values) != 7 or not np.isfinite(values).all() or min(values[3:6]) <= 0:
        raise SampleError(
            "box must be x, y, z, length, width, height (metres, the last three above 0) and "
            f"heading (radians), got {box!r}"
        )
    return values


def points_of(cell: Mapping[str, Any]) -> np.ndarray:
    """Return the sweep: (n_points, 4) float32. Files are read once for all objects of a frame."""
    points = cell["points"]
    if isinstance(points, (str, Path)):
        path = Path(points)
        return FRAMES.get(("points", file_key(path)), lambda: read_points(path))
    if is_tensor(points):
        points = to_numpy(points)
    if not isinstance(points, np.ndarray) or points.ndim != 2 or points.shape[1] != 4:
        got = f"shape {points.shape}" if isinstance(points, np.ndarray) else type(points).__name__
        raise SampleError(
            "points must be a file or an array of shape (n_points, 4) with x, y, z and "
            f"reflectance, got {got}"
        )
    return check_points(points.astype(np.float32), "points")


def picture_of(cell: Mapping[str, Any]) -> Any:
    """Return the picture of the frame, RGB; files are read once for all objects of a frame."""
    image = cell["image"]
    if not isinstance(image, (str, Path)):
        return read_picture(image)
    path = Path(image)
    return FRAMES.get(("image", file_key(path)), lambda: _read_image(path))


def projection_of(cell: Mapping[str, Any]) -> np.ndarray:
    """Return the matrix (3, 4) from LiDAR coordinates to pixels, augmentation undone."""
    calib = cell.get("calib")
    if is_missing(calib):
        raise SampleError(
            "an image needs calib, a KITTI calibration file or a (3, 4) matrix from LiDAR "
            "coordinates to pixels"
        )
    if isinstance(calib, (str, Path)):
        path = Path(calib)
        key = ("calib", file_key(path))
        matrix = FRAMES.get(key, lambda: read_calibration(path).projection)
    else:
        matrix = _finite(calib, (3, 4), "calib")
    if is_missing(cell.get("augmentation")):
        return matrix
    return matrix @ np.linalg.inv(_finite(cell["augmentation"], (4, 4), "augmentation"))


def _read_image(path: Path) -> Any:
    try:
        return read_picture(path)
    except SampleError as exc:
        raise SampleError(f"{path}: {exc}") from exc


def _finite(value: Any, shape: tuple[int, int], name: str) -> np.ndarray:
    try:
        matrix = np.asarray(to_numpy(value) if is_tensor(value) else value, dtype=float)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape != shape or not np.isfinite(matrix).all():
        raise SampleError(
            f"{name} must be a finite matrix of shape {shape}, got "
            f"{f'shape {matrix.shape}' if matrix.size else type(value).__name__}"
        )
    return matrix
