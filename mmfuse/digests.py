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
_ROWS = 1024  # at a time
_SEEDS = (5, 8)
_ONE = np.uint64(1)


def block_digests(matrix: np.ndarray) -> np.ndarray:
    """Digest of every row of a numeric matrix (n, d), as float32: (n,) int64, 0 where all NaN.

    Zero and minus zero are equal, and so are all kinds of NaN.
    """
    matrix = np.asarray(matrix)
    return _matrix_digests([matrix.reshape(len(matrix), -1)])


def row_digests(blocks: Blocks) -> np.ndarray:
    """Digest of every row over all modalities: (n,) int64, 0 where nothing is present."""
    # what is not present is NaN in its block
    return _matrix_digests([blocks[name] for name in blocks.names])


def _matrix_digests(parts: list[np.ndarray]) -> np.ndarray:
    """Digest of every row of matrices side by side.

    Each of two sums holds the words of a row times fixed random numbers, modulo 2^64: rows that
    differ have the same pair with a chance of about 2^-80 (multilinear hashing; Lemire and Kaser
    2014). The sums are then stirred into one number.
    """
    widths = [part.shape[1] for part in parts]
    factors = [np.random.PCG64(seed).random_raw(sum(widths)) | _ONE for seed in _SEEDS]
    out = np.zeros(len(parts[0]), dtype=np.int64)
    for start in range(0, len(out), _ROWS):
        where = slice(start, start + _ROWS)
        sums = [np.zeros(len(out[where]), dtype=np.uint64) for _ in factors]
        blank, first = np.ones(len(out[where]), dtype=bool), 0
        for part, width in zip(parts, widths, strict=True):
            words, gone = _words(part[where])
            blank &= gone
            for number, factor in enumerate(factors):
                sums[number] += np.einsum("ij,j->i", words, factor[first : first + width])
            first += width
        mixed = _stir(_stir(sums[0]) + sums[1]).view(np.int64)
        mixed[mixed == _NOTHING] = 1
        out[where] = np.where(blank, _NOTHING, mixed)
    return out


def _words(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers (n, d), as float32, as integers, and which rows are all NaN."""
    copy = np.array(values, dtype=np.float32, order="C")
    copy += 0.0  # minus zero becomes zero
    blank = np.full(len(copy), copy.shape[1] == 0)
    if not np.isfinite(copy.sum(dtype=np.float64)):
        missing = np.isnan(copy)
        copy[missing] = np.nan
        blank = missing.all(axis=1)
    return copy.view(np.uint32).astype(np.uint64), blank


def _stir(value: np.ndarray) -> np.ndarray:
    """Every bit of the result depends on every bit of the value (the finaliser of SplitMix64)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


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
