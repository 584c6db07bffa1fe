"""The column that conformal thresholds are kept apart by, besides the availability pattern."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["Strata"]


@dataclass(frozen=True)
class Strata:
    """The values of the column ``by``: a label for every row, and the name of the column.

    Attributes
    ----------
    labels : ndarray of shape (n,), str
    name : str or None
    """

    labels: np.ndarray
    name: str | None

    @classmethod
    def read(cls, by: Any, n_rows: int, caller: str) -> Strata | None:
        """Strata from an array (n,), a Series, or a DataFrame whose columns are crossed.

        Raises
        ------
        ValueError
            If lengths differ or a value is missing.
        """
        if by is None:
            return None
        frame = by if isinstance(by, pd.DataFrame) else pd.DataFrame({_name_of(by): _flat(by)})
        if len(frame) != n_rows:
            raise ValueError(
                f"{caller}: X has {n_rows} rows and by has {len(frame)}; give one value per row."
            )
        missing = np.flatnonzero(frame.isna().any(axis=1).to_numpy())
        if len(missing):
            raise ValueError(
                f"{caller}: by has no value in {len(missing)} of {n_rows} rows (first in row "
                f"{missing[0]}); fill in a value of its own, such as 'unknown', or leave by out."
            )
        columns = [[_text(v) for v in frame.iloc[:, j]] for j in range(frame.shape[1])]
        labels = np.array([" / ".join(parts) for parts in zip(*columns, strict=True)], dtype=str)
        named = [str(c) for c in frame.columns if c is not None]
        return cls(labels, " / ".join(named) or None)


def _name_of(by: Any) -> Any:
    return getattr(by, "name", None) if isinstance(by, pd.Series) else None


def _flat(by: Any) -> np.ndarray:
    values = by.to_numpy() if hasattr(by, "to_numpy") else np.asarray(by)
    if values.ndim != 1:
        raise ValueError(
            f"by must have one value per row, or be a DataFrame of such columns; got an array of "
            f"shape {values.shape}."
        )
    return values


def _text(value: Any) -> str:
    """1, 1.0 and numpy's 1 are one stratum."""
    if isinstance(value, (Real, np.number)) and not isinstance(value, (bool, np.bool_)):
        number = float(value)
        return str(int(number)) if number.is_integer() else repr(number)
    return str(value)
