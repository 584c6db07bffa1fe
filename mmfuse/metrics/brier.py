"""The Brier score taken apart into reliability, resolution and uncertainty."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.isotonic import IsotonicRegression

from mmfuse.metrics._checks import check_scored
from mmfuse.metrics.calibration import bins_of, check_bins

__all__ = ["BrierDecomposition", "brier_decomposition"]


class BrierDecomposition(NamedTuple):
    """Parts of the Brier score: ``reliability - resolution + uncertainty + within_bin``.

    Attributes
    ----------
    reliability : float
        What a recalibration would gain; 0 is perfect. Not negative.
    resolution : float
        What knowing the row gains over the shares of the classes; higher is better.
    uncertainty : float
        Score of a forecast that always says the shares of the classes.
    within_bin : float
        What differences inside the bins leave over; 0 without bins.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_bin: float

    @property
    def brier(self) -> float:
        """The sum of the parts."""
        return self.reliability - self.resolution + self.uncertainty + self.within_bin


def brier_decomposition(
    y_true: ArrayLike,
    proba: ArrayLike,
    *,
    classes: ArrayLike,
    strategy: str = "isotonic",
    n_bins: int = 15,
    sample_weight: ArrayLike | None = None,
) -> BrierDecomposition:
    """Take the Brier score apart into reliability, resolution and uncertainty.

    The parts are those of each class against the others, summed over the classes, so that they
    add up to `mmfuse.metrics.brier_score` exactly.

    Parameters
    ----------
    y_true, proba, sample_weight
        As in `mmfuse.metrics.brier_score`.
    classes : array-like of shape (n_classes,)
        Class of each column.
    strategy : {"isotonic", "width", "mass"}, default="isotonic"
        ``"isotonic"`` judges each probability by the best monotone recalibration, so there are no
        bins to choose and nothing is left within them; ``"width"`` and ``"mass"`` are the classic
        parts over bins.
    n_bins : int, default=15
        Number of bins, where there are any.

    Returns
    -------
    BrierDecomposition
        A tuple of the four parts; ``.brier`` is their sum.

    Raises
    ------
    ValueError
        As for `mmfuse.metrics.reliability_curve`.

    References
    ----------
    A. H. Murphy, "A new vector partition of the probability score", Journal of Applied
    Meteorology, 1973; what is left within bins: D. B. Stephenson, C. A. S. Coelho and I. T.
    Jolliffe, "Two extra components in the Brier score decomposition", Weather and Forecasting,
    2008; isotonic: T. Dimitriadis, T. Gneiting and A. I. Jordan, "Stable reliability diagrams for
    probabilistic classifiers", PNAS 2021.

    Examples
    --------
    >>> from mmfuse.metrics import brier_decomposition
    >>> proba = [[0.8, 0.2]] * 4 + [[0.3, 0.7]] * 4
    >>> parts = brier_decomposition([0, 0, 0, 1, 0, 1, 1, 1], proba, classes=[0, 1])
    >>> [round(part, 4) for part in parts], round(parts.brier, 4)
    ([0.005, 0.125, 0.5, 0.0], 0.38)
    """
    caller = "brier_decomposition"
    if strategy != "isotonic":
        check_bins(n_bins, strategy, caller, extra="'isotonic', ")
    values, codes, weight = check_scored(y_true, proba, classes, sample_weight, caller)
    weight = weight / weight.sum()
    parts = np.zeros(4)
    for k, forecast in enumerate(values.T):
        truth = (codes == k).astype(np.float64)
        if strategy == "isotonic":
            parts += _isotonic_parts(forecast, truth, weight)
        else:
            bins = bins_of(forecast, weight, n_bins, strategy)
            parts += _binned_parts(forecast, truth, weight, bins)
    return BrierDecomposition(*map(float, parts))


def _isotonic_parts(forecast: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
    fitted = np.full(len(truth), np.nan)
    used = weight > 0
    model = IsotonicRegression(y_min=0.0, y_max=1.0)
    fitted[used] = model.fit_transform(forecast[used], truth[used], sample_weight=weight[used])
    share = weight @ truth
    best = weight[used] @ np.square(fitted[used] - truth[used])
    uncertainty = share * (1.0 - share)
    reliability = max(weight @ np.square(forecast - truth) - best, 0.0)  # rounding only
    return np.array([reliability, uncertainty - best, uncertainty, 0.0])


def _binned_parts(
    forecast: np.ndarray, truth: np.ndarray, weight: np.ndarray, bins: np.ndarray
) -> np.ndarray:
    mass = np.bincount(bins, weights=weight)
    scale = np.where(mass > 0, mass, 1.0)
    centre = np.bincount(bins, weights=weight * forecast) / scale
    seen = np.bincount(bins, weights=weight * truth) / scale
    share = weight @ truth
    apart = forecast - centre[bins]
    within = weight @ np.square(apart) - 2.0 * (weight @ (apart * (truth - seen[bins])))
    return np.array(
        [
            mass @ np.square(centre - seen),
            mass @ np.square(seen - share),
            share * (1.0 - share),
            within,
        ]
    )
