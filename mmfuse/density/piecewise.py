"""Densities of a value: a batch of piecewise-constant distributions on one grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr
from sklearn.utils import check_random_state

from mmfuse._require import require
from mmfuse._rows import frozen, resolve_rows

__all__ = ["Density", "check_edges"]

_SUM_TOLERANCE = 1e-3


class Density:
    """n predictive densities of one value each, constant inside the bins of a common grid.

    Bin k covers ``[edges[k], edges[k + 1])``, the last bin its right edge too; outside the grid
    the density is zero. Where a method takes points, their shape says which rows they belong to: a
    scalar is the same point for every row and gives ``(n,)``; a 1-D array of m points serves every
    row and gives ``(n, m)``; a 2-D array of shape ``(n, m)`` has points for each row (one point
    per row is ``y[:, None]``).

    Parameters
    ----------
    edges : array-like of shape (B + 1,)
        Edges of the bins, strictly increasing, in the unit of the value.
    probabilities : array-like of shape (n, B)
        Probability of each bin in each row; rows sum to 1 within 1e-3 and are scaled to exactly 1.

    Attributes
    ----------
    edges : ndarray of shape (B + 1,), read-only
    centers : ndarray of shape (B,), read-only
        Middles of the bins, in the unit of the value.
    probabilities : ndarray of shape (n, B), float64, read-only

    Raises
    ------
    ValueError
        If edges do not increase or are not finite, if shapes do not agree, or if a row does not
        hold probabilities.

    Examples
    --------
    >>> from mmfuse import Density
    >>> density = Density([0.0, 1.0, 2.0, 4.0], [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])
    >>> density.mean()
    array([1.  , 2.25])
    >>> density.pdf(3.0)  # half of the probability over a bin of width 2
    array([0.  , 0.25])
    >>> density.quantile([0.25, 0.5])
    array([[0.5, 1. ],
           [1.5, 2. ]])
    >>> len(density[1:])
    1
    """

    def __init__(self, edges: ArrayLike, probabilities: ArrayLike) -> None:
        self.edges = frozen(check_edges(edges, "Density").copy())
        given = np.array(probabilities, dtype=np.float64)
        n_bins = len(self.edges) - 1
        if given.ndim != 2 or given.shape[1] != n_bins:
            raise ValueError(
                f"Density: probabilities must have the shape (n, {n_bins}), one column per bin of "
                f"the {n_bins + 1} edges; got {given.shape}."
            )
        total = given.sum(axis=1)
        wrong = ~(np.isfinite(given) & (given >= 0)).all(axis=1)
        wrong |= ~(np.abs(total - 1.0) <= _SUM_TOLERANCE)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"Density: each row of probabilities must be non-negative and sum to 1; row {row} "
                f"has values from {given[row].min():.6g} to {given[row].max():.6g} with the sum "
                f"{total[row]:.6g}. Pass probabilities of bins, not densities or scores."
            )
        self.probabilities = frozen(given / total[:, None])
        self.centers = frozen((self.edges[1:] + self.edges[:-1]) / 2.0)
        mass = np.concatenate([np.zeros((len(given), 1)), np.cumsum(given, axis=1)], axis=1)
        self._cumulative = mass / mass[:, -1:]  # (n, B + 1), exactly 0 first and 1 last

    @classmethod
    def from_normal(cls, mean: ArrayLike, std: ArrayLike, edges: ArrayLike) -> Density:
        """Put normal distributions on a grid; what lies beyond it goes to the outer bins.

        Parameters
        ----------
        mean : array-like of shape (n,)
        std : float or array-like of shape (n,)
            Standard deviations, above zero.
        edges : array-like of shape (B + 1,)

        Returns
        -------
        Density
            Bin probabilities are exact: differences of the normal distribution function.

        Raises
        ------
        ValueError
            If a mean is not finite or a standard deviation not above zero.
        """
        grid = check_edges(edges, "Density.from_normal")
        middle = np.asarray(mean, dtype=np.float64).reshape(-1)
        spread = np.broadcast_to(np.asarray(std, dtype=np.float64), middle.shape)
        if not np.isfinite(middle).all() or not (np.isfinite(spread) & (spread > 0)).all():
            raise ValueError("Density.from_normal: mean and std must be finite, and std above 0.")
        levels = ndtr((grid - middle[:, None]) / spread[:, None])
        levels[:, 0], levels[:, -1] = 0.0, 1.0
        return cls(grid, np.diff(levels, axis=1))

    # -- rows ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.probabilities)

    def __getitem__(self, rows: Any) -> Density:
        """Return the densities of some rows: a slice, mask or sequence of row numbers."""
        return Density(
            self.edges, self.probabilities[resolve_rows(rows, len(self), owner="Density")]
        )

    def __repr__(self) -> str:
        rows = "1 row" if len(self) == 1 else f"{len(self)} rows"
        low, high = self.edges[0], self.edges[-1]
        return f"Density({rows}, {len(self.centers)} bins from {low:.6g} to {high:.6g})"

    # -- functions of a point -----------------------------------------------------------------

    def pdf(self, x: ArrayLike) -> np.ndarray:
        """Density at x, per unit of the value.

        Parameters
        ----------
        x : float or array-like of shape (m,) or (n, m)
            Points, as the class describes.

        Returns
        -------
        ndarray of shape (n,) or (n, m)
            Zero outside the grid, NaN where x is NaN.
        """
        points, scalar = self._points(x, "pdf")
        column = self._bin_of(points)
        height = self.probabilities / np.diff(self.edges)
        out = np.take_along_axis(height, column, axis=1)
        out[(points < self.edges[0]) | (points > self.edges[-1])] = 0.0
        out[np.isnan(points)] = np.nan
        return out[:, 0] if scalar else out

    def cdf(self, x: ArrayLike) -> np.ndarray:
        """Probability of a value of at most x.

        Parameters
        ----------
        x : float or array-like of shape (m,) or (n, m)

        Returns
        -------
        ndarray of shape (n,) or (n, m)
            Linear inside a bin; NaN where x is NaN.
        """
        points, scalar = self._points(x, "cdf")
        column = self._bin_of(points)
        width = np.diff(self.edges)[column]
        part = np.clip((points - self.edges[column]) / width, 0.0, 1.0)
        low = np.take_along_axis(self._cumulative, column, axis=1)
        high = np.take_along_axis(self._cumulative, column + 1, axis=1)
        out = low + part * (high - low)
        return out[:, 0] if scalar else out

    def quantile(self, q: ArrayLike) -> np.ndarray:
        """Smallest value whose ``cdf`` reaches q; for 0 the lower end of the support.

        Parameters
        ----------
        q : float or array-like of shape (m,) or (n, m)
            Levels in [0, 1].

        Returns
        -------
        ndarray of shape (n,) or (n, m)
            In the unit of the value.

        Raises
        ------
        ValueError
            If a level is not in [0, 1].
        """
        levels, scalar = self._points(q, "quantile")
        if not ((levels >= 0) & (levels <= 1)).all():
            raise ValueError("Density.quantile: levels must lie in [0, 1].")
        first = (self.probabilities > 0).argmax(axis=1)[:, None]
        column = np.maximum(self._reaching(levels), first)
        low = np.take_along_axis(self._cumulative, column, axis=1)
        mass = np.take_along_axis(self._cumulative, column + 1, axis=1) - low
        part = np.clip((levels - low) / np.where(mass > 0, mass, 1.0), 0.0, 1.0)
        out = self.edges[column] + part * np.diff(self.edges)[column]
        return out[:, 0] if scalar else out

    # -- summaries of a row -------------------------------------------------------------------

    def mean(self) -> np.ndarray:
        """Expected value of each row: (n,), in the unit of the value."""
        return self.probabilities @ self.centers

    def std(self) -> np.ndarray:
        """Standard deviation of each row, with the spread inside bins: (n,)."""
        inside = np.diff(self.edges) ** 2 / 12.0
        squares = (self.centers - self.mean()[:, None]) ** 2 + inside
        return np.sqrt((self.probabilities * squares).sum(axis=1))

    def median(self) -> np.ndarray:
        """Median of each row: (n,)."""
        return self.quantile(0.5)

    def mode(self) -> np.ndarray:
        """Centre of the bin of highest density, the first of equals, of each row: (n,)."""
        return self.centers[np.argmax(self.probabilities / np.diff(self.edges), axis=1)]

    def interval(self, coverage: float = 0.9) -> np.ndarray:
        """Central interval that leaves out the same probability on both sides.

        Parameters
        ----------
        coverage : float, default=0.9
            Probability inside, above 0 and at most 1.

        Returns
        -------
        ndarray of shape (n, 2)
            Lower and upper ends, in the unit of the value.

        Raises
        ------
        ValueError
            If ``coverage`` is not in (0, 1].
        """
        if not 0 < coverage <= 1:
            raise ValueError(f"Density.interval: coverage must be in (0, 1]; got {coverage!r}.")
        return self.quantile([(1.0 - coverage) / 2.0, (1.0 + coverage) / 2.0])

    def sample(self, size: int = 1, random_state: Any = None) -> np.ndarray:
        """Draw values from each row.

        Parameters
        ----------
        size : int, default=1
            Draws per row.
        random_state : int, RandomState or None, default=None

        Returns
        -------
        ndarray of shape (n, size)
            In the unit of the value.
        """
        return self.quantile(check_random_state(random_state).random_sample((len(self), size)))

    def to_qp(self) -> Any:
        """Hand the densities to the photometric redshift tools as a ``qp.Ensemble`` of histograms.

        Needs the package qp-prob, which ``pip install 'mmfuse[astro]'`` brings.

        Returns
        -------
        qp.Ensemble
            Of the class ``qp.hist``, with the same bins.
        """
        qp = require("qp", extra="astro", caller="Density.to_qp")
        heights = self.probabilities / np.diff(self.edges)
        return qp.Ensemble(qp.hist, data={"bins": np.array(self.edges), "pdfs": heights})

    # -- inside -------------------------------------------------------------------------------

    def _points(self, x: ArrayLike, method: str) -> tuple[np.ndarray, bool]:
        """Points of every row (n, m), and whether one scalar was given."""
        points = np.asarray(x, dtype=np.float64)
        if points.ndim > 2 or (points.ndim == 2 and len(points) not in (1, len(self))):
            raise ValueError(
                f"Density.{method} takes a scalar, points of shape (m,) for all rows, or points of "
                f"shape ({len(self)}, m); got {points.shape}."
            )
        m = points.shape[-1] if points.ndim else 1
        return np.broadcast_to(points, (len(self), m)), points.ndim == 0

    def _bin_of(self, points: np.ndarray) -> np.ndarray:
        return np.clip(np.searchsorted(self.edges, points, "right") - 1, 0, len(self.centers) - 1)

    def _reaching(self, levels: np.ndarray) -> np.ndarray:
        """First bin of every row at whose right edge the cumulative probability is the level."""
        out = np.empty(levels.shape, dtype=np.intp)
        upper = self._cumulative[:, 1:]
        if levels.shape[1] < len(self):
            for j in range(levels.shape[1]):
                out[:, j] = (upper < levels[:, j : j + 1]).sum(axis=1)
        else:
            for i in range(len(self)):
                out[i] = np.searchsorted(upper[i], levels[i], "left")
        return out


def check_edges(edges: ArrayLike, owner: str) -> np.ndarray:
    """Edges of bins as float64, at least two, finite and strictly increasing.

    Raises
    ------
    ValueError
        If they are not.
    """
    grid = np.asarray(edges, dtype=np.float64)
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"{owner}: edges must be at least two numbers; got shape {grid.shape}.")
    if not np.isfinite(grid).all() or not (np.diff(grid) > 0).all():
        raise ValueError(f"{owner}: edges must be finite and strictly increasing; got {grid}.")
    return grid
