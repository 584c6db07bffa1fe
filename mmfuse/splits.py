"""Folds for cross-fitting: stratified, group-disjoint, and honest about too few rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from mmfuse.exceptions import LeakageError

__all__ = ["folds_within", "make_folds"]

Folds = list[tuple[np.ndarray, np.ndarray]]


def make_folds(
    cv: Any,
    y: np.ndarray,
    groups: np.ndarray | None,
    *,
    classification: bool,
    seed: int,
) -> Folds:
    """Training and held-out rows of every fold.

    Parameters
    ----------
    cv : int, splitter, or iterable of (train, test)
        As in scikit-learn. An integer makes stratified folds for classification and group-disjoint
        folds when ``groups`` is given; it is lowered where there are fewer groups or fewer rows of
        a class.
    y : ndarray of shape (n,) or (n, T)
    groups : ndarray of shape (n,) or None
    classification : bool
    seed : int

    Returns
    -------
    list of (train, test)
        Empty when the rows cannot be split: then nothing is chosen by cross-validation and
        nothing is calibrated.

    Raises
    ------
    ValueError
        If ``cv`` is an integer below 2.
    LeakageError
        If a given split shares groups between its sides.
    """
    if isinstance(cv, (int, np.integer)) and not isinstance(cv, bool):
        if cv < 2:
            raise ValueError(f"cv must be at least 2, a splitter, or a list of splits; got {cv!r}.")
        return _default_folds(int(cv), y, groups, classification, seed)
    splitter: Iterable
    if hasattr(cv, "split") and not isinstance(cv, str):
        splitter = cv.split(np.zeros(len(y)), y, groups)
    elif isinstance(cv, Iterable) and not isinstance(cv, (str, bytes)):
        splitter = cv
    else:
        raise ValueError(f"cv must be an integer, a splitter, or a list of splits; got {cv!r}.")
    folds = [(np.asarray(train), np.asarray(test)) for train, test in splitter]
    _check_disjoint(folds, groups)
    return folds


def folds_within(folds: Folds, rows: np.ndarray, n_rows: int) -> Folds:
    """The same folds on some of the rows.

    Parameters
    ----------
    folds : list of (train, test)
        Numbers of all rows.
    rows : ndarray of int
        The rows that are kept, each once; they are numbered anew in this order.
    n_rows : int
        Number of all rows.

    Returns
    -------
    list of (train, test)
        Folds of which a side is empty are left out.
    """
    place = np.full(n_rows, -1)
    place[rows] = np.arange(len(rows))
    sides = [(place[train], place[test]) for train, test in folds]
    inner = [(train[train >= 0], test[test >= 0]) for train, test in sides]
    return [(train, test) for train, test in inner if len(train) and len(test)]


def _default_folds(
    cv: int, y: np.ndarray, groups: np.ndarray | None, classification: bool, seed: int
) -> Folds:
    n = len(y)
    splits = min(cv, n)
    if classification:
        _, counts = np.unique(y, return_counts=True)
        splits = min(splits, max(2, int(counts.min())))
        if counts.max() < 2:
            return []  # one row of each class: whatever is held out was never learned
    if groups is not None:
        n_groups = len(np.unique(groups))
        if n_groups < 2:
            warnings.warn(
                "All training rows belong to one group, so no group-disjoint fold exists: "
                "regularisation is left at its default and probabilities are not calibrated.",
                UserWarning,
                stacklevel=4,
            )
            return []
        splits = min(splits, n_groups)
    if splits < 2 or n < 6:
        return []
    if classification:
        kind = StratifiedKFold if groups is None else StratifiedGroupKFold
        folder = kind(splits, shuffle=True, random_state=seed)
    elif groups is None:
        folder = KFold(splits, shuffle=True, random_state=seed)
    else:
        folder = GroupKFold(splits)
    with warnings.catch_warnings():
        # a class with fewer rows than folds is handled: the linear heads know all classes
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        return [(a, b) for a, b in folder.split(np.zeros(n), y, groups) if len(a) and len(b)]


def _check_disjoint(folds: Folds, groups: np.ndarray | None) -> None:
    if groups is None:
        return
    for number, (train, test) in enumerate(folds):
        shared = np.intersect1d(groups[train], groups[test])
        if len(shared):
            raise LeakageError(
                f"cv split {number} puts groups {shared[:5].tolist()} on both sides; "
                "use a group splitter such as GroupKFold, or leave cv an integer."
            )
