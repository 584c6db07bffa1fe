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

from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from mmfuse.heads.combination import Combination, GaussianEvidence, LogEvidence, PoolData
from mmfuse.patterns import dropout_masks

__all__ = ["GaussianPool", "LogPool", "fit_pool"]

_PRIOR_STRENGTH = 0.05  # pulls weights to equal and independence to one half when rows are few


class _Pool(Combination):
    """Weights and independence; both are free numbers inside."""

    def __init__(self, n_modalities: int, n_outputs: int) -> None:
        super().__init__(n_modalities, n_outputs)
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

    def shares(self, presence: Tensor) -> Tensor:
        """Weight of every modality in every row (n, M): size(S) times v; zero where absent."""
        w = self.weight * presence
        v = w / w.sum(dim=1, keepdim=True).clamp(min=1e-300)
        entropy = -(v * v.clamp(min=1e-300).log()).sum(dim=1, keepdim=True)
        return v * (entropy * self.independence).exp()

    def learn_shares(self, data: PoolData, modality_dropout: float) -> None:
        fit_pool(self, data, modality_dropout)

    @torch.no_grad()
    def describe(self, names: list[str]) -> dict[str, Any]:
        return {
            "weight": dict(zip(names, self.weight.tolist(), strict=True)),
            "independence": float(self.independence),
        }


class LogPool(_Pool, LogEvidence):
    """Pool of log probabilities."""


class GaussianPool(_Pool, GaussianEvidence):
    """Pool of Gaussian predictions of a standardised target."""


def fit_pool(pool: _Pool, data: PoolData, modality_dropout: float) -> None:
    """Learn weights and independence by maximum likelihood, with modality dropout.

    Parameters
    ----------
    pool : LogPool, GaussianPool or QuantilePool
        Changed in place.
    data : PoolData
        Out-of-fold predictions; rows with nothing present are left out.
    modality_dropout : float
        Chance that a modality is hidden.
    """
    data = data.usable()
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
