"""Recalibration of densities by the distribution of their probability integral transforms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from mmfuse.metrics.densities import pit
from mmfuse.targets import check_weight

if TYPE_CHECKING:
    from mmfuse.density.piecewise import Density

__all__ = ["PITRecalibrator", "apply_map"]

_EDGE = 1e-12  # a transform of exactly 0 or 1 counts as this far inside


class PITRecalibrator(BaseEstimator):
    """Bend the distribution functions of densities so that their PIT values become uniform.

    Let G be the distribution of the PIT values on rows that the model has not seen. The
    recalibrated distribution function is ``G(cdf(x))``; G is one increasing, piecewise-linear
    map for all rows, with knots at equal steps of G, and drawn towards the identity where rows
    are few.

    Parameters
    ----------
    n_knots : int, default=20
        Pieces of the map.
    shrinkage : float, default=20.0
        Rows' worth of uniform PIT values mixed into G; above zero, so that the map increases.
    floor : float, default=1e-3
        Share of a uniform density over the grid mixed into every row before the map, in fitting
        and in use; without it a value in a bin of probability zero stays impossible.

    Attributes
    ----------
    pit_ : ndarray of shape (k,)
        Knots: PIT values, from 0 to 1.
    level_ : ndarray of shape (k,)
        What the map makes of them, from 0 to 1.

    Notes
    -----
    One map for all rows makes densities right on average and keeps the order of the rows; it
    cannot repair a density that is too narrow for some rows and too wide for others. The
    recalibration in the notebooks of arXiv 2501.09112 learns a network of the PIT level and the
    features; that is not what is done here. From it comes the idea of smoothing first.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse import Density
    >>> from mmfuse.density.recalibration import PITRecalibrator
    >>> y = np.random.default_rng(0).normal(size=500)
    >>> narrow = Density.from_normal(np.zeros(500), 0.3, np.linspace(-4, 4, 81))
    >>> wider = PITRecalibrator().fit(narrow, y).transform(narrow)
    >>> bool(wider.std()[0] > 2 * narrow.std()[0])
    True
    """

    def __init__(self, n_knots: int = 20, *, shrinkage: float = 20.0, floor: float = 1e-3) -> None:
        self.n_knots = n_knots
        self.shrinkage = shrinkage
        self.floor = floor

    def fit(
        self, density: Density, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> PITRecalibrator:
        """Learn the map from densities of rows that the model was not trained on.

        Parameters
        ----------
        density : Density
            n rows.
        y : array-like of shape (n,)
            True values.
        sample_weight : array-like of shape (n,), default=None

        Returns
        -------
        PITRecalibrator

        Raises
        ------
        ValueError
            If a parameter is out of range or y is not one finite value per row.
        """
        self._check()
        values = np.clip(pit(self._smooth(density), y), _EDGE, 1 - _EDGE)
        weight = check_weight(sample_weight, len(values))
        order = np.argsort(values, kind="stable")
        values, weight = values[order], weight[order]
        middle = (np.cumsum(weight) - weight / 2.0) / weight.sum()
        points = np.unique(np.concatenate([values, np.linspace(0.0, 1.0, 101)]))
        unique, last = np.unique(values[::-1], return_index=True)  # equal values: the highest level
        seen = np.interp(points, [0.0, *unique, 1.0], [0.0, *middle[::-1][last], 1.0])
        # rows by effective number, so that the scale of the weights does not matter
        rows = weight.sum() ** 2 / (weight**2).sum()
        mixed = (rows * seen + self.shrinkage * points) / (rows + self.shrinkage)
        level = np.linspace(0.0, 1.0, self.n_knots + 1)
        self.pit_, kept = np.unique(np.interp(level, mixed, points), return_index=True)
        self.level_ = level[kept]
        self.pit_[[0, -1]] = self.level_[[0, -1]] = 0.0, 1.0
        return self

    def transform(self, density: Density) -> Density:
        """Recalibrated densities on the same grid.

        Parameters
        ----------
        density : Density
            From the model whose PIT values were fitted.

        Returns
        -------
        Density
        """
        check_is_fitted(self, "pit_")
        smooth = self._smooth(density)
        level = np.interp(smooth.cdf(smooth.edges), self.pit_, self.level_)
        return type(density)(density.edges, np.diff(level, axis=1))

    def _smooth(self, density: Density) -> Density:
        even = np.diff(density.edges) / (density.edges[-1] - density.edges[0])
        mixed = (1.0 - self.floor) * density.probabilities + self.floor * even
        return type(density)(density.edges, mixed)

    def _check(self) -> None:
        if self.n_knots < 1:
            raise ValueError(f"PITRecalibrator: n_knots must be at least 1; got {self.n_knots!r}.")
        if not self.shrinkage > 0:
            raise ValueError(f"PITRecalibrator: shrinkage must be above 0; got {self.shrinkage!r}.")
        if not 0 <= self.floor < 1:
            raise ValueError(f"PITRecalibrator: floor must be in [0, 1); got {self.floor!r}.")


def apply_map(pit_map: np.ndarray | None, density: Density) -> Density:
    """Recalibrate by a fitted map: knots and levels, (2, k); None leaves the density as it is."""
    if pit_map is None:
        return density
    recalibrator = PITRecalibrator()
    recalibrator.pit_, recalibrator.level_ = pit_map
    return recalibrator.transform(density)
