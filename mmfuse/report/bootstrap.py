"""The bootstrap over rows or groups, vectorised over any number of means."""

from __future__ import annotations

import warnings

import numpy as np

__all__ = ["bootstrap_means", "percentile_interval"]

_CHUNK = 2**22  # draws held at once: 32 MiB of integers


def bootstrap_means(
    values: np.ndarray,
    *,
    n_bootstrap: int,
    rng: np.random.Generator,
    weight: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Draw the weighted mean of every column again and again from resampled rows.

    All columns of one replicate use the same rows, so that differences between columns are
    paired.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_columns)
        One quantity per row and column.
    n_bootstrap : int
        Number of replicates.
    rng : numpy.random.Generator
        Source of the draws.
    weight : ndarray of shape (n_rows,), default=None
        Positive weight of each row; a row drawn twice counts twice its weight.
    groups : ndarray of shape (n_rows,), default=None
        Label of the group of each row. Whole groups are drawn instead of rows.

    Returns
    -------
    ndarray of shape (n_bootstrap, n_columns)
        Means of the replicates.

    References
    ----------
    B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics, 1979.
    """
    weight = np.ones(len(values)) if weight is None else weight
    sums = np.column_stack([values * weight[:, None], weight])  # the last column counts
    if groups is not None:
        _, codes = np.unique(groups, return_inverse=True)
        order = np.argsort(codes, kind="stable")
        starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
        sums = np.add.reduceat(sums[order], starts, axis=0)
    out = np.empty((n_bootstrap, values.shape[1]))
    step = max(1, _CHUNK // len(sums))
    for start in range(0, n_bootstrap, step):
        size = min(step, n_bootstrap - start)
        totals = _draw_counts(len(sums), size, rng) @ sums
        out[start : start + size] = totals[:, :-1] / totals[:, -1:]
    return out


def _draw_counts(n_units: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """How often each unit is drawn in ``size`` replicates: (size, n_units)."""
    draws = rng.integers(n_units, size=(size, n_units))
    draws += np.arange(size)[:, None] * n_units
    counts = np.bincount(draws.ravel(), minlength=size * n_units)
    return counts.reshape(size, n_units).astype(np.float64)


def percentile_interval(samples: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Give the percentile interval of bootstrap replicates.

    Parameters
    ----------
    samples : ndarray of shape (n_bootstrap, ...)
        Replicates; NaN replicates (a score that does not exist in a resample) are left out.
    confidence : float
        Share of the replicates between the two ends.

    Returns
    -------
    low, high : ndarray of shape (...)
        NaN where all replicates are NaN.
    """
    tail = (1.0 - confidence) / 2.0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All-NaN slice", category=RuntimeWarning)
        low, high = np.nanquantile(samples, [tail, 1.0 - tail], axis=0)
    return low, high
