"""People or vehicles from LiDAR, camera and both, each blacked out at test, frame left out.

Writes its section of docs/benchmarks.md. Run from the root of the repository, with the
development data beside it or in ``MMFUSE_DATA``::

    python benchmarks/objects.py
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from page import write_section
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import LeaveOneGroupOut

from mmfuse import Blocks, FusionClassifier, ModalityEncoder, ModalityTable
from mmfuse.datasets import read_kitti
from mmfuse.encoders import LidarCameraEncoder
from mmfuse.heads import LateFusion
from mmfuse.metrics import log_loss

DATA = Path(os.environ.get("MMFUSE_DATA", Path(__file__).parents[2] / "shared" / "data"))
PEOPLE = ("Pedestrian", "Cyclist")
SENSORS = ("lidar", "camera")
SIZE = (4.0, 4.0, 2.0)
ROWS = {
    "LiDAR + camera": (SENSORS, ()),
    "LiDAR + camera, camera black at test": (SENSORS, ("camera",)),
    "LiDAR + camera, LiDAR black at test": (SENSORS, ("lidar",)),
    "LiDAR only, trained alone": (("lidar",), ()),
    "camera only, trained alone": (("camera",), ()),
}


def of_one_size(cell: dict) -> dict:
    """The same place and lower face in a box that says nothing about the class."""
    x, y, z, _, _, height, _ = cell["box"]
    return {**cell, "box": (x, y, z - height / 2 + SIZE[2] / 2, *SIZE, 0.0)}


def encode(objects: Sequence[dict]) -> Blocks:
    encoders = {sensor: LidarCameraEncoder(sensors=sensor) for sensor in SENSORS}
    return ModalityEncoder(encoders).fit_transform(ModalityTable(dict.fromkeys(SENSORS, objects)))


def predict(blocks: Blocks, y: np.ndarray, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Probabilities of every row by a model that saw nothing of its frame."""
    classes = np.unique(y)
    found = {name: np.empty((len(y), len(classes))) for name in ROWS}
    for train, test in LeaveOneGroupOut().split(y, groups=frames):
        for sensors in dict.fromkeys(sensors for sensors, _ in ROWS.values()):
            model = FusionClassifier(LateFusion(), random_state=0)
            model.fit(blocks.select(sensors)[train], y[train], groups=frames[train])
            for name, (own, black) in ROWS.items():
                if own == sensors:
                    rows = blocks.select(sensors)[test].hide(black)
                    found[name][test] = model.predict_proba(rows)
    return found


def table(found: dict[str, np.ndarray], y: np.ndarray) -> list[str]:
    classes = np.unique(y)
    lines = ["| model | accuracy | balanced accuracy | log loss |", "| --- | --- | --- | --- |"]
    for name, proba in found.items():
        guess = classes[proba.argmax(axis=1)]
        lines.append(
            f"| {name} | {np.mean(guess == y):.3f} | {balanced_accuracy_score(y, guess):.3f} "
            f"| {log_loss(y, proba, classes=classes):.3f} |"
        )
    return lines


def prior_line(y: np.ndarray, frames: np.ndarray) -> str:
    """What the shares of the training rows alone would score."""
    classes = np.unique(y)
    proba = np.empty((len(y), len(classes)))
    for train, test in LeaveOneGroupOut().split(y, groups=frames):
        proba[test] = (y[train][:, None] == classes).mean(axis=0)
    guess = classes[proba.argmax(axis=1)]
    return (
        f"| shares of the training rows | {np.mean(guess == y):.3f} | "
        f"{balanced_accuracy_score(y, guess):.3f} | {log_loss(y, proba, classes=classes):.3f} |"
    )


def section() -> str:
    scenes = read_kitti(DATA / "kitti", points="velodyne_fov")
    y = np.where(np.isin(scenes.y, PEOPLE), "person", "vehicle")
    frames = scenes.groups
    plain = predict(encode([of_one_size(cell) for cell in scenes.objects]), y, frames)
    fitted = predict(encode(scenes.objects), y, frames)
    n_people = int((y == "person").sum())
    most = max(int(((frames == f) & (y == "person")).sum()) for f in np.unique(frames))
    return "\n".join(
        [
            "## Objects of road scenes, one frame left out",
            "",
            f"{len(y)} labelled objects in {len(np.unique(frames))} frames of the KITTI object "
            f"benchmark: {n_people} pedestrians and cyclists against {len(y) - n_people} cars, "
            "vans and trucks. Each frame is predicted by a model trained on the others. "
            "`LidarCameraEncoder(sensors=...)` for either sensor, nothing of it trained here, "
            "`FusionClassifier(LateFusion(), random_state=0)`; the places of the objects are "
            "given. With so few rows one object is 2 points of accuracy, and one frame holds "
            f"{most} of the {n_people} people, so differences of a few objects mean nothing; "
            "pedestrians and cyclists cannot be told apart on these folds and were joined.",
            "",
            f"Boxes of one size ({SIZE[0]:g} x {SIZE[1]:g} x {SIZE[2]:g} m, without heading) "
            "around each object, which say nothing about its class:",
            "",
            *table(plain, y),
            prior_line(y, frames),
            "",
            "Boxes as labelled. Their size depends on the class and cuts points and picture, so "
            "this is what a detector would pass on at best, not what the sensors tell:",
            "",
            *table(fitted, y),
            "",
            "Made by `benchmarks/objects.py`.",
        ]
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    text = section()
    print(text)
    write_section("objects", text)
