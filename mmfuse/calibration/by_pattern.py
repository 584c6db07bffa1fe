"""Calibration that knows what was missing: one temperature, and a correction per pattern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfuse.calibration._affine import Case, shift_basis
from mmfuse.calibration._witnesses import alike, fold_shares, sum_error
from mmfuse.calibration.temperature import TemperatureScaling, make_calibrator

__all__ = ["HeldOut", "PatternCalibration", "make_pattern_calibrator"]

_ROWS = 20  # of a pattern, by weight, below which it has no correction of its own
_MOST_ROWS = 5000  # of a pattern; more change its few numbers by nothing
_FOLDS = 5
_SAFE_PULL = 10.0
_SAFE_ERRORS = 0.5  # standard errors by which a slope must differ to be believed


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


@dataclass(frozen=True)
class _Plan:
    """A form that calibration may take."""

    name: str
    pooled: bool  # whether one temperature comes first
    slope: float = np.inf  # rows that a correction of one has to weigh against
    shift: float = np.inf


_PLANS = (  # the more they change, the later; the first of those that are about as good is taken
    _Plan("none", False),
    _Plan("temperature", True),
    _Plan("slopes", False, 10.0),
    _Plan("temperature and slopes", True, 10.0),
    _Plan("slopes and shifts", False, 100.0, 100.0),
    _Plan("temperature, slopes and shifts", True, 100.0, 100.0),
    _Plan("slopes and free shifts", False, 10.0, 10.0),
    _Plan("temperature, slopes and free shifts", True, 10.0, 10.0),
)


class PatternCalibration(TemperatureScaling):
    """One temperature, or none, and a shrunken correction for each pattern of availability.

    Under a pattern, scores become ``(1 + d) / T * scores + a``: a head that has lost its best
    modality may be too sure of itself, or lean to a class. ``a`` is one number per class, or, for
    ordered classes, one slope over their places. What is fitted, nothing, T, d or a, and how
    strongly d and a are pulled to zero, is chosen by the log loss of further folds: the least
    change whose loss is within a standard error of the lowest. So few rows, or a head that needs
    nothing, leave the scores alone.

    A pattern with at least 20 held-out rows may have such a correction. Others, and all patterns
    where no correction was chosen, get no sharper scores than T and no sharper ones than the head
    gave, unless rows of the pattern itself, or rows in which modalities were hidden down to it,
    show that T is right there: rows that have the best modality are many, and say nothing of those
    that lack it. The same rows may show that scores must be flatter. A pattern of which there are
    neither rows gets the flattest of T, the raw scores and what hidden rows show together.

    Attributes
    ----------
    plan_ : str
        What was chosen.
    temperature_ : float
        1 where no temperature was chosen.
    pull_ : float
        Rows that a correction of one had to weigh against; infinite where none was chosen.
    patterns_ : ndarray of shape (P, M), bool
        Patterns of which there was any row.
    scale_ : ndarray of shape (P,)
        ``1 + d`` of each.
    shift_ : ndarray of shape (P, K)
        ``a`` of each.
    rest_scale_ : float
        ``1 + d`` of all other patterns.

    Notes
    -----
    Shrinking group-wise calibration to a pooled one, and the caution about rare patterns, are ours;
    temperature and vector scaling follow Guo, Pleiss, Sun and Weinberger (2017), "On calibration of
    modern neural networks".
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
            Rows of one group stay together in the folds that choose the plan.
        ordinal : bool, default=False
            Whether classes are ordered.
        """
        known = np.isfinite(held.scores).all(axis=1) & (weight > 0)
        self.fit(held.scores[known], y[known], weight[known])
        units = None if groups is None else np.unique(groups, return_inverse=True)[1]
        rows = _Rows(held, y, weight, units, known)
        basis = shift_basis(held.scores.shape[1], ordinal)
        plan = _choose(rows, basis)
        self.plan_, self.pull_ = plan.name, plan.slope
        self.temperature_ = self.temperature_ if plan.pooled else 1.0
        self.patterns_ = rows.patterns
        self.scale_ = np.ones(len(rows.patterns))
        self.shift_ = np.zeros((len(rows.patterns), held.scores.shape[1]))
        self.rest_scale_ = 1.0
        if held.present.shape[1] < 2:
            return self
        corrected = np.zeros(len(rows.patterns), dtype=bool)
        for place in rows.common() if np.isfinite(plan.slope) else ():
            theta = _correction(rows.own(place).times(1 / self.temperature_), plan, basis)
            self.scale_[place], self.shift_[place] = 1 + theta[0], theta[1:] @ basis
            corrected[place] = True
        for place in np.flatnonzero(~corrected):
            self.scale_[place] = self._safe_scale(rows.all_of(place))
        sparse = rows.hidden()
        self.rest_scale_ = min(self._safe_scale(sparse), min(self.temperature_, 1.0))
        return self

    def _safe_scale(self, case: Case) -> float:
        """Slope over T of a pattern: at most 1, and with few rows at most that of raw scores."""
        cautious = min(1 / self.temperature_, 1.0)
        d, error = case.times(cautious).slope(_SAFE_PULL)
        d = np.sign(d) * max(abs(d) - _SAFE_ERRORS * error, 0.0)
        return float(min(cautious * (1 + d) * self.temperature_, 1.0))

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
            place = self._places(present)
            out *= np.append(self.scale_, self.rest_scale_)[place, None]
            out += np.vstack([self.shift_, np.zeros(out.shape[1])])[place]
        return out

    def slope(self, present: np.ndarray) -> np.ndarray:
        """By what raw scores are multiplied in each row: (n,)."""
        scale = np.append(self.scale_, self.rest_scale_)
        return scale[self._places(present)] / self.temperature_

    def _places(self, present: np.ndarray) -> np.ndarray:
        """Place of each row's pattern in ``patterns_``, or -1: (n,)."""
        place = np.full(len(present), -1)
        for number, pattern in enumerate(self.patterns_):
            place[(present == pattern).all(axis=1)] = number
        return place

    def get_state(self) -> dict:
        return {
            **super().get_state(),
            "plan": self.plan_,
            "pull": None if np.isinf(self.pull_) else self.pull_,
            "patterns": self.patterns_.astype(int).tolist(),
            "modalities": int(self.patterns_.shape[1]),
            "classes": int(self.shift_.shape[1]),
            "scale": self.scale_.tolist(),
            "shift": self.shift_.tolist(),
            "rest_scale": self.rest_scale_,
        }

    @classmethod
    def from_state(cls, state: dict) -> PatternCalibration:
        self = super().from_state(state)
        self.pull_ = np.inf if state["pull"] is None else float(state["pull"])
        self.plan_ = state.get("plan", "temperature")  # absent in models of earlier versions
        self.rest_scale_ = float(state.get("rest_scale", 1.0))
        count = len(state["patterns"])
        shape = (count, state["modalities"])
        self.patterns_ = np.array(state["patterns"], dtype=bool).reshape(shape)
        self.scale_ = np.array(state["scale"], dtype=np.float64)
        self.shift_ = np.array(state["shift"], dtype=np.float64).reshape(count, state["classes"])
        return self


