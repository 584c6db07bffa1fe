"""Classification of several targets at once: encoded once, then one fitted model for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.utils.validation import check_is_fitted

from mmfuse.targets import check_class_target, check_groups, check_target_kind, check_weight

if TYPE_CHECKING:
    from mmfuse.estimators.classifier import FusionClassifier

__all__ = [
    "each_output",
    "exact_match",
    "find_output",
    "fit_outputs",
    "gather_outputs",
    "has_outputs",
    "make_output",
    "one_output",
    "split_columns",
    "stack_labels",
]

_SHARED = ("encoders_", "from_matrix_", "n_features_in_", "feature_names_in_", "input_columns_")
_LISTED = (
    "classes_",
    "prior_",
    "scaler_",
    "head_",
    "fusion_head_",
    "calibrator_",
    "history_",
    "conformal_",
)


def has_outputs(model: Any) -> bool:
    """Whether a model was fitted on several columns of y."""
    return hasattr(model, "outputs_")


def one_output(model: Any) -> bool:
    """Raise an AttributeError for a method that a model of several outputs does not have."""
    if has_outputs(model):
        raise AttributeError(
            f"This {type(model).__name__} was fitted on {len(model.outputs_)} outputs; only one "
            "output has a decision_function and evidence: take model.output(t).decision_function."
        )
    return True


def fit_outputs(
    model: FusionClassifier, table: Any, y: Any, sample_weight: Any, groups: Any
) -> FusionClassifier:
    """Encode ``table`` once and fit one model for every column of y.

    Folds are made for every output by itself, so that each is stratified by its own classes, and
    every output is what a model of it alone would be.

    Raises
    ------
    ValueError
        As in `FusionClassifier.fit`, with the name of the output; if ``target`` or ``class_weight``
        is a list of another length.
    """
    owner = type(model).__name__
    columns, names = split_columns(y, len(table), owner)
    kinds = _per_output(model.target, "target", len(columns), owner)
    weights = _per_output(model.class_weight, "class_weight", len(columns), owner)
    for kind in kinds:
        check_target_kind(kind, owner)
    cv = model.cv
    if not isinstance(cv, (int, np.integer, str)) and not hasattr(cv, "split"):
        cv = list(cv)  # a generator of splits serves every output
    tuned = None
    if model._tunes():
        targets = _targets(columns, kinds, weights, sample_weight, owner)
        tuned = model._tune(table, targets, check_groups(groups, len(table)), by_class=False)
    blocks = model._encode_training(table) if tuned is None else tuned.blocks
    parts = []
    for column, name, kind, weight in zip(columns, names, kinds, weights, strict=True):
        part = make_output(model, kind, weight).set_params(cv=cv)
        if tuned is not None:
            part._tuned = tuned
        try:
            part.fit(blocks, column, sample_weight, groups)
        except ValueError as exc:
            raise ValueError(f"{owner}, output {name!r} of y: {exc}") from exc
        parts.append(part)
    return gather_outputs(model, parts, names)


def _targets(
    columns: list, kinds: list, class_weights: list, sample_weight: Any, owner: str
) -> list:
    """Every column as encoders learn it."""
    from mmfuse.finetune.joint import Target
    from mmfuse.objectives import Cumulative, Multinomial

    targets = []
    for column, kind, class_weight in zip(columns, kinds, class_weights, strict=True):
        ordinal, n_rows = kind == "ordinal", len(column)
        classes, index = check_class_target(column, n_rows, owner, ordinal=ordinal)
        weight = check_weight(
            sample_weight, n_rows, class_weight=class_weight, classes=classes, index=index
        )
        objective = (Cumulative if ordinal else Multinomial)(len(classes))
        targets.append(Target(index, weight, objective))
    return targets


def make_output(model: FusionClassifier, target: str, class_weight: Any) -> FusionClassifier:
    """The unfitted model of one output."""
    params = model.get_params(deep=False)  # shared, since fit changes none of them
    return type(model)(**{**params, "target": target, "class_weight": class_weight})


def gather_outputs(
    model: FusionClassifier, parts: list[FusionClassifier], names: list
) -> FusionClassifier:
    """Make ``model`` that of the fitted ``parts``, which open X as it does."""
    for part in parts:
        vars(part).pop("feature_names_in_", None)
        for name in _SHARED:
            if hasattr(model, name):
                setattr(part, name, getattr(model, name))
    for name in ("block_dims_", "modalities_", "device_"):
        setattr(model, name, getattr(parts[0], name))
    for name in _LISTED:
        setattr(model, name, [getattr(part, name) for part in parts])
    model.outputs_, model.output_names_ = parts, names
    return model


def split_columns(y: Any, n_rows: int, owner: str) -> tuple[list, list]:
    """Columns of y, none with gaps, and their names."""
    if issparse(y):
        raise ValueError(f"{owner}: y is a sparse matrix; pass y.toarray().")
    if isinstance(y, pd.DataFrame):
        names = list(y.columns)
        columns: list = [y.iloc[:, t] for t in range(y.shape[1])]
    else:
        array = np.asarray(y)
        names = list(range(array.shape[1]))
        columns = [array[:, t] for t in names]
        if array.dtype == object:  # labels of mixed types; each column has its own
            columns = [pd.Series(column).infer_objects().to_numpy() for column in columns]
    if len(y) != n_rows:
        raise ValueError(
            f"X has {n_rows} rows and y has {len(y)}; they must be aligned row by row "
            "(inconsistent numbers of samples)."
        )
    for name, column in zip(names, columns, strict=True):
        rows = np.flatnonzero(pd.isna(column))
        if len(rows):
            raise ValueError(
                f"{owner}: y contains NaN in output {name!r}, in {len(rows)} of {n_rows} rows "
                f"(first in row {rows[0]}); leave those rows out, or fit a model for every output "
                "on the rows where it is known."
            )
    return columns, names


def _per_output(value: Any, argument: str, count: int, owner: str) -> list:
    """One value for every output: those of a list, or the same for all."""
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise ValueError(
            f"{owner}: {argument} has {len(value)} entries and y has {count} columns; give one "
            "entry for every column, or one value for all."
        )
    return list(value)


def each_output(model: FusionClassifier, method: str, X: Any) -> list:
    """What ``method`` of every output's model says about X, which is encoded once."""
    check_is_fitted(model, "head_")
    blocks = model.encode(X)
    return [getattr(part, method)(blocks) for part in model.outputs_]


