"""Whether probabilities come true: calibration errors and reliability."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from mmfuse.metrics._checks import check_proba, check_row_weight, check_scored, codes_of

__all__ = [
    "ReliabilityCurve",
    "bins_of",
    "check_bins",
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
    check_bins(n_bins, strategy, caller)
    confidence, right, weight = _top_label(y_true, proba, classes, sample_weight, caller)
    bins = bins_of(confidence, weight, n_bins, strategy)
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
    check_bins(n_bins, strategy, caller, norm)
    confidence, right, weight = _top_label(y_true, proba, classes, sample_weight, caller)
    bins = bins_of(confidence, weight, n_bins, strategy)
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
    check_bins(n_bins, strategy, caller, norm)
    values, codes, weight = check_scored(y_true, proba, classes, sample_weight, caller)
    gaps = np.empty(values.shape[1])
    for k, column in enumerate(values.T):
        bins = bins_of(column, weight, n_bins, strategy)
        gaps[k] = _gap(column, codes == k, weight, bins, norm, debias)
    return float(gaps.mean()) if average else gaps


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


def check_bins(n_bins: int, strategy: str, caller: str, norm: str = "l1", extra: str = "") -> None:
    """Refuse a number or kind of bins, or a norm, that is none."""
    if not isinstance(n_bins, Integral) or isinstance(n_bins, bool) or n_bins < 1:
        raise ValueError(f"{caller}: n_bins must be an integer of at least 1; got {n_bins!r}.")
    if strategy not in ("width", "mass"):
        raise ValueError(f"{caller}: strategy must be {extra}'width' or 'mass'; got {strategy!r}.")
    if norm not in ("l1", "l2"):
        raise ValueError(f"{caller}: norm must be 'l1' or 'l2'; got {norm!r}.")


def bins_of(values: np.ndarray, weight: np.ndarray, n_bins: int, strategy: str) -> np.ndarray:
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
