"""Calibration that knows what was missing: one temperature, and a correction per pattern."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax

from mmfuse.calibration.temperature import TemperatureScaling, make_calibrator

__all__ = ["HeldOut", "PatternCalibration", "make_pattern_calibrator"]

_PULLS = (300.0, 100.0, 30.0, 10.0)  # rows that a correction of one is worth, strongest first
_ROWS = 20  # of a pattern, below which it keeps the pooled temperature
_MOST_ROWS = 5000  # of a pattern; more change its few numbers by nothing
_MOST_CLASSES = 20  # beyond, a shift per class is too much to learn
_FOLDS = 5
_NEWTON = 12


@dataclass(frozen=True)
class HeldOut:
    """Scores of rows that the head did not see, and what each row had.

    Attributes
    ----------
    scores : ndarray of shape (n, K)
        NaN rows were never held out.
    present : ndarray of shape (n, M), bool
    masked : ndarray of shape (n, K) or None
        Scores of the same rows with modalities hidden.
    masked_present : ndarray of shape (n, M), bool, or None
    blocks : Blocks or None
        The encoded rows.
    folds : list of (train, test)
        By which the scores were made.
    """

    scores: np.ndarray
    present: np.ndarray
    masked: np.ndarray | None = None
    masked_present: np.ndarray | None = None
    blocks: Any = None
    folds: Sequence[tuple[np.ndarray, np.ndarray]] = ()


class PatternCalibration(TemperatureScaling):
    """A temperature for all rows, and a shrunken correction for each pattern of availability.

    ``T`` is fitted on all held-out rows as they were observed. Under a pattern, scores become
    ``(1 + d) / T * scores + a``: a head that has lost its best modality may be too sure of itself,
    or lean to a class. ``a`` is one number per class, or, for ordered classes, one slope over their
    places. Both are pulled to zero; how strongly is chosen by the log loss of further folds,
    and no correction at all is one of the choices and wins unless another is clearly better. So
    few rows, or a head that needs nothing, leave the temperature alone. A pattern with fewer than
    20 rows of its own learns from rows in which modalities were hidden; one with fewer than 20 of
    these too keeps the temperature, as do patterns that never occurred.

    Attributes
    ----------
    temperature_ : float
    pull_ : float
        Rows that a correction of one had to weigh against; infinite where none was made.
    patterns_ : ndarray of shape (P, M), bool
        Patterns that have a correction.
    scale_ : ndarray of shape (P,)
        ``1 + d`` of each.
    shift_ : ndarray of shape (P, K)
        ``a`` of each.

    Notes
    -----
    Shrinking group-wise calibration to a pooled one is ours; temperature and vector scaling follow
    Guo, Pleiss, Sun and Weinberger (2017), "On calibration of modern neural networks".
    """

    name = "pattern"

    def fit_patterns(
        self,
        held: HeldOut,
        y: np.ndarray,
        weight: np.ndarray,
        groups: np.ndarray | None = None,
        *,
        ordinal: bool = False,
    ) -> PatternCalibration:
        """Fit on held-out scores.

        Parameters
        ----------
        held : HeldOut
        y : ndarray of shape (n,)
            Class indices.
        weight : ndarray of shape (n,)
        groups : ndarray of shape (n,), optional
            Rows of one group stay together in the folds that choose the pull.
        ordinal : bool, default=False
            Whether classes are ordered.
        """
        known = np.isfinite(held.scores).all(axis=1) & (weight > 0)
        self.fit(held.scores[known], y[known], weight[known])
        n_classes, n_modalities = held.scores.shape[1], held.present.shape[1]
        self.pull_ = np.inf
        self.patterns_ = np.empty((0, n_modalities), dtype=bool)
        self.scale_, self.shift_ = np.empty(0), np.empty((0, n_classes))
        basis = _basis(n_classes, ordinal)
        cases = list(self._cases(held, y, weight, known))
        if n_modalities < 2 or not cases:
            return self
        units = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
        self.pull_ = self._choose(cases, units, basis)
        if np.isinf(self.pull_):
            return self
        found = [case.correction(basis, self.pull_) for case in cases]
        self.patterns_ = np.stack([case.pattern for case in cases])
        self.scale_ = np.array([1 + c[0] for c in found])
        self.shift_ = np.stack([c[1:] @ basis for c in found])
        return self

    def _cases(
        self, held: HeldOut, y: np.ndarray, weight: np.ndarray, known: np.ndarray
    ) -> Iterator[_Case]:
        """Rows of every pattern that has enough of them: its own, or such as had parts hidden."""
        seen = [(held.scores, held.present, known)]
        if held.masked is not None and held.masked_present is not None:
            usable = known & np.isfinite(held.masked).all(axis=1)
            seen.append((held.masked, held.masked_present, usable))
        patterns = np.unique(np.concatenate([p[u] for _, p, u in seen]), axis=0)
        for pattern in patterns[patterns.any(axis=1)]:
            for scores, present, usable in seen:
                rows = np.flatnonzero(usable & (present == pattern).all(axis=1))
                if len(rows) >= _ROWS:
                    if len(rows) > _MOST_ROWS:
                        pick = np.linspace(0, len(rows) - 1, _MOST_ROWS).astype(int)
                        rows = rows[pick]
                    scaled = scores[rows] / self.temperature_
                    yield _Case(pattern, rows, scaled, y[rows], weight[rows])
                    break

    def _choose(self, cases: list[_Case], units: np.ndarray, basis: np.ndarray) -> float:
        """The pull with the lowest held-out loss, or none where no pull is clearly better."""
        names = np.unique(np.concatenate([units[case.rows] for case in cases]))
        if len(names) < _FOLDS:
            return np.inf
        order = np.random.default_rng(0).permutation(len(names)) % _FOLDS
        fold_of = np.zeros(int(units.max()) + 1, dtype=np.int64)
        fold_of[names] = order
        gain = np.zeros((len(_PULLS), _FOLDS))  # over no correction, summed over rows
        for case in cases:
            fold, before = fold_of[units[case.rows]], case.loss(np.zeros(len(basis) + 1), basis)
            for f in range(_FOLDS):
                test = fold == f
                if not test.any() or test.all():
                    continue
                train = case.take(~test)
                for p, pull in enumerate(_PULLS):
                    after = case.loss(train.correction(basis, pull), basis)
                    gain[p, f] += (case.weight * (before - after))[test].sum()
        best = int(np.argmax(gain.sum(axis=1)))
        noise = gain[best].std(ddof=1) * _FOLDS**0.5
        return _PULLS[best] if gain[best].sum() > noise else np.inf

    def transform(self, scores: np.ndarray, present: np.ndarray | None = None) -> np.ndarray:
        """Calibrated scores, of the same shape.

        Parameters
        ----------
        scores : ndarray of shape (n, K)
        present : ndarray of shape (n, M), bool, optional
            What each row has; without it the temperature alone is used.
        """
        out = super().transform(scores)
        if present is not None:
            for pattern, scale, shift in zip(self.patterns_, self.scale_, self.shift_, strict=True):
                rows = (present == pattern).all(axis=1)
                out[rows] = scale * out[rows] + shift
        return out

    def slope(self, present: np.ndarray) -> np.ndarray:
        """By what raw scores are multiplied in each row: (n,)."""
        out = np.full(len(present), 1 / self.temperature_)
        for pattern, scale in zip(self.patterns_, self.scale_, strict=True):
            out[(present == pattern).all(axis=1)] *= scale
        return out

    def get_state(self) -> dict:
        return {
            **super().get_state(),
            "pull": None if np.isinf(self.pull_) else self.pull_,
            "patterns": self.patterns_.astype(int).tolist(),
            "modalities": int(self.patterns_.shape[1]),
            "classes": int(self.shift_.shape[1]),
            "scale": self.scale_.tolist(),
            "shift": self.shift_.tolist(),
        }

    @classmethod
    def from_state(cls, state: dict) -> PatternCalibration:
        self = super().from_state(state)
        self.pull_ = np.inf if state["pull"] is None else float(state["pull"])
        count = len(state["patterns"])
        shape = (count, state["modalities"])
        self.patterns_ = np.array(state["patterns"], dtype=bool).reshape(shape)
        self.scale_ = np.array(state["scale"], dtype=np.float64)
        self.shift_ = np.array(state["shift"], dtype=np.float64).reshape(count, state["classes"])
        return self


@dataclass(frozen=True)
class _Case:
    """The rows of one pattern: scores (r, K) over the pooled temperature."""

    pattern: np.ndarray
    rows: np.ndarray
    scores: np.ndarray
    y: np.ndarray
    weight: np.ndarray

    def take(self, kept: np.ndarray) -> _Case:
        parts = (self.rows, self.scores, self.y, self.weight)
        return _Case(self.pattern, *(part[kept] for part in parts))

    def _logits(self, theta: np.ndarray, basis: np.ndarray) -> np.ndarray:
        return (1 + theta[0]) * self.scores + theta[1:] @ basis

    def loss(self, theta: np.ndarray, basis: np.ndarray) -> np.ndarray:
        """Log loss (r,) under the correction ``theta``: d, then a in the basis."""
        log_p = log_softmax(self._logits(theta, basis), axis=1)
        return -log_p[np.arange(len(self.y)), self.y]

    def correction(self, basis: np.ndarray, pull: float) -> np.ndarray:
        """Minimise the penalised log loss, which is convex, by Newton's method."""
        theta = np.zeros(len(basis) + 1)
        value = self._value(theta, basis, pull)
        for _ in range(_NEWTON):
            p = softmax(self._logits(theta, basis), axis=1)
            wrong = p.copy()
            wrong[np.arange(len(self.y)), self.y] -= 1
            inner = (p * self.scores).sum(axis=1)
            gradient = np.concatenate(
                [
                    [self.weight @ (wrong * self.scores).sum(axis=1)],
                    basis @ (self.weight @ wrong),
                ]
            )
            gradient += pull * theta
            hessian = pull * np.eye(len(theta))
            weighted = self.weight[:, None] * p
            hessian[0, 0] += (weighted * (self.scores - inner[:, None]) ** 2).sum()
            cross = (weighted * (self.scores - inner[:, None])).sum(axis=0)
            hessian[0, 1:] += basis @ cross
            hessian[1:, 0] += basis @ cross
            spread = np.diag(weighted.sum(axis=0)) - weighted.T @ p
            hessian[1:, 1:] += basis @ spread @ basis.T
            step = np.linalg.solve(hessian, gradient)
            if gradient @ step < 1e-9:
                break
            size = 1.0
            while self._value(theta - size * step, basis, pull) > value and size > 1e-4:
                size /= 2
            theta = theta - size * step
            value = self._value(theta, basis, pull)
        theta[0] = max(theta[0], -0.95)  # the order of the classes must not turn round
        return theta

    def _value(self, theta: np.ndarray, basis: np.ndarray, pull: float) -> float:
        return float(self.weight @ self.loss(theta, basis) + pull / 2 * (theta @ theta))


def _basis(n_classes: int, ordinal: bool) -> np.ndarray:
    """Rows are directions in which the scores of the classes may be shifted: (r, K)."""
    if ordinal:
        places = np.arange(n_classes) - (n_classes - 1) / 2
        return places[None] / max(places.std(), 1e-12)
    if n_classes > _MOST_CLASSES:
        return np.empty((0, n_classes))
    return np.eye(n_classes) - 1 / n_classes


def make_pattern_calibrator(
    kind: str | None,
    held: HeldOut | None,
    y: np.ndarray,
    weight: np.ndarray,
    groups: np.ndarray | None,
    *,
    ordinal: bool,
) -> TemperatureScaling | None:
    """As `mmfuse.calibration.make_calibrator`; ``"auto"`` also corrects patterns."""
    pooled = make_calibrator(kind, None if held is None else held.scores, y, weight)
    if pooled is None or held is None or kind != "auto":
        return pooled
    return PatternCalibration().fit_patterns(held, y, weight, groups, ordinal=ordinal)
