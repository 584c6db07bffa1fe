"""A mixture of normal distributions as an objective: what its scores mean, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mmfuse.objectives import Objective

__all__ = ["GaussianMixture"]

_LOG_2PI = math.log(2 * math.pi)
_PULL = 1e-3  # of scores towards zero: it holds components that explain no row
_REACH = 3.0  # log scales stay within this of where they start: a factor of 20


class GaussianMixture(Objective):
    """Negative log likelihood of one value (n, 1) under a mixture of K normal distributions.

    The scores are K logits of the weights, K shifts of the means and K log scales. All zero, they
    are equal weights around the given means with the given scale, so that a head that starts near
    zero, or is drawn to zero by a penalty, starts from the distribution of the target. The log
    scale is bounded smoothly to 3 on either side of the start, so no component can collapse on a
    row.

    Parameters
    ----------
    means : sequence of float
        Where the components start, in the scale of the standardised target.
    scale : float
        Standard deviation at the start.
    """

    task = "mixture"
    convex = False
    blends = False
    name = "output='mixture'"

    def __init__(self, means: Sequence[float], scale: float) -> None:
        self.means = tuple(float(mean) for mean in means)
        self.scale = float(scale)
        self.n_outputs = 3 * len(self.means)

    def components(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights, means and log scales, each (..., K), of scores (..., 3 K)."""
        logits, shift, stretch = scores.chunk(3, dim=-1)
        mean = torch.tensor(self.means).to(scores) + shift
        log_scale = math.log(self.scale) + _REACH * torch.tanh(stretch / _REACH)
        return torch.log_softmax(logits, dim=-1), mean, log_scale

    def row_loss(self, scores: Tensor, target: Tensor) -> Tensor:
        log_weight, mean, log_scale = self.components(scores)
        error = (target - mean) * torch.exp(-log_scale)
        log_density = log_weight - 0.5 * error.square() - log_scale
        pull = 0.5 * _PULL * scores.square().sum(dim=-1)
        return 0.5 * _LOG_2PI - torch.logsumexp(log_density, dim=-1) + pull

    def row_gradient(self, scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        log_weight, mean, log_scale = self.components(scores)
        precise = torch.exp(-log_scale)
        error = (target[:, None, :] - mean) * precise
        log_joint = log_weight - 0.5 * error.square() - log_scale
        total = torch.logsumexp(log_joint, dim=-1, keepdim=True)
        share = torch.exp(log_joint - total)  # of the components in the row
        flat = 1 - torch.tanh(scores.chunk(3, dim=-1)[2] / _REACH).square()
        gradient = torch.cat(
            [
                log_weight.exp() - share,
                -share * error * precise,
                share * (1 - error.square()) * flat,
            ],
            dim=-1,
        )
        loss = 0.5 * _LOG_2PI - total[..., 0] + 0.5 * _PULL * scores.square().sum(-1)
        return loss, gradient + _PULL * scores

    def bend(self, scores: Tensor) -> Tensor:
        """Curvature where every component explains its share of the rows: a scale, no bound."""
        log_weight, _, log_scale = self.components(scores)
        weight = log_weight.exp()
        flat = 1 - torch.tanh(scores.chunk(3, dim=-1)[2] / _REACH).square()
        parts = [weight * (1 - weight), weight * torch.exp(-2 * log_scale), 2 * weight * flat**2]
        return torch.cat(parts, dim=-1) + _PULL

    def target(self, target: Tensor) -> Tensor:
        return target.double()

    def estimator_settings(self) -> list[tuple[dict, ...]]:
        return []