class _Rows:
    """Held-out rows by pattern: as observed, and with modalities hidden.

    Attributes
    ----------
    patterns : ndarray of shape (P, M), bool
        With anything present, of either kind of rows.
    observed : Case
        Rows with anything present.
    place : ndarray
        Pattern of each of them.
    together : ndarray
        Group of each of them, or, without groups, a number that equal rows share.
    """

    def __init__(
        self,
        held: HeldOut,
        y: np.ndarray,
        weight: np.ndarray,
        units: np.ndarray | None,
        known: np.ndarray,
    ) -> None:
        every = Case(held.scores, y, weight, units)
        rows = np.flatnonzero(known & held.present.any(axis=1))
        self.observed, seen = every.take(rows), held.present[rows]
        self.together = self.observed.unit
        if units is None:
            self.together = alike(self.observed.scores, self.observed.y, seen)
        gone = np.empty(0, dtype=int)
        if held.masked is not None and held.masked_present is not None:
            fewer = (held.masked_present != held.present).any(axis=1)
            usable = known & fewer & held.masked_present.any(axis=1)
            gone = np.flatnonzero(usable & np.isfinite(held.masked).all(axis=1))
            every = Case(held.masked, y, weight, units)
        self._masked = every.take(gone)
        found = held.masked_present[gone] if len(gone) else seen[:0]
        self.patterns, place = np.unique(np.concatenate([seen, found]), axis=0, return_inverse=True)
        self.place, self._masked_place = np.split(place.reshape(-1), [len(seen)])

    def common(self) -> list[int]:
        """Patterns with enough rows of their own."""
        weight = self.observed.weight
        count = np.bincount(self.place, weights=weight, minlength=len(self.patterns))
        return np.flatnonzero(count >= _ROWS).tolist()

    def own(self, place: int) -> Case:
        """Observed rows of a pattern."""
        return self.observed.take(_spread(np.flatnonzero(self.place == place)))

    def hidden(self, place: int | None = None) -> Case:
        """Rows in which modalities were hidden, down to a pattern."""
        kept = self._masked_place >= 0 if place is None else self._masked_place == place
        return self._masked.take(_spread(np.flatnonzero(kept)))

    def all_of(self, place: int) -> Case:
        """Both."""
        pairs = zip(_parts(self.own(place)), _parts(self.hidden(place)), strict=True)
        return Case(*(None if one is None else np.concatenate([one, two]) for one, two in pairs))


