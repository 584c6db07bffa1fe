"""The cumulative link model of ordered classes: probabilities from one latent score.

``P(y > k) = sigmoid(latent - threshold_k)`` with K - 1 increasing thresholds: the proportional-odds
model of McCullagh (1980), "Regression models for ordinal data".
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ["class_thresholds", "log_probabilities", "uniform_thresholds"]


def log_probabilities(latent: Tensor, threshold: Tensor) -> Tensor:
    """Log probability of every class, exact also far out in the tails.

    Parameters
    ----------
    latent : Tensor of shape (...)
    threshold : Tensor of shape (..., K - 1)
        Increasing along the last axis; the other axes broadcast against ``latent``.

    Returns
    -------
    Tensor of shape (..., K)
    """
    above = latent[..., None] - threshold  # log odds of P(y > k)
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), so that nothing cancels
    between = torch.log(-torch.expm1(-threshold.diff(dim=-1)))
    inner = logsigmoid(above[..., :-1]) + logsigmoid(-above[..., 1:]) + between
    return torch.cat([logsigmoid(-above[..., :1]), inner, logsigmoid(above[..., -1:])], dim=-1)


def uniform_thresholds(n_classes: int) -> Tensor:
    """Thresholds (K - 1,) that make all classes equally likely at a latent score of zero."""
    share = torch.arange(1, n_classes, dtype=torch.float64) / n_classes
    return torch.logit(share)


def class_thresholds(total: Tensor) -> Tensor:
    """Thresholds (..., K - 1) at which a latent score of zero gives the classes' shares.

    Parameters
    ----------
    total : Tensor of shape (..., K)
        Positive weight of every class.
    """
    share = total / total.sum(dim=-1, keepdim=True)
    below = share.cumsum(dim=-1)[..., :-1]
    above = share.flip(-1).cumsum(dim=-1).flip(-1)[..., 1:]
    return below.log() - above.log()
