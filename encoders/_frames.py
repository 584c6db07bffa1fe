"""A clinical table as one column: any of its forms to a DataFrame, and its columns' kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from mmfuse.encoders._frame_cells import ColumnCard, missing_cells, plain
from mmfuse.exceptions import SampleError
from mmfuse.presence import Presence
from mmfuse.table.cells import NUMBERS, is_tensor, state_of, to_numpy

__all__ = ["as_frame", "describe_column"]


def as_frame(column: Any) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a column as a DataFrame with str names and the states of its rows.

    Parameters
    ----------
    column : DataFrame, ndarray of shape (n,) or (n, d), Series, or list
        The cells of a list are dicts, vectors of one length, or scalars. What has no names gets
        "0", "1" and so on.

    Raises
    ------
    TypeError
        If it is none of these.
    """
    if isinstance(column, pd.DataFrame):
        frame = column.reset_index(drop=True)
    elif is_tensor(column) or (isinstance(column, np.ndarray) and column.ndim != 1):
        array = to_numpy(column)
        if array.ndim not in (1, 2):
            raise TypeError(
                f"NumericEncoder needs a table or an array of one or two axes, got {array.ndim}."
            )
        frame = pd.DataFrame(array)
    elif isinstance(column, (str, bytes, Mapping)) or not hasattr(column, "__len__"):
        raise TypeError(
            "NumericEncoder needs a DataFrame, an array, or a list with one entry per row, "
            f"got {type(column).__name__}."
        )
    else:
        return _from_cells(column)
    frame.columns = [str(name) for name in frame.columns]
    if not frame.columns.is_unique:
        raise ValueError(f"NumericEncoder: column names repeat in {list(frame.columns)!r}.")
    present = np.zeros(len(frame), dtype=bool)
    for _, values in frame.items():
        present |= ~missing_cells(values)
    return frame, np.where(present, Presence.PRESENT, Presence.ABSENT).astype(np.int8)


def describe_column(
    values: pd.Series, categories: Any, most: int, *, ordered: bool | None, unit: str | None
) -> ColumnCard:
    """Decide whether a column holds numbers or categories.

    Parameters
    ----------
    values : Series
    categories : sequence or None
        Its categories, where the user names them.
    most : int
        Largest number of categories that are found by themselves.
    ordered : bool or None
        Whether its categories are ordered, where the user says so; None asks the column's type.
    unit : str or None
        Of a column of numbers, which may then be written with units.
    """
    name = str(values.name)
    if unit is not None:
        return ColumnCard(name, unit=unit)
    if categories is not None:
        return ColumnCard(name, tuple(plain(value) for value in categories), bool(ordered))
    if isinstance(values.dtype, pd.CategoricalDtype):
        known = tuple(plain(value) for value in values.dtype.categories)
        return ColumnCard(name, known, values.dtype.ordered if ordered is None else ordered)
    if ordered:
        raise ValueError(
            f"NumericEncoder: ordered names column {name!r}, whose order is not known; list its "
            f"categories, as in categories={{{name!r}: ['low', 'high']}}, or make the column an "
            "ordered pandas Categorical."
        )
    if types.is_numeric_dtype(values.dtype) and not types.is_complex_dtype(values.dtype):
        return ColumnCard(name)
    if values.dtype.kind not in "OSUT":
        raise TypeError(
            f"NumericEncoder: column {name!r} has dtype {values.dtype}; make a number of it first."
        )
    present = [plain(value) for value in values[~missing_cells(values)]]
    if all(isinstance(value, NUMBERS) for value in present):
        return ColumnCard(name)
    odd = next((value for value in present if not isinstance(value, (str, *NUMBERS))), None)
    if odd is not None:
        raise TypeError(
            f"NumericEncoder: column {name!r} must hold numbers or categories, "
            f"got a {type(odd).__name__}."
        )
    found = sorted(set(present), key=lambda value: (type(value).__name__, value))
    if len(found) > most:
        raise ValueError(
            f"NumericEncoder: column {name!r} has {len(found)} categories, more than "
            f"max_categories={most}. Is it an identifier or a text? Drop it, give the text to "
            "SentenceEncoder, or raise max_categories."
        )
    return ColumnCard(name, tuple(found))


def _from_cells(column: Any) -> tuple[pd.DataFrame, np.ndarray]:
    if isinstance(column, np.ndarray) and column.dtype != object:
        frame = pd.DataFrame({"0": column})
        gone = missing_cells(frame["0"])
        return frame, np.where(gone, Presence.ABSENT, Presence.PRESENT).astype(np.int8)
    cells = [_record(cell) for cell in column]
    states = np.fromiter(map(state_of, cells), np.int8, len(cells))
    present = states == Presence.PRESENT
    first = cells[int(present.argmax())] if present.any() else None
    if isinstance(first, Mapping):
        records = _filled(cells, present, {}, (Mapping,))
        named = [{str(name): value for name, value in record.items()} for record in records]
        return pd.DataFrame(named), states
    if isinstance(first, (np.ndarray, list, tuple)):
        vectors = _filled(cells, present, [None] * len(first), (np.ndarray, list, tuple))
        for row, vector in enumerate(vectors):
            if len(vector) != len(first):
                raise SampleError(
                    f"NumericEncoder: row {row} has {len(vector)} values, the first present row "
                    f"{len(first)}."
                )
        return pd.DataFrame([list(vector) for vector in vectors]).rename(columns=str), states
    scalars = _filled(cells, present, None, (str, *NUMBERS))
    return pd.DataFrame({"0": pd.Series(scalars, dtype=object)}), states


def _record(cell: Any) -> Any:
    """Return a tensor as an array, and a Series or a DataFrame of one row as a dict."""
    if is_tensor(cell):
        return to_numpy(cell)
    if isinstance(cell, pd.DataFrame):
        if len(cell) > 1:
            raise SampleError(
                f"NumericEncoder: a cell that is a DataFrame must have one row, got {len(cell)}."
            )
        return cell.iloc[0].to_dict() if len(cell) else None
    return cell.to_dict() if isinstance(cell, pd.Series) else cell


def _filled(
    cells: list[Any], present: np.ndarray, blank: Any, kinds: tuple[type, ...]
) -> list[Any]:
    """Put `blank` where nothing is present; raise where a cell is of another kind."""
    filled = [cell if here else blank for cell, here in zip(cells, present, strict=True)]
    for row in np.flatnonzero(present).tolist():
        if not isinstance(filled[row], kinds):
            raise SampleError(
                f"NumericEncoder: row {row} is a {type(filled[row]).__name__}, but the first "
                "present row is of another kind; all must be dicts, vectors or scalars."
            )
    return filled
