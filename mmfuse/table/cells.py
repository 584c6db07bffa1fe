"""One cell of a table: its state, and its numbers where it holds some."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from mmfuse.presence import Presence

__all__ = [
    "NUMBERS",
    "NUMERIC",
    "is_missing",
    "is_tensor",
    "numeric_cell",
    "object_array",
    "state_of",
    "to_numpy",
]

NUMERIC = "biufc"
"""Kinds of dtype that hold numbers."""
NUMBERS = (bool, int, float, np.number, np.bool_)
"""Types of a single number."""
# looking up a member of an enum costs more than all else that is done for a cell (Python 3.11)
_ABSENT, _PRESENT, _EMPTY = Presence.ABSENT, Presence.PRESENT, Presence.EMPTY
_NAN_TYPES = (float, np.floating, np.datetime64, np.timedelta64)


def state_of(cell: Any) -> Presence:
    """Return the state that a raw cell has by itself."""
    if isinstance(cell, Presence):
        return cell
    if isinstance(cell, np.ndarray) or is_tensor(cell):
        array = to_numpy(cell)
        if array.size == 0:
            return _EMPTY
        blank = array.dtype.kind in "fc" and np.isnan(array.flat[0]) and np.isnan(array).all()
        return _ABSENT if blank else _PRESENT
    if isinstance(cell, (list, tuple)):
        if not cell:
            return _EMPTY
        return _ABSENT if all(map(is_missing, cell)) else _PRESENT
    if isinstance(cell, dict):
        return _ABSENT if all(map(is_missing, cell.values())) else _PRESENT
    return _ABSENT if is_missing(cell) else _PRESENT


def is_missing(value: Any) -> bool:
    """Tell whether a scalar stands for nothing: None, NaN, NA, NaT, or blank text."""
    if isinstance(value, (str, bytes)):
        return not value or value.isspace()
    if value is None or value is pd.NA or value is pd.NaT:
        return True
    return isinstance(value, _NAN_TYPES) and bool(value != value)


def is_tensor(value: Any) -> bool:
    """Tell a torch tensor from its type's module, without importing torch."""
    module = type(value).__module__
    return (module == "torch" or module.startswith("torch.")) and hasattr(value, "detach")


def to_numpy(value: Any) -> np.ndarray:
    """Return an array or a tensor as an array, sharing memory where possible."""
    if isinstance(value, np.ndarray):
        return value
    tensor = value.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":  # numpy has no such type
        tensor = tensor.float()
    return tensor.numpy()


def object_array(cells: Iterable[Any]) -> np.ndarray:
    """Return a 1-D object array of cells; numpy alone would join arrays of one shape."""
    listed = list(cells)
    array = np.empty(len(listed), dtype=object)
    for i, cell in enumerate(listed):
        array[i] = cell
    return array


def numeric_cell(cell: Any) -> np.ndarray | None:
    """Return a cell as a numeric array of one axis or more, or None."""
    if isinstance(cell, (list, tuple)):
        if all(isinstance(item, NUMBERS) or is_missing(item) for item in cell):
            cell = [np.nan if is_missing(item) else item for item in cell]
        try:
            cell = np.array(cell)
        except (TypeError, ValueError):
            return None  # ragged, or not numbers
    if not isinstance(cell, np.ndarray) or cell.dtype.kind not in NUMERIC or cell.ndim == 0:
        return None
    return cell
