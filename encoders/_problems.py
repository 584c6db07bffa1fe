"""Rows that cannot be encoded: raise for the first, or mark all and warn once of each file."""

from __future__ import annotations

import warnings

import numpy as np

from mmfuse.exceptions import EncodingError
from mmfuse.presence import Presence

__all__ = ["settle", "untold"]

_TOLD: set[tuple[str, str]] = set()  # of this process


def untold(errors: dict[int, str], files: dict[int, str], name: str) -> list[int]:
    """Rows to warn of: a file that stays broken is warned of once, however often it is encoded.

    Parameters
    ----------
    errors : dict of int to str
        Messages by row.
    files : dict of int to str
        File, and what is wrong with it, of those rows that hold a file.
    name : str
        Of the column.
    """
    rows = [row for row in sorted(errors) if (name, files.get(row, "")) not in _TOLD]
    _TOLD.update((name, files[row]) for row in rows if row in files)
    return rows


def settle(
    problems: dict[int, str],
    values: np.ndarray,
    states: np.ndarray,
    *,
    on_error: str,
    name: str,
    cure: str,
    stacklevel: int = 3,
) -> dict[int, str]:
    """Mark the rows of `problems` FAILED, in place, and warn; or raise for the first.

    Parameters
    ----------
    problems : dict of int to str
        What is wrong with a row. Text that starts with " (" names a file, and follows the row.
    values : ndarray of shape (n_samples, n_features)
    states : ndarray of shape (n_samples,), int8
    on_error : {"raise", "mark"}
    name : str
        Of the column.
    cure : str
        What may be done, besides ``on_error="mark"``.
    stacklevel : int
        Of the warning, as `encode` of the encoder would give it.

    Returns
    -------
    dict of int to str
        The messages, with column and row.
    """
    errors = {}
    for row in sorted(problems):
        text = problems[row]
        errors[row] = f"{name}, row {row}{text if text.startswith(' (') else f': {text}'}"
    if not errors:
        return errors
    if on_error == "raise":
        raise EncodingError(
            f"{errors[min(errors)]}; {cure}, or use on_error='mark' to mark such cells FAILED"
        )
    n_present = int((states == Presence.PRESENT).sum())
    rows = list(errors)
    states[rows], values[rows] = Presence.FAILED, np.nan
    named = {row: text for row, text in problems.items() if text.startswith(" (")}
    fresh = untold(errors, named, name)
    if not fresh:
        return errors
    first = errors[fresh[0]].removeprefix(f"{name}, ")
    warnings.warn(
        f"{name}: {len(errors)} of {n_present} cells could not be encoded and are marked FAILED; "
        f"first: {first}",
        UserWarning,
        stacklevel=stacklevel + 1,
    )
    return errors
