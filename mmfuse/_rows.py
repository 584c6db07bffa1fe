"""Names, row keys and states: what tables and blocks check alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from reprlib import repr as shorten
from typing import Any

import numpy as np

from mmfuse.presence import Presence

__all__ = [
    "PREDICT_ROWS",
    "check_lengths",
    "check_name",
    "check_names",
    "check_presence",
    "count_states",
    "describe",
    "frozen",
    "hide_cells",
    "positions",
    "resolve_cells",
    "resolve_rows",
    "shorten",
    "unknown_name",
]

PREDICT_ROWS = 16_384  # rows on the device, or as densities in memory, at once

_STATES = np.array(sorted(Presence), dtype=np.int8)


def check_name(name: object) -> str:
    """Return a modality name, or say what is wrong with it.

    Raises
    ------
    TypeError
        If the name is not a string.
    ValueError
        If it is empty or contains ``"__"``, which separates parameters in scikit-learn.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"A modality name must be a string, got {name!r} of type {type(name).__name__}."
        )
    if not name.strip():
        raise ValueError(f"A modality name must not be empty, got {name!r}.")
    if "__" in name:
        raise ValueError(
            f"The modality name {name!r} contains '__', which separates parameters in "
            f"scikit-learn (encoders__audio__n_mels). Rename it, e.g. {name.replace('__', '_')!r}."
        )
    return str(name)


def check_lengths(lengths: Mapping[str, int], *, owner: str) -> int:
    """Return the number of rows that all modalities share, or list every length."""
    if not lengths:
        raise ValueError(f"{owner} needs at least one modality, got none.")
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name}: {n} rows" for name, n in lengths.items())
        raise ValueError(
            f"The modalities have different numbers of rows ({listed}). Give every modality one "
            "row per sample, with None or a row of NaN where a sample lacks it."
        )
    return next(iter(lengths.values()))


def check_presence(presence: object, shape: tuple[int, int], *, owner: str) -> np.ndarray:
    """Return a new ``(n, M)`` int8 array of states, or say why these are not states."""
    states = np.asarray(presence)
    if states.shape != shape:
        raise ValueError(
            f"{owner}: presence has shape {states.shape}, but with {shape[0]} rows and {shape[1]} "
            f"modalities it must have shape {shape}."
        )
    wrong = ~np.isin(states, _STATES)
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{owner}: presence holds {states[row, column]} in row {row}, column {column}; allowed "
            "are 0 (ABSENT), 1 (PRESENT), 2 (FAILED), 3 (EMPTY) and booleans."
        )
    return states.astype(np.int8)


def unknown_name(name: object, known: Iterable[str], *, owner: str) -> KeyError:
    """Build the error for a modality that is not there; the caller raises it."""
    return KeyError(f"{owner} has no modality {name!r}. Known modalities: {', '.join(known)}.")


def check_names(names: str | Iterable[str], known: tuple[str, ...], *, owner: str) -> list[str]:
    """Return ``names`` as a list of known modalities; a single string is one name."""
    asked = [names] if isinstance(names, str) else list(names)
    for name in asked:
        if name not in known:
            raise unknown_name(name, known, owner=owner)
    repeated = [name for i, name in enumerate(asked) if name in asked[:i]]
    if repeated:
        raise ValueError(f"The modality {repeated[0]!r} is named twice in {asked!r}.")
    return asked


def frozen(array: np.ndarray) -> np.ndarray:
    """Return a read-only view of ``array``; the array itself stays as it was."""
    view = array.view()
    view.flags.writeable = False
    return view


def resolve_rows(key: Any, n_rows: int, *, owner: str) -> slice | np.ndarray:
    """Turn a row key into a slice or an array of row numbers.

    Allowed are slices, integer sequences, boolean masks of length ``n_rows``, and a pair of one of
    these and ``...`` or ``:``, which is what scikit-learn asks of an object with a 2-D shape.

    Raises
    ------
    TypeError
        If the key is a single integer, or holds something else than integers or booleans.
    IndexError
        If a mask has another length, a row number is out of bounds, or the key is not 1-D.
    """
    if isinstance(key, tuple):
        if len(key) != 2 or not _is_everything(key[1]):
            raise TypeError(
                f"{owner} is indexed by rows alone, got the tuple {shorten(key)}; use X[rows], or "
                "X.select(names) for some of the modalities."
            )
        key = key[0]
    if isinstance(key, slice):
        return key
    rows = _as_array(key)
    if rows.ndim == 0 and rows.dtype.kind in "iu":
        after = "" if int(rows) == -1 else int(rows) + 1
        raise TypeError(f"{owner} keeps its row axis; use X[{int(rows)}:{after}] for one row.")
    return _check_rows(rows, n_rows, owner)


