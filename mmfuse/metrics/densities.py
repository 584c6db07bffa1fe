"""Scores of predicted values and densities, in the conventions of photometric redshifts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from mmfuse.targets import check_weight

if TYPE_CHECKING:
    from mmfuse.density.piecewise import Density

__all__ = ["bias", "cde_loss", "crps", "nmad", "outlier_fraction", "pit"]

_NORMAL_MAD = 1.4826  # standard deviation of a normal over its median absolute deviation


def bias(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    scale: str = "photo-z",
    sample_weight: ArrayLike | None = None,
) -> float:
    """Average the error.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        True values; redshifts where ``scale="photo-z"``.
    y_pred : array-like of shape (n,)
        Predicted values, in the same unit.
    scale : {"photo-z", "none"}, default="photo-z"
        ``"photo-z"`` divides each error by ``1 + y_true``, as is usual for redshifts, and the
        result has no unit; ``"none"`` leaves errors in the unit of the value.
    sample_weight : array-like of shape (n,), default=None

    Returns
    -------
    float
        Mean of ``(y_pred - y_true) / (1 + y_true)``; positive where predictions are too high.

    Raises
    ------
    ValueError
        If shapes differ or values are not finite, for an unknown scale, or, under ``"photo-z"``,
        if a true value is -1 or below.
    """
    error, weight = _errors(y_true, y_pred, scale, sample_weight, "bias")
    return float(np.average(error, weights=weight))


def nmad(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    scale: str = "photo-z",
    sample_weight: ArrayLike | None = None,
) -> float:
    """Normalised median absolute deviation: the spread of the errors, blind to outliers.

    Parameters and errors are those of `bias`.

    Returns
    -------
    float
        ``1.4826 * median |delta - median(delta)|``, which is the standard deviation for normal
        errors. Other sources leave out the inner median; a common shift then counts as spread.

    References
    ----------
    arXiv 2501.09112 (Mantis Shrimp), whose published analysis has this form.
    """
    error, weight = _errors(y_true, y_pred, scale, sample_weight, "nmad")
    centre = _weighted_median(error, weight)
    return float(_NORMAL_MAD * _weighted_median(np.abs(error - centre), weight))


def outlier_fraction(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    threshold: float = 0.15,
    scale: str = "photo-z",
    sample_weight: ArrayLike | None = None,
) -> float:
    """Share of rows whose error is at least ``threshold`` in size.

    Parameters
    ----------
    y_true, y_pred, scale, sample_weight
        As in `bias`.
    threshold : float, default=0.15
        In the unit of the scaled error. Publications differ: 0.15 is usual for broad bands, 0.05
        stands in the analysis of Mantis Shrimp (arXiv 2501.09112), whose training logs use 0.15.
        Always report it with the number.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    ValueError
        As in `bias`, and for a negative threshold.
    """
    if not threshold >= 0:
        raise ValueError(f"outlier_fraction: threshold must not be negative; got {threshold!r}.")
    error, weight = _errors(y_true, y_pred, scale, sample_weight, "outlier_fraction")
    return float(np.average(np.abs(error) >= threshold, weights=weight))


def pit(density: Density, y: ArrayLike) -> np.ndarray:
    """Probability integral transform: the predicted probability of a value of at most y.

    Uniform over many rows where the densities are right; heaped at 0 and 1 where they are too
    narrow. The distribution function is linear inside a bin, so nothing needs to be randomised.
    (The published code of arXiv 2501.09112 sums the bins below the true one, which is low by
    about half a bin.)

    Parameters
    ----------
    density : Density
        n rows.
    y : array-like of shape (n,)
        True values.

    Returns
    -------
    ndarray of shape (n,)
        In [0, 1]; exactly 0 or 1 outside the grid.

    Raises
    ------
    ValueError
        If y is not one finite value per row.
    """
    return density.cdf(_values(y, len(density), "pit")[:, None])[:, 0]


def crps(density: Density, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    """Continuous ranked probability score: the absolute error, for a density.

    The integral of ``(cdf(x) - [x >= y])**2`` over all x, exact for piecewise-constant densities;
    outside the grid the distance to it counts in full.

    Parameters
    ----------
    density : Density
        n rows.
    y : array-like of shape (n,)
        True values.
    sample_weight : array-like of shape (n,), default=None

    Returns
    -------
    float
        Mean score in the unit of the value, not negative; lower is better.

    Raises
    ------
    ValueError
        As in `pit`.

    References
    ----------
    T. Gneiting and A. E. Raftery, "Strictly proper scoring rules, prediction, and estimation",
    Journal of the American Statistical Association, 2007.
    """
    rows = crps_rows(density, _values(y, len(density), "crps"))
    return float(np.average(rows, weights=check_weight(sample_weight, len(rows))))


def crps_rows(density: Density, truth: np.ndarray) -> np.ndarray:
    """Score (n,) of every row by itself; see `crps`."""
    level = density.cdf(density.edges)  # (n, B + 1)
    at_truth = density.cdf(truth[:, None])
    low, high, width = density.edges[:-1], density.edges[1:], np.diff(density.edges)
    part = np.clip((truth[:, None] - low) / width, 0.0, 1.0)  # share of each bin below y
    left, right = level[:, :-1], level[:, 1:]
    cut = np.where(truth[:, None] >= high, right, np.where(truth[:, None] <= low, left, at_truth))
    area = part * _square_mean(left, cut) + (1 - part) * _square_mean(1 - cut, 1 - right)
    outside = np.maximum(low[0] - truth, 0.0) + np.maximum(truth - high[-1], 0.0)
    return (area * width).sum(axis=1) + outside


def cde_loss(density: Density, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    """Squared distance to the true conditional density, up to a constant.

    Parameters
    ----------
    density : Density
        n rows.
    y : array-like of shape (n,)
        True values; outside the grid the density is zero.
    sample_weight : array-like of shape (n,), default=None

    Returns
    -------
    float
        Mean of ``integral pdf(x)**2 dx - 2 pdf(y)``, per unit of the value; lower is better,
        and negative for any useful density. In expectation the true density has the lowest.

    Raises
    ------
    ValueError
        As in `pit`.

    References
    ----------
    R. Izbicki and A. B. Lee, "Converting high-dimensional regression to high-dimensional
    conditional density estimation", Electronic Journal of Statistics, 2017.
    """
    truth = _values(y, len(density), "cde_loss")
    squared = (density.probabilities**2 / np.diff(density.edges)).sum(axis=1)
    rows = squared - 2.0 * density.pdf(truth[:, None])[:, 0]
    return float(np.average(rows, weights=check_weight(sample_weight, len(rows))))


def _square_mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean of the square of a line from a to b."""
    return (a * a + a * b + b * b) / 3.0


