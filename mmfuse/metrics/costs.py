"""Costs of decisions: what wrong ones cost, and the decision that costs least."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mmfuse.metrics._checks import check_proba, check_row_weight, class_codes, codes_of

__all__ = ["decide", "decision_costs", "expected_cost", "linear_cost", "quadratic_cost"]


def linear_cost(n_classes: int, *, under: float = 1.0, over: float = 1.0) -> np.ndarray:
    """Costs of ordered classes that grow with the number of steps between truth and decision.

    Parameters
    ----------
    n_classes : int
    under, over : float, default=1.0
        Cost of one step of deciding too low and too high.

    Returns
    -------
    ndarray of shape (n_classes, n_classes)
        ``cost[k, j]``: k is true and j is decided. With equal costs `decide` gives the median.

    Raises
    ------
    ValueError
        If there are fewer than two classes, or a cost is negative or not finite.

    Examples
    --------
    >>> from mmfuse.metrics.costs import linear_cost
    >>> linear_cost(3, under=2.0).tolist()
    [[0.0, 1.0, 2.0], [2.0, 0.0, 1.0], [4.0, 2.0, 0.0]]
    """
    steps = _steps(n_classes, under, over, "linear_cost")
    return np.where(steps < 0, -under * steps, over * steps)


def quadratic_cost(n_classes: int, *, under: float = 1.0, over: float = 1.0) -> np.ndarray:
    """Costs of ordered classes that grow with the square of the steps between truth and decision.

    Parameters and errors are those of `linear_cost`.

    Returns
    -------
    ndarray of shape (n_classes, n_classes)
        With equal costs `decide` gives the class nearest to the mean of the scale.
    """
    steps = _steps(n_classes, under, over, "quadratic_cost")
    return np.where(steps < 0, under, over) * np.square(steps)


def decision_costs(
    proba: ArrayLike, cost: ArrayLike, *, classes: ArrayLike | None = None
) -> np.ndarray:
    """Cost to be expected of every decision in every row.

    Parameters
    ----------
    proba, cost, classes
        As in `decide`.

    Returns
    -------
    ndarray of shape (n_samples, n_decisions)

    Raises
    ------
    ValueError
        As for `decide`.
    """
    values, _ = check_proba(proba, "decision_costs")
    matrix, _ = _check_cost(cost, _names(classes, values, "decision_costs"), None, "decision_costs")
    return values @ matrix


def decide(
    proba: ArrayLike,
    cost: ArrayLike,
    *,
    classes: ArrayLike | None = None,
    decisions: ArrayLike | None = None,
) -> np.ndarray:
    """Take the decision of the least expected cost in every row.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_classes)
        Probabilities; they must be calibrated for their costs to be those that come.
    cost : array-like or DataFrame of shape (n_classes, n_decisions)
        ``cost[k, j]``: what decision j costs where class k is true. A DataFrame has the classes in
        its index and the decisions in its columns.
    classes : array-like of shape (n_classes,), default=None
        Class of each column of proba; None calls them 0, 1, ...
    decisions : array-like of shape (n_decisions,), default=None
        Names of the decisions, such as ``["discharge", "watch", "treat"]``. None takes the columns
        of a DataFrame, or ``classes`` where there are as many.

    Returns
    -------
    ndarray of shape (n_samples,)
        Names of decisions; of equally good ones the first.

    Raises
    ------
    ValueError
        If ``proba`` does not hold probabilities, ``cost`` has another shape, gaps or other names,
        or decisions have no names.

    References
    ----------
    C. Elkan, "The foundations of cost-sensitive learning", IJCAI 2001.

    Examples
    --------
    >>> from mmfuse.metrics.costs import decide, linear_cost
    >>> proba = [[0.45, 0.15, 0.40], [0.8, 0.1, 0.1]]
    >>> decide(proba, linear_cost(3), classes=["mild", "moderate", "severe"]).tolist()
    ['moderate', 'mild']
    >>> referral = [[0, 1], [2, 1], [10, 1]]  # sending home and referring
    >>> decide(proba, referral, decisions=["home", "refer"]).tolist()
    ['refer', 'refer']
    """
    caller = "decide"
    values, _ = check_proba(proba, caller)
    known = _names(classes, values, caller)
    matrix, names = _check_cost(cost, known, decisions, caller)
    if names is None:
        raise ValueError(
            f"{caller}: cost has {matrix.shape[1]} columns and there are {len(known)} classes; "
            "name its columns in decisions."
        )
    costs = values @ matrix
    tie = 1e-12 * np.abs(matrix).max()  # rounding must not choose between equals
    return names[np.argmax(costs <= costs.min(axis=1, keepdims=True) + tie, axis=1)]


def expected_cost(
    y_true: ArrayLike,
    decided: ArrayLike,
    cost: ArrayLike,
    *,
    classes: ArrayLike,
    decisions: ArrayLike | None = None,
    normalize: bool = False,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Average what decisions cost.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True classes.
    decided : array-like of shape (n_samples,)
        Decisions, as `decide` gives them, or predicted classes.
    cost, classes, decisions
        As in `decide`.
    normalize : bool, default=False
        Divide by the cost of the one decision that would be best for all rows: below 1 is better
        than knowing nothing of a row.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each row.

    Returns
    -------
    float
        In the unit of the costs. NaN if normalised by 0.

    Raises
    ------
    ValueError
        As for `decide`, and if there is a class or decision without a name.

    References
    ----------
    L. Ferrer, "Analysis and comparison of classification metrics", arXiv 2209.05355.

    Examples
    --------
    >>> from mmfuse.metrics.costs import expected_cost, quadratic_cost
    >>> expected_cost([0, 1, 2, 2], [0, 1, 1, 0], quadratic_cost(3), classes=[0, 1, 2])
    1.25
    """
    caller = "expected_cost"
    known = np.asarray(classes)
    truth = np.asarray(y_true)
    if truth.ndim != 1 or not len(truth):
        raise ValueError(
            f"{caller}: y_true must have the shape (n_samples,), with at least one row; got "
            f"{truth.shape}."
        )
    codes = codes_of(truth, known, (len(truth), known.size), caller)
    matrix, names = _check_cost(cost, known, decisions, caller)
    if names is None:
        raise ValueError(
            f"{caller}: cost has {matrix.shape[1]} columns and there are {len(known)} classes; "
            "name its columns in decisions."
        )
    taken = _decision_codes(decided, names, len(truth), caller)
    weight = check_row_weight(sample_weight, len(truth), caller)
    paid = float(np.average(matrix[codes, taken], weights=weight))
    if not normalize:
        return paid
    constant = np.average(matrix[codes], axis=0, weights=weight).min()
    return paid / constant if constant != 0 else float("nan")


