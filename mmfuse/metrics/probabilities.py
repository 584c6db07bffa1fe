"""Scores of class probabilities: log loss and Brier score.

The columns of ``proba`` are classes in an explicit order, and the functions check that what they
get are probabilities, since logits and shuffled columns give plausible numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mmfuse.metrics._checks import check_proba, check_row_weight, codes_of

__all__ = [
    "brier_score",
    "brier_score_per_row",
    "log_loss",
    "log_loss_per_row",
]


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

    Parameters and errors are those of `log_loss`.

    Returns
    -------
    float
        Brier score; lower is better.

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