def resolve_cells(rows: Any, n_rows: int, *, owner: str) -> slice | np.ndarray:
    """Resolve the ``rows`` argument of a method: None is every row, an integer is one row."""
    if rows is None:
        return slice(None)
    if isinstance(rows, (int, np.integer)) and not isinstance(rows, bool):
        rows = [rows]
    return resolve_rows(rows, n_rows, owner=owner)


def positions(rows: slice | np.ndarray, n_rows: int) -> np.ndarray:
    """Return resolved rows as non-negative row numbers."""
    return np.arange(n_rows)[rows]


def hide_cells(
    presence: np.ndarray, columns: Iterable[int], rows: slice | np.ndarray
) -> np.ndarray:
    """Return a copy of ``presence`` with the cells of ``columns`` and ``rows`` ABSENT."""
    states = presence.copy()
    for column in columns:
        states[rows, column] = Presence.ABSENT
    return states


def count_states(states: np.ndarray) -> str:
    """Write the states of one modality as a phrase: ``900 present, 60 absent``."""
    order = (Presence.PRESENT, Presence.ABSENT, Presence.FAILED, Presence.EMPTY)
    counts = {state: int((states == state).sum()) for state in order}
    said = [f"{n} {state.name.lower()}" for state, n in counts.items() if n]
    return ", ".join(said) or "no rows"


def describe(title: str, kinds: Mapping[str, str], presence: np.ndarray) -> str:
    """Write a table as text: a heading, then name, kind and states, a line per modality."""
    n_rows, n_names = presence.shape
    rows = "1 row" if n_rows == 1 else f"{n_rows} rows"
    names = "1 modality" if n_names == 1 else f"{n_names} modalities"
    wide = max(map(len, kinds))
    wider = max(map(len, kinds.values()))
    lines = [f"{title}: {rows} x {names}"]
    for j, (name, kind) in enumerate(kinds.items()):
        lines.append(f"  {name:<{wide}}  {kind:<{wider}}  {count_states(presence[:, j])}")
    return "\n".join(lines)


def _is_everything(key: Any) -> bool:
    return key is Ellipsis or (isinstance(key, slice) and key == slice(None))


def _as_array(key: Any) -> np.ndarray:
    """Convert a key, so that an empty list is an empty list of rows."""
    if hasattr(key, "to_numpy"):
        key = key.to_numpy()  # pandas: by position, whatever the index
    rows = np.asarray(key)
    if rows.dtype == object and rows.ndim == 1 and rows.size:
        values = rows.tolist()
        if all(isinstance(value, (bool, np.bool_)) for value in values):
            return rows.astype(bool)
        if all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in values):
            return rows.astype(np.intp)
    if rows.size == 0 and rows.ndim == 1 and rows.dtype.kind != "b":
        return rows.astype(np.intp)
    return rows


def _check_rows(rows: np.ndarray, n_rows: int, owner: str) -> np.ndarray:
    if rows.ndim == 1 and rows.dtype.kind in "USTO" and isinstance(rows[0], str):
        raise TypeError(
            f"{owner} is indexed by rows, got names {shorten(rows.tolist())}; use "
            "X.select(names) for some of the modalities."
        )
    if rows.dtype.kind not in "iub" or rows.ndim == 0:
        raise TypeError(
            f"{owner} rows must be a slice, integers or a boolean mask, got "
            f"{shorten(rows.tolist())} of dtype {rows.dtype}."
        )
    if rows.ndim != 1:
        raise IndexError(f"{owner} rows must be one-dimensional, got shape {rows.shape}.")
    if rows.dtype.kind == "b":
        if len(rows) != n_rows:
            raise IndexError(f"The boolean mask has {len(rows)} entries for {n_rows} rows.")
        return np.flatnonzero(rows)
    outside = (rows < -n_rows) | (rows >= n_rows)
    if outside.any():
        raise IndexError(
            f"Row {rows[outside][0]} is out of bounds for {n_rows} rows, counted from 0."
        )
    return rows.astype(np.intp)
