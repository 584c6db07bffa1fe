"""A clinical table as one column: any of its forms to a DataFrame, and its columns' kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from mmfuse.exceptions import SampleError
from mmfuse.presence import Presence
from mmfuse.table.cells import NUMBERS, is_missing, is_tensor, state_of, to_numpy

__all__ = ["ColumnCard", "as_frame", "describe_column", "encode_categories", "encode_numbers"]


@dataclass(frozen=True)
class ColumnCard:
    """What was learned of one column: its name and, unless it holds numbers, its categories."""

    name: str
    categories: tuple[Any, ...] | None = None


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
        present |= ~_missing(values)
    return frame, np.where(present, Presence.PRESENT, Presence.ABSENT).astype(np.int8)


def describe_column(values: pd.Series, categories: Any, most: int) -> ColumnCard:
    """Decide whether a column holds numbers or categories.

    Parameters
    ----------
    values : Series
    categories : sequence or None
        Its categories, where the user names them.
    most : int
        Largest number of categories that are found by themselves.
    """
    name = str(values.name)
    if categories is not None:
        return ColumnCard(name, tuple(_plain(value) for value in categories))
    if isinstance(values.dtype, pd.CategoricalDtype):
        return ColumnCard(name, tuple(_plain(value) for value in values.dtype.categories))
    if types.is_numeric_dtype(values.dtype) and not types.is_complex_dtype(values.dtype):
        return ColumnCard(name)
    if values.dtype.kind not in "OSUT":
        raise TypeError(
            f"NumericEncoder: column {name!r} has dtype {values.dtype}; make a number of it first."
        )
    present = [_plain(value) for value in values[~_missing(values)]]
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


def encode_numbers(values: pd.Series, errors: dict[int, str]) -> np.ndarray:
    """Return numbers (n, 1) as float32, NaN where missing; note the rows that hold none."""
    if types.is_numeric_dtype(values.dtype):
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        gone = _missing(values)
        known = values.astype(object).where(~gone, None)
        numbers = pd.to_numeric(known, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        for row in np.flatnonzero(np.isnan(numbers) & ~gone).tolist():
            errors.setdefault(row, f"column {values.name!r}: {values[row]!r} is not a number")
    with np.errstate(over="ignore"):
        short = numbers.astype(np.float32)
    for row in np.flatnonzero(np.isinf(short)).tolist():
        errors.setdefault(row, f"column {values.name!r}: {numbers[row]} is not a finite number")
    return short[:, None]


def encode_categories(values: pd.Series, categories: tuple[Any, ...]) -> np.ndarray:
    """Return indicators (n, n_categories + 1) as float32.

    The last column is 1 for a category that is not among them. A missing one is a row of NaN.
    """
    width = len(categories) + 1
    place = {category: i for i, category in enumerate(categories)}
    rows = np.eye(width, dtype=np.float32)
    rows = np.vstack([rows, np.full((1, width), np.nan, dtype=np.float32)])
    gone = _missing(values)
    codes = [
        width if missing else place.get(_plain(value), width - 1)
        for value, missing in zip(values.astype(object), gone, strict=True)
    ]
    return rows[codes]


def _missing(values: pd.Series) -> np.ndarray:
    if types.is_numeric_dtype(values.dtype):
        return values.isna().to_numpy()
    return np.fromiter(
        (isinstance(value, Presence) or is_missing(value) for value in values.astype(object)),
        dtype=bool,
        count=len(values),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, str) else value


def _from_cells(column: Any) -> tuple[pd.DataFrame, np.ndarray]:
    if isinstance(column, np.ndarray) and column.dtype != object:
        frame = pd.DataFrame({"0": column})
        gone = _missing(frame["0"])
        return frame, np.where(gone, Presence.ABSENT, Presence.PRESENT).astype(np.int8)
    cells = [to_numpy(cell) if is_tensor(cell) else cell for cell in column]
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
