"""Small tables with known truth that several test files share."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from mmfuse.testing import two_views

__all__ = ["digit_halves", "two_views"]


def digit_halves() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Real handwritten digits, upper and lower half as two modalities."""
    X, y = load_digits(return_X_y=True)
    return {"upper": X[:600, :32], "lower": X[:600, 32:]}, y[:600]
