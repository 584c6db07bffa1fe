"""Checking targets, weights and groups at the door of ``fit``."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import column_or_1d, compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, assert_all_finite

__all__ = [
    "check_class_target",
    "check_groups",
    "check_target_kind",
    "check_value_target",
    "check_weight",
    "count_outputs",
]


def _refuse_missing(y: np.ndarray) -> None:
    missing = pd.isna(y)
    rows = np.flatnonzero(missing if missing.ndim == 1 else missing.any(axis=1))
    if len(rows):
        shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        raise ValueError(
            f"Input y contains NaN in {len(rows)} of {len(y)} rows (row {shown}); "
            "leave out the rows whose target is unknown."
        )


def _check_length(y: Any, n_rows: int, what: str = "y") -> None:
    if len(y) != n_rows:
        raise ValueError(
            f"X has {n_rows} rows and {what} has {len(y)}; they must be aligned row by row "
            "(inconsistent numbers of samples)."
        )


def count_outputs(y: Any) -> int:
    """Columns of y; 1 where it has no second axis."""
    shape = getattr(y, "shape", None)
    if shape is None and isinstance(y, (list, tuple)) and len(y) and np.ndim(y[0]) == 1:
        return len(y[0])
    return int(shape[1]) if shape is not None and len(shape) == 2 else 1


def check_target_kind(target: Any, owner: str) -> str:
    """``target`` of one output, if it is one of the two kinds."""
    if isinstance(target, str) and target in ("nominal", "ordinal"):
        return target
    raise ValueError(
        f"{owner}: target must be 'nominal' or 'ordinal', or a list of these with one for every "
        f"column of y where y has several; got {target!r}."
    )


def _class_order(y: Any, classes: np.ndarray) -> np.ndarray:
    """Ordered classes in the order of a pandas categorical, else sorted, with a word about text."""
    kind = getattr(y, "dtype", None)
    if isinstance(kind, pd.CategoricalDtype) and kind.ordered:
        return classes[np.argsort(kind.categories.get_indexer(pd.Index(classes)))]
    if classes.dtype.kind in "OUS":
        warnings.warn(
            f"target='ordinal' takes text in the order of the alphabet: "
            f"{' < '.join(map(str, classes))}. For another order, or to say that this one is "
            "meant, pass y as an ordered pandas.Categorical.",
            UserWarning,
            stacklevel=5,
        )
    return classes


def check_class_target(
    y: Any, n_rows: int, owner: str, *, ordinal: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Classes and class index of every row.

    Classes are sorted; with ``ordinal`` those of an ordered pandas categorical keep its order.

    Raises
    ------
    ValueError
        If y is missing, continuous, misaligned, holds NaN, or holds one class only.
    """
    if y is None:
        raise ValueError(f"{owner} requires y to be passed, but the target y is None.")
    given, y = y, column_or_1d(y, warn=True)
    _check_length(y, n_rows)
    if y.dtype.kind == "f" and np.isinf(y).any():
        assert_all_finite(y, input_name="y", estimator_name=owner)
    _refuse_missing(y)
    check_classification_targets(y)
    classes, index = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"{owner} needs at least two classes; y holds only one class: {classes.tolist()[0]!r}."
        )
    if not ordinal:
        return classes, index.astype(np.int64)
    ordered = _class_order(given, classes)
    return ordered, pd.Index(ordered).get_indexer(pd.Index(classes))[index].astype(np.int64)


def check_value_target(y: Any, n_rows: int, owner: str) -> np.ndarray:
    """Target values of shape (n, T), float64.

    Raises
    ------
    ValueError
        If y is missing, not numeric, misaligned, or holds NaN or infinity.
    """
    if y is None:
        raise ValueError(f"{owner} requires y to be passed, but the target y is None.")
    y = np.asarray(y)
    if y.ndim not in (1, 2):
        raise ValueError(f"{owner}: y must have shape (n,) or (n, n_targets), got {y.shape}.")
    _check_length(y, n_rows)
    if y.dtype.kind == "O":
        _refuse_missing(y)
    try:
        y = y.astype(np.float64)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"{owner}: y must be numeric for regression: {exc}.") from exc
    if np.isinf(y).any():
        assert_all_finite(y, input_name="y", estimator_name=owner)
    _refuse_missing(y)
    return y


def check_weight(
    sample_weight: Any,
    n_rows: int,
    *,
    class_weight: Any = None,
    classes: np.ndarray | None = None,
    index: np.ndarray | None = None,
) -> np.ndarray:
    """Sample weights times class weights: float64 of shape (n,)."""
    if sample_weight is not None and hasattr(sample_weight, "__len__"):
        _check_length(sample_weight, n_rows, "sample_weight")
    weight = _check_sample_weight(sample_weight, np.empty((n_rows, 1)), dtype=np.float64)
    if (weight < 0).any():
        raise ValueError("sample_weight must not be negative.")
    if weight.sum() == 0:
        raise ValueError("sample_weight must not be zero in every row.")
    if classes is None or index is None:
        return weight
    seen = np.unique(index[weight > 0])
    if len(seen) < 2:
        raise ValueError(
            "Only one class has rows with positive sample_weight: "
            f"{classes[seen].tolist()[0]!r}; at least two classes are needed."
        )
    if class_weight is None:
        return weight
    if isinstance(class_weight, str) and class_weight == "balanced":
        # counts rows by their weight, so that a row of weight two is two rows
        totals = np.bincount(index, weights=weight, minlength=len(classes))
        return weight * (weight.sum() / (len(seen) * np.maximum(totals, 1e-300)))[index]
    return weight * compute_class_weight(class_weight, classes=classes, y=classes[index])[index]


def check_groups(groups: Any, n_rows: int) -> np.ndarray | None:
    """Groups as an array of shape (n,), or None."""
    if groups is None:
        return None
    groups = column_or_1d(groups)
    _check_length(groups, n_rows, "groups")
    if pd.isna(groups).any():
        row = int(np.flatnonzero(pd.isna(groups))[0])
        raise ValueError(f"groups contains a missing value in row {row}; every row needs a group.")
    return groups
