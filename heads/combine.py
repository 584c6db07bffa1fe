"""Decision rules that need little or no learning, and the table of all rules by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfuse.heads.combination import (
    Combination,
    GaussianEvidence,
    LogEvidence,
    PoolData,
    class_prior,
)
from mmfuse.heads.pool import GaussianPool, LogPool
from mmfuse.heads.quantile_pool import QuantileEvidence, QuantilePool
from mmfuse.heads.stack import Stack, ValueStack

__all__ = [
    "COMBINATIONS",
    "GaussianBest",
    "GaussianProduct",
    "LogBest",
    "LogProduct",
    "Mean",
    "QuantileBest",
    "QuantileMean",
    "QuantileProduct",
    "ValueMean",
    "Vote",
]

_TIE = 1e-6  # part of its vote that a modality spreads by its probabilities: it decides ties
_LEAST_VOTE = 0.01  # of a modality that is no better than chance
_ABSENT_LOSS = np.inf  # of a modality that was never held out: it is asked last


class _Product(Combination):
    """Every modality that is present counts in full."""

    def shares(self, presence: Tensor) -> Tensor:
        return presence.double()


class LogProduct(_Product, LogEvidence):
    """Product of the probabilities with the prior counted once: naive Bayes.

    The sum over the present modalities of ``log p_m - log prior``, plus the log prior.
    """


class GaussianProduct(_Product, GaussianEvidence):
    """Product of the Gaussians with the prior counted once: a mean weighted by precision."""


class QuantileProduct(_Product, QuantileEvidence):
    """Precisions and medians as in `GaussianProduct`, for each row by its own spreads."""


class _Best(Combination):
    """The present modality with the lowest out-of-fold loss counts, no other.

    The loss of a modality is a mean over the rows that have it; equal losses go by order.
    """

    loss: Tensor

    def __init__(self, n_modalities: int, n_outputs: int) -> None:
        super().__init__(n_modalities, n_outputs)
        self.register_buffer("loss", torch.full((n_modalities,), _ABSENT_LOSS).double())

    def learn_shares(self, data: PoolData, modality_dropout: float) -> None:
        weight = torch.where(data.presence, data.weight[:, None], 0.0)
        loss = torch.where(data.presence, self.expert_loss(data), 0.0)
        total = weight.sum(dim=0)
        mean = (weight * loss).sum(dim=0) / total.clamp(min=1e-300)
        self.loss.copy_(torch.where(total > 0, mean, _ABSENT_LOSS))

    def shares(self, presence: Tensor) -> Tensor:
        order = torch.sort(self.loss, stable=True).indices
        place = presence[:, order].int().argmax(dim=1)  # the first that is present
        chosen = torch.nn.functional.one_hot(order[place], self.n_modalities)
        return (chosen * presence).double()

    def describe(self, names: list[str]) -> dict[str, Any]:
        losses = [loss if np.isfinite(loss) else None for loss in self.loss.tolist()]
        return {"loss": dict(zip(names, losses, strict=True))}


class LogBest(_Best, LogEvidence):
    """The one modality with the lowest out-of-fold log loss among those present."""


class GaussianBest(_Best, GaussianEvidence):
    """The one modality with the lowest out-of-fold squared error among those present."""


class QuantileBest(_Best, QuantileEvidence):
    """The one modality with the lowest out-of-fold pinball loss among those present."""


class _ClassRule(Combination):
    """Rules on probabilities; a row with nothing present gets the prior."""

    log_prior: Tensor

    def __init__(self, n_modalities: int, n_outputs: int) -> None:
        super().__init__(n_modalities, n_outputs)
        equal = torch.full((n_outputs,), -np.log(n_outputs), dtype=torch.float64)
        self.register_buffer("log_prior", equal)

    def fit(self, data: PoolData, modality_dropout: float) -> None:
        usable = data.usable()
        data = usable if len(usable.weight) else data
        self.log_prior.copy_(class_prior(data, self.n_outputs).log())


class Mean(_ClassRule):
    """Mean of the probabilities of the modalities that are present."""

    def forward(self, expert: Tensor, presence: Tensor) -> Tensor:
        count = presence.sum(dim=1, keepdim=True)
        heard = torch.where(presence[..., None], expert, -torch.inf)
        mean = torch.logsumexp(heard, dim=1) - count.clamp(min=1).log()
        return torch.where(count > 0, mean, self.log_prior)


class ValueMean(Combination):
    """Mean of the predictions of the modalities that are present; 0, the prior's, of none."""

    def fit(self, data: PoolData, modality_dropout: float) -> None:
        """Nothing is learned."""

    def forward(self, expert: Tensor, presence: Tensor) -> Tensor:
        total = torch.where(presence[..., None], expert, 0.0).sum(dim=1)
        return total / presence.sum(dim=1, keepdim=True).clamp(min=1)


