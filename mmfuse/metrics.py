"""Scores of class probabilities: log loss, Brier score, calibration error.

The columns of ``proba`` are classes in an explicit order, and the functions check that what they
get are probabilities, since logits and shuffled columns give plausible numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike

from mmfuse._metric_checks import check_proba, check_row_weight, codes_of
from mmfuse.density_metrics import bias, cde_loss, crps, nmad, outlier_fraction, pit
from mmfuse.ordinal_metrics import quadratic_kappa, ranked_probability_score

__all__ = [
    "ReliabilityCurve",
    "bias",
    "brier_score",
    "brier_score_per_row",
    "cde_loss",
    "crps",
    "expected_calibration_error",
    "log_loss",
    "log_loss_per_row",
    "nmad",
    "outlier_fraction",
    "pit",
    "quadratic_kappa",
    "ranked_probability_score",
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


def log_loss(
    y_true: ArrayLike,
    proba: ArrayLike,
    *,
    classes: ArrayLike,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Average the negative log probability of the true class, in nats.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True classes.
    proba : array-like of shape (n_samples, n_classes)
        Probabilities; column k belongs to ``classes[k]``.
    classes : array-like of shape (n_classes,)
        Class of each column, as in ``classes_`` of an estimator.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each row.

    Returns
    -------
    float
        Log loss. A probability below the resolution of its own type (2.2e-16 for float64,
        1.2e-7 for float32) counts as that resolution, so the result is finite.

    Raises
    ------
    ValueError
        If ``proba`` does not hold probabilities, lengths differ, or ``y_true`` has a class that
        is not in ``classes``.
    """
    rows = _log_loss_rows(y_true, proba, classes, "log_loss")
    return float(np.average(rows, weights=check_row_weight(sample_weight, len(rows), "log_loss")))


def log_loss_per_row(y_true: ArrayLike, proba: ArrayLike, *, classes: ArrayLike) -> np.ndarray:
    """Give the negative log probability of the true class of each row.

    Parameters and errors are those of `log_loss`.

    Returns
    -------
    ndarray of shape (n_samples,)
        Losses in nats.
    """
    return _log_loss_rows(y_true, proba, classes, "log_loss_per_row")


