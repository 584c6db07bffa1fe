"""Quantiles at given levels, which never cross."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from mmfuse.density.binning import (
    centre_and_spread,
    default_grid,
    step_quantile,
    weighted_quantiles,
)
from mmfuse.density.piecewise import Density, check_edges
from mmfuse.outputs.base import Output, Train, fill_with_prior

__all__ = ["QuantileOutput", "at_levels", "cdf_of_quantiles"]

_APART = 1e-6  # least distance of two levels: the normal scores of closer ones may be equal
_MIN_ROWS = 20  # held-out rows from which the levels are recalibrated
_TIE = 1e-9  # of the target's spread: two quantiles so close are a step of the distribution


class QuantileOutput(Output):
    """The head gives a quantile for every level; trained by the pinball loss of all at once."""

    name = "quantiles"

    def check(self, model: Any) -> None:
        levels = model.quantiles
        try:
            grid = np.asarray(levels, dtype=np.float64)
        except (TypeError, ValueError):
            grid = np.empty(0)
        fine = grid.ndim == 1 and len(grid) > 0 and bool((np.diff(grid) >= _APART).all())
        if not fine or not ((grid > 0) & (grid < 1)).all():
            raise ValueError(
                "quantiles must be increasing levels between 0 and 1, at least a millionth apart, "
                f"such as (0.05, 0.5, 0.95); got {levels!r}."
            )

    def fit(self, model: Any, y: np.ndarray, weight: np.ndarray, train: Train) -> None:
        from mmfuse.objectives import Pinball

        levels = np.asarray(model.quantiles, dtype=np.float64)
        model.quantile_levels_ = levels
        model.target_centre_, model.target_scale_ = centre_and_spread(y, weight)
        model.prior_ = step_quantile(y[:, 0], weight, levels)
        model.prior_quantiles_ = weighted_quantiles(y[:, 0], weight)
        model.quantile_shift_ = np.zeros(len(levels))
        oof = train((y - model.target_centre_) / model.target_scale_, Pinball(levels))
        held = np.zeros(len(y), bool) if oof is None else np.isfinite(oof).all(axis=1)
        held &= weight > 0
        error = model.target_scale_[0]
        if oof is not None and held.sum() >= _MIN_ROWS:
            found = _in_unit(model, oof[held])
            if model.calibration is not None:
                late = y[held] - found
                model.quantile_shift_ = np.array(
                    [step_quantile(late[:, j], weight[held], [p])[0] for j, p in enumerate(levels)]
                )
                model.history_["calibration"] = {"shift": model.quantile_shift_.tolist()}
            if len(levels) > 1:
                wide = (found[:, -1] - found[:, 0]) / (ndtri(levels[-1]) - ndtri(levels[0]))
                error = float(step_quantile(wide, weight[held], [0.5])[0])
        low, high = model.prior_quantiles_[[0, -1]]
        model.density_edges_ = default_grid(low, high, error, model.target_scale_[0])

    def predict(self, model: Any, X: Any) -> np.ndarray:
        if len(model.quantile_levels_) == 1:
            return self.quantiles(model, X, model.quantile_levels_)
        return self.quantiles(model, X, np.array([0.5]))

    def quantiles(self, model: Any, X: Any, levels: np.ndarray) -> np.ndarray:
        blocks, scores = model._output(X)
        known = model.quantile_levels_
        found = np.sort(_in_unit(model, scores) + model.quantile_shift_, axis=1)
        found[~blocks.present.any(axis=1)] = model.prior_
        if levels.shape == known.shape and np.allclose(levels, known, rtol=0, atol=1e-12):
            return found
        self._need_two(model)
        return at_levels(found, known, levels)

    def density(self, model: Any, X: Any, grid: ArrayLike | None) -> Density:
        self._need_two(model)
        edges = model.density_edges_ if grid is None else check_edges(grid, "predict_density")
        blocks = model.encode(X)
        found = self.quantiles(model, blocks, model.quantile_levels_)
        tie = _TIE * model.target_scale_[0]
        level = cdf_of_quantiles(found, model.quantile_levels_, edges, tie)
        level[:, 0], level[:, -1] = 0.0, 1.0
        proba = np.maximum(np.diff(level, axis=1), 0.0)
        fill_with_prior(model, edges, blocks.present, proba)
        return Density(edges, proba)

    def interval(self, model: Any, X: Any, coverage: float) -> np.ndarray:
        if not 0 < coverage < 1:
            raise ValueError(
                f"predict_interval: coverage must be between 0 and 1; got {coverage!r}. The tails "
                "of output='quantiles' have no end."
            )
        return self.quantiles(model, X, np.array([1.0 - coverage, 1.0 + coverage]) / 2.0)

    def _need_two(self, model: Any) -> None:
        if len(model.quantile_levels_) == 1:
            raise ValueError(
                "This model has one quantile, which says nothing about other levels; fit with "
                "two levels in quantiles at least."
            )


def _in_unit(model: Any, scores: np.ndarray) -> np.ndarray:
    """Quantiles in the unit of y, put in order where they cross."""
    return np.sort(model.target_centre_ + scores * model.target_scale_, axis=1)


def at_levels(quantiles: np.ndarray, known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Quantiles at other levels, by lines in the normal score ``ndtri(level)``.

    Parameters
    ----------
    quantiles : ndarray of shape (n, L)
        Not decreasing along a row; two levels at least.
    known : ndarray of shape (L,)
        At least a millionth apart.
    wanted : ndarray of shape (m,)
        Between 0 and 1, not included. Beyond the known levels the outermost lines go on, so the
        tails are those of a normal distribution.

    Returns
    -------
    ndarray of shape (n, m)
    """
    score, place = ndtri(known), ndtri(wanted)
    left = np.clip(np.searchsorted(known, wanted, "right") - 1, 0, len(known) - 2)
    part = (place - score[left]) / (score[left + 1] - score[left])
    low, high = quantiles[:, left], quantiles[:, left + 1]
    return low + part * (high - low)


def cdf_of_quantiles(
    quantiles: np.ndarray, levels: np.ndarray, points: np.ndarray, tie: float
) -> np.ndarray:
    """Distribution function (n, m) at points (m,) that `at_levels` inverts.

    ``tie`` is the least distance of two quantiles; closer ones are taken apart by it.
    """
    score = ndtri(levels)
    gap = np.maximum(np.diff(quantiles, axis=1), tie)
    slope = np.diff(score) / gap
    place = score[0] + (points - quantiles[:, :1]) * slope[:, :1]
    for j in range(1, slope.shape[1]):
        line = score[j] + (points - quantiles[:, j : j + 1]) * slope[:, j : j + 1]
        place = np.where(points >= quantiles[:, j : j + 1], line, place)
    return np.maximum.accumulate(ndtr(place), axis=1)