def _steps(n_classes: int, under: float, over: float, caller: str) -> np.ndarray:
    """Decided less true place, (K, K)."""
    if not isinstance(n_classes, Integral) or isinstance(n_classes, bool) or n_classes < 2:
        raise ValueError(
            f"{caller}: n_classes must be an integer of at least 2; got {n_classes!r}."
        )
    for name, value in (("under", under), ("over", over)):
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"{caller}: {name} must be finite and not negative; got {value!r}.")
    places = np.arange(n_classes, dtype=np.float64)
    return places[None, :] - places[:, None]


def _names(classes: ArrayLike | None, values: np.ndarray, caller: str) -> np.ndarray:
    if classes is None:
        return np.arange(values.shape[1])
    known = np.asarray(classes)
    if known.shape != (values.shape[1],):
        raise ValueError(
            f"{caller}: classes must name the {values.shape[1]} columns of proba; got {known.size} "
            f"of them, in the shape {known.shape}."
        )
    return known


def _check_cost(
    cost: Any, classes: np.ndarray, decisions: ArrayLike | None, caller: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Costs (K, D) in the order of the classes, and names of the decisions if there are any."""
    names = None if decisions is None else np.asarray(decisions)
    if isinstance(cost, pd.DataFrame):
        rows = class_codes(classes, cost.index.to_numpy())
        if (rows < 0).any() or len(cost) != len(classes):
            raise ValueError(
                f"{caller}: the index of cost must hold the classes {classes.tolist()}; it holds "
                f"{cost.index.tolist()}."
            )
        names = cost.columns.to_numpy() if names is None else names
        cost = cost.to_numpy()[rows]
    matrix = np.asarray(cost, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) != len(classes) or matrix.shape[1] < 2:
        raise ValueError(
            f"{caller}: cost must have a row for each of the {len(classes)} classes and a column "
            f"for each decision, at least two; got the shape {matrix.shape}."
        )
    if not np.isfinite(matrix).all():
        k, j = np.argwhere(~np.isfinite(matrix))[0]
        raise ValueError(f"{caller}: cost must be finite; it is {matrix[k, j]} in [{k}, {j}].")
    if names is None and matrix.shape[1] == len(classes):
        names = classes
    if names is not None and names.shape != (matrix.shape[1],):
        raise ValueError(
            f"{caller}: decisions must name the {matrix.shape[1]} columns of cost; got "
            f"{names.size}."
        )
    return matrix, names


def _decision_codes(decided: ArrayLike, names: np.ndarray, n_rows: int, caller: str) -> np.ndarray:
    taken = np.asarray(decided)
    if taken.shape != (n_rows,):
        raise ValueError(
            f"{caller}: decided must have the shape ({n_rows},), one decision per row; got "
            f"{taken.shape}."
        )
    codes = class_codes(taken, names)
    if (codes < 0).any():
        row = int(np.flatnonzero(codes < 0)[0])
        raise ValueError(
            f"{caller}: decided has {taken.tolist()[row]!r} in row {row}, which is not among the "
            f"decisions {names.tolist()}."
        )
    return codes
