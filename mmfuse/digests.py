"""Digests of content: equal rows, cells and group labels have equal ones, in any process."""

from __future__ import annotations

import hashlib
import os
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mmfuse.presence import Presence

if TYPE_CHECKING:
    from mmfuse.blocks import Blocks
    from mmfuse.table import ModalityTable

__all__ = ["block_digests", "cell_digests", "group_digests", "row_digests"]

_NOTHING = np.int64(0)  # of a cell or row that holds nothing
_ROWS = 8192  # at a time


def block_digests(matrix: np.ndarray) -> np.ndarray:
    """Digest of every row of a numeric matrix (n, d), as float32: (n,) int64, 0 where all NaN.

    Zero and minus zero are equal, and so are all kinds of NaN.
    """
    values = np.array(matrix, dtype=np.float32).reshape(len(matrix), -1)
    values += 0.0  # minus zero becomes zero
    blank = np.isnan(values)
    values[blank] = np.nan
    out = np.array([_digest(row.tobytes()) for row in values], dtype=np.int64)
    out[blank.all(axis=1)] = _NOTHING
    return out


def row_digests(blocks: Blocks) -> np.ndarray:
    """Digest of every row over all modalities: (n,) int64, 0 where nothing is present."""
    out = np.empty(len(blocks), dtype=np.int64)
    for start in range(0, len(blocks), _ROWS):  # what is not present is NaN in its block
        part = slice(start, start + _ROWS)
        out[part] = block_digests(np.hstack([blocks[name][part] for name in blocks.names]))
    return out


def cell_digests(table: ModalityTable, name: str) -> np.ndarray:
    """Digest of every raw cell of a modality: (n,) int64, 0 where it is not PRESENT.

    The content of a file counts, not its name. A str is a file if there is one of that name, else
    a text.

    Raises
    ------
    ValueError
        If a file cannot be read, or a cell is of a kind that has no known bytes.
    """
    column = table[name]
    present = table.presence[:, table.modalities.index(name)] == Presence.PRESENT
    if isinstance(column, pd.DataFrame):
        out = np.array([_digest(repr(row).encode()) for row in column.itertuples(index=False)])
        out = out.astype(np.int64)
    elif column.dtype.kind in "biuf":
        out = block_digests(column)
    else:
        out = np.zeros(len(table), dtype=np.int64)
        for row in np.flatnonzero(present):
            out[row] = _cell(column[row], name, int(row))
    out[~present] = _NOTHING
    return out


def group_digests(groups: np.ndarray) -> np.ndarray:
    """Digest of every label: (n,) int64; 7, 7.0 and "7" are one label, as files mix them up."""
    codes, labels = pd.factorize(np.asarray(groups))
    digests = [_digest(b"group\0" + _label(label).encode()) for label in labels]
    return np.array(digests, dtype=np.int64)[codes]


def _label(value: Any) -> str:
    if isinstance(value, Real) and not isinstance(value, Integral) and float(value).is_integer():
        value = int(value)
    return str(value)


def _digest(content: bytes) -> int:
    raw = hashlib.blake2b(content, digest_size=8).digest()
    return int.from_bytes(raw, "little", signed=True) or 1


def _cell(cell: Any, name: str, row: int) -> int:
    from mmfuse.encoders._keys import content_key

    where = f"modality {name!r}, row {row}"
    if isinstance(cell, pd.DataFrame):
        return _digest(repr(list(cell.columns)).encode() + cell.to_csv(index=False).encode())
    if isinstance(cell, np.ndarray) and cell.dtype.kind in "f":
        cell = cell.astype(np.float32) + np.float32(0.0)
    text = isinstance(cell, str) and not _is_file(cell)
    try:
        key = content_key(cell, text_cells=text)
    except ValueError as exc:
        raise ValueError(
            f"{where} ({cell}): {exc}; mend the file or mark the cell FAILED."
        ) from exc
    if key is None:
        raise ValueError(
            f"{where} holds an object of type {type(cell).__name__}, whose content cannot be "
            "compared; encode the table first and pass the Blocks."
        )
    return _digest(key)


def _is_file(text: str) -> bool:
    try:
        return os.path.isfile(text)
    except ValueError:  # a NUL character
        return False
