"""Files of the KITTI object benchmark: sweeps, calibrations and labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmfuse.exceptions import SampleError

__all__ = [
    "Calibration",
    "KittiLabel",
    "box_of_label",
    "read_calibration",
    "read_labels",
    "read_points",
]

_MATRICES = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4)}
_POINT = 16  # bytes: four float32
_FAR = 1e6  # metres; a file of another kind read as floats has such numbers


@dataclass(frozen=True)
class Calibration:
    """What takes LiDAR coordinates to pixels of the left colour camera.

    Attributes
    ----------
    camera : ndarray of shape (3, 4)
        Rectified camera coordinates in metres to pixels, P2.
    lidar_to_camera : ndarray of shape (4, 4)
        LiDAR to rectified camera coordinates in metres, R0_rect times Tr_velo_to_cam.
    """

    camera: np.ndarray
    lidar_to_camera: np.ndarray

    @property
    def projection(self) -> np.ndarray:
        """LiDAR coordinates to (depth u, depth v, depth): ndarray of shape (3, 4)."""
        return self.camera @ self.lidar_to_camera


@dataclass(frozen=True)
class KittiLabel:
    """One line of a label file.

    Attributes
    ----------
    kind : str
        Class, such as "Car".
    truncated : float
        Share of the object outside the image, 0 to 1.
    occluded : int
        0 visible, 1 partly, 2 largely occluded, 3 unknown.
    alpha : float
        Angle of observation in radians.
    region : tuple of 4 floats
        Left, top, right, bottom in pixels.
    size : tuple of 3 floats
        Height, width, length in metres.
    place : tuple of 3 floats
        Centre of the bottom face in rectified camera coordinates, metres.
    rotation_y : float
        Heading about the camera's downward axis, radians.
    """

    kind: str
    truncated: float
    occluded: int
    alpha: float
    region: tuple[float, float, float, float]
    size: tuple[float, float, float]
    place: tuple[float, float, float]
    rotation_y: float


def read_points(path: str | Path) -> np.ndarray:
    """Read a sweep: float32 x, y, z in metres and reflectance for each point.

    Returns
    -------
    ndarray of shape (n_points, 4), float32

    Raises
    ------
    SampleError
        If the file is missing, its size is not that of whole points, or a value is not finite.
    """
    data = _read_bytes(Path(path))
    if len(data) % _POINT:
        raise SampleError(
            f"{path} has {len(data)} bytes, which is no multiple of {_POINT}; a sweep holds four "
            "float32 (x, y, z, reflectance) per point, so it is cut short or of another kind"
        )
    points = np.frombuffer(data, dtype="<f4").reshape(-1, 4).astype(np.float32)
    return check_points(points, str(path))


def check_points(points: np.ndarray, where: str) -> np.ndarray:
    """Return the points, or raise SampleError where one cannot be a LiDAR return."""
    bad = ~(np.isfinite(points).all(axis=1) & (np.abs(points) < _FAR).all(axis=1))
    if bad.any():
        raise SampleError(
            f"{where} has {int(bad.sum())} of {len(points)} points with values that are not "
            f"finite or beyond {_FAR:g}, first at point {int(bad.argmax())}; remove them, or check "
            "that the values are float32 x, y, z, reflectance"
        )
    return points


def read_calibration(path: str | Path) -> Calibration:
    """Read a calibration file of the object benchmark.

    Raises
    ------
    SampleError
        If the file is missing or lacks P2, R0_rect or Tr_velo_to_cam, or one has other numbers
        than it should.
    """
    matrices: dict[str, np.ndarray] = {}
    for line in _read_text(Path(path)).splitlines():
        name, _, rest = line.partition(":")
        if name.strip() in _MATRICES:
            matrices[name.strip()] = _matrix(path, name.strip(), rest)
    lacking = [name for name in _MATRICES if name not in matrices]
    if lacking:
        raise SampleError(f"{path} lacks {', '.join(lacking)}; it needs {', '.join(_MATRICES)}")
    rectify, extrinsic = np.eye(4), np.eye(4)
    rectify[:3, :3] = matrices["R0_rect"]
    extrinsic[:3] = matrices["Tr_velo_to_cam"]
    return Calibration(matrices["P2"], rectify @ extrinsic)


def read_labels(path: str | Path) -> list[KittiLabel]:
    """Read a label file, all lines, those of DontCare too.

    Raises
    ------
    SampleError
        If the file is missing or a line is not a label; it names the line.
    """
    labels = []
    for number, line in enumerate(_read_text(Path(path)).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            values = [float(word) for word in words[1:]]
        except ValueError as exc:
            raise SampleError(f"{path}, line {number}: {exc}") from None
        if len(values) not in (14, 15):  # results have a score besides
            raise SampleError(
                f"{path}, line {number} has {len(words)} values where a label has 15 (or 16 with "
                "a score)"
            )
        if not np.isfinite(values).all():
            raise SampleError(f"{path}, line {number} has a value that is not finite")
        labels.append(_label(words[0], values))
    return labels


def box_of_label(label: KittiLabel, calibration: Calibration) -> tuple[float, ...]:
    """Return the label's box in LiDAR coordinates.

    Returns
    -------
    tuple of 7 floats
        Centre x, y, z, length, width, height in metres, and heading in radians about the
        upward axis, 0 along x.
    """
    height, width, length = label.size
    x, y, z = label.place
    back = np.linalg.inv(calibration.lidar_to_camera)
    centre = (back @ [x, y - height / 2, z, 1.0])[:3]
    ahead = back[:3, :3] @ [np.cos(label.rotation_y), 0.0, -np.sin(label.rotation_y)]
    heading = np.arctan2(ahead[1], ahead[0])
    return tuple(float(value) for value in (*centre, length, width, height, heading))


def _label(kind: str, values: list[float]) -> KittiLabel:
    return KittiLabel(
        kind=kind,
        truncated=values[0],
        occluded=int(values[1]),
        alpha=values[2],
        region=(values[3], values[4], values[5], values[6]),
        size=(values[7], values[8], values[9]),
        place=(values[10], values[11], values[12]),
        rotation_y=values[13],
    )


def _matrix(path: str | Path, name: str, text: str) -> np.ndarray:
    shape = _MATRICES[name]
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError as exc:
        raise SampleError(f"{path}, {name}: {exc}") from None
    if values.size != shape[0] * shape[1] or not np.isfinite(values).all():
        raise SampleError(
            f"{path}: {name} must have {shape[0] * shape[1]} finite numbers, got {values.size}"
        )
    return values.reshape(shape)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise SampleError(f"{path}: no such file") from None
    except OSError as exc:
        raise SampleError(f"{path}: {exc.strerror or exc}") from exc


def _read_text(path: Path) -> str:
    try:
        return _read_bytes(path).decode("ascii")
    except UnicodeDecodeError:
        raise SampleError(f"{path} is not a text file") from None
