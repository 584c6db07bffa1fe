"""Rows and cells that are in two parts of the data, found by their content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mmfuse.blocks import Blocks
from mmfuse.digests import block_digests, cell_digests
from mmfuse.table import ModalityTable

__all__ = ["Duplicates", "find_duplicates"]

_ALL = "all modalities"


@dataclass(frozen=True, eq=False, repr=False)
class Duplicates:
    """What `find_duplicates` found.

    Attributes
    ----------
    pairs : DataFrame
        A row for each test row and modality whose content is in training too: ``modality``
        (``"all modalities"`` where every present cell of the rows is equal), ``train_row`` (the
        first of them), ``test_row``, ``n_train`` (how many training rows have that content).
    summary : DataFrame
        By modality: ``n_test`` present cells, ``n_shared`` of them in training, ``share``,
        ``n_contents`` distinct contents among the shared. A few contents in many rows, such as
        silence or a standard sentence, are no copies of rows; many are.
    """

    pairs: pd.DataFrame
    summary: pd.DataFrame

    @property
    def any_row(self) -> bool:
        """Whether a whole row is in both parts."""
        return bool(self.summary.loc[_ALL, "n_shared"])

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        lines = []
        for name, row in self.summary.iterrows():
            lines.append(
                f"  {name}: {row['n_shared']:.0f} of {row['n_test']:.0f} test rows are in training "
                f"({row['n_contents']:.0f} different)"
            )
        return "\n".join(["Duplicates", *lines])


def find_duplicates(X_train: Any, X_test: Any) -> Duplicates:
    """Find rows and single cells of the test part that are in the training part.

    Cells are compared by a digest of their content, so that a copy of a file under another name is
    found; numbers are compared as float32. Only exact copies are found: the same picture saved
    anew, or a recording cut elsewhere, is not.

    Parameters
    ----------
    X_train, X_test : ModalityTable, Blocks or dict of columns
        Raw samples, or both encoded.

    Returns
    -------
    Duplicates

    Raises
    ------
    TypeError
        If one is raw and the other encoded.
    ValueError
        If they share no modality, or a cell cannot be read (modality, row and file are named).

    Examples
    --------
    >>> from mmfuse.datasets import load_av_digits
    >>> from mmfuse.guards import find_duplicates
    >>> X = load_av_digits(n_rows=480).X  # a recording appears in several rows
    >>> found = find_duplicates(X[:240], X[240:])
    >>> found.summary["n_shared"].to_dict()
    {'image': 0, 'audio': 125, 'all modalities': 0}
    """
    train, test = _opened(X_train, "X_train"), _opened(X_test, "X_test")
    if isinstance(train, Blocks) != isinstance(test, Blocks):
        raise TypeError(
            "find_duplicates: one part is raw and the other encoded, which have nothing in common; "
            "pass both raw or both encoded."
        )
    names = [name for name in _names(train) if name in _names(test)]
    if not names:
        raise ValueError(
            f"find_duplicates: X_train has the modalities {', '.join(_names(train))} and X_test "
            f"has {', '.join(_names(test))}; they share none."
        )
    sides = [np.column_stack([_digests(X, name) for name in names]) for X in (train, test)]
    found, sizes = {}, {}
    for column, name in enumerate(names):
        found[name] = _matches(sides[0][:, column], sides[1][:, column])
        sizes[name] = sides[1][:, column]
    rows = [_rows(side) for side in sides]
    found[_ALL], sizes[_ALL] = _matches(*rows), rows[1]
    return Duplicates(_pairs(found), _summary(found, sizes))


def _opened(X: Any, argument: str) -> ModalityTable | Blocks:
    if isinstance(X, (ModalityTable, Blocks)):
        return X
    if isinstance(X, dict):
        return ModalityTable(X)
    raise TypeError(
        f"find_duplicates: {argument} must be a ModalityTable, Blocks or a dict of columns; got "
        f"{type(X).__name__}."
    )


def _names(X: ModalityTable | Blocks) -> tuple[str, ...]:
    return X.names if isinstance(X, Blocks) else X.modalities


def _digests(X: ModalityTable | Blocks, name: str) -> np.ndarray:
    return block_digests(X[name]) if isinstance(X, Blocks) else cell_digests(X, name)


def _rows(digests: np.ndarray) -> np.ndarray:
    """One number for each row of digests (n, M); 0 where nothing is present."""
    mixed = np.zeros(len(digests), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in digests.T:
            mixed = (mixed ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
    mixed[(digests == 0).all(axis=1)] = 0
    return mixed


def _matches(train: np.ndarray, test: np.ndarray) -> pd.DataFrame:
    """Test rows whose digest is in training: train_row, test_row, n_train, content."""
    known, first, count = np.unique(train, return_index=True, return_counts=True)
    place = np.minimum(np.searchsorted(known, test), max(len(known) - 1, 0))
    same = (known[place] == test) & (test != 0) if len(known) else np.zeros(len(test), bool)
    place = place[same]
    return pd.DataFrame(
        {
            "train_row": first[place],
            "test_row": np.flatnonzero(same),
            "n_train": count[place],
            "content": known[place],
        }
    )


def _pairs(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    parts = [part.drop(columns="content").assign(modality=name) for name, part in found.items()]
    columns = ["modality", "train_row", "test_row", "n_train"]
    return pd.concat(parts, ignore_index=True)[columns]


def _summary(found: dict[str, pd.DataFrame], sizes: dict[str, np.ndarray]) -> pd.DataFrame:
    rows = {}
    for name, part in found.items():
        n_test = int((sizes[name] != 0).sum())
        rows[name] = {
            "n_test": n_test,
            "n_shared": len(part),
            "share": len(part) / max(n_test, 1),
            "n_contents": part["content"].nunique(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("modality")
