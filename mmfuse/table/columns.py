"""What one modality of a table may be, and the state of each of its cells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from reprlib import repr as shorten
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from mmfuse.presence import Presence
from mmfuse.table.cells import (
    NUMBERS,
    NUMERIC,
    is_missing,
    is_tensor,
    numeric_cell,
    object_array,
    state_of,
    to_numpy,
)

__all__ = ["Column", "cells_of", "kind_of", "normalise", "scatter", "stack_numeric", "take"]

Column: TypeAlias = "np.ndarray | pd.DataFrame"


def normalise(name: str, value: Any, *, stack: bool = False) -> tuple[Column, np.ndarray]:
    """Turn what a user gives for a modality into a column and the states of its cells.

    Parameters
    ----------
    name : str
        Modality, for messages.
    value : array-like, Series, DataFrame or tensor with one entry per sample
    stack : bool, default=False
        Stack cells that are arrays of one shape into a numeric block.

    Returns
    -------
    column : ndarray of shape (n, ...), object ndarray of shape (n,), or DataFrame
        Numeric blocks keep their memory and dtype. In an object column what is not PRESENT is
        None (ABSENT) or its `Presence` member.
    states : int8 ndarray of shape (n,)

    Raises
    ------
    TypeError
        If ``value`` is not one entry per sample.
    ValueError
        If its entries cannot be cells.
    """
    if isinstance(value, pd.DataFrame):
        return _from_frame(name, value)
    if isinstance(value, (list, tuple)):
        cells = object_array(value)
        nested = next((cell for cell in cells if state_of(cell) is Presence.PRESENT), None)
        return _from_cells(name, cells, stack or isinstance(nested, (list, tuple)))
    array = _to_array(name, value)
    if array.dtype.kind in NUMERIC:
        return _from_block(name, array)
    if array.dtype.kind == "O" and array.ndim > 1:
        return _from_block(name, _numbers(name, array))
    if array.ndim != 1 or array.dtype.kind == "V":
        raise ValueError(
            f"Modality {name!r} has shape {array.shape} and dtype {array.dtype}; give a numeric "
            "array, a DataFrame, or a list with one sample per row."
        )
    if array.dtype.kind in "mM":
        array = pd.Series(array).to_numpy(dtype=object)
    return _from_cells(name, array.astype(object), stack)


def take(column: Column, rows: slice | np.ndarray) -> Column:
    """Return some rows of a column; a slice of an array is a view."""
    if isinstance(column, pd.DataFrame):
        return column.iloc[rows].reset_index(drop=True)
    return column[rows]


def cells_of(column: Column, present: np.ndarray) -> Iterator[tuple[int, Any]]:
    """Yield row number and cell of every PRESENT row; a DataFrame's cell is a dict."""
    rows = np.flatnonzero(present)
    if isinstance(column, pd.DataFrame):
        yield from zip(rows.tolist(), column.iloc[rows].to_dict("records"), strict=True)
    else:
        yield from ((row, column[row]) for row in rows.tolist())


def kind_of(column: Column, present: np.ndarray) -> str:
    """Describe a column in two words, for a repr."""
    if isinstance(column, pd.DataFrame):
        n_columns = column.shape[1]
        return f"DataFrame, {n_columns} column{'s' * (n_columns != 1)}"
    if column.dtype != object:
        return f"{column.dtype} {column.shape[1:]}"
    first = column[int(np.argmax(present))] if present.any() else None
    if first is None:
        return "object"
    if isinstance(first, np.ndarray):
        return f"{first.dtype} arrays"
    return "Path" if isinstance(first, PurePath) else type(first).__name__


def scatter(block: np.ndarray, rows: np.ndarray, n_rows: int) -> np.ndarray:
    """Place the rows of an array at ``rows`` of a column of ``n_rows``; the others are missing.

    Missing rows are NaN, so whole numbers become floats; an array of whole numbers with more than
    two axes (images) becomes an object column instead, as floats would change what it means.
    """
    if len(rows) == n_rows and np.array_equal(rows, np.arange(n_rows)):
        return block
    whole = block.dtype.kind not in "fcO"
    if block.dtype == object or (whole and block.ndim > 2):
        column = np.empty(n_rows, dtype=object)
        for row, cell in zip(rows.tolist(), block, strict=True):
            column[row] = cell
        return column
    dtype = np.result_type(block.dtype, np.float32) if whole else block.dtype
    column = np.full((n_rows, *block.shape[1:]), np.nan, dtype=dtype)
    column[rows] = block
    return column


