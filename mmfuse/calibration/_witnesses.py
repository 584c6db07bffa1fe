"""Folds and standard errors in which a row of weight two is as good as two equal rows."""

from __future__ import annotations

import numpy as np

from mmfuse.digests import block_digests

__all__ = ["alike", "fold_shares", "sum_error"]


def alike(scores: np.ndarray, y: np.ndarray, present: np.ndarray) -> np.ndarray:
    """A number for every row, the same for rows that are equal but for rounding: (r,)."""
    content = np.column_stack([np.round(scores, 3), y, present])
    return np.unique(block_digests(content), return_inverse=True)[1]


def fold_shares(
    together: np.ndarray, weight: np.ndarray, n_folds: int, *, whole: bool
) -> np.ndarray:
    """What part of every row each fold tests: (r, n_folds), rows sum to one.

    Rows of one number stay in one fold. Unless they must (``whole``), as groups must, so many equal
    rows that every fold can have some are dealt out evenly, and only the rest goes to one fold:
    with few different rows folds would be nothing alike otherwise.
    """
    names, place = np.unique(together, return_inverse=True)
    fold = np.random.default_rng(0).permutation(len(names)) % n_folds
    one = np.zeros((len(names), n_folds))
    one[np.arange(len(names)), fold] = 1.0
    if not whole:
        total = np.bincount(place, weights=weight)
        dealt = np.floor(total / n_folds + 1e-9)[:, None]
        rest = np.maximum(total[:, None] - n_folds * dealt, 0.0)
        one = (dealt + rest * one) / np.maximum(total, 1e-300)[:, None]
    return one[place]


def sum_error(each: np.ndarray, weight: np.ndarray, unit: np.ndarray | None) -> float:
    """Standard error of the weighted sum of a number of each row."""
    if unit is None:
        return float(weight @ (each - np.average(each, weights=weight)) ** 2) ** 0.5
    sums = np.bincount(np.unique(unit, return_inverse=True)[1], weights=weight * each)
    return float(sums.std() * len(sums) ** 0.5)
