"""The door of the estimators: whatever X is, it becomes a table, a matrix or blocks here, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, clone

from mmfuse.blocks import Blocks
from mmfuse.exceptions import SavedModelError
from mmfuse.presence import Presence
from mmfuse.table import ModalityTable, stack_numeric

__all__ = ["as_table", "encode_table", "fit_encoders", "matrix_blocks"]

SINGLE = "x"  # name of the one modality of a plain matrix


def as_table(
    X: Any,
    *,
    modalities: Mapping[str, Any] | None,
    has_encoders: bool,
    names: tuple[str, ...] | None = None,
    matrix_expected: bool = False,
) -> ModalityTable | Blocks | None:
    """Turn X into a table or blocks, or return None when it is a plain matrix.

    Parameters
    ----------
    X : ModalityTable, Blocks, dict, DataFrame, or array
    modalities : dict or None
        For a DataFrame: columns of each modality.
    has_encoders : bool
        With encoders every column of a DataFrame or object array is a modality.
    names : tuple of str, optional
        Names of the columns of an object array.
    matrix_expected : bool
        The model was fitted on a plain matrix.
    """
    if isinstance(X, (ModalityTable, Blocks)):
        return X
    if isinstance(X, Mapping) and not issparse(X):  # a sparse dictionary of keys is a Mapping
        return ModalityTable.from_dict(X)
    if isinstance(X, pd.DataFrame):
        if matrix_expected or (modalities is None and not has_encoders and _all_numbers(X)):
            return None
        if modalities is None:
            return ModalityTable.from_pandas(X)
        return ModalityTable.from_pandas(X, **modalities)
    array = X if isinstance(X, np.ndarray) else None
    if array is None or array.dtype != object or array.ndim != 2 or matrix_expected:
        return None
    if not has_encoders and not _holds_vectors(array):
        return None
    if names is None:
        names = tuple(f"x{j}" for j in range(array.shape[1]))
    if len(names) != array.shape[1]:
        raise ValueError(
            f"X is an object array with {array.shape[1]} columns, and there are {len(names)} "
            f"modalities: {', '.join(names)}. One column per modality is needed."
        )
    return ModalityTable.from_object_array(array, names)


def _all_numbers(frame: pd.DataFrame) -> bool:
    return all(pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes)


def _holds_vectors(array: np.ndarray) -> bool:
    return any(isinstance(cell, (np.ndarray, Presence)) for cell in array.flat)


def matrix_blocks(
    matrix: np.ndarray, modalities: Mapping[str, Any] | None, columns: np.ndarray | None
) -> Blocks:
    """Split a matrix (n, d) into blocks; a row of NaN is ABSENT.

    ``modalities`` maps a name to a slice, a list of column numbers or, for a DataFrame, of names.
    """
    if modalities is None:
        return Blocks({SINGLE: matrix})
    arrays = {}
    for name, where in modalities.items():
        if columns is not None and not isinstance(where, slice):
            wanted = [where] if isinstance(where, str) else list(where)
            if all(isinstance(item, str) for item in wanted):
                where = [int(np.flatnonzero(columns == item)[0]) for item in wanted]
        try:
            arrays[name] = np.atleast_2d(matrix[:, where])
        except (IndexError, TypeError) as exc:
            raise ValueError(
                f"modalities[{name!r}] = {where!r} does not select columns of X, which has "
                f"{matrix.shape[1]}; use a slice or a list of column numbers."
            ) from exc
    return Blocks(arrays)


def fit_encoders(
    table: ModalityTable, encoders: Mapping[str, BaseEstimator] | None, verbose: int
) -> dict[str, Any]:
    """Fit a clone of each encoder on its column.

    Raises
    ------
    ValueError
        If an encoder names a modality that X does not have, or a modality is absent in all rows.
    """
    encoders = encoders or {}
    unknown = [name for name in encoders if name not in table.modalities]
    if unknown:
        raise ValueError(
            f"encoders name the modality {unknown[0]!r}, which X does not have; "
            f"X has: {', '.join(table.modalities)}."
        )
    fitted = {}
    for j, name in enumerate(table.modalities):
        states = table.presence[:, j]
        if not (states == Presence.PRESENT).any():
            raise ValueError(_never_present(name, states))
        if name in encoders:
            encoder = clone(encoders[name])
            if verbose and "verbose" in encoder.get_params():
                encoder.set_params(verbose=verbose)
            fitted[name] = encoder.fit(table[states == Presence.PRESENT][name])
    return fitted


def _never_present(name: str, states: np.ndarray) -> str:
    failed, empty = int((states == Presence.FAILED).sum()), int((states == Presence.EMPTY).sum())
    why = f" ({failed} failed, {empty} empty)" if failed or empty else ""
    return (
        f"Modality {name!r} is absent in all {len(states)} training rows{why}; nothing can be "
        "learned from it. Leave it out of X and encoders, or check how its column was read."
    )


def encode_table(
    table: ModalityTable | Blocks, encoders: Mapping[str, Any], dims: Mapping[str, int] | None
) -> Blocks:
    """Blocks of a table.

    Parameters
    ----------
    table : ModalityTable or Blocks
    encoders : dict of fitted encoders
    dims : dict of str to int, or None while fitting
        The modalities that a fitted model knows, and their widths. A modality that the table does
        not have is absent in all rows.
    """
    names = tuple(table.modalities if isinstance(table, ModalityTable) else table.names)
    if dims is not None:
        unknown = [name for name in names if name not in dims]
        if unknown:
            raise ValueError(
                f"X has the modality {unknown[0]!r}, which this model never saw in training; "
                f"it knows: {', '.join(dims)}."
            )
    if isinstance(table, Blocks):
        found = {name: (table[name], table.presence[:, j]) for j, name in enumerate(names)}
    else:
        found = {
            name: _encode_column(name, table, encoders, (dims or {}).get(name))
            for j, name in enumerate(names)
        }
    if dims is None:
        dims = {name: values.shape[1] for name, (values, _) in found.items()}
    arrays, states = {}, np.zeros((len(table), len(dims)), dtype=np.int8)
    for j, (name, width) in enumerate(dims.items()):
        if name not in found:
            arrays[name] = np.full((len(table), width), np.nan, dtype=np.float32)
            continue
        arrays[name], states[:, j] = found[name]
        if arrays[name].shape[1] != width:
            raise ValueError(
                f"Modality {name!r} has {arrays[name].shape[1]} features; the model was fitted "
                f"with {width}. Were two modalities swapped?"
            )
    return Blocks(arrays, states)


def _check_weights(name: str, encoder: Any) -> None:
    """Refuse weights other than those that a loaded model was fitted with."""
    expected = getattr(encoder, "expected_weights_hash_", None)
    if expected is not None and encoder.weights_hash() != expected:
        raise SavedModelError(
            f"Modality {name!r}: the weights of {type(encoder).__name__} on this machine differ "
            "from those the saved model was fitted with; install the same weights, or fit again."
        )


def _encode_column(
    name: str, table: ModalityTable, encoders: Mapping[str, Any], width: int | None
) -> tuple[np.ndarray, np.ndarray]:
    column, states = table[name], table.presence[:, table.modalities.index(name)]
    if name in encoders:
        _check_weights(name, encoders[name])
        encoded = encoders[name].encode(column, states, name=name)
        return encoded.values, encoded.presence
    if isinstance(column, pd.DataFrame) and _all_numbers(column):
        return column.to_numpy(dtype=np.float32), states
    if isinstance(column, pd.DataFrame) or getattr(column, "ndim", 1) > 2:
        kind = (
            "a table with text or categories: give it NumericEncoder()"
            if isinstance(column, pd.DataFrame)
            else f"an array of shape {column.shape}: give it an encoder such as ImageEncoder()"
        )
        raise ValueError(
            f"Modality {name!r} has no encoder and is {kind}, as encoders={{{name!r}: ...}}."
        )
    try:
        return stack_numeric(column, states, name=name, width=width), states
    except (TypeError, ValueError) as exc:
        raise ValueError(
            f"Modality {name!r} has no encoder, and its cells are not numeric vectors of one "
            f"length ({exc}). Give it an encoder: encoders={{{name!r}: ImageEncoder()}}, "
            "LogMelEncoder(), SentenceEncoder() or NumericEncoder()."
        ) from exc