def brier_score(
    y_true: ArrayLike,
    proba: ArrayLike,
    *,
    classes: ArrayLike,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Average the squared distance between the probabilities and the true class.

    This is the sum over all classes, as Brier wrote it, for two classes as for more: it lies
    between 0 and 2, and for two classes is twice the one-column form.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True classes.
    proba : array-like of shape (n_samples, n_classes)
        Probabilities; column k belongs to ``classes[k]``.
    classes : array-like of shape (n_classes,)
        Class of each column.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each row.

    Returns
    -------
    float
        Brier score; lower is better.

    Raises
    ------
    ValueError
        As for `log_loss`.

    References
    ----------
    G. W. Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather
    Review, 1950.
    """
    rows = _brier_rows(y_true, proba, classes, "brier_score")
    return float(
        np.average(rows, weights=check_row_weight(sample_weight, len(rows), "brier_score"))
    )


def brier_score_per_row(y_true: ArrayLike, proba: ArrayLike, *, classes: ArrayLike) -> np.ndarray:
    """Give the squared distance between probabilities and truth of each row.

    Parameters and errors are those of `brier_score`.

    Returns
    -------
    ndarray of shape (n_samples,)
        Scores between 0 and 2.
    """
    return _brier_rows(y_true, proba, classes, "brier_score_per_row")


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
        As for `log_loss`; and for a wrong ``n_bins`` or ``strategy``.
    """
    return _curve(y_true, proba, n_bins, strategy, classes, sample_weight, "reliability_curve")


def expected_calibration_error(
    y_true: ArrayLike,
    proba: ArrayLike,
    *,
    n_bins: int = 15,
    strategy: str = "width",
    classes: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Average the gap between confidence and accuracy over bins of confidence.

    Only the probability of the predicted class is judged (top-label calibration).

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True classes.
    proba : array-like of shape (n_samples, n_classes)
        Probabilities; column k belongs to ``classes[k]``.
    n_bins : int, default=15
        Number of bins.
    strategy : {"width", "mass"}, default="width"
        Bins of equal width or of equal weight of rows; see `reliability_curve`.
    classes : array-like of shape (n_classes,), default=None
        Class of each column; None takes the sorted classes of ``y_true``.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each row.

    Returns
    -------
    float
        Expected calibration error, between 0 and 1. It is biased upwards when bins hold few rows.

    Raises
    ------
    ValueError
        As for `reliability_curve`.

    References
    ----------
    C. Guo et al., "On calibration of modern neural networks", ICML 2017.

    Examples
    --------
    >>> from mmfuse.metrics import expected_calibration_error
    >>> proba = [[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]]
    >>> round(expected_calibration_error([0, 1, 1, 1], proba), 3)  # 0.9 for 1/2, 0.8 for 1
    0.3
    """
    caller = "expected_calibration_error"
    curve = _curve(y_true, proba, n_bins, strategy, classes, sample_weight, caller)
    filled = curve.weight > 0
    gap = np.abs(curve.confidence[filled] - curve.accuracy[filled])
    return float(np.average(gap, weights=curve.weight[filled]))


def _curve(
    y_true: ArrayLike,
    proba: ArrayLike,
    n_bins: int,
    strategy: str,
    classes: ArrayLike | None,
    sample_weight: ArrayLike | None,
    caller: str,
) -> ReliabilityCurve:
    if not isinstance(n_bins, Integral) or isinstance(n_bins, bool) or n_bins < 1:
        raise ValueError(f"{caller}: n_bins must be an integer of at least 1; got {n_bins!r}.")
    if strategy not in ("width", "mass"):
        raise ValueError(f"{caller}: strategy must be 'width' or 'mass'; got {strategy!r}.")
    values, _ = check_proba(proba, caller)
    if classes is None:
        classes = _classes_of(y_true, values.shape[1], caller)
    codes = codes_of(y_true, classes, values.shape, caller)
    weight = check_row_weight(sample_weight, len(values), caller)
    confidence = values.max(axis=1)
    right = values.argmax(axis=1) == codes
    if strategy == "width":
        inner = np.linspace(0.0, 1.0, n_bins + 1)[1:-1]
        bins = np.searchsorted(inner, confidence, side="left")
    else:
        bins = _mass_bins(confidence, weight, n_bins)
    totals = np.bincount(bins, weights=weight, minlength=n_bins)
    scale = np.where(totals > 0, totals, np.nan)
    return ReliabilityCurve(
        confidence=np.bincount(bins, weights=weight * confidence, minlength=n_bins) / scale,
        accuracy=np.bincount(bins, weights=weight * right, minlength=n_bins) / scale,
        count=np.bincount(bins, minlength=n_bins),
        weight=totals,
    )


def _mass_bins(confidence: np.ndarray, weight: np.ndarray, n_bins: int) -> np.ndarray:
    """Bins of equal weight; equal values share a bin, so the order of rows does not matter."""
    _, value = np.unique(confidence, return_inverse=True)
    mass = np.bincount(value, weights=weight)
    middle = (np.cumsum(mass) - mass / 2.0) / mass.sum()
    return np.minimum((middle * n_bins).astype(int), n_bins - 1)[value]


def _log_loss_rows(
    y_true: ArrayLike, proba: ArrayLike, classes: ArrayLike, caller: str
) -> np.ndarray:
    values, resolution = check_proba(proba, caller)
    codes = codes_of(y_true, classes, values.shape, caller)
    chosen = values[np.arange(len(values)), codes]
    return -np.log(np.clip(chosen, resolution, 1.0))


def _brier_rows(y_true: ArrayLike, proba: ArrayLike, classes: ArrayLike, caller: str) -> np.ndarray:
    values, _ = check_proba(proba, caller)
    codes = codes_of(y_true, classes, values.shape, caller)
    truth = np.zeros_like(values)
    truth[np.arange(len(values)), codes] = 1.0
    return np.square(values - truth).sum(axis=1)


def _classes_of(y_true: ArrayLike, n_columns: int, caller: str) -> np.ndarray:
    found = np.unique(np.asarray(y_true))
    if len(found) != n_columns:
        raise ValueError(
            f"{caller}: proba has {n_columns} columns but y_true has {len(found)} classes; pass "
            "classes to say which column is which."
        )
    return found
