"""One column of raw samples: its cells, and what is known of each before it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mmfuse.presence import Presence
from mmfuse.table.cells import NUMERIC, is_tensor, state_of, to_numpy

__all__ = ["as_cells", "check_column", "merge_states"]

_ROWS_AT_ONCE = 4096


def as_cells(column: Any, *, caller: str) -> tuple[Sequence[Any] | np.ndarray, np.ndarray]:
    """Return the cells of a column and their states.

    Parameters
    ----------
    column : list, tuple, Series, ndarray or Tensor with one entry per row
    caller : str
        Opens the message of an error.

    Returns
    -------
    cells : sequence of length n_rows
    states : ndarray of shape (n_rows,), int8
        Values of `Presence`.
    """
    check_column(column, caller=caller)
    if is_tensor(column):
        column = to_numpy(column)
    if isinstance(column, np.ndarray) and column.dtype.kind in NUMERIC and column.ndim > 1:
        return column, _block_states(column)
    cells = column.tolist() if isinstance(column, pd.Series) else list(column)
    return cells, np.fromiter(map(state_of, cells), np.int8, len(cells))


def check_column(column: Any, *, caller: str) -> None:
    """Raise TypeError unless `column` is a list, array or Series with one entry per row."""
    if isinstance(column, pd.DataFrame):
        raise TypeError(
            f"{caller} encodes one column, got a DataFrame with columns {list(column.columns)!r}; "
            "pass one of them."
        )
    scalar = isinstance(column, (str, bytes, Mapping)) or not hasattr(column, "__len__")
    if scalar or getattr(column, "ndim", 1) == 0:
        raise TypeError(
            f"{caller} needs a column (list, array or Series with one entry per row), "
            f"got {type(column).__name__}."
        )


def merge_states(own: np.ndarray, given: Any, *, caller: str) -> np.ndarray:
    """Keep `own` where `given` says PRESENT (or is None), and `given` elsewhere.

    Returns
    -------
    ndarray of shape (n_rows,), int8
    """
    if given is None:
        return own
    given = np.asarray(given, dtype=np.int8)
    if given.shape != own.shape:
        raise ValueError(
            f"{caller}: presence must have one entry per row, got shape {given.shape} "
            f"for {len(own)} rows."
        )
    return np.where(given == Presence.PRESENT, own, given).astype(np.int8)


def _block_states(block: np.ndarray) -> np.ndarray:
    """Return the states of the rows of a numeric block: all-NaN is ABSENT, no entries is EMPTY."""
    states = np.full(len(block), Presence.PRESENT, dtype=np.int8)
    if block.size == 0:
        states[:] = Presence.EMPTY
    elif block.dtype.kind in "fc":
        for start in range(0, len(block), _ROWS_AT_ONCE):
            rows = block[start : start + _ROWS_AT_ONCE]
            gone = np.isnan(rows).reshape(len(rows), -1).all(axis=1)
            states[start : start + len(rows)][gone] = Presence.ABSENT
    return states
