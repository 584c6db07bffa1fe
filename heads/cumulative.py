"""Ordered classes from one score: thresholds around any module."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmfuse.cumulative import class_thresholds, log_probabilities, uniform_thresholds
from mmfuse.heads.base import FusionModule, HeadOutput
from mmfuse.solver.ordinal import OrdinalSolution

__all__ = ["CumulativeModule", "module_for"]

_SPEED = 10.0  # thresholds move so many times as fast as weights, else training waits for them
_LEAST_GAP = 1e-9  # else a gap can be lost in the rounding of the sum

Make = Callable[[dict[str, int], int, str], FusionModule]


def module_for(make: Make, block_dims: dict[str, int], n_outputs: int, task: str) -> FusionModule:
    """What ``make`` builds for a task; for ordered classes, thresholds around a single score.

    Parameters
    ----------
    make : callable (block_dims, n_outputs, task) -> FusionModule
        Knows every task but ``"ordinal"``.
    block_dims : dict of str to int
    n_outputs : int
    task : {"classification", "ordinal", "regression", "quantiles", "mixture"}
    """
    if task != "ordinal":
        return make(block_dims, n_outputs, task)
    return CumulativeModule(make(block_dims, 1, "regression"), n_outputs)


class CumulativeModule(FusionModule):
    """Log probabilities of K ordered classes from the one score of another module.

    The thresholds are free numbers inside: the first, and the gaps through a softplus, so that they
    stay in order under gradient descent.

    Parameters
    ----------
    inner : FusionModule
        One score a row.
    n_outputs : int
        K.
    """

    def __init__(self, inner: FusionModule, n_outputs: int) -> None:
        super().__init__(inner.block_dims, n_outputs, "ordinal")
        self.inner = inner
        self.raw_threshold = nn.Parameter(torch.zeros(n_outputs - 1, dtype=torch.float64))
        self.set_threshold(uniform_thresholds(n_outputs))

    @property
    def threshold(self) -> Tensor:
        """Increasing thresholds (K - 1,)."""
        raw = _SPEED * self.raw_threshold
        gap = nn.functional.softplus(raw[1:]) + _LEAST_GAP
        return torch.cat([raw[:1], gap]).cumsum(dim=0)

    @torch.no_grad()
    def set_threshold(self, threshold: Tensor) -> None:
        """Take increasing thresholds (K - 1,)."""
        gap = (threshold.diff() - _LEAST_GAP).clamp(min=1e-12)
        raw = gap + torch.log(-torch.expm1(-gap))  # the inverse of the softplus
        self.raw_threshold.copy_(torch.cat([threshold[:1], raw]) / _SPEED)

    def start(self, target: Tensor, weight: Tensor) -> None:
        """Thresholds that give the classes their weighted shares at a score of zero."""
        total = torch.zeros(self.n_outputs, dtype=torch.float64, device=weight.device)
        total.index_add_(0, target, weight.double())
        self.set_threshold(class_thresholds(total + 1e-3 * weight.double().sum() / len(total)))

    def forward(self, blocks: dict[str, Tensor], presence: Tensor) -> HeadOutput:
        """Scores are log probabilities; extras hold the one score, ``latent`` (n,)."""
        output = self.inner(blocks, presence)
        latent = output.scores[:, 0].double()
        log_p = log_probabilities(latent, self.threshold)
        return HeadOutput(log_p, {**output.extras, "latent": latent})

    def assign(self, solution: OrdinalSolution, problem: int) -> CumulativeModule:
        """Take the coefficients and thresholds of one solved problem."""
        self.inner.assign(solution, problem)
        self.set_threshold(solution.threshold[problem])
        return self
