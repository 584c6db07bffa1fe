"""Whether probabilities come true: calibration error, reliability, parts of the Brier score."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr
from sklearn.isotonic import IsotonicRegression

from mmfuse._metric_checks import check_proba, check_row_weight, check_scored, codes_of

__all__ = [
    "BrierDecomposition",
    "ReliabilityCurve",
    "brier_decomposition",
    "classwise_calibration_error",
    "expected_calibration_error",
    "reliability_curve",
]


@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """Confidence and accuracy in bins of confidence.

    Attributes
    ----------
    confidence : ndarray of shape (n_bins,)
        Mean probability of the predicted class; NaN in an empty bin.
    accuracy : ndarray of shape (n_bins,)
        Share of right predictions; NaN in an empty bin.
    count : ndarray of shape (n_bins,)
        Rows in the bin.
    weight : ndarray of shape (n_bins,)
        Sum of the sample weights in the bin; equals ``count`` without weights.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray
    weight: np.ndarray


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


def reliability_curve(
    y_true: ArrayLike,
    proba: ArrayLike,
    *,
    n_bins: int = 15,
    strategy: str = "width",
    classes: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> ReliabilityCurve:
    """Compare confidence with accuracy in bins of the top probability.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True classes.
    proba : array-like of shape (n_samples, n_classes)
        Probabilities; column k belongs to ``classes[k]``.
    n_bins : int, default=15
        Number of bins.
    strategy : {"width", "mass"}, default="width"
        ``"width"`` cuts [0, 1] into equal intervals, closed on the right; ``"mass"`` puts about
        the same weight of rows into each bin, and rows of equal confidence into the same one.
    classes : array-like of shape (n_classes,), default=None
        Class of each column. None takes the sorted classes of ``y_true``, which must then be
        as many as the columns.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each row.

    Returns
    -------
    ReliabilityCurve
        ``confidence``, ``accuracy``, ``count`` and ``weight`` of each bin.

    Raises
    ------
    ValueError
        As for `mmfuse.metrics.log_loss`; and for a wrong ``n_bins`` or ``strategy``.
    """
    caller = "reliability_curve"
    _check_bins(n_bins, strategy, caller)
    confidence, right, weight = _top_label(y_true, proba, classes, sample_weight, caller)
    bins = _bins(confidence, weight, n_bins, strategy)
    totals = np.bincount(bins, weights=weight, minlength=n_bins)
    scale = np.where(totals > 0, totals, np.nan)
    return ReliabilityCurve(
        confidence=np.bincount(bins, weights=weight * confidence, minlength=n_bins) / scale,
        accuracy=np.bincount(bins, weights=weight * right, minlength=n_bins) / scale,
        count=np.bincount(bins, minlength=n_bins),
        weight=totals,
    )


def expected_calibration_error(
    y_true: ArrayLike,
    proba: ArrayLike,
    *,
    n_bins: int = 15,
    strategy: str = "width",
    norm: str = "l1",
    debias: bool = False,
    classes: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Average the gap between confidence and accuracy over bins of confidence.

    Only the probability of the predicted class is judged (top-label calibration); see
    `classwise_calibration_error` for all of them.

    Parameters
    ----------
    y_true, proba, n_bins, strategy, classes, sample_weight
        As in `reliability_curve`.
    norm : {"l1", "l2"}, default="l1"
        Mean size of the gap, or root of its mean square.
    debias : bool, default=False
        A bin of few rows shows a gap even where the model is calibrated. True takes off what
        chance alone would add, as far as the bin can tell; see Notes.

    Returns
    -------
    float
        Expected calibration error, between 0 and 1. Without ``debias`` it is biased upwards when
        bins hold few rows.

    Raises
    ------
    ValueError
        As for `reliability_curve`, and for an unknown ``norm``.

    Notes
    -----
    For ``"l2"``, ``a (1 - a) / (m - 1)`` is taken off the square of a bin's gap, with a the
    accuracy and m the rows of the bin; for ``"l1"``, twice the gap less the mean size of a normal
    variable of that mean and the variance ``a (1 - a) / m``, in closed form where the authors draw
    random numbers. The first is right on average; the second takes off about two fifths of what
    chance adds to a calibrated model. A sum below 0 counts as 0. A bin with one row cannot be
    corrected and is taken as it is. Under weights m is the effective number of rows,
    ``(sum w)**2 / sum w**2``: a row of weight two is not two witnesses.

    References
    ----------
    C. Guo et al., "On calibration of modern neural networks", ICML 2017. Debiased: A. Kumar,
    P. Liang and T. Ma, "Verified uncertainty calibration", NeurIPS 2019.

    Examples
    --------
    >>> from mmfuse.metrics import expected_calibration_error
    >>> proba = [[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]]
    >>> round(expected_calibration_error([0, 1, 1, 1], proba), 3)  # 0.9 for 1/2, 0.8 for 1
    0.3
    """
    caller = "expected_calibration_error"
    _check_bins(n_bins, strategy, caller, norm)
    confidence, right, weight = _top_label(y_true, proba, classes, sample_weight, caller)
    bins = _bins(confidence, weight, n_bins, strategy)
    return _gap(confidence, right, weight, bins, norm, debias)


def classwise_calibration_error(
    y_true: ArrayLike,
    proba: ArrayLike,
    *,
    classes: ArrayLike,
    n_bins: int = 15,
    strategy: str = "width",
    norm: str = "l1",
    debias: bool = False,
    average: bool = True,
    sample_weight: ArrayLike | None = None,
) -> float | np.ndarray:
    """Calibration error of the probability of every class, whether it is the top one or not.

    Parameters
    ----------
    y_true, proba, n_bins, strategy, norm, debias, sample_weight
        As in `expected_calibration_error`; the bins are over the probability of the class.
    classes : array-like of shape (n_classes,)
        Class of each column.
    average : bool, default=True
        False gives every class by itself.

    Returns
    -------
    float, or ndarray of shape (n_classes,)
        Between 0 and 1. Under many classes most probabilities are near 0, and so is the mean.

    Raises
    ------
    ValueError
        As for `expected_calibration_error`.

    References
    ----------
    M. Kull et al., "Beyond temperature scaling: obtaining well-calibrated multi-class
    probabilities with Dirichlet calibration", NeurIPS 2019.

    Examples
    --------
    >>> from mmfuse.metrics import classwise_calibration_error
    >>> proba = [[0.8, 0.2, 0.0], [0.8, 0.2, 0.0], [0.0, 0.5, 0.5], [0.0, 0.5, 0.5]]
    >>> one_by_one = {"classes": [0, 1, 2], "average": False}
    >>> classwise_calibration_error([0, 0, 1, 2], proba, **one_by_one).round(3).tolist()
    [0.1, 0.1, 0.0]
    """
    caller = "classwise_calibration_error"
    _check_bins(n_bins, strategy, caller, norm)
    values, codes, weight = check_scored(y_true, proba, classes, sample_weight, caller)
    gaps = np.empty(values.shape[1])
    for k, column in enumerate(values.T):
        bins = _bins(column, weight, n_bins, strategy)
        gaps[k] = _gap(column, codes == k, weight, bins, norm, debias)
    return float(gaps.mean()) if average else gaps


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
        As for `reliability_curve`.

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
        _check_bins(n_bins, strategy, caller, extra="'isotonic', ")
    values, codes, weight = check_scored(y_true, proba, classes, sample_weight, caller)
    weight = weight / weight.sum()
    parts = np.zeros(4)
    for k, forecast in enumerate(values.T):
        truth = (codes == k).astype(np.float64)
        if strategy == "isotonic":
            parts += _isotonic_parts(forecast, truth, weight)
        else:
            bins = _bins(forecast, weight, n_bins, strategy)
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


def _gap(
    confidence: np.ndarray,
    right: np.ndarray,
    weight: np.ndarray,
    bins: np.ndarray,
    norm: str,
    debias: bool,
) -> float:
    """Gap of probability and truth over bins, as `expected_calibration_error` describes it."""
    mass = np.bincount(bins, weights=weight)
    filled = mass > 0
    total = mass[filled]
    seen = np.bincount(bins, weights=weight * right)[filled] / total
    gap = np.abs(np.bincount(bins, weights=weight * confidence)[filled] / total - seen)
    if debias:
        rows = total**2 / np.bincount(bins, weights=weight**2)[filled]  # effective
        spread = np.clip(seen * (1.0 - seen), 0.0, None)
        if norm == "l2":
            noise = np.where(rows > 1, spread / np.maximum(rows - 1.0, 1e-12), 0.0)
            return float(np.sqrt(max(np.average(gap**2 - noise, weights=total), 0.0)))
        gap = 2.0 * gap - _folded_mean(gap, np.sqrt(spread / rows))
        return max(float(np.average(gap, weights=total)), 0.0)
    if norm == "l2":
        return float(np.sqrt(np.average(gap**2, weights=total)))
    return float(np.average(gap, weights=total))


def _folded_mean(mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Mean size of a normal variable of a mean that is not negative."""
    ratio = mean / np.where(scale > 0, scale, 1.0)
    folded = scale * np.sqrt(2.0 / np.pi) * np.exp(-0.5 * ratio**2) + mean * (1 - 2 * ndtr(-ratio))
    return np.where(scale > 0, folded, mean)


def _top_label(
    y_true: ArrayLike,
    proba: ArrayLike,
    classes: ArrayLike | None,
    sample_weight: ArrayLike | None,
    caller: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probability of the predicted class, whether it is the true one, and weights."""
    values, _ = check_proba(proba, caller)
    if classes is None:
        classes = _classes_of(y_true, values.shape[1], caller)
    codes = codes_of(y_true, classes, values.shape, caller)
    weight = check_row_weight(sample_weight, len(values), caller)
    return values.max(axis=1), values.argmax(axis=1) == codes, weight


def _check_bins(n_bins: int, strategy: str, caller: str, norm: str = "l1", extra: str = "") -> None:
    if not isinstance(n_bins, Integral) or isinstance(n_bins, bool) or n_bins < 1:
        raise ValueError(f"{caller}: n_bins must be an integer of at least 1; got {n_bins!r}.")
    if strategy not in ("width", "mass"):
        raise ValueError(f"{caller}: strategy must be {extra}'width' or 'mass'; got {strategy!r}.")
    if norm not in ("l1", "l2"):
        raise ValueError(f"{caller}: norm must be 'l1' or 'l2'; got {norm!r}.")


def _bins(values: np.ndarray, weight: np.ndarray, n_bins: int, strategy: str) -> np.ndarray:
    """Bin of every value in [0, 1]."""
    if strategy == "width":
        inner = np.linspace(0.0, 1.0, n_bins + 1)[1:-1]
        return np.searchsorted(inner, values, side="left")
    return _mass_bins(values, weight, n_bins)


def _mass_bins(confidence: np.ndarray, weight: np.ndarray, n_bins: int) -> np.ndarray:
    """Bins of equal weight; equal values share a bin, so the order of rows does not matter."""
    _, value = np.unique(confidence, return_inverse=True)
    mass = np.bincount(value, weights=weight)
    middle = (np.cumsum(mass) - mass / 2.0) / mass.sum()
    return np.minimum((middle * n_bins).astype(int), n_bins - 1)[value]


def _classes_of(y_true: ArrayLike, n_columns: int, caller: str) -> np.ndarray:
    found = np.unique(np.asarray(y_true))
    if len(found) != n_columns:
        raise ValueError(
            f"{caller}: proba has {n_columns} columns but y_true has {len(found)} classes; pass "
            "classes to say which column is which."
        )
    return found
