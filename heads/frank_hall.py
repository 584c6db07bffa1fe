"""Ordered classes from any scikit-learn classifier: one clone for every threshold."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from mmfuse.heads.base import HeadOutput
from mmfuse.heads.wrapped import WrappedModule, fit_estimator

__all__ = ["FrankHallModule"]

_EVEN = 0.01  # share of the probability that all classes get alike, so that none is ever at zero


class FrankHallModule(WrappedModule):
    """K - 1 clones of a classifier, each of ``P(y > k)``; their differences are the classes.

    After Frank and Hall (2001), "A simple approach to ordinal classification". There a difference
    can be negative, where the clones contradict each other; here their answers in a row are first
    sorted, which never takes them farther from a decreasing truth (Chernozhukov, Fernandez-Val and
    Galichon 2009, "Improving point and interval estimators of monotone functions by
    rearrangement"). Trees are often certain of both neighbours of a class, so a hundredth of the
    probability is spread evenly. A threshold with no training row on one side has no clone, and
    its answer is constant.
    """

    constant: Tensor

    def __init__(self, block_dims: dict[str, int], n_outputs: int, task: str) -> None:
        super().__init__(block_dims, n_outputs, task)
        # NaN where there is a clone
        unset = torch.full((n_outputs - 1,), torch.nan, dtype=torch.float64)
        self.register_buffer("constant", unset)

    @property
    def keys(self) -> list[str]:
        """Names of the clones, in the order of the thresholds."""
        return [f"above_{k}" for k in range(self.n_outputs - 1)]

    def learn_part(
        self, part: int, model: BaseEstimator, X: np.ndarray, y: np.ndarray, weight: np.ndarray
    ) -> BaseEstimator | None:
        """The clone of a threshold, if that has rows on both sides."""
        above = (y > part).astype(np.int64)
        seen = above[weight > 0]
        self.constant[part] = torch.nan
        if seen.min() == seen.max():
            self.constant[part] = float(seen[0])
            return None
        return fit_estimator(model, X, above, weight)

    def forward(self, blocks: dict[str, Tensor], presence: Tensor) -> HeadOutput:
        X = self.features(blocks, presence)
        above = np.empty((len(X), self.n_outputs - 1))
        for k, (key, constant) in enumerate(zip(self.keys, self.constant.tolist(), strict=True)):
            model = self.estimators.get(key)
            above[:, k] = constant if model is None else model.predict_proba(X)[:, 1]
        below = np.sort(1 - above, axis=1)
        proba = np.diff(below, axis=1, prepend=0.0, append=1.0)
        scores = np.log((1 - _EVEN) * proba + _EVEN / self.n_outputs)
        return HeadOutput(torch.as_tensor(scores, device=presence.device))
