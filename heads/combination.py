"""The contract of a decision rule: answers of several modalities into one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmfuse.heads.base import HeadOutput
from mmfuse.objectives import Objective
from mmfuse.splits import folds_within

__all__ = ["Combination", "GaussianEvidence", "LogEvidence", "PoolData", "class_prior"]


@dataclass(frozen=True)
class PoolData:
    """What a combination learns from.

    Attributes
    ----------
    expert : Tensor of shape (n, M, K)
        Out-of-fold log probabilities, standardised predictions, or quantiles; any value where
        absent.
    presence : Tensor of shape (n, M), bool
    target : Tensor of shape (n,) or (n, K)
    weight : Tensor of shape (n,)
    folds : list of (train, test)
        Row numbers, for rules that choose something by cross-validation; may be empty.
    """

    expert: Tensor
    presence: Tensor
    target: Tensor
    weight: Tensor
    folds: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def take(self, rows: Tensor) -> PoolData:
        """The same data on the rows of a boolean mask."""
        return PoolData(
            self.expert[rows],
            self.presence[rows],
            self.target[rows],
            self.weight[rows],
            folds_within(self.folds, rows.cpu().numpy().nonzero()[0], len(rows)),
        )

    def usable(self) -> PoolData:
        """The rows that count and have something present."""
        return self.take(self.presence.any(dim=1) & (self.weight > 0))


class Combination(nn.Module):
    """Base of the rules that `LateFusion` names with ``combine``.

    A rule answers for any subset of the modalities. What it learned is in parameters and buffers,
    so that it is saved with the module; their shapes follow from the arguments.

    Parameters
    ----------
    n_modalities : int
    n_outputs : int
        Classes, values or quantiles of a row.
    """

    def __init__(self, n_modalities: int, n_outputs: int) -> None:
        super().__init__()
        self.n_modalities = n_modalities
        self.n_outputs = n_outputs

    def learn(self, objective: Objective) -> None:
        """Take from the objective what the rule must know, before ``fit``; most need nothing."""

    def fit(self, data: PoolData, modality_dropout: float) -> None:
        """Learn from out-of-fold answers; with no row at all the rule stays as it was made."""
        raise NotImplementedError(f"{type(self).__name__} does not define fit")

    def adopt(self, other: Combination) -> None:
        """Take over what ``other`` chose by cross-validation; called before ``fit`` of a fold."""

    def forward(self, expert: Tensor, presence: Tensor) -> Tensor:
        """Scores (n, K) from the modalities' answers (n, M, K), not reading what is absent."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def output(self, expert: Tensor, presence: Tensor) -> HeadOutput:
        """Scores and whatever else the rule can say."""
        return HeadOutput(self(expert, presence))

    def describe(self, names: list[str]) -> dict[str, Any]:
        """What was learned, by name of the modality; ready for JSON."""
        return {}


class _SharesRule(Combination):
    """Rules that weigh evidence: a subclass says what evidence is, another how much each counts."""

    def fit(self, data: PoolData, modality_dropout: float) -> None:
        self.set_prior(data)
        data = data.usable()
        if len(data.weight):
            self.set_prior(data)
            self.start_from(data)
            self.learn_shares(data, modality_dropout)

    def set_prior(self, data: PoolData) -> None:
        """Take the distribution of the target."""
        raise NotImplementedError(f"{type(self).__name__} does not define set_prior")

    def start_from(self, data: PoolData) -> None:
        """Take from the experts' out-of-fold errors what evidence needs."""

    def learn_shares(self, data: PoolData, modality_dropout: float) -> None:
        """Learn what ``shares`` needs, from usable rows."""

    def shares(self, presence: Tensor) -> Tensor:
        """Weight of every modality in every row (n, M), zero where absent."""
        raise NotImplementedError(f"{type(self).__name__} does not define shares")


