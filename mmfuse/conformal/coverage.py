"""How often sets and intervals hold the truth, for every availability pattern."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from mmfuse.conformal.risk_control import clopper_pearson
from mmfuse.conformal.strata import Strata
from mmfuse.conformal.thresholds import name_pattern
from mmfuse.metrics._checks import check_row_weight
from mmfuse.multi_output import has_outputs
from mmfuse.targets import check_value_target

__all__ = ["coverage_by_pattern"]


def coverage_by_pattern(
    model: Any,
    X: Any,
    y: Any,
    coverage: float = 0.9,
    *,
    by: Any = None,
    sample_weight: Any = None,
    **options: Any,
) -> pd.DataFrame:
    """Measure coverage and size of a model's sets or intervals on rows with known truth.

    Parameters
    ----------
    model : FusionClassifier or FusionRegressor
        Fitted, of one output.
    X : ModalityTable, DataFrame, dict, array or Blocks
        n rows that took part in neither ``fit`` nor ``conformalize``.
    y : array-like of shape (n,)
    coverage : float, default=0.9
    by : array-like of shape (n,), Series or DataFrame, optional
        Lines are then for every pattern within each value. Goes to ``predict_set`` or
        ``predict_interval`` too, where the model was calibrated by strata.
    sample_weight : array-like of shape (n,), optional
        Weight of every row. The interval is then that of as many rows of equal weight as these are
        worth, ``(sum w)**2 / sum w**2`` (Kish), and approximate.
    **options
        For ``predict_set``, such as ``method``.

    Returns
    -------
    DataFrame
        A line for every pattern, the fullest first, and one for all rows: ``pattern``, ``rows``,
        ``covered`` (share), its 95 % Clopper-Pearson interval ``low``, ``high``, and ``size``: the
        mean number of classes, or the median width in the unit of y. All but ``rows`` is weighted.

    Raises
    ------
    ValueError
        If the model has several outputs, or lengths differ.

    Examples
    --------
    >>> from mmfuse import FusionClassifier
    >>> from mmfuse.conformal.coverage import coverage_by_pattern
    >>> from mmfuse.heads import LateFusion
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> views = {"sepal": [0, 1], "petal": [2, 3]}
    >>> model = FusionClassifier(LateFusion(C=1.0), modalities=views).fit(X[::2], y[::2])
    >>> coverage_by_pattern(model, X[1::2], y[1::2])["pattern"].tolist()
    ['sepal + petal', 'all']
    """
    check_is_fitted(model, "head_")
    caller = "coverage_by_pattern"
    if has_outputs(model) or not getattr(model, "single_", True):
        raise ValueError(f"{caller} takes a model of one output; pass model.output(t) and y[:, t].")
    blocks = model.encode(X)
    strata = Strata.read(by, len(blocks), caller)
    weight = check_row_weight(sample_weight, len(blocks), caller)
    store = getattr(model, "conformal_", None)
    known = {"by": by} if by is not None and store is not None and store.strata else {}
    if hasattr(model, "classes_"):
        index = model._true_index(y, len(blocks), caller)
        sets = model.predict_set(blocks, coverage, **known, **options)
        inside, size, middle = sets[np.arange(len(index)), index], sets.sum(axis=1), np.average
    else:
        truth = check_value_target(y, len(blocks), caller).reshape(-1)
        ends = model.predict_interval(blocks, coverage, **known, **options)
        inside = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
        size, middle = ends[:, 1] - ends[:, 0], _median
    everything = weight > 0
    cells = [({"pattern": "all"}, everything)]
    labels = np.full(len(blocks), "") if strata is None else strata.labels
    for pattern in np.unique(blocks.present[everything], axis=0):
        same = everything & (blocks.present == pattern).all(axis=1)
        for label in np.unique(labels[same])[::-1]:
            name: dict[str, Any] = {"pattern": name_pattern(pattern, model.modalities_)}
            if strata is not None:
                name[strata.name or "stratum"] = str(label)
            cells.append((name, same & (labels == label)))
    lines = []
    for name, rows in cells[::-1]:
        mass = weight[rows]
        covered = float(np.average(inside[rows], weights=mass))
        worth = float(mass.sum() ** 2 / np.square(mass).sum()) if sample_weight is not None else 0.0
        count = worth or int(rows.sum())
        hits = covered * worth if worth else int(inside[rows].sum())
        low, high = clopper_pearson(hits, count)
        shares = {"covered": covered, "low": low, "high": high}
        line = name | {"rows": int(rows.sum())} | shares
        lines.append(line | {"size": float(middle(size[rows], weights=mass))})
    return pd.DataFrame(lines).fillna({} if strata is None else {strata.name or "stratum": "all"})


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    """Median; the lower one of two where rows have weights."""
    if np.ptp(weights) == 0:
        return float(np.median(values))
    order = np.argsort(values, kind="stable")
    mass = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(mass, mass[-1] / 2)])
