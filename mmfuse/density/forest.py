"""Densities around point predictions, as wide and as crooked as errors of similar rows were."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor

from mmfuse.density.binning import centre_and_spread, step_quantile
from mmfuse.density.piecewise import Density
from mmfuse.metrics.densities import crps_rows

__all__ = ["DensityForest", "forest_or_none"]

_LEVELS = np.concatenate([[0.0, 0.005, 0.02], np.linspace(0.04, 0.96, 24), [0.98, 0.995, 1.0]])
_TREES = 50
_LEAF = 10  # rows at least; more from 5000 rows on, so that a saved forest stays small
_LEAVES = 500
_MOST_FEATURES = 20  # that a split looks at
_LEAST_ROWS = 100  # held-out rows, below which nothing is learned of the shape of errors
_CLEAR = 2.0  # standard errors by which a forest must beat a normal of one width


class DensityForest:
    """Distribution of the target given features and a prediction, by one forest of two views.

    The trees average indicators: whether the error of the prediction is at most each of 28 knots,
    and whether the target itself is. A density is the mean of both: errors follow the prediction
    wherever it goes, targets show several modes.

    Notes
    -----
    A tree splits where the variances of its outputs fall most. Summed over indicators of knots,
    that variance is the continuous ranked probability score of the leaf's distribution, so the
    forest minimises CRPS; leaves are read as in quantile regression forests (Meinshausen 2006).
    Knots in the place of every training value, the two views and errors of held-out rows are ours:
    errors of rows that the head learned from would be too small.

    Attributes
    ----------
    forest_ : ExtraTreesRegressor
    error_knots_, target_knots_ : ndarray
        From the lowest to the highest value, increasing.
    error_spread_ : float
        1.4826 times the median absolute deviation of the errors.
    """

    def fit(
        self,
        features: np.ndarray,
        prediction: np.ndarray,
        target: np.ndarray,
        weight: np.ndarray,
        seed: int,
    ) -> DensityForest:
        """Learn from rows that the head did not see.

        Parameters
        ----------
        features : ndarray of shape (n, d)
            Without NaN.
        prediction, target, weight : ndarray of shape (n,)
        seed : int
        """
        error = target - prediction
        self.error_spread_ = float(centre_and_spread(error[:, None], weight)[1][0])
        self.error_knots_ = np.unique(step_quantile(error, weight, _LEVELS))
        self.target_knots_ = np.unique(step_quantile(target, weight, _LEVELS))
        below = [
            values[:, None] <= knots[1:-1]  # at the ends nothing is to be learned
            for values, knots in ((error, self.error_knots_), (target, self.target_knots_))
        ]
        trees = ExtraTreesRegressor(
            _TREES,
            min_samples_leaf=max(_LEAF, len(target) // _LEAVES),
            max_features=min(_MOST_FEATURES, features.shape[1]),
            random_state=seed,
        )
        self.forest_ = trees.fit(features, np.hstack(below).astype(np.float32), weight)
        return self

    def density(self, features: np.ndarray, prediction: np.ndarray, edges: np.ndarray) -> Density:
        """Densities of n rows on a grid; what lies beyond it goes to the outer cells."""
        below = self.forest_.predict(features)
        cut = len(self.error_knots_) - 2
        level = np.empty((len(features), len(edges)))
        for i, (row, middle) in enumerate(zip(below, prediction, strict=True)):
            level[i] = _line(edges - middle, self.error_knots_, row[:cut])
            level[i] += _line(edges, self.target_knots_, row[cut:])
        level /= 2.0
        level[:, 0], level[:, -1] = 0.0, 1.0
        return Density(edges, np.maximum(np.diff(level, axis=1), 0.0))

    def get_arrays(self) -> dict[str, np.ndarray]:
        """What is saved beside the forest."""
        return {
            "error_knots": self.error_knots_,
            "target_knots": self.target_knots_,
            "error_spread": np.array([self.error_spread_]),
        }

    @classmethod
    def from_state(cls, forest: Any, arrays: dict[str, np.ndarray]) -> DensityForest:
        """The same again from a forest and `get_arrays`."""
        found = cls()
        found.forest_ = forest
        found.error_knots_, found.target_knots_ = arrays["error_knots"], arrays["target_knots"]
        found.error_spread_ = float(arrays["error_spread"][0])
        return found


def _line(x: np.ndarray, knots: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Distribution function at x: a line from 0 at the first knot to 1 at the last."""
    if len(knots) < 3:
        low, high = knots[0], knots[-1] if len(knots) > 1 else np.nextafter(knots[0], np.inf)
        return np.interp(x, [low, high], [0.0, 1.0])
    return np.interp(x, knots, np.concatenate([[0.0], inner, [1.0]]))


def forest_or_none(
    features: np.ndarray,
    prediction: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
    *,
    half: np.ndarray,
    complete: np.ndarray,
    edges: np.ndarray,
    seed: int,
) -> DensityForest | None:
    """A forest, if its densities of rows that it did not see are clearly better than normal ones.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    prediction, target, weight : ndarray of shape (n,)
        Of rows that the head did not see; weights above zero.
    half : ndarray of shape (n,), bool
        Each half is judged by what the other half taught; rows that belong together share one.
    complete : ndarray of shape (n,), bool
        Rows with every modality: the normal densities have one width for these, one for the rest.
    edges : ndarray of shape (B + 1,)
    seed : int

    Returns
    -------
    DensityForest or None
        None also where fewer than 100 rows are there, or one half has fewer than a third of them.
    """
    n = len(target)
    if n < _LEAST_ROWS or not n / 3 <= half.sum() <= 2 * n / 3:
        return None
    gain = np.empty(len(target))
    for test in (half, ~half):
        learn = ~test
        parts = (features[learn], prediction[learn], target[learn], weight[learn])
        density = DensityForest().fit(*parts, seed).density(features[test], prediction[test], edges)
        spread = _spread(target - prediction, weight, learn, complete)[test]
        normal = Density.from_normal(prediction[test], spread, edges)
        gain[test] = crps_rows(normal, target[test]) - crps_rows(density, target[test])
    share = weight / weight.sum()
    mean = share @ gain
    if mean <= _CLEAR * np.sqrt(share**2 @ (gain - mean) ** 2):
        return None
    return DensityForest().fit(features, prediction, target, weight, seed)


def _spread(
    error: np.ndarray, weight: np.ndarray, learn: np.ndarray, complete: np.ndarray
) -> np.ndarray:
    """Root mean square of the errors of complete rows for these, of the others for the others."""
    found = np.empty(len(error))
    for kind in (complete, ~complete):
        rows = learn & kind if (learn & kind).sum() > 5 else learn
        found[kind] = np.sqrt(np.average(error[rows] ** 2, weights=weight[rows]))
    return np.maximum(found, 1e-300)