class LogEvidence(_SharesRule):
    """Log prior plus weighted evidence, which is ``log p_m - log prior`` of a modality."""

    log_prior: Tensor

    def __init__(self, n_modalities: int, n_outputs: int) -> None:
        super().__init__(n_modalities, n_outputs)
        self.register_buffer(
            "log_prior", torch.full((n_outputs,), -np.log(n_outputs), dtype=torch.float64)
        )

    def evidence(self, expert: Tensor, presence: Tensor) -> Tensor:
        """Weighted evidence (n, M, K); with the log prior it sums to the scores."""
        plain = torch.where(presence[..., None], expert - self.log_prior, 0.0)
        return self.shares(presence)[..., None] * plain

    def forward(self, expert: Tensor, presence: Tensor) -> Tensor:
        return self.log_prior + self.evidence(expert, presence).sum(dim=1)

    def output(self, expert: Tensor, presence: Tensor) -> HeadOutput:
        evidence = self.evidence(expert, presence)
        return HeadOutput(self.log_prior + evidence.sum(dim=1), {"evidence": evidence})

    def row_loss(self, data: PoolData, presence: Tensor) -> Tensor:
        scores = self(data.expert, presence)
        return nn.functional.cross_entropy(scores, data.target, reduction="none")

    @torch.no_grad()
    def set_prior(self, data: PoolData) -> None:
        self.log_prior.copy_(class_prior(data, self.n_outputs).log())

    def expert_loss(self, data: PoolData) -> Tensor:
        """Log loss (n, M) of every modality by itself."""
        place = data.target[:, None, None].expand(*data.presence.shape, 1)
        return -data.expert.gather(2, place)[..., 0]


class GaussianEvidence(_SharesRule):
    """The same on log densities, every modality being a Gaussian around its own prediction."""

    variance: Tensor
    prior_mean: Tensor
    prior_variance: Tensor

    def __init__(self, n_modalities: int, n_outputs: int) -> None:
        super().__init__(n_modalities, n_outputs)
        shape = (n_modalities, n_outputs)
        self.register_buffer("variance", torch.full(shape, 0.5, dtype=torch.float64))
        self.register_buffer("prior_mean", torch.zeros(n_outputs, dtype=torch.float64))
        self.register_buffer("prior_variance", torch.ones(n_outputs, dtype=torch.float64))

    def moments(self, expert: Tensor, presence: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (n, K) of the pooled Gaussian."""
        prior = 1.0 / self.prior_variance
        gain = 1.0 / self.variance - prior
        shift = torch.where(
            presence[..., None], expert / self.variance - self.prior_mean * prior, 0.0
        )
        shares = self.shares(presence)[..., None]
        precision = prior + (shares * gain).sum(dim=1)
        mean = (self.prior_mean * prior + (shares * shift).sum(dim=1)) / precision
        return mean, 1.0 / precision

    def forward(self, expert: Tensor, presence: Tensor) -> Tensor:
        return self.moments(expert, presence)[0]

    def output(self, expert: Tensor, presence: Tensor) -> HeadOutput:
        mean, variance = self.moments(expert, presence)
        return HeadOutput(mean, {"variance": variance})

    def row_loss(self, data: PoolData, presence: Tensor) -> Tensor:
        mean, variance = self.moments(data.expert, presence)
        return 0.5 * ((data.target - mean).square() / variance + variance.log()).sum(dim=1)

    @torch.no_grad()
    def set_prior(self, data: PoolData) -> None:
        w = (data.weight / data.weight.sum())[:, None]
        self.prior_mean.copy_((w * data.target).sum(0))
        spread = (w * (data.target - self.prior_mean).square()).sum(0)
        self.prior_variance.copy_(spread.clamp(min=1e-12))

    @torch.no_grad()
    def start_from(self, data: PoolData) -> None:
        """Variance of every expert from its out-of-fold errors, never above the prior's."""
        error = (data.target[:, None] - data.expert).square()
        w = torch.where(data.presence, data.weight[:, None], 0.0)[..., None]
        error = torch.where(data.presence[..., None], error, 0.0)
        variance = (w * error).sum(0) / w.sum(0).clamp(min=1e-12)
        low, high = 1e-6 * self.prior_variance, 0.999 * self.prior_variance
        self.variance.copy_(torch.minimum(torch.maximum(variance, low), high))

    def expert_loss(self, data: PoolData) -> Tensor:
        """Squared error (n, M) of every modality by itself, summed over values."""
        return (data.target[:, None] - data.expert).square().sum(dim=2)


def class_prior(data: PoolData, n_outputs: int) -> Tensor:
    """Weighted share (K,) of every class, none of them zero."""
    total = torch.zeros(n_outputs, dtype=torch.float64, device=data.weight.device)
    total = total.index_add_(0, data.target, data.weight) + 1e-3
    return total / total.sum()