def stack_labels(columns: list[np.ndarray]) -> np.ndarray:
    """Labels (n, T); of objects where numbers stand beside text."""
    if len({column.dtype.kind in "biuf" for column in columns}) > 1:
        columns = [column.astype(object) for column in columns]
    return np.stack(columns, axis=1)


def exact_match(model: FusionClassifier, X: Any, y: Any, sample_weight: Any) -> float:
    """Weighted share of rows in which every output is right."""
    found = each_output(model, "predict", X)
    columns, names = split_columns(y, len(found[0]), f"{type(model).__name__}.score")
    if len(columns) != len(found):
        raise ValueError(
            f"{type(model).__name__}.score: y must have {len(found)} columns, as in fit; got "
            f"{len(names)}."
        )
    right = [np.asarray(column) == part for column, part in zip(columns, found, strict=True)]
    weight = check_weight(sample_weight, len(found[0]))
    return float(np.average(np.all(right, axis=0), weights=weight))


def find_output(model: FusionClassifier, which: Any) -> FusionClassifier:
    """The model of the output with a name or a number."""
    owner = type(model).__name__
    if not has_outputs(model):
        raise ValueError(f"{owner}.output: this model has one output, and is its model itself.")
    if which in model.output_names_:
        return model.outputs_[model.output_names_.index(which)]
    number = isinstance(which, (int, np.integer)) and not isinstance(which, bool)
    if number and 0 <= which < len(model.outputs_):
        return model.outputs_[which]
    raise ValueError(
        f"{owner}.output: there is no output {which!r}; this model has the outputs "
        f"{', '.join(map(repr, model.output_names_))}."
    )
