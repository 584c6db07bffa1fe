"""Ordered classes from any scikit-learn classifier: one clone for every threshold."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from mmfuse.heads.base import HeadOutput
from mmfuse.heads.wrapped import WrappedModule, fit_estimator

__all__ = ["FrankHallModule", "decreasing_fit"]

_FLOOR = 1e-6  # as for wrapped classifiers: probability zero has no logarithm


class FrankHallModule(WrappedModule):
    """K - 1 clones of a classifier, each of ``P(y > k)``; their differences are the classes.

    After Frank and Hall (2001), "A simple approach to ordinal classification". There a difference
    can be negative, where the clones contradict each other; here their answers are first brought in
    order by the nearest decreasing sequence. A threshold with no training row on one side has no
    clone, and its answer is constant.
    """

    constant: Tensor

    def __init__(self, block_dims: dict[str, int], n_outputs: int, task: str) -> None:
        super().__init__(block_dims, n_outputs, task)
        # NaN where there is a clone
        unset = torch.full((n_outputs - 1,), torch.nan, dtype=torch.float64)
        self.register_buffer("constant", unset)

    def learn(self, model: BaseEstimator, X: np.ndarray, y: np.ndarray, weight: np.ndarray) -> None:
        """Fit a clone for every threshold that has rows on both sides."""
        self.estimators = {}
        for k in range(self.n_outputs - 1):
            above = (y > k).astype(np.int64)
            seen = above[weight > 0]
            self.constant[k] = torch.nan
            if seen.min() == seen.max():
                self.constant[k] = float(seen[0])
            else:
                self.estimators[f"above_{k}"] = fit_estimator(model, X, above, weight)
        if not self.estimators:  # one class only: the model says whether it allows NaN, no more
            self.estimators["unused"] = model

    def forward(self, blocks: dict[str, Tensor], presence: Tensor) -> HeadOutput:
        X = self.features(blocks, presence)
        above = np.empty((len(X), self.n_outputs - 1))
        for k, constant in enumerate(self.constant.tolist()):
            model = self.estimators.get(f"above_{k}")
            above[:, k] = constant if model is None else model.predict_proba(X)[:, 1]
        above = decreasing_fit(above)
        ends = np.ones((len(X), 1)), np.zeros((len(X), 1))
        proba = -np.diff(np.hstack([ends[0], above, ends[1]]), axis=1)
        scores = np.log(np.clip(proba, _FLOOR, 1.0))
        return HeadOutput(torch.as_tensor(scores, device=presence.device))


def decreasing_fit(values: np.ndarray) -> np.ndarray:
    """Nearest sequence that does not increase, for every row of ``values`` (n, T).

    Least squares, by the min-max formula of isotonic regression: the smallest, over starts up to k,
    of the largest mean from that start to an end at or after k.
    """
    total = np.cumsum(values, axis=1)
    found = np.full_like(values, np.inf)
    for i in range(values.shape[1]):
        before = total[:, i - 1 : i] if i else 0.0
        means = (total[:, i:] - before) / np.arange(1, values.shape[1] - i + 1)
        highest = np.maximum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
        found[:, i:] = np.minimum(found[:, i:], highest)
    return found
