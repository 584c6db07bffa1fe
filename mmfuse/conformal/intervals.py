"""Intervals that hold the true value with a stated probability, for every output of a regressor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from mmfuse.conformal.sets import warn_unknown
from mmfuse.conformal.strata import Strata
from mmfuse.conformal.thresholds import (
    Conformal,
    check_coverage,
    check_min_rows,
    patterns_to_hide,
)
from mmfuse.outputs import OUTPUTS
from mmfuse.outputs.quantiles import at_levels
from mmfuse.targets import check_groups, check_value_target, check_weight
from mmfuse.training_record import check_held_out

__all__ = ["ConformalIntervalsMixin", "intervals_from_held_out"]

_MOST_HIDDEN = 1000  # rows that are brought to a pattern by hiding; more change little
_CHUNK = 4096  # rows whose densities are held at once


class _Rows:
    """Rows that stand for blocks, with raw scores at hand instead of features."""

    def __init__(self, scores: np.ndarray, present: np.ndarray) -> None:
        self.scores, self.present = scores, present

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: slice) -> _Rows:
        return _Rows(self.scores[rows], self.present[rows])


class _Replay:
    """A regressor that answers from given scores: outputs then treat them as those of new rows."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, X: _Rows) -> _Rows:
        return X

    def _output(self, X: _Rows) -> tuple[_Rows, np.ndarray]:
        return X, X.scores.astype(np.float64)


def _by_quantiles(model: Any) -> bool:
    return model.output_ == "quantiles"


def _values(model: Any, kind: Any, rows: Any, y: np.ndarray) -> np.ndarray:
    """What scores are computed from: errors (n, T), quantiles less y (n, L), or |PIT - 1/2|."""
    if model.output_ == "point":
        return np.abs(y - kind.predict(model, rows))
    if _by_quantiles(model):
        return kind.quantiles(model, rows, model.quantile_levels_) - y
    parts = [np.empty((0, 1))]
    for start in range(0, len(rows), _CHUNK):
        part, truth = rows[start : start + _CHUNK], y[start : start + _CHUNK]
        density = kind.density(model, part, None)
        off = np.abs(density.cdf(truth) - 0.5)
        off[(truth < density.edges[0]) | (truth > density.edges[-1])] = np.inf
        parts.append(off)
    return np.concatenate(parts)


def _scores(model: Any, store: Conformal, coverage: float, target: int = 0) -> np.ndarray:
    """Scores (N,) of the entries at a coverage."""
    if not _by_quantiles(model):
        return store.values[:, target]
    ends = at_levels(store.values, model.quantile_levels_, _ends(coverage))
    return np.maximum(ends[:, 0], -ends[:, 1])


def _ends(coverage: float) -> np.ndarray:
    return np.array([1.0 - coverage, 1.0 + coverage]) / 2.0


def intervals_from_held_out(
    model: Any, held: Any, y: np.ndarray, weight: np.ndarray, groups: np.ndarray | None
) -> Conformal | None:
    """Scores of the out-of-fold rows of a fit, as they were and with modalities hidden.

    Parameters
    ----------
    model : FusionRegressor
        Fitted but for this.
    held : HeldOut or None
    y : ndarray of shape (n, T)
    weight : ndarray of shape (n,)
    groups : ndarray of shape (n,) or None
    """
    if held is None or model.calibration is None or _one_level(model):
        return None
    known = np.isfinite(held.scores).all(axis=1) & (weight > 0)
    if not known.any():
        return None
    replay, kind = _Replay(model), OUTPUTS[model.output_]

    def entries(scores: np.ndarray, present: np.ndarray, rows: np.ndarray, hidden: bool) -> tuple:
        part = _Rows(scores[rows], present[rows])
        return _values(replay, kind, part, y[rows]), part.present, rows, hidden

    parts = [entries(held.scores, held.present, np.flatnonzero(known), False)]
    if held.masked is not None and held.masked_present is not None:
        less = (held.present != held.masked_present).any(axis=1)
        gone = np.flatnonzero(known & less & np.isfinite(held.masked).all(axis=1))
        parts.append(entries(held.masked, held.masked_present, gone, True))
    some = np.flatnonzero(known & held.present.any(axis=1))
    parts.append(entries(np.zeros_like(held.scores), np.zeros_like(held.present), some, True))
    return Conformal.gather("out-of-fold", parts, weight, groups)


