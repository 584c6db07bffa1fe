"""Rows that train encoders, rows that say when to stop, and rows that no encoder sees."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from mmfuse.splits import make_folds

__all__ = ["RowSplit", "honest_folds", "split_rows"]

_PIECES = 20  # the rows are cut into so many, and a part is some of them
_LEAST_ROWS = 10

Folds = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class RowSplit:
    """Numbers of rows, each row in one part; no group is in two.

    Attributes
    ----------
    train : ndarray of int
        Encoders and joint head learn from these.
    stop : ndarray of int
        Their loss says which epoch is kept; may be empty.
    held : ndarray of int
        Not seen before the estimator's own head is fitted.
    """

    train: np.ndarray
    stop: np.ndarray
    held: np.ndarray


def split_rows(
    n_rows: int,
    classes: np.ndarray | None,
    groups: np.ndarray | None,
    *,
    validation: float,
    held_out: float,
    seed: int,
) -> RowSplit:
    """Split rows into three parts.

    Parameters
    ----------
    n_rows : int
    classes : ndarray of shape (n,) or None
        Parts have about the same share of each, where given.
    groups : ndarray of shape (n,) or None
    validation, held_out : float
        About this share of the rows, or of the groups where these are few; at least one.
    seed : int

    Raises
    ------
    ValueError
        If there are fewer than ten rows, or too few groups for the parts.
    """
    if n_rows < _LEAST_ROWS:
        raise ValueError(
            f"Fine-tuning needs at least {_LEAST_ROWS} rows, to train on some and hold out others; "
            f"got {n_rows}. Set trainable=False on the encoders."
        )
    parts = 3 if validation else 2
    n_groups = n_rows if groups is None else len(np.unique(groups))
    if n_groups < parts:
        raise ValueError(
            f"Fine-tuning needs at least {parts} groups, to train on some and hold out others; got "
            f"{n_groups}. Set trainable=False on the encoders, or give finer groups."
        )
    everything = np.arange(n_rows)
    rest, held = _cut(everything, classes, groups, held_out, seed)
    stop = np.empty(0, dtype=int)
    if validation:
        rest, stop = _cut(rest, classes, groups, validation / (1 - held_out), seed + 1)
    return RowSplit(rest, stop, held)


def _cut(
    rows: np.ndarray,
    classes: np.ndarray | None,
    groups: np.ndarray | None,
    share: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """``rows`` without a part, and that part; both sorted."""
    y = None if classes is None else classes[rows]
    g = None if groups is None else groups[rows]
    pieces = min(_PIECES, len(rows) if g is None else len(np.unique(g)))
    kind: Any = KFold if g is None else GroupKFold
    if y is not None:
        kind = StratifiedKFold if g is None else StratifiedGroupKFold
        pieces = max(2, min(pieces, int(np.bincount(y).max())))
    splitter = kind(pieces, shuffle=True, random_state=seed)
    count = min(max(1, round(share * pieces)), pieces - 1)
    with warnings.catch_warnings():  # a rare class may miss a part; the estimator's head knows all
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        tests = [test for _, test in splitter.split(np.zeros(len(rows)), y, g)]
    taken = np.zeros(len(rows), dtype=bool)
    taken[np.concatenate(tests[:count])] = True
    return rows[~taken], rows[taken]


def honest_folds(
    cv: Any,
    y: np.ndarray,
    groups: np.ndarray | None,
    held: np.ndarray | None,
    *,
    classification: bool,
    seed: int,
) -> Folds:
    """Folds of `make_folds` in which every tested row is one that no encoder saw.

    Parameters
    ----------
    cv, y, groups, classification, seed
        As in `make_folds`. An integer cuts the held-out rows into so many folds, and all other rows
        are on the training side of each; of given splits the tested rows are cut down.
    held : ndarray of int or None
        The rows that no encoder saw. None: encoders learned nothing from any.
    """
    if held is None:
        return make_folds(cv, y, groups, classification=classification, seed=seed)
    if not isinstance(cv, (int, np.integer)) or isinstance(cv, bool):
        folds = make_folds(cv, y, groups, classification=classification, seed=seed)
        cut = [(train, np.intersect1d(test, held)) for train, test in folds]
        return [(train, test) for train, test in cut if len(test)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All training rows belong to one group")
        inner = make_folds(
            cv,
            y[held],
            None if groups is None else groups[held],
            classification=classification,
            seed=seed,
        )
    tests = [held[test] for _, test in inner] or [held]
    everything = np.arange(len(y))
    return [(np.setdiff1d(everything, test), test) for test in tests]
