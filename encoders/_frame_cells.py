"""The cells of one column of a clinical table: what is missing, numbers, categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from mmfuse.encoders._units import UnitConverter
from mmfuse.exceptions import SampleError
from mmfuse.presence import Presence
from mmfuse.table.cells import NUMBERS, is_missing

__all__ = [
    "ColumnCard",
    "encode_categories",
    "encode_numbers",
    "missing_cells",
    "plain",
    "without_codes",
]


@dataclass(frozen=True)
class ColumnCard:
    """What was learned of one column.

    Attributes
    ----------
    name : str
    categories : tuple or None
        None for a column of numbers.
    ordered : bool
        Whether the order of the categories means something.
    unit : str or None
        Of the numbers that come out.
    """

    name: str
    categories: tuple[Any, ...] | None = None
    ordered: bool = False
    unit: str | None = None


def missing_cells(values: pd.Series) -> np.ndarray:
    """Return whether each cell of a column is missing (n,): a null, blank text, or a Presence."""
    if types.is_numeric_dtype(values.dtype):
        return values.isna().to_numpy()
    return np.fromiter(
        (isinstance(value, Presence) or is_missing(value) for value in values.astype(object)),
        dtype=bool,
        count=len(values),
    )


def without_codes(values: pd.Series, codes: Sequence[Any]) -> pd.Series:
    """Return a column with None where a cell is one of the codes that stand for "missing"."""
    numbers = {float(code) for code in codes if not isinstance(code, str)}
    texts = {code.strip() for code in codes if isinstance(code, str)}
    if types.is_bool_dtype(values.dtype):
        return values
    if types.is_numeric_dtype(values.dtype):
        return values.mask(values.isin(list(numbers)))

    def is_code(value: Any) -> bool:
        if isinstance(value, str):
            return value.strip() in texts or _number(value) in numbers
        number = isinstance(value, NUMBERS) and not isinstance(value, (bool, np.bool_))
        return number and float(value) in numbers

    found = np.fromiter(map(is_code, values.astype(object)), dtype=bool, count=len(values))
    return values.mask(found, None) if found.any() else values


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def encode_numbers(
    values: pd.Series, errors: dict[int, str], converter: UnitConverter | None = None
) -> np.ndarray:
    """Return numbers (n, 1) as float32, NaN where missing; note the rows that hold none."""
    if types.is_numeric_dtype(values.dtype):
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    elif converter is not None:
        numbers = _measured(values, errors, converter)
    else:
        gone = missing_cells(values)
        known = values.astype(object).where(~gone, None)
        numbers = pd.to_numeric(known, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        for row in np.flatnonzero(np.isnan(numbers) & ~gone).tolist():
            errors.setdefault(row, f"column {values.name!r}: {values[row]!r} is not a number")
    with np.errstate(over="ignore"):
        short = numbers.astype(np.float32)
    for row in np.flatnonzero(np.isinf(short)).tolist():
        errors.setdefault(row, f"column {values.name!r}: {numbers[row]} is not a finite number")
    return short[:, None]


def _measured(values: pd.Series, errors: dict[int, str], converter: UnitConverter) -> np.ndarray:
    """Return numbers (n,) in the converter's unit, from cells that may name another."""
    numbers = np.full(len(values), np.nan)
    gone = missing_cells(values)
    for row, value in enumerate(values.astype(object)):
        if gone[row]:
            continue
        try:
            plain = isinstance(value, NUMBERS)
            numbers[row] = float(value) if plain else converter.number(str(value))
        except SampleError as exc:
            errors.setdefault(row, f"column {values.name!r}, cell {value!r}: {exc}")
    return numbers


def encode_categories(
    values: pd.Series, card: ColumnCard, unseen: str, errors: dict[int, str]
) -> np.ndarray:
    """Return indicators as float32; a missing category is a row of NaN.

    Of categories without order, one column each. Of k ordered ones, k - 1 columns: whether the
    cell is at least the second, and so on. With ``unseen="indicator"`` one more column is 1 for a
    category that is not among them; ordered columns are then NaN. With "missing" all are NaN,
    with "error" the row is noted.
    """
    categories = card.categories or ()
    n = len(categories)
    seen = np.tri(n, n - 1, -1) if card.ordered else np.eye(n)
    other = np.full(seen.shape[1], np.nan if card.ordered or unseen == "missing" else 0.0)
    rows = np.vstack([seen, other, np.full(seen.shape[1], np.nan)])
    if unseen == "indicator":
        rows = np.column_stack([rows, [0.0] * n + [1.0, np.nan]])
    place = {category: i for i, category in enumerate(categories)}
    gone = missing_cells(values)
    codes = [
        n + 1 if missing else place.get(plain(value), n)
        for value, missing in zip(values.astype(object), gone, strict=True)
    ]
    if unseen == "error":
        for row in np.flatnonzero(np.equal(codes, n)).tolist():
            errors.setdefault(
                row,
                f"column {values.name!r}: the category {plain(values.iloc[row])!r} was not there "
                f"in fit, which saw {list(categories[:10])!r}",
            )
    return rows.astype(np.float32)[codes]


def plain(value: Any) -> Any:
    """Return a scalar of numpy, or a str of any kind, as Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, str) else value
