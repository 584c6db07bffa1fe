"""Log-linear pooling: evidence of several modalities into one answer, whatever is present.

For classification the evidence of modality m for class k is ``log p_m(k) - log prior(k)``. The
pool is::

    log p(k) = log prior(k) + size(S) * sum_{m in S} v_m evidence_m(k) + constant
    v_m      = w_m / sum_{j in S} w_j                      (renormalised over what is present)
    size(S)  = (effective number of modalities in S) ** independence

The effective number is the exponential of the entropy of v. With independence 0 the pool is the
geometric mean (all modalities say the same thing), with independence 1 and equal weights it is
naive Bayes (each says something new). A row with one modality gets exactly what that modality says.

Quantiles have a pool of their own, in `mmfuse.heads.quantile_pool`.

For regression every modality is a Gaussian around its own prediction, and the same pool of the
log densities is a mean weighted by precision, the training distribution being the prior.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from mmfuse.objectives import Objective
from mmfuse.patterns import dropout_masks

__all__ = ["GaussianPool", "LogPool", "PoolData", "fit_pool"]

_PRIOR_STRENGTH = 0.05  # pulls weights to equal and independence to one half when rows are few


@dataclass(frozen=True)
class PoolData:
    """What the pool learns from.

    Attributes
    ----------
    expert : Tensor of shape (n, M, K)
        Out-of-fold log probabilities, or standardised predictions; any value where absent.
    presence : Tensor of shape (n, M), bool
    target : Tensor of shape (n,) or (n, K)
    weight : Tensor of shape (n,)
    """

    expert: Tensor
    presence: Tensor
    target: Tensor
    weight: Tensor

    def take(self, rows: Tensor) -> PoolData:
        return PoolData(
            self.expert[rows], self.presence[rows], self.target[rows], self.weight[rows]
        )


class _Pool(nn.Module):
    """Weights and independence; both are free numbers inside."""

    def __init__(self, n_modalities: int) -> None:
        super().__init__()
        self.raw_weight = nn.Parameter(torch.zeros(n_modalities, dtype=torch.float64))
        self.raw_independence = nn.Parameter(torch.zeros((), dtype=torch.float64))

    @property
    def weight(self) -> Tensor:
        """Weights of the modalities (M,), summing to one."""
        return torch.softmax(self.raw_weight, dim=0)

    @property
    def independence(self) -> Tensor:
        """Between 0 (redundant) and 1 (independent)."""
        return torch.sigmoid(self.raw_independence)

    def learn(self, objective: Objective) -> None:
        """Take from the objective what the pool must know; most need nothing."""

    def shares(self, presence: Tensor) -> Tensor:
        """Weight of every modality in every row (n, M): size(S) times v; zero where absent."""
        w = self.weight * presence
        v = w / w.sum(dim=1, keepdim=True).clamp(min=1e-300)
        entropy = -(v * v.clamp(min=1e-300).log()).sum(dim=1, keepdim=True)
        return v * (entropy * self.independence).exp()


class LogPool(_Pool):
    """Pool of log probabilities."""

    def __init__(self, n_modalities: int, n_outputs: int) -> None:
        super().__init__(n_modalities)
        self.register_buffer(
            "log_prior", torch.full((n_outputs,), -np.log(n_outputs), dtype=torch.float64)
        )

    def evidence(self, expert: Tensor, presence: Tensor) -> Tensor:
        """Weighted evidence (n, M, K); with the log prior it sums to the scores."""
        plain = torch.where(presence[..., None], expert - self.log_prior, 0.0)
        return self.shares(presence)[..., None] * plain

    def forward(self, expert: Tensor, presence: Tensor) -> Tensor:
        return self.log_prior + self.evidence(expert, presence).sum(dim=1)

    def row_loss(self, data: PoolData, presence: Tensor) -> Tensor:
        scores = self(data.expert, presence)
        return nn.functional.cross_entropy(scores, data.target, reduction="none")

    @torch.no_grad()
    def set_prior(self, data: PoolData) -> None:
        total = torch.zeros_like(self.log_prior).index_add_(0, data.target, data.weight)
        self.log_prior.copy_(((total + 1e-3) / (total + 1e-3).sum()).log())

    def start_from(self, data: PoolData) -> None:
        """Nothing to set from the experts: they carry their own confidence."""


class GaussianPool(_Pool):
    """Pool of Gaussian predictions of a standardised target."""

    def __init__(self, n_modalities: int, n_outputs: int) -> None:
        super().__init__(n_modalities)
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


def fit_pool(pool: LogPool | GaussianPool, data: PoolData, modality_dropout: float) -> None:
    """Learn weights and independence by maximum likelihood, with modality dropout.

    Parameters
    ----------
    pool : LogPool or GaussianPool
        Changed in place.
    data : PoolData
        Out-of-fold predictions; rows with nothing present are left out.
    modality_dropout : float
        Chance that a modality is hidden.
    """
    data = data.take(data.presence.any(dim=1) & (data.weight > 0))
    if len(data.weight) == 0:
        return
    pool.set_prior(data)
    pool.start_from(data)
    if data.presence.shape[1] == 1:
        return
    masks, chances = dropout_masks(data.presence, modality_dropout)
    parameters = [pool.raw_weight, pool.raw_independence]

    def function(theta: np.ndarray) -> tuple[float, np.ndarray]:
        _assign(pool, theta)
        pool.zero_grad()
        loss = _PRIOR_STRENGTH * sum(p.square().sum() for p in parameters)
        for mask, chance in zip(masks.unbind(dim=1), chances, strict=True):
            loss = loss + chance * (data.weight * pool.row_loss(data, mask)).sum()
        loss.backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in parameters])
        return float(loss.detach()), gradient.cpu().numpy()

    start = np.zeros(pool.raw_weight.numel() + 1)
    bounds = [(-8.0, 8.0)] * len(start)
    with torch.enable_grad():
        best = minimize(function, start, jac=True, method="L-BFGS-B", bounds=bounds)
    _assign(pool, best.x)


@torch.no_grad()
def _assign(pool: _Pool, theta: np.ndarray) -> None:
    values = torch.as_tensor(theta, device=pool.raw_weight.device)
    pool.raw_weight.copy_(values[:-1])
    pool.raw_independence.copy_(values[-1])
