"""What a clinical report asks of its arguments: outcomes with gaps, exclusions, named columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mmfuse.metrics._checks import class_codes
from mmfuse.table import ModalityTable

__all__ = [
    "CALLER",
    "check_count",
    "check_model",
    "in_order",
    "read_by",
    "read_excluded",
    "read_outcome",
    "read_weight",
]

CALLER = "clinical_report"

_MOST_LEVELS = 20
_MOST_NUMBERS = 8
_NOT_RECORDED = "not recorded"


def check_model(model: Any) -> None:
    """Refuse what has no probabilities of classes, and several outputs at once."""
    names = getattr(model, "output_names_", None)
    if names is not None:
        raise ValueError(
            f"{CALLER}: the model has the outputs {', '.join(map(repr, names))}, and a sheet is "
            f"about one; pass model.output({names[0]!r}) and its column of y."
        )
    if not hasattr(model, "predict_proba") or not hasattr(model, "classes_"):
        raise TypeError(
            f"{CALLER} needs a fitted classifier with predict_proba; got {type(model).__name__}. "
            "For values, see modality_report, or cut the target into ordered classes and fit "
            "FusionClassifier(target='ordinal')."
        )


def check_count(value: Any, name: str, least: int = 1) -> int:
    """An integer of at least ``least``."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{CALLER}: {name} must be an integer of at least {least}; got {value!r}.")
    return int(value)


def read_outcome(y: ArrayLike, n_rows: int, classes: np.ndarray) -> np.ndarray:
    """Code of the class of every row (n,), -1 where the outcome is missing."""
    labels = y.to_numpy() if hasattr(y, "to_numpy") else np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != n_rows:
        raise ValueError(
            f"{CALLER}: y must have one class per row of X, the shape ({n_rows},), missing "
            f"outcomes as None or NaN; got the shape {labels.shape}."
        )
    codes = np.full(n_rows, -1)
    known = np.flatnonzero(~pd.isna(labels))
    given = labels[known]
    if classes.dtype.kind in "iub" and given.dtype.kind == "f":
        whole = given == np.round(given)  # whole numbers become floats where some are missing
        given = given.astype(int).astype(object) if whole.all() else given
    codes[known] = class_codes(_plain(given), classes)
    wrong = known[codes[known] < 0]
    if len(wrong):
        raise ValueError(
            f"{CALLER}: y holds {labels.tolist()[wrong[0]]!r} in row {wrong[0]}, a class that the "
            f"model does not know; it knows {', '.join(map(repr, classes.tolist()))}. Missing "
            "outcomes are None or NaN."
        )
    return codes


def _plain(labels: np.ndarray) -> np.ndarray:
    """Objects of one kind as an array of that kind."""
    return np.array(labels.tolist()) if labels.dtype == object and len(labels) else labels


def read_weight(sample_weight: Any, rows: np.ndarray, n_rows: int) -> np.ndarray | None:
    """Weight of the rows to analyse, 1 on average: (n,), NaN elsewhere; None without weights."""
    if sample_weight is None:
        return None
    given = np.asarray(sample_weight, dtype=np.float64)
    if given.shape != (n_rows,):
        raise ValueError(
            f"{CALLER}: sample_weight must have the shape ({n_rows},), one weight per row of X; "
            f"got the shape {given.shape}."
        )
    wrong = rows[~(np.isfinite(given[rows]) & (given[rows] > 0))]
    if len(wrong):
        raise ValueError(
            f"{CALLER}: sample_weight must be finite and above 0; got {given[wrong[0]]} in row "
            f"{wrong[0]}. Name rows that must not count in excluded, so that the flow shows them."
        )
    weight = np.full(n_rows, np.nan)
    weight[rows] = given[rows] / given[rows].mean() if len(rows) else given[rows]
    return weight


