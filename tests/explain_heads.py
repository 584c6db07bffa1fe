"""A table and hand-made heads with known games, for the tests of explanations."""

from __future__ import annotations

import numpy as np
import torch

from mmfuse.heads.base import BaseHead, FitResult, FusionModule, HeadOutput

MANY = 60


def table(n=MANY, seed=0, gaps=True):
    """Three modalities; a and b tell the class, c nothing; some cells absent."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    X = {
        "a": np.eye(3)[y] + 0.7 * rng.normal(size=(n, 3)),
        "b": y[:, None] + rng.normal(size=(n, 2)),
        "c": rng.normal(size=(n, 2)),
    }
    if gaps:
        for m, name in enumerate(X):
            X[name][rng.random(n) < 0.15 + 0.05 * m] = np.nan
        for name in X:  # a row with nothing, one with all
            X[name][0] = np.nan
    return X, y


class GameModule(FusionModule):
    """First column of every block, summed where present, and a product of the first two.

    The last modality never matters. With ``jump`` the sum is rounded, so that gradients vanish.
    """

    def __init__(self, block_dims, n_outputs, task, jump=False):
        super().__init__(block_dims, n_outputs, task)
        self.jump = jump

    def forward(self, blocks, presence):
        columns = [
            torch.where(presence[:, m], blocks[name][:, 0], 0.0)
            for m, name in enumerate(self.block_dims)
        ]
        total = sum(columns[:-1]) + 2.0 * columns[0] * columns[1]
        total = total + presence[:, 0] * presence[:, 1] * 0.5
        if self.jump:
            total = torch.round(total)
        slopes = torch.arange(1, self.n_outputs + 1, dtype=total.dtype)
        return HeadOutput(total[:, None] * slopes)


class GameHead(BaseHead):
    """Learns nothing."""

    def __init__(self, jump=False):
        self.jump = jump

    def build(self, block_dims, n_outputs, task):
        return GameModule(block_dims, n_outputs, task, self.jump)

    def fit_module(self, data):
        module = self.make_module(data.dims, data.n_outputs, data.task)
        return FitResult(module.eval(), None, {})