def stack_numeric(
    column: Any, presence: Any = None, *, name: str = "x", width: int | None = None
) -> np.ndarray:
    """Stack a column of numeric samples to one float32 matrix.

    Parameters
    ----------
    column : ndarray of shape (n, d), object array of n vectors or dicts, or DataFrame
    presence : array-like of shape (n,), optional
        States; by default those that the cells have by themselves.
    name : str, default="x"
        Modality, for messages.
    width : int, optional
        Length that every vector must have; by default that of the first one.

    Returns
    -------
    ndarray of shape (n, d)
        float32, with a row of NaN where the state is not PRESENT. With nothing present and no
        ``width`` it has no columns. A float32 matrix that is present in all rows is given back
        without copying.

    Raises
    ------
    ValueError
        If a cell is not a vector of numbers or has another length; the row is named.
    """
    if presence is None:
        column, presence = normalise(name, column, stack=True)
    present = np.asarray(presence) == Presence.PRESENT
    if isinstance(column, pd.DataFrame) and all(map(is_numeric_dtype, column.dtypes)):
        column = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if not isinstance(column, pd.DataFrame) and column.dtype != object:
        if column.ndim != 2:
            raise ValueError(
                f"Modality {name!r} has shape {column.shape}, and numbers need shape (n, d); give "
                "the modality an encoder, or reshape it."
            )
        if width not in (None, column.shape[1]):
            raise ValueError(f"Modality {name!r} has {column.shape[1]} values, expected {width}.")
        with np.errstate(over="ignore"):
            matrix = column.astype(np.float32, copy=not present.all())
        if not present.all():
            matrix[~present] = np.nan
        return matrix
    vectors = list(_vectors(name, column, present, width))
    width = len(vectors[0]) if vectors else width or 0
    matrix = np.full((len(column), width), np.nan, dtype=np.float32)
    with np.errstate(over="ignore"):  # becomes infinite, which Blocks refuse by name and row
        if len(vectors):
            matrix[present] = vectors
    return matrix


def _vectors(
    name: str, column: Column, present: np.ndarray, width: int | None
) -> Iterator[np.ndarray]:
    """Yield the PRESENT cells as float vectors of one length, or name the row that is not one."""
    keys = None
    for row, cell in cells_of(column, present):
        where = f"Modality {name!r}, row {row}"
        if isinstance(cell, dict):
            keys = list(cell) if keys is None else keys
            if set(cell) != set(keys):
                raise ValueError(f"{where} has the keys {shorten(list(cell))}, expected {keys!r}.")
            cell = [cell[key] for key in keys]
        vector = numeric_cell(to_numpy(cell) if is_tensor(cell) else cell)
        if vector is None and isinstance(cell, NUMBERS):
            vector = np.array([cell])
        if vector is None or vector.ndim != 1:
            got = f"an array of shape {vector.shape}" if vector is not None else shorten(cell)
            raise ValueError(
                f"{where} must be a vector of numbers, got {got}; give the modality an encoder, or "
                "numbers alone."
            )
        width = len(vector) if width is None else width
        if len(vector) != width:
            raise ValueError(f"{where} has {len(vector)} values, expected {width}.")
        yield vector


def _to_array(name: str, value: Any) -> np.ndarray:
    """Convert anything but lists and frames to an array, copying only what must be."""
    if isinstance(value, (str, bytes, dict, set)) or not hasattr(value, "__len__"):
        raise TypeError(
            f"Modality {name!r} must hold one entry per sample, got {type(value).__name__}; give "
            "an array, a list, a Series, a DataFrame or a tensor."
        )
    if is_tensor(value):
        array = to_numpy(value)
    elif isinstance(value, np.ma.MaskedArray):
        masked = value.dtype.kind in NUMERIC and np.ma.is_masked(value)
        array = np.ma.filled(value.astype(np.float64), np.nan) if masked else np.asarray(value)
    elif isinstance(value, (pd.Series, pd.Index, pd.api.extensions.ExtensionArray)):
        array = _from_pandas(pd.Series(value))
    elif hasattr(value, "toarray"):
        raise TypeError(f"Modality {name!r} is a sparse matrix; convert it with .toarray().")
    elif hasattr(value, "__array__"):
        array = np.asarray(value)
    else:
        array = object_array(value)
    if array.ndim == 0:
        raise TypeError(f"Modality {name!r} must hold one entry per sample, got a single value.")
    return array


