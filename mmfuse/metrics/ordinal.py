"""Scores of ordered classes: how far a prediction is off counts, not only whether it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mmfuse.metrics._checks import check_row_weight, check_scored, codes_of

__all__ = ["quadratic_kappa", "ranked_probability_score"]


def ranked_probability_score(
    y_true: ArrayLike,
    proba: ArrayLike,
    *,
    classes: ArrayLike,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Average the squared distance between predicted and true cumulative probabilities.

    Proper, like the log loss and the Brier score, and kinder to a probability that is put on a
    neighbour of the true class than to one that is put far from it. For two classes it is half of
    `brier_score`.

    Parameters
    ----------
    y_true, proba, sample_weight
        As in `mmfuse.metrics.log_loss`, which raises the same errors.
    classes : array-like of shape (n_classes,)
        The classes from the lowest to the highest, as in ``classes_`` of a model with
        ``target="ordinal"``.

    Returns
    -------
    float
        Mean over rows of the sum over the K - 1 thresholds, which lies between 0 and K - 1; some
        authors divide it by K - 1.

    References
    ----------
    Epstein (1969), "A scoring system for probability forecasts of ranked categories"; in the form
    of Murphy (1971), "A note on the ranked probability score".

    Examples
    --------
    >>> from mmfuse.metrics import ranked_probability_score
    >>> ranked_probability_score([0], [[0.0, 1.0, 0.0]], classes=[0, 1, 2])
    1.0
    >>> ranked_probability_score([0], [[0.0, 0.0, 1.0]], classes=[0, 1, 2])
    2.0
    """
    caller = "ranked_probability_score"
    values, codes, weight = check_scored(y_true, proba, classes, sample_weight, caller)
    truth = codes[:, None] <= np.arange(values.shape[1] - 1)
    rows = np.square(values.cumsum(axis=1)[:, :-1] - truth).sum(axis=1)
    return float(np.average(rows, weights=weight))


def quadratic_kappa(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    classes: ArrayLike,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Agreement of true and predicted classes beyond chance, with squared distances.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples,)
        True and predicted classes.
    classes : array-like of shape (n_classes,)
        The classes from the lowest to the highest, at equal distances.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each row.

    Returns
    -------
    float
        One minus the mean squared distance of the pairs over that of independent draws from the
        same two distributions: 1 is agreement, 0 is chance. NaN where both are always one and the
        same class, which scikit-learn's ``cohen_kappa_score`` answers too.

    Raises
    ------
    ValueError
        If lengths differ, there is no row, or there is a class that is not in ``classes``.

    References
    ----------
    Cohen (1968), "Weighted kappa: nominal scale agreement with provision for scaled disagreement".

    Examples
    --------
    >>> from mmfuse.metrics import quadratic_kappa
    >>> round(quadratic_kappa([0, 1, 2, 2], [0, 1, 2, 1], classes=[0, 1, 2]), 3)
    0.8
    """
    caller = "quadratic_kappa"
    given, other = np.shape(y_true), np.shape(y_pred)
    if given != other or len(given) != 1 or given[0] == 0:
        raise ValueError(
            f"{caller}: y_true and y_pred must have one shape (n_samples,), with at least one row; "
            f"got {given} and {other}."
        )
    shape = (given[0], np.asarray(classes).size)
    truth = codes_of(y_true, classes, shape, caller).astype(np.float64)
    found = codes_of(y_pred, classes, shape, caller, "y_pred").astype(np.float64)
    weight = check_row_weight(sample_weight, len(truth), caller)
    share = weight / weight.sum()
    centre = share @ truth, share @ found
    apart = share @ np.square(truth - found)
    # the mean squared distance of independent draws: both variances and that of the means
    chance = share @ np.square(truth - centre[0]) + share @ np.square(found - centre[1])
    chance += (centre[0] - centre[1]) ** 2
    return float(1.0 - apart / chance) if chance > 0 else float("nan")