def read_excluded(excluded: Any, n_rows: int) -> np.ndarray:
    """Why each row is excluded: text (n,), empty where it is not."""
    reasons = np.full(n_rows, "", dtype=object)
    if excluded is None:
        return reasons
    given = excluded.to_numpy() if hasattr(excluded, "to_numpy") else np.asarray(excluded)
    if given.shape != (n_rows,):
        raise ValueError(
            f"{CALLER}: excluded must have the shape ({n_rows},): a reason as text, or None, per "
            f"row of X, or booleans; got the shape {given.shape}."
        )
    if given.dtype == bool:
        reasons[given] = "excluded"
        return reasons
    for row, reason in enumerate(given.tolist()):
        if reason is None or (not isinstance(reason, str) and pd.isna(reason)):
            continue
        if not isinstance(reason, str):
            raise ValueError(
                f"{CALLER}: excluded must hold reasons as text, None where a row is kept, or "
                f"booleans; got {reason!r} in row {row}."
            )
        reasons[row] = reason.strip()
    return reasons


def read_by(by: Any, X: Any, n_rows: int) -> dict[str, np.ndarray]:
    """Label of every row in every column of ``by``, numbers cut into thirds: text (n,) each."""
    if by is None:
        return {}
    if isinstance(by, pd.Series):
        by = {str(by.name or "subgroup"): by}
    elif isinstance(by, pd.DataFrame):
        by = {str(name): by[name] for name in by.columns}
    elif isinstance(by, str):
        by = {by: _named(by, X)}
    elif not isinstance(by, Mapping):
        by = _listed(by, X)
    return {str(name): _labels(str(name), values, n_rows) for name, values in by.items()}


def _listed(by: Any, X: Any) -> dict[str, Any]:
    names = list(by)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise ValueError(
            f"{CALLER}: by must be a DataFrame, a mapping of names to columns, or a list of names "
            f"of columns of X; got {wrong[0]!r} in the list."
        )
    return {name: _named(name, X) for name in names}


def _named(name: str, X: Any) -> Any:
    """The column of that name: of a frame, or of a modality that is one."""
    frames = [X] if isinstance(X, pd.DataFrame) else []
    if isinstance(X, ModalityTable):
        frames = [X[m] for m in X.modalities if isinstance(X[m], pd.DataFrame)]
    found = [frame[name] for frame in frames if name in frame.columns]
    if len(found) != 1:
        where = "no frame of X has" if not found else f"{len(found)} frames of X have"
        raise ValueError(
            f"{CALLER}: by names the column {name!r}, and {where} it; pass the values, as in "
            f"by={{{name!r}: values}}."
        )
    return found[0]


def _labels(name: str, values: Any, n_rows: int) -> np.ndarray:
    column = pd.Series(values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values))
    if len(column) != n_rows:
        raise ValueError(
            f"{CALLER}: by[{name!r}] has {len(column)} values and X has {n_rows} rows."
        )
    missing = column.isna().to_numpy()
    numbers = column.dtype.kind in "iuf" and column.nunique() > _MOST_NUMBERS
    text = _thirds(column) if numbers else column.map(_text).to_numpy(dtype=object)
    if len(set(text[~missing])) > _MOST_LEVELS:
        raise ValueError(
            f"{CALLER}: by[{name!r}] has {len(set(text[~missing]))} different values, and at most "
            f"{_MOST_LEVELS} make subgroups; put them into fewer, or leave the column out."
        )
    text[missing] = _NOT_RECORDED
    return text


def _text(value: Any) -> str:
    number = isinstance(value, (float, np.floating)) and np.isfinite(value) and value == int(value)
    return str(int(value)) if number else str(value)


def _thirds(column: pd.Series) -> np.ndarray:
    """Thirds of a column of numbers, named by their least and greatest value."""
    values = column.to_numpy(dtype=float)
    cuts = np.unique(np.nanquantile(values, [1 / 3, 2 / 3]))
    place = np.searchsorted(cuts, values, side="left")
    text = np.full(len(values), _NOT_RECORDED, dtype=object)
    for third in range(len(cuts) + 1):
        members = (place == third) & np.isfinite(values)
        if members.any():
            ends = values[members].min(), values[members].max()
            text[members] = f"{ends[0]:.6g} to {ends[1]:.6g}"
    return text


def in_order(labels: np.ndarray) -> list[str]:
    """The different labels: numbers by size, then words, then what was not recorded."""

    def key(label: str) -> tuple[int, float, str]:
        try:
            return 0, float(label.partition(" to ")[0]), label
        except ValueError:
            return (2 if label == _NOT_RECORDED else 1), 0.0, label

    return sorted(set(labels.tolist()), key=key)