def _from_pandas(series: pd.Series) -> np.ndarray:
    dtype = series.dtype
    if isinstance(dtype, np.dtype):
        return series.to_numpy()
    if not is_numeric_dtype(dtype):
        return series.to_numpy(dtype=object)
    if series.isna().any():
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    return series.to_numpy(dtype=getattr(dtype, "numpy_dtype", np.float64))


def _from_block(name: str, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take a numeric array as it is; one number per row is a block of width one."""
    if block.ndim == 1:
        block = block[:, np.newaxis]
    block = np.asarray(block)
    states = np.full(len(block), Presence.PRESENT, dtype=np.int8)
    if 0 in block.shape[1:]:
        states[:] = Presence.EMPTY
    elif block.dtype.kind in "fc":
        first: Any = (slice(None), *[0] * (block.ndim - 1))
        blank = np.isnan(block[first])  # few rows, as a rule: look at the rest of these alone
        blank[blank] = np.isnan(block[blank]).all(axis=tuple(range(1, block.ndim)))
        states[blank] = Presence.ABSENT
    return block, states


def _from_frame(name: str, frame: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    if frame.shape[1] == 0:
        raise ValueError(f"Modality {name!r} is a DataFrame without columns.")
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise ValueError(f"Modality {name!r} has the column {repeated[0]!r} twice.")
    blank = np.ones(len(frame), dtype=bool)
    for column in frame.columns:
        series = frame[column]
        if is_numeric_dtype(series.dtype):
            blank &= series.isna().to_numpy(dtype=bool)
        else:
            missing = (is_missing(cell) for cell in series.to_numpy(dtype=object))
            blank &= np.fromiter(missing, dtype=bool, count=len(frame))
    states = np.where(blank, Presence.ABSENT, Presence.PRESENT).astype(np.int8)
    return frame.reset_index(drop=True), states


def _from_cells(name: str, cells: np.ndarray, stack: bool) -> tuple[np.ndarray, np.ndarray]:
    """Make an object column, or a block where the cells are numbers or can be stacked."""
    states = np.ones(len(cells), dtype=np.int8)
    present = Presence.PRESENT
    for i, cell in enumerate(cells):
        if cell is present:
            raise ValueError(
                f"Modality {name!r}, row {i} is Presence.PRESENT, which is a state without a "
                "value; give the sample itself, or another state."
            )
        state = state_of(cell)
        if state is not present:
            states[i] = state
            cells[i] = None if state is Presence.ABSENT else state
    rows = np.flatnonzero(states == Presence.PRESENT)
    block = _join_cells(cells[rows], stack)
    if block is None:
        return cells, states
    column = scatter(block, rows, len(cells))
    for row in np.flatnonzero(states > Presence.PRESENT) if column.dtype == object else ():
        column[row] = Presence(states[row])
    return column, states


def _join_cells(cells: np.ndarray, stack: bool) -> np.ndarray | None:
    """Join PRESENT cells to one block, or return None where they are samples of their own."""
    if not len(cells):
        return None
    if isinstance(cells[0], NUMBERS):
        if not all(isinstance(cell, NUMBERS) for cell in cells):
            return None
        block = np.array(cells.tolist())
        return block[:, np.newaxis] if block.dtype.kind in NUMERIC else None
    if not stack:
        return None
    arrays: list[np.ndarray] = []
    for cell in cells:
        array = numeric_cell(cell)
        if array is None or (arrays and array.shape != arrays[0].shape):
            return None
        arrays.append(array)
    return np.stack(arrays)


def _numbers(name: str, array: np.ndarray) -> np.ndarray:
    """Convert an object array of two axes or more, whose entries are numbers or missing."""
    block = np.empty(array.shape, dtype=np.float64)
    for index, cell in np.ndenumerate(array):
        if isinstance(cell, Presence) or not (isinstance(cell, NUMBERS) or is_missing(cell)):
            raise ValueError(
                f"Modality {name!r} is an object array of shape {array.shape} that holds "
                f"{type(cell).__name__} in row {index[0]}; give a DataFrame for columns of "
                "different kinds, or a list with one sample per row."
            )
        block[index] = np.nan if is_missing(cell) else cell
    return block
