"""Bins of a target: where the edges lie, and which bin a value is in."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmfuse.density.piecewise import check_edges

__all__ = [
    "bin_index",
    "centre_and_spread",
    "default_grid",
    "make_edges",
    "quantile_levels",
    "step_quantile",
    "weighted_quantiles",
]

_MARGIN = 0.01  # of the range of the training target, on either side
_LEVELS = np.linspace(0.0, 1.0, 101)
_FINE = 5  # cells per standard deviation of the errors
_MOST = 2000
_NORMAL_MAD = 1.4826  # standard deviation of a normal over its median absolute deviation


def make_edges(bins: Any, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Edges of the bins of a target.

    Parameters
    ----------
    bins : int or array-like of shape (B + 1,)
        Number of bins of equal width over the range of y, a little widened; or the edges.
    y : ndarray of shape (n,)
    weight : ndarray of shape (n,)
        Rows of weight zero do not count for the range.

    Returns
    -------
    ndarray of shape (B + 1,)

    Raises
    ------
    ValueError
        If there are fewer than two bins or edges do not increase.
    """
    if isinstance(bins, (int, np.integer)) and not isinstance(bins, bool):
        if bins < 2:
            raise ValueError(f"bins must be at least 2, or edges; got {bins!r}.")
        low, high = y[weight > 0].min(), y[weight > 0].max()
        margin = _MARGIN * (high - low)
        if margin <= 1e-9 * max(abs(low), abs(high)):  # one value only
            margin = max(0.5, 1e-3 * abs(high))
        return np.linspace(low - margin, high + margin, int(bins) + 1)
    if isinstance(bins, (str, bool)) or np.ndim(bins) != 1:
        raise ValueError(f"bins must be an integer or a sequence of edges; got {bins!r}.")
    edges = check_edges(bins, "bins")
    if len(edges) < 3:
        raise ValueError(f"bins must be at least two bins, so three edges; got {edges}.")
    return edges


def bin_index(y: np.ndarray, edges: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Number of the bin of every value (n,), int64; a value on an edge is in the bin above.

    Raises
    ------
    ValueError
        If a value of positive weight lies outside the edges.
    """
    outside = ((y < edges[0]) | (y > edges[-1])) & (weight > 0)
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"The bins reach from {edges[0]:.6g} to {edges[-1]:.6g}, and {outside.sum()} of "
            f"{len(y)} targets lie outside (row {row}: {y[row]:.6g}); widen them or leave these "
            "rows out."
        )
    return np.clip(np.searchsorted(edges, y, "right") - 1, 0, len(edges) - 2).astype(np.int64)


def weighted_quantiles(y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Quantiles of y at every per cent: (101,), from the lowest to the highest value."""
    y, weight = y[weight > 0], weight[weight > 0]
    order = np.argsort(y, kind="stable")
    y, weight = y[order], weight[order]
    middle = (np.cumsum(weight) - weight / 2.0) / weight.sum()
    quantiles = np.interp(_LEVELS, middle, y)
    quantiles[0], quantiles[-1] = y[0], y[-1]
    return quantiles


def step_quantile(values: np.ndarray, weight: np.ndarray, levels: Any) -> np.ndarray:
    """Quantiles in which a row of weight two is two rows: the minimisers of the pinball loss.

    Parameters
    ----------
    values, weight : ndarray of shape (n,)
        At least one weight above zero.
    levels : array-like of shape (L,)

    Returns
    -------
    ndarray of shape (L,)
        Between two values that both minimise the loss, their middle.
    """
    kept = weight > 0
    order = np.argsort(values[kept], kind="stable")
    values, mass = values[kept][order], np.cumsum(weight[kept][order])
    wanted, last = np.asarray(levels, dtype=np.float64) * mass[-1], len(values) - 1
    first = np.searchsorted(mass, wanted * (1 - 1e-12), "left")
    second = np.searchsorted(mass, wanted * (1 + 1e-12), "right")
    return (values[np.minimum(first, last)] + values[np.minimum(second, last)]) / 2.0


def centre_and_spread(y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median, and median absolute deviation times 1.4826, of every column: (T,) each.

    Where more than half of the rows are equal the spread is the standard deviation, and where all
    are it is 1.
    """
    centre, spread = np.empty((2, y.shape[1]))
    for j, column in enumerate(y.T):
        centre[j] = step_quantile(column, weight, [0.5])[0]
        spread[j] = _NORMAL_MAD * step_quantile(np.abs(column - centre[j]), weight, [0.5])[0]
        if spread[j] <= 1e-12 * max(abs(centre[j]), 1e-300):
            mean = weight @ column / weight.sum()
            spread[j] = np.sqrt(weight @ (column - mean) ** 2 / weight.sum()) or 1.0
    return centre, spread


def quantile_levels(quantiles: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Distribution function, given by ``weighted_quantiles``, at edges: from 0 to 1.

    What lies beyond the edges counts to the outer bins. Repeated quantiles are a step.
    """
    values, first = np.unique(quantiles, return_index=True)
    last = np.append(first[1:], len(quantiles)) - 1
    x = np.sort(np.concatenate([np.nextafter(values, -np.inf), values]))
    level = np.interp(edges, x, np.sort(np.concatenate([_LEVELS[first], _LEVELS[last]])))
    level[0], level[-1] = 0.0, 1.0
    return level


def default_grid(low: float, high: float, error: float, spread: float) -> np.ndarray:
    """Edges of cells for normal densities around predictions of a target.

    Parameters
    ----------
    low, high : float
        Range of the training target.
    error : float
        Standard deviation of the errors; a cell is a fifth of it, but there are at most 2000.
    spread : float
        Standard deviation of the target; the grid reaches three of it beyond the range.

    Returns
    -------
    ndarray of shape (B + 1,)
    """
    margin = 3.0 * max(spread, error)
    low, high = low - margin, high + margin
    wanted = _FINE * (high - low) / max(error, 1e-300)
    return np.linspace(low, high, int(np.ceil(np.clip(wanted, 50, _MOST))) + 1)