class QuantileMean(QuantileEvidence):
    """Mean of the quantiles of each level (Vincent's average); the prior's where nothing is."""

    def forward(self, expert: Tensor, presence: Tensor) -> Tensor:
        heard = torch.where(presence[..., None], expert.sort(dim=-1).values, 0.0)
        mean = heard.sum(dim=1) / presence.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.where(presence.any(dim=1, keepdim=True), mean, self.prior)


class Vote(_ClassRule):
    """Weighted vote: every present modality votes for its most probable class.

    The weight of a modality is the log odds of its out-of-fold accuracy against chance,
    ``log(acc (K - 1) / (1 - acc))``, which is optimal for independent voters whose errors are
    spread evenly; acc is smoothed by one row of every class, and no weight is below a hundredth.
    Weights are scaled to a mean of 1. Of two modalities the heavier one always wins: a vote is for
    three or more.

    The probability of a class is its share of the votes, after one more vote that is split evenly
    between the classes. A millionth of every vote is spread by the voter's own probabilities, so
    that a tie goes to the class which is more probable on average (then to the first in order).

    References
    ----------
    Nitzan and Paroush (1982), "Optimal decision rules in uncertain dichotomous choice situations";
    Kuncheva (2004), "Combining pattern classifiers", for several classes. Smoothing and ties are
    ours.
    """

    weight: Tensor

    def __init__(self, n_modalities: int, n_outputs: int) -> None:
        super().__init__(n_modalities, n_outputs)
        self.register_buffer("weight", torch.ones(n_modalities, dtype=torch.float64))

    def fit(self, data: PoolData, modality_dropout: float) -> None:
        super().fit(data, modality_dropout)
        data, k = data.usable(), self.n_outputs
        count = torch.where(data.presence, data.weight[:, None], 0.0)
        right = data.expert.argmax(dim=2) == data.target[:, None]
        accuracy = ((count * right).sum(dim=0) + 1) / (count.sum(dim=0) + k)
        odds = (accuracy * (k - 1) / (1 - accuracy).clamp(min=1e-12)).log().clamp(min=_LEAST_VOTE)
        self.weight.copy_(odds / odds.mean())

    def forward(self, expert: Tensor, presence: Tensor) -> Tensor:
        vote = torch.nn.functional.one_hot(expert.argmax(dim=2), self.n_outputs).double()
        vote = torch.lerp(vote, expert.exp(), _TIE)
        weight = torch.where(presence, self.weight, 0.0)
        heard = torch.where(presence[..., None], vote, 0.0)
        votes = (weight[..., None] * heard).sum(dim=1) + 1 / self.n_outputs
        log_share = votes.log() - (weight.sum(dim=1, keepdim=True) + 1).log()
        return torch.where(presence.any(dim=1, keepdim=True), log_share, self.log_prior)

    def describe(self, names: list[str]) -> dict[str, Any]:
        return {"weight": dict(zip(names, self.weight.tolist(), strict=True))}


COMBINATIONS: dict[str, dict[str, type[Combination]]] = {
    "classification": {
        "log-pool": LogPool,
        "stack": Stack,
        "product": LogProduct,
        "mean": Mean,
        "vote": Vote,
        "best": LogBest,
    },
    "regression": {
        "log-pool": GaussianPool,
        "stack": ValueStack,
        "product": GaussianProduct,
        "mean": ValueMean,
        "best": GaussianBest,
    },
    "quantiles": {
        "log-pool": QuantilePool,
        "product": QuantileProduct,
        "mean": QuantileMean,
        "best": QuantileBest,
    },
}
COMBINATIONS["ordinal"] = COMBINATIONS["classification"]
"""The rule that a task and the argument ``combine`` name."""
