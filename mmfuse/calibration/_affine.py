"""Scores of a pattern under one slope and a shift per class, fitted by a penalised log loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

__all__ = ["Case", "shift_basis"]

_MOST_CLASSES = 20  # beyond, a shift per class is too much to learn
_NEWTON = 12
_FLATTEST = 0.05  # least slope: the order of the classes must not turn round


def shift_basis(n_classes: int, ordinal: bool) -> np.ndarray:
    """Rows are directions in which the scores of the classes may be shifted: (r, K)."""
    if ordinal:
        places = np.arange(n_classes) - (n_classes - 1) / 2
        return places[None] / max(places.std(), 1e-12)
    if n_classes > _MOST_CLASSES:
        return np.empty((0, n_classes))
    return np.eye(n_classes) - 1 / n_classes


@dataclass(frozen=True)
class Case:
    """Rows that share one correction: ``(1 + d) * scores + a``.

    Attributes
    ----------
    scores : ndarray of shape (r, K)
    y : ndarray of shape (r,)
        Class indices.
    weight : ndarray of shape (r,)
    unit : ndarray of shape (r,), optional
        Rows of one unit are one witness; without units, a row is as many as it has weight.
    """

    scores: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    unit: np.ndarray | None

    def take(self, kept: np.ndarray) -> Case:
        """The rows of a mask or of numbers."""
        unit = None if self.unit is None else self.unit[kept]
        return Case(self.scores[kept], self.y[kept], self.weight[kept], unit)

    def weighted(self, factor: np.ndarray) -> Case:
        """The same rows with other weights."""
        return Case(self.scores, self.y, self.weight * factor, self.unit)

    def times(self, slope: float) -> Case:
        """The same rows with their scores multiplied."""
        return Case(slope * self.scores, self.y, self.weight, self.unit)

    def loss(self, theta: np.ndarray, basis: np.ndarray) -> np.ndarray:
        """Log loss (r,) under the correction ``theta``: d, then a in the basis."""
        return -self._log_p(theta, basis)[np.arange(len(self.y)), self.y]

    def correction(self, basis: np.ndarray, pull: np.ndarray) -> np.ndarray:
        """Minimise the penalised log loss, which is convex, by Newton's method.

        Parameters
        ----------
        basis : ndarray of shape (r, K)
        pull : ndarray of shape (1 + r,)
            Weight of half the square of d, and of each part of a.
        """
        theta = np.zeros(len(pull))
        value, log_p = self._value(theta, basis, pull)
        for _ in range(_NEWTON):
            gradient, hessian = self._derivatives(theta, log_p, basis, pull)
            step = np.linalg.solve(hessian, gradient)
            if gradient @ step < 1e-9:
                break
            size = 1.0
            while True:
                following, log_p = self._value(theta - size * step, basis, pull)
                if following <= value or size < 1e-4:
                    break
                size /= 2
            theta, value = theta - size * step, following
        theta[0] = max(theta[0], _FLATTEST - 1)
        return theta

    def slope(self, pull: float) -> tuple[float, float]:
        """d without a, and its standard error, in which rows of a unit count together."""
        nowhere, pulls = self.scores[:0], np.array([pull])
        d = self.correction(nowhere, pulls)
        _, log_p = self._value(d, nowhere, pulls)
        _, hessian = self._derivatives(d, log_p, nowhere, pulls)
        wrong = np.exp(log_p)
        wrong[np.arange(len(self.y)), self.y] -= 1
        each = (wrong * self.scores).sum(axis=1)
        if self.unit is None:
            found = float(self.weight @ each**2)
        else:
            found = float((np.bincount(self.unit, weights=self.weight * each) ** 2).sum())
        spread = max(float(hessian[0, 0]), found)
        return float(d[0]), spread**0.5 / float(hessian[0, 0])

    def _log_p(self, theta: np.ndarray, basis: np.ndarray) -> np.ndarray:
        return log_softmax((1 + theta[0]) * self.scores + theta[1:] @ basis, axis=1)

    def _value(
        self, theta: np.ndarray, basis: np.ndarray, pull: np.ndarray
    ) -> tuple[float, np.ndarray]:
        log_p = self._log_p(theta, basis)
        loss = -self.weight @ log_p[np.arange(len(self.y)), self.y]
        return float(loss + pull @ theta**2 / 2), log_p

    def _derivatives(
        self, theta: np.ndarray, log_p: np.ndarray, basis: np.ndarray, pull: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        p = np.exp(log_p)
        wrong = p.copy()
        wrong[np.arange(len(self.y)), self.y] -= 1
        slope = self.weight @ (wrong * self.scores).sum(axis=1)
        gradient = np.append(slope, basis @ (self.weight @ wrong)) + pull * theta
        away = self.scores - (p * self.scores).sum(axis=1, keepdims=True)
        weighted = self.weight[:, None] * p
        hessian = np.diag(pull).astype(np.float64)
        hessian[0, 0] += (weighted * away**2).sum()
        cross = basis @ (weighted * away).sum(axis=0)
        hessian[0, 1:] += cross
        hessian[1:, 0] += cross
        spread = np.diag(weighted.sum(axis=0)) - weighted.T @ p
        hessian[1:, 1:] += basis @ spread @ basis.T
        return gradient, hessian
