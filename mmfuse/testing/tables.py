"""Small tables with known truth."""

from __future__ import annotations

import numpy as np

from mmfuse.table import ModalityTable

__all__ = ["two_values", "two_views"]


def two_views(
    n: int = 120, *, classes: int = 3, absent: float = 0.0, seed: int = 0
) -> tuple[ModalityTable, np.ndarray]:
    """Two informative numeric modalities, "a" with a column per class, "b" with two of noise.

    Parameters
    ----------
    n : int
    classes : int
    absent : float
        Share of missing cells in each modality; no row loses both.
    seed : int

    Returns
    -------
    X : ModalityTable of n rows
    y : ndarray of shape (n,)

    Examples
    --------
    >>> from mmfuse.testing import two_views
    >>> X, y = two_views(30)
    >>> X.modalities, X["a"].shape, int(y.max())
    (('a', 'b'), (30, 3), 2)
    """
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    rng.shuffle(y)
    centre = np.eye(classes)[y]
    a = rng.normal(1.5 * centre, 1.0)
    b = np.hstack([rng.normal(1.5 * centre, 1.0), rng.normal(size=(n, 2))])
    gone = rng.random((n, 2)) < absent
    gone[gone.all(axis=1)] = False
    a[gone[:, 0]], b[gone[:, 1]] = np.nan, np.nan
    return ModalityTable({"a": a, "b": b}), y


def two_values(n: int = 400, *, seed: int = 0) -> tuple[ModalityTable, np.ndarray]:
    """Two numeric modalities that each hold half of the variance of a value, and little noise.

    Returns
    -------
    X : ModalityTable of n rows, "a" with 3 columns and "b" with 2
    y : ndarray of shape (n,)
    """
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, 3)), rng.normal(size=(n, 2))
    y = 10 + 2 * a[:, 0] + 2 * b[:, 0] + 0.3 * rng.normal(size=n)
    return ModalityTable({"a": a, "b": b}), y