def _parts(case: Case) -> tuple[np.ndarray | None, ...]:
    return case.scores, case.y, case.weight, case.unit


def _spread(rows: np.ndarray) -> np.ndarray:
    """At most so many of the rows, evenly spread."""
    if len(rows) <= _MOST_ROWS:
        return rows
    return rows[np.linspace(0, len(rows) - 1, _MOST_ROWS).astype(int)]


def _correction(case: Case, plan: _Plan, basis: np.ndarray) -> np.ndarray:
    """d, and a in the basis, under a plan that has d."""
    theta = np.zeros(1 + len(basis))
    if np.isinf(plan.shift):
        theta[:1] = case.correction(basis[:0], np.array([plan.slope]))
    else:
        pull = np.append(plan.slope, np.full(len(basis), plan.shift))
        theta[:] = case.correction(basis, pull)
    return theta


def _choose(rows: _Rows, basis: np.ndarray) -> _Plan:
    """The first plan whose held-out loss is within a standard error of the lowest."""
    if len(np.unique(rows.together)) < _FOLDS:
        return _PLANS[1]
    patterns = rows.patterns.shape[1] > 1
    plans = [
        plan
        for plan in _PLANS
        if np.isinf(plan.slope) or (patterns and (np.isinf(plan.shift) or len(basis)))
    ]
    weight, unit = rows.observed.weight, rows.observed.unit
    shares = fold_shares(rows.together, weight, _FOLDS, whole=unit is not None)
    gain = np.zeros((len(plans), len(weight)))  # over raw scores, by row
    for share in shares.T:
        test = share > 0
        before = rows.observed.take(test).loss(np.zeros(1), basis[:0])
        for p, after in enumerate(_held_out_losses(rows, share, plans, basis)):
            gain[p, test] += share[test] * (before - after)
    behind = gain[np.argmax(gain @ weight)] - gain
    noise = np.array([sum_error(each, weight, unit) for each in behind])
    return plans[int(np.argmax(behind @ weight <= noise))]


def _held_out_losses(
    rows: _Rows, share: np.ndarray, plans: list[_Plan], basis: np.ndarray
) -> list[np.ndarray]:
    """Loss of the rows that have a share in the test, under each plan, fitted on the others."""
    test, learn = share > 0, share < 1
    train, tested = rows.observed.weighted(1 - share).take(learn), rows.observed.take(test)
    temperature = TemperatureScaling().fit(train.scores, train.y, train.weight).temperature_
    losses = []
    for plan in plans:
        slope = 1 / temperature if plan.pooled else 1.0
        loss = tested.times(slope).loss(np.zeros(1), basis[:0])
        for place in rows.common() if np.isfinite(plan.slope) else ():
            inside = rows.place[test] == place
            learned = train.take(_spread(np.flatnonzero(rows.place[learn] == place)))
            theta = _correction(learned.times(slope), plan, basis)
            loss[inside] = tested.take(inside).times(slope).loss(theta, basis)
        losses.append(loss)
    return losses


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
