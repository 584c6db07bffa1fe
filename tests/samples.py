"""Small tables with known truth that several test files share."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from mmfuse import ModalityTable


def two_views(
    n: int = 120, *, classes: int = 3, absent: float = 0.0, seed: int = 0
) -> tuple[ModalityTable, np.ndarray]:
    """Two informative numeric modalities; ``absent`` is the share of missing cells in each."""
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


def digit_halves() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Real handwritten digits, upper and lower half as two modalities."""
    X, y = load_digits(return_X_y=True)
    return {"upper": X[:600, :32], "lower": X[:600, 32:]}, y[:600]