def _errors(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    scale: str,
    sample_weight: ArrayLike | None,
    caller: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Scaled errors and weights, both (n,)."""
    if scale not in ("photo-z", "none"):
        raise ValueError(f"{caller}: scale must be 'photo-z' or 'none'; got {scale!r}.")
    truth = np.asarray(y_true, dtype=np.float64)
    truth = _values(truth, truth.size, caller)
    if not len(truth):
        raise ValueError(f"{caller}: at least one row is needed.")
    guess = _values(y_pred, len(truth), caller, "y_pred")
    error = guess - truth
    if scale == "photo-z":
        if (truth <= -1).any():
            raise ValueError(
                f"{caller}: scale='photo-z' divides by 1 + y_true, which must be above 0; the "
                f"lowest y_true is {truth.min():.6g}. Use scale='none' for other values."
            )
        error = error / (1.0 + truth)
    return error, check_weight(sample_weight, len(truth))


def _values(y: ArrayLike, n: int, caller: str, name: str = "y") -> np.ndarray:
    values = np.asarray(y, dtype=np.float64)
    if values.shape != (n,):
        raise ValueError(f"{caller}: {name} must have the shape ({n},); got {values.shape}.")
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"{caller}: {name} must be finite; row {row} is {values[row]}.")
    return values


def _weighted_median(values: np.ndarray, weight: np.ndarray) -> float:
    """Median in which a weight of two is the same row twice."""
    kept = weight > 0
    order = np.argsort(values[kept], kind="stable")
    values, level = values[kept][order], np.cumsum(weight[kept][order])
    half = level[-1] / 2.0
    first = np.searchsorted(level, half * (1 - 1e-12), "left")
    second = np.searchsorted(level, half * (1 + 1e-12), "right")
    return float((values[first] + values[min(second, len(values) - 1)]) / 2.0)
