"""What scores of class probabilities ask of their arguments."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

__all__ = ["check_proba", "check_row_weight", "check_scored", "class_codes", "codes_of"]

_SUM_TOLERANCE = 1e-3


def check_proba(proba: ArrayLike, caller: str) -> tuple[np.ndarray, float]:
    """Probabilities as float64, and the resolution of the type that they came in."""
    given = np.asarray(proba)
    kind = given.dtype if np.issubdtype(given.dtype, np.floating) else np.dtype(np.float64)
    values = given.astype(np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"{caller}: proba must have the shape (n_samples, n_classes) with at least one row; "
            f"got {values.shape}."
        )
    wrong = ~(np.isfinite(values) & (values >= 0)).all(axis=1)
    wrong |= np.abs(values.sum(axis=1) - 1.0) > _SUM_TOLERANCE
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"{caller}: each row of proba must be non-negative and sum to 1; row {row} is "
            f"{np.round(values[row], 4).tolist()}. Pass probabilities, not scores."
        )
    return values, float(np.finfo(kind).eps)


def check_scored(
    y_true: ArrayLike,
    proba: ArrayLike,
    classes: ArrayLike,
    sample_weight: ArrayLike | None,
    caller: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities (n, K), the place of every true class (n,), and weights (n,)."""
    values, _ = check_proba(proba, caller)
    codes = codes_of(y_true, classes, values.shape, caller)
    return values, codes, check_row_weight(sample_weight, len(values), caller)


def codes_of(
    y_true: ArrayLike, classes: ArrayLike, shape: tuple[int, ...], caller: str, name: str = "y_true"
) -> np.ndarray:
    """Place in ``classes`` of every label."""
    truth, known = np.asarray(y_true), np.asarray(classes)
    if known.shape != (shape[1],):
        raise ValueError(
            f"{caller}: classes must name the {shape[1]} columns of proba; got {known.size} of "
            f"them, in the shape {known.shape}."
        )
    if truth.shape != (shape[0],):
        raise ValueError(
            f"{caller}: {name} must have the shape ({shape[0]},), one class per row of proba; got "
            f"{truth.shape}."
        )
    codes = class_codes(truth, known)
    if (codes < 0).any():
        row = int(np.flatnonzero(codes < 0)[0])
        raise ValueError(
            f"{caller}: {name} has {truth[row : row + 1].tolist()[0]!r} in row {row}, which is "
            f"not among classes={known.tolist()}."
        )
    return codes


def class_codes(y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Position of each label in ``classes``, -1 where it is not there."""
    if y.dtype == bool and classes.dtype != bool:
        y = y.astype(int)  # pandas tells True from 1; labels do not
    return pd.Index(classes).get_indexer(pd.Index(y))


def check_row_weight(sample_weight: ArrayLike | None, n_samples: int, caller: str) -> np.ndarray:
    """One weight a row, float64; ones if none are given."""
    if sample_weight is None:
        return np.ones(n_samples)
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (n_samples,):
        raise ValueError(
            f"{caller}: sample_weight must have the shape ({n_samples},), one weight per row; got "
            f"{weight.shape}."
        )
    if not np.isfinite(weight).all() or (weight < 0).any() or weight.sum() == 0:
        raise ValueError(
            f"{caller}: sample_weight must be finite, not negative, and not zero everywhere; got "
            f"values between {weight.min()} and {weight.max()}."
        )
    return weight