def _one_level(model: Any) -> bool:
    return _by_quantiles(model) and len(model.quantile_levels_) == 1


class ConformalIntervalsMixin:
    """`predict_interval` and `conformalize` of `FusionRegressor`."""

    def conformalize(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        groups: Any = None,
        *,
        by: Any = None,
        min_rows: int = 30,
        overlap: str = "auto",
    ) -> Any:
        """Calibrate `predict_interval` on rows that the model did not see: split conformal.

        Parameters
        ----------
        X : ModalityTable, DataFrame, dict, array or Blocks
            n rows that took no part in ``fit``.
        y : array-like of shape (n,) or (n, T)
        sample_weight, groups, by, min_rows, overlap
            As in `FusionClassifier.conformalize`.

        Returns
        -------
        FusionRegressor
            Itself, with ``conformal_``.

        Raises
        ------
        ValueError
            If lengths or numbers of columns differ, ``by`` has gaps, or the model has one quantile
            only.
        LeakageError
            If the model was fitted on some of the groups.

        Warns
        -----
        LeakageWarning
            If the model was fitted on some of the rows.
        """
        check_is_fitted(self, "head_")
        caller = f"{type(self).__name__}.conformalize"
        check_min_rows(min_rows, caller)
        if _one_level(self):
            OUTPUTS[self.output_]._need_two(self)
        blocks = self.encode(X)
        check_held_out(self, blocks, groups, overlap=overlap, caller=caller)
        y = check_value_target(y, len(blocks), caller).reshape(len(blocks), -1)
        if y.shape[1] != (len(self.prior_) if self.output_ == "point" else 1):
            raise ValueError(f"{caller}: y has {y.shape[1]} columns; give those of fit.")
        weight = check_weight(sample_weight, len(blocks))
        groups, strata = check_groups(groups, len(blocks)), Strata.read(by, len(blocks), caller)
        kind, rows = OUTPUTS[self.output_], np.arange(len(blocks))
        parts = [(_values(self, kind, blocks, y), blocks.present, rows, False)]
        for pattern, able in patterns_to_hide(blocks.present):
            able = able[np.linspace(0, len(able) - 1, min(len(able), _MOST_HIDDEN)).astype(int)]
            names = [n for n, there in zip(blocks.names, pattern, strict=True) if not there]
            values = _values(self, kind, blocks[able].hide(names), y[able])
            parts.append((values, np.tile(pattern, (len(able), 1)), able, True))
        self.conformal_ = Conformal.gather("held-out", parts, weight, groups, strata, min_rows)
        return self

    def predict_interval(self, X: Any, coverage: float = 0.9, *, by: Any = None) -> np.ndarray:
        """Intervals that hold the true value with the probability ``coverage``.

        Calibrated on the out-of-fold rows of ``fit``, or on those of `conformalize`, for every
        availability pattern by itself; `mmfuse.conformal.Conformal` says what is guaranteed.

        Parameters
        ----------
        X : ModalityTable, DataFrame, dict, array or Blocks
            n rows.
        coverage : float, default=0.9
            Above 0 and below 1. Where the density has a grid, 1 is allowed too and gives all of
            the grid that has any probability.
        by : array-like of shape (n,), Series or DataFrame, optional
            Values of the column that `conformalize` had.

        Returns
        -------
        ndarray of shape (n, 2), or (n, T, 2) where y had T columns
            Lower and upper ends, in the unit of y; infinite where too few rows were held out to
            say anything.

        Raises
        ------
        ValueError
            For a wrong ``coverage``; if ``by`` is another column than in `conformalize`, or was
            not given there. As in `predict_density` where nothing was held out.

        Notes
        -----
        ``"point"``: the prediction and a quantile of the absolute errors on both sides.
        ``"quantiles"``: the central interval, with both ends moved by one number (Romano,
        Patterson and Candes 2019, "Conformalized quantile regression"). ``"binned"`` and
        ``"mixture"``: the central interval of the density at the level that had the coverage,
        which is the distributional conformal prediction of Chernozhukov, Wuethrich and Zhu (2021);
        it stays one interval where the density has several modes.

        Where nothing was held out (``calibration=None``, or too few rows; ``conformal_`` is then
        None) it is the central interval of the density, with no guarantee;
        ``predict_density(X).interval(coverage)`` is always that.
        """
        check_is_fitted(self, "head_")
        caller = f"{type(self).__name__}.predict_interval"
        kind, store = OUTPUTS[self.output_], getattr(self, "conformal_", None)
        if store is None or coverage == 1:
            if by is not None:
                raise ValueError(
                    f"{caller}: by needs rows to calibrate on and a coverage below 1; call "
                    "conformalize(X_cal, y_cal, by=...) first."
                )
            return kind.interval(self, X, coverage)
        coverage = check_coverage(coverage, caller)
        blocks = self.encode(X)
        strata = Strata.read(by, len(blocks), caller)
        codes = store.codes(strata, len(blocks), caller)
        warn_unknown(strata, codes, caller)
        if self.output_ != "point":
            scores = _scores(self, store, coverage)
            threshold, _ = store.thresholds(scores, coverage, blocks.present, codes)
            move = _moved_quantiles if _by_quantiles(self) else _wide_density
            return move(self, kind, blocks, coverage, threshold)
        middle, ends = kind.predict(self, blocks), []
        for t in range(middle.shape[1]):
            scores = _scores(self, store, coverage, t)
            wide, _ = store.thresholds(scores, coverage, blocks.present, codes)
            ends.append(np.stack([middle[:, t] - wide, middle[:, t] + wide], axis=1))
        return ends[0] if middle.shape[1] == 1 else np.stack(ends, axis=1)

    def conformal_table(self, coverage: float = 0.9, *, target: int = 0) -> pd.DataFrame:
        """Calibration rows, threshold and its source for every pattern and stratum.

        Parameters
        ----------
        coverage : float, default=0.9
        target : int, default=0
            Column of y.

        Returns
        -------
        DataFrame
            As of `FusionClassifier.conformal_table`. The threshold is, for ``"point"``, half the
            width of the interval; for ``"quantiles"`` what both ends are moved by, in the unit of
            y; for others half the level of the central interval.
        """
        check_is_fitted(self, "head_")
        caller = f"{type(self).__name__}.conformal_table"
        store = getattr(self, "conformal_", None)
        if store is None:
            raise ValueError(
                f"{caller}: nothing was held out in fit; call conformalize(X_cal, y_cal) with rows "
                "that the model has not seen."
            )
        coverage = check_coverage(coverage, caller)
        return store.table(_scores(self, store, coverage, target), coverage, self.modalities_)


def _moved_quantiles(
    model: Any, kind: Any, blocks: Any, coverage: float, threshold: np.ndarray
) -> np.ndarray:
    ends = kind.quantiles(model, blocks, _ends(coverage))
    low, high = ends[:, 0] - threshold, ends[:, 1] + threshold
    crossed = low > high  # moved inwards past each other: one point between them
    low[crossed] = high[crossed] = ((low + high) / 2.0)[crossed]
    return np.stack([low, high], axis=1)


def _wide_density(
    model: Any, kind: Any, blocks: Any, coverage: float, threshold: np.ndarray
) -> np.ndarray:
    parts = [np.empty((0, 2))]
    for start in range(0, len(blocks), _CHUNK):
        rows = slice(start, start + _CHUNK)
        density, half = kind.density(model, blocks[rows], None), threshold[rows]
        level = np.stack([0.5 - half, 0.5 + half], axis=1)
        ends = density.quantile(np.clip(level, 0.0, 1.0))
        ends[half >= 0.5] = density.edges[[0, -1]]  # the grid, and beyond it what calibration saw
        ends[np.isinf(half)] = -np.inf, np.inf
        parts.append(ends)
    return np.concatenate(parts)
