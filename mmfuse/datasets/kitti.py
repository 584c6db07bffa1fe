"""Objects of a folder of the KITTI benchmark, with what either sensor recorded of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from mmfuse.table import ModalityTable

__all__ = ["read_kitti"]

_IGNORED = "DontCare"


def read_kitti(
    folder: str | Path,
    *,
    points: str = "velodyne",
    images: str = "image_2",
    frames: Iterable[str] | None = None,
) -> Bunch:
    """Read the labelled objects of a folder in the layout of the KITTI object benchmark.

    One row per object, in the order of frames and of lines in the label files. Regions labelled
    DontCare are no objects and have no row. Files of sweeps and pictures are named in the cells and
    read when they are encoded. A frame whose sweep or picture is not there has ABSENT cells.

    Parameters
    ----------
    folder : str or Path
        Holds ``label_2``, ``calib`` and the folders of the sensors, with one file per frame in
        each: ``ID.txt``, ``ID.bin``, ``ID.png`` or ``ID.jpg``.
    points : str, default="velodyne"
        Folder of the sweeps.
    images : str, default="image_2"
        Folder of the pictures of the left colour camera.
    frames : iterable of str, optional
        Frames to read, such as "000008". By default all that have labels.

    Returns
    -------
    Bunch
        ``X`` : ModalityTable with the modalities ``lidar`` and ``camera``, cells as
        `mmfuse.encoders.ObjectInFrame`;
        ``y`` : ndarray of shape (n_objects,), str, the classes;
        ``groups`` : ndarray of shape (n_objects,), str, the frame of each object, by which rows
        should be split;
        ``objects`` : list of dict, the cells with both sensors, for an encoder that takes both;
        ``labels`` : DataFrame, the numbers of each label (pixels, metres, radians).

    Raises
    ------
    FileNotFoundError
        If there is no folder of labels, or a frame has none.
    SampleError
        If a label or calibration file cannot be read; it names the file and the line.

    Notes
    -----
    Get the data from the benchmark's site; their licence is CC BY-NC-SA 3.0.

    Examples
    --------
    >>> from mmfuse.datasets import read_kitti
    >>> from mmfuse.encoders import LidarCameraEncoder
    >>> scenes = read_kitti("kitti/training")  # doctest: +SKIP
    >>> encoders = {
    ...     "lidar": LidarCameraEncoder(sensors="lidar"),
    ...     "camera": LidarCameraEncoder(sensors="camera"),
    ... }
    """
    from mmfuse.encoders._kitti import box_of_label, read_calibration, read_labels

    folder = Path(folder)
    rows: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for frame in _frames(folder, frames):
        calib = folder / "calib" / f"{frame}.txt"
        calibration = read_calibration(calib)
        files = {"points": _file(folder / points, frame, (".bin",))}
        files["image"] = _file(folder / images, frame, (".png", ".jpg", ".jpeg"))
        for label in read_labels(folder / "label_2" / f"{frame}.txt"):
            if label.kind != _IGNORED:
                box = box_of_label(label, calibration)
                rows.append({"frame": frame, **_flat(label)})
                objects.append({**files, "calib": calib, "box": box})
    labels = pd.DataFrame(rows, columns=["frame", *_FIELDS])
    return Bunch(
        X=_table(objects, labels),
        y=labels["kind"].to_numpy(dtype=str),
        groups=labels["frame"].to_numpy(dtype=str),
        objects=objects,
        labels=labels,
    )


_FIELDS = (
    *("kind", "truncated", "occluded", "alpha", "left", "top", "right", "bottom"),
    *("height", "width", "length", "x", "y", "z", "rotation_y"),
)


def _flat(label: Any) -> dict[str, Any]:
    values = (label.kind, label.truncated, label.occluded, label.alpha)
    values += (*label.region, *label.size, *label.place, label.rotation_y)
    return dict(zip(_FIELDS, values, strict=True))


def _frames(folder: Path, frames: Iterable[str] | None) -> list[str]:
    home = folder / "label_2"
    if not home.is_dir():
        raise FileNotFoundError(
            f"read_kitti: {folder} has no folder label_2; name the folder that holds label_2, "
            "calib, image_2 and velodyne, such as .../training."
        )
    known = sorted(path.stem for path in home.glob("*.txt"))
    if frames is None:
        return known
    if isinstance(frames, str):
        raise TypeError(f"read_kitti: frames must be a list of names, got the string {frames!r}.")
    asked = list(frames)
    if lacking := [frame for frame in asked if frame not in known]:
        raise FileNotFoundError(
            f"read_kitti: {home} has no labels of the frames {lacking!r}; it has {len(known)} "
            f"frames, the first is {known[0] if known else None!r}."
        )
    return asked


def _file(folder: Path, frame: str, suffixes: tuple[str, ...]) -> Path | None:
    found = (folder / f"{frame}{suffix}" for suffix in suffixes)
    return next((path for path in found if path.is_file()), None)


def _table(objects: list[dict[str, Any]], labels: pd.DataFrame) -> ModalityTable:
    keys = {"lidar": ("points", "box"), "camera": ("image", "calib", "box")}
    columns: dict[str, np.ndarray] = {}
    for sensor, own in keys.items():
        column = columns[sensor] = np.empty(len(objects), dtype=object)
        for row, item in enumerate(objects):
            there = item[own[0]] is not None
            column[row] = {key: item[key] for key in own} if there else None
    order = labels.groupby("frame").cumcount()
    ids = [f"{frame}-{number}" for frame, number in zip(labels["frame"], order, strict=True)]
    return ModalityTable(columns, ids=ids)
