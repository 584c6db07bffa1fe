"""One object, and a folder of two frames in KITTI's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pytest import importorskip

from mmfuse.encoders import LidarCameraEncoder

__all__ = ["BOX", "CALIB", "LABELS", "both", "lidar", "points_in", "write_frames"]

BOX = (10.0, 1.0, 0.0, 4.0, 2.0, 1.6, 0.4)
CALIB = """P0: 1 0 0 0 0 1 0 0 0 0 1 0
P2: 50 0 48 0 0 50 32 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0
"""
LABELS = """Car 0.00 0 -1.5 10 20 30 40 1.6 2.0 4.0 -1.0 0.8 10.0 -1.9708
DontCare -1 -1 -10 5 5 9 9 -1 -1 -1 -1000 -1000 -1000 -10
Pedestrian 0.10 2 0.1 50 20 60 40 1.8 0.6 0.8 2.0 0.9 14.0 0.0 0.97
"""


def points_in(box=BOX, n=50, seed=0):
    rng = np.random.default_rng(seed)
    local = rng.uniform(-0.7, 0.7, (n, 4)) + [0, 0, 0, 0.7]
    return (local + [*box[:3], 0]).astype(np.float32)


def lidar(**arguments):
    arguments = {"sensors": "lidar", "cache": False, "device": "cpu"} | arguments
    return LidarCameraEncoder(**arguments).fit([])


def both(**arguments):
    return lidar(**{"sensors": "both", "weights": None, "image_size": 32} | arguments)


def write_frames(tmp_path: Path) -> Path:
    """One frame with both sensors, and one without a picture."""
    picture = importorskip("PIL.Image")
    for name in ("calib", "label_2", "velodyne", "image_2"):
        (tmp_path / name).mkdir()
    for frame in ("000000", "000001"):
        (tmp_path / "calib" / f"{frame}.txt").write_text(CALIB)
        (tmp_path / "label_2" / f"{frame}.txt").write_text(LABELS)
        points_in().astype("<f4").tofile(tmp_path / "velodyne" / f"{frame}.bin")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    picture.fromarray(pixels).save(tmp_path / "image_2" / "000000.png")
    return tmp_path
