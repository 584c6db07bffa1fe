"""What a modality report asks of its arguments."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mmfuse.metrics._checks import class_codes
from mmfuse.report.subsets import ClassificationTask, RegressionTask, Task

__all__ = [
    "as_task",
    "check_groups",
    "check_one_output",
    "check_options",
    "check_rows",
    "check_weight",
]

_SHOWN = 5


def check_one_output(model: Any) -> None:
    """Refuse a classifier of several targets, whose outputs have reports of their own."""
    names = getattr(model, "output_names_", None)
    if names is not None:
        raise ValueError(
            f"modality_report: the model has the outputs {', '.join(map(repr, names))}, and a "
            f"report is about one; pass model.output({names[0]!r}) and its column of y."
        )


def check_rows(values: ArrayLike, name: str, n_rows: int) -> np.ndarray:
    """One value per row of X, and at least one row."""
    array = np.asarray(values)
    if array.ndim == 0 or len(array) != n_rows:
        length = "no rows" if array.ndim == 0 else len(array)
        raise ValueError(f"modality_report: X has {n_rows} rows and {name} has {length}.")
    if n_rows == 0:
        raise ValueError("modality_report: X has no rows; there is nothing to report on.")
    return array


def check_weight(sample_weight: ArrayLike | None, n_rows: int) -> np.ndarray:
    """Weights as float64; ones if none are given."""
    if sample_weight is None:
        return np.ones(n_rows)
    weight = check_rows(sample_weight, "sample_weight", n_rows).astype(np.float64)
    if weight.ndim != 1 or not np.isfinite(weight).all() or (weight < 0).any() or not weight.any():
        raise ValueError(
            "modality_report: sample_weight must be one finite, non-negative number per row, and "
            "not zero everywhere."
        )
    return weight


def check_groups(groups: ArrayLike | None, n_rows: int, used: np.ndarray) -> np.ndarray | None:
    """Groups as integers; at least two of them among the rows that are used."""
    if groups is None:
        return None
    labels = check_rows(groups, "groups", n_rows)
    if labels.ndim != 1:
        raise ValueError(
            f"modality_report: groups must have one label per row; got the shape {labels.shape}."
        )
    codes, _ = pd.factorize(labels)
    if (codes < 0).any():
        raise ValueError(
            f"modality_report: groups is missing in {_rows(codes < 0)}; give every row a group."
        )
    if len(np.unique(codes[used])) < 2:
        raise ValueError(
            "modality_report: groups must hold at least two groups, since the bootstrap draws "
            f"whole groups; all rows are in {labels[used][0]!r}."
        )
    return codes


def as_task(y: np.ndarray, weight: np.ndarray, classes: Any) -> Task:
    """The task for these targets; ``classes`` is None for a regressor."""
    missing = pd.isna(y)
    missing = missing if missing.ndim == 1 else missing.any(axis=tuple(range(1, missing.ndim)))
    if missing.any():
        raise ValueError(
            f"modality_report: y is missing in {_rows(missing)}; leave these rows out."
        )
    if classes is None:
        return RegressionTask(_values(y), weight)
    return ClassificationTask(_labels(y, classes), np.asarray(classes), weight)


def _values(y: np.ndarray) -> np.ndarray:
    try:
        values = y.astype(np.float64)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"modality_report: y must hold numbers for a regressor ({exc}).") from exc
    if values.ndim > 2 or not np.isfinite(values).all():
        raise ValueError(
            "modality_report: y must hold finite numbers in the shape (n_samples,) or (n_samples, "
            f"n_targets) for a regressor; got the shape {y.shape}."
        )
    return values.reshape(len(values), -1)


def _labels(y: np.ndarray, classes: Any) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(
            f"modality_report: y must hold one class per row for a classifier; got the shape "
            f"{y.shape}."
        )
    known = np.asarray(classes)
    codes = class_codes(y, known)
    if (codes < 0).any():
        unknown = list(pd.unique(pd.Series(y[codes < 0])))
        listed = ", ".join(repr(_python(value)) for value in unknown[:_SHOWN])
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise ValueError(
            f"modality_report: y holds classes that the model does not know: {listed}{more}, in "
            f"{_rows(codes < 0)}. It knows {', '.join(repr(c) for c in known.tolist())}."
        )
    return known[codes]


def _rows(mask: np.ndarray) -> str:
    rows = np.flatnonzero(mask)
    if len(rows) == 1:
        return f"row {rows[0]}"
    more = ", ..." if len(rows) > _SHOWN else ""
    return f"{len(rows)} rows ({', '.join(map(str, rows[:_SHOWN]))}{more})"


def _python(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def check_options(
    names: tuple[str, ...], n_bootstrap: int, confidence: float, max_modalities: int
) -> None:
    if not isinstance(n_bootstrap, Integral) or isinstance(n_bootstrap, bool) or n_bootstrap < 1:
        raise ValueError(
            f"modality_report: n_bootstrap must be an integer of at least 1; got {n_bootstrap!r}."
        )
    if not 0.0 < confidence < 1.0:
        raise ValueError(
            f"modality_report: confidence must lie between 0 and 1; got {confidence!r}."
        )
    if len(names) > max_modalities:
        raise ValueError(
            f"modality_report: {len(names)} modalities have {2 ** len(names)} subsets to predict, "
            f"and max_modalities={max_modalities}. Pass max_modalities={len(names)} to go ahead."
        )
