"""Action units from a face mesh, by inverting py-feat's linear model of what they do to it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import lsq_linear
from scipy.spatial.transform import Rotation

from mmfuse.encoders._face_mesh import model_file

__all__ = ["UNITS", "FaceUnits", "shared_units"]

UNITS = tuple(
    f"AU{number:02d}"
    for number in (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43)
)
"""Action units of the model."""
_POINTS = 468  # of the mesh; ten more of the irises are in the model
_RIGID = 45
_RIDGE = 0.15
_TO_PICTURE = np.diag([1.0, -1.0, -1.0])  # the model has y up and z towards the camera


@dataclass(frozen=True)
class FaceUnits:
    """A mesh is `rest` + `effect` @ (20 intensities, pitch, yaw, roll).

    The mesh is laid over `rest` on the points that the units move least, by rotation, translation
    and scale (Umeyama 1991). Intensities in 0..1 and free angles, which take up what is left of
    the pose, are then fitted by least squares with a ridge.
    """

    rest: np.ndarray  # (468, 3)
    rigid: np.ndarray  # (45,)
    effect: np.ndarray  # (1404, 23)
    root: np.ndarray  # (23, 23), lower Cholesky factor of the normal equations

    def fit(self, mesh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return intensities (20,), and pitch, yaw and roll in radians, of a mesh (468, 3)."""
        turn, laid = _lay_over(mesh, self.rest, self.rigid)
        right = self.effect.T @ (laid - self.rest).ravel()
        target = solve_triangular(self.root, right, lower=True)
        free = np.array([np.inf] * 3)
        low = np.concatenate([np.zeros(len(UNITS)), -free])
        high = np.concatenate([np.ones(len(UNITS)), free])
        found = lsq_linear(self.root.T, target, bounds=(low, high), method="bvls").x
        yaw, pitch, roll = Rotation.from_matrix(turn.T @ _TO_PICTURE).as_euler("YXZ")
        return np.clip(found[: len(UNITS)], 0.0, 1.0), np.array([pitch, yaw, roll])


@cache
def shared_units() -> FaceUnits:
    """Return the model of the installed py-feat."""
    with np.load(model_file("units"), allow_pickle=False) as model:
        names = tuple(str(name) for name in model["au_columns"])
        coef = model["coef"].astype(np.float64)
        rest = model["intercept"].astype(np.float64)
    if names != UNITS:
        raise ValueError(f"ActionUnitEncoder: py-feat's model holds other action units: {names!r}.")
    effect = _by_point(coef)  # (23, 468, 3)
    moved = np.linalg.norm(effect[: len(UNITS)], axis=2).sum(axis=0)
    rigid = np.sort(np.argsort(moved, kind="stable")[:_RIGID])
    flat = effect.reshape(len(effect), -1).T
    ridge = _RIDGE * np.linalg.norm(flat, axis=0).mean()
    root = np.linalg.cholesky(flat.T @ flat + ridge**2 * np.eye(flat.shape[1]))
    return FaceUnits(_by_point(rest[None])[0], rigid, flat, root)


def _by_point(rows: np.ndarray) -> np.ndarray:
    """Rows laid out x(478) y(478) z(478) to (n, 468, 3)."""
    return rows.reshape(len(rows), 3, -1).transpose(0, 2, 1)[:, :_POINTS]


def _lay_over(
    mesh: np.ndarray, rest: np.ndarray, rigid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rotation (3, 3) that lays a mesh over `rest`, and the mesh so laid."""
    source, target = mesh[rigid], rest[rigid]
    from_centre, to_centre = source.mean(axis=0), target.mean(axis=0)
    left, spread, right = np.linalg.svd((target - to_centre).T @ (source - from_centre))
    mirror = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    turn = (left * mirror) @ right
    scale = (spread * mirror).sum() / np.square(source - from_centre).sum()
    return turn, scale * (mesh - from_centre) @ turn.T + to_centre
