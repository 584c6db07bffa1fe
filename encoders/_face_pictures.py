"""Pictures and videos of faces, frame by frame, to the common form of recordings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmfuse._require import require
from mmfuse.encoders._face_mesh import shared_mesh
from mmfuse.encoders._face_tables import Recording
from mmfuse.encoders._face_units import UNITS, shared_units
from mmfuse.exceptions import SampleError

__all__ = [
    "ANGLES",
    "PICTURE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "is_pixels",
    "watch_recording",
]

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
ANGLES = ("pose_pitch", "pose_yaw", "pose_roll")
"""Angles that a mesh gives, in radians."""
_SLACK = 1e-6  # seconds; times are multiples of a rounded frame duration


def is_pixels(sample: Any) -> bool:
    """Tell an array of pixels or a PIL image."""
    picture = type(sample).__module__.startswith("PIL.") and hasattr(sample, "convert")
    return picture or (isinstance(sample, np.ndarray) and sample.ndim in (2, 3, 4))


def watch_recording(sample: Any, *, min_confidence: float, frame_rate: float | None) -> Recording:
    """Find the largest face of each frame, its action units and its pose.

    Parameters
    ----------
    sample : str, Path, PIL image or ndarray
        A picture or video file; pixels (height, width), (height, width, 3) or (n_frames, height,
        width, 3), RGB, uint8.
    min_confidence : float
        Frames whose mesh is less sure are not used.
    frame_rate : float or None
        Frames per second of a video file that are looked at; None for all.

    Raises
    ------
    SampleError
        If the file cannot be read.
    WeightsNotFoundError
        If the model files are not installed.
    """
    mesh_of, units_of = shared_mesh(), shared_units()
    rows, no_face, unsure = [], 0, 0
    for picture in _frames(sample, frame_rate):
        row = np.full(len(UNITS) + len(ANGLES), np.nan)
        found = mesh_of.find(picture)
        if found is None:
            no_face += 1
        elif found[1] < min_confidence:
            unsure += 1
        else:
            row = np.concatenate(units_of.fit(found[0]))
        rows.append(row)
    table = np.array(rows).reshape(len(rows), len(UNITS) + len(ANGLES))
    used = ~np.isnan(table).all(axis=1)
    counts = {
        "frames": len(rows),
        "used": int(used.sum()),
        "no_face": no_face,
        "low_confidence": unsure,
        "incomplete": 0,
    }
    signals = dict(zip((*UNITS, *ANGLES), table.T, strict=True))
    return Recording("pictures", signals, {}, used, counts)


def _frames(sample: Any, frame_rate: float | None) -> Iterator[np.ndarray]:
    """Yield frames (height, width, 3), RGB, uint8."""
    if isinstance(sample, (str, Path)):
        if Path(sample).suffix.lower() in VIDEO_SUFFIXES:
            yield from _video(sample, frame_rate)
        else:
            yield _picture_file(sample)
        return
    if hasattr(sample, "convert"):
        sample = np.asarray(sample.convert("RGB"))
    if sample.ndim == 2:
        sample = np.repeat(sample[:, :, None], 3, axis=2)
    if sample.dtype != np.uint8 or sample.shape[-1] != 3:
        raise SampleError(
            "an array of pixels must be RGB of dtype uint8, (height, width), (height, width, 3) or "
            f"(n_frames, height, width, 3), got {sample.dtype} of shape {sample.shape}"
        )
    yield from (sample if sample.ndim == 4 else sample[None])


def _picture_file(path: str | Path) -> np.ndarray:
    cv2 = require("cv2", extra="face", caller="ActionUnitEncoder")
    try:
        data = np.fromfile(path, dtype=np.uint8)  # cv2.imread knows no names that are not ASCII
    except FileNotFoundError:
        raise SampleError("no such file") from None
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:
        picture = None
    if picture is None:
        raise SampleError("cannot read the picture")
    return np.ascontiguousarray(picture[:, :, ::-1])


def _video(path: str | Path, frame_rate: float | None) -> Iterator[np.ndarray]:
    cv2 = require("cv2", extra="face", caller="ActionUnitEncoder")
    if not Path(path).is_file():
        raise SampleError("no such file")
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise SampleError("cannot read the video")
        own_rate = video.get(cv2.CAP_PROP_FPS)
        if frame_rate is not None and not own_rate > 0:
            raise SampleError("the video does not say its frame rate; use frame_rate=None")
        seen, due = 0, 0.0
        while video.grab():
            if frame_rate is None or seen / own_rate >= due - _SLACK:
                readable, picture = video.retrieve()
                if not readable:
                    raise SampleError(f"cannot read frame {seen} of the video")
                due += 0.0 if frame_rate is None else 1 / frame_rate
                yield np.ascontiguousarray(picture[:, :, ::-1])
            seen += 1
        if not seen:
            raise SampleError("the video has no frames that can be read")
    finally:
        video.release()
