"""Pooling of quantiles: where several modalities place one value, whatever is present."""

from __future__ import annotations

import torch
from torch import Tensor

from mmfuse.heads.combination import PoolData, _SharesRule
from mmfuse.heads.pool import _Pool
from mmfuse.objectives import Objective, Pinball

__all__ = ["QuantileEvidence", "QuantilePool"]

_LEAST = 1e-3  # of the prior's spread: no expert is more certain
_REACH = 5.0  # the spread of a row stays within this factor of what is typical of its expert


class QuantileEvidence(_SharesRule):
    """Quantiles of a standardised target, joined by the shares that a subclass gives.

    An expert says a median, a spread (its outermost levels, against those of a standard normal),
    and a shape: its quantiles less the median, over the spread. Medians and spreads are pooled as
    `GaussianEvidence` pools means and standard deviations, with the spread of the row instead of a
    variance for all rows; shapes are averaged with the weights of what is present. So independent
    modalities can give a narrower answer than any of them, and a row with one modality gets exactly
    what that modality says.
    """

    def __init__(self, n_modalities: int, n_outputs: int) -> None:
        super().__init__(n_modalities, n_outputs)
        options = {"dtype": torch.float64}
        even = torch.arange(1, n_outputs + 1, **options) / (n_outputs + 1)
        self.register_buffer("levels", even)
        self.register_buffer("prior", torch.special.ndtri(even))
        self.register_buffer("prior_centre", torch.zeros((), **options))
        self.register_buffer("prior_spread", torch.ones((), **options))
        self.register_buffer("spread", torch.ones(n_modalities, **options))

    def learn(self, objective: Objective) -> None:
        self.levels.copy_(torch.tensor(objective.levels, dtype=torch.float64))

    def forward(self, expert: Tensor, presence: Tensor) -> Tensor:
        """Quantiles (n, L), not decreasing, from those of every expert (n, M, L)."""
        expert = torch.where(presence[..., None], expert, 0.0).sort(dim=-1).values
        centre, spread = self._centre_and_spread(expert)
        prior = self.prior_spread**-2
        shares = self.shares(presence)
        precise = torch.where(presence, spread**-2, 0.0)
        total = prior + (shares * torch.where(presence, precise - prior, 0.0)).sum(dim=1)
        weakest = torch.where(presence, precise, torch.inf).amin(dim=1)
        total = torch.maximum(total, torch.where(presence.any(dim=1), weakest, prior))
        shift = shares * precise * torch.where(presence, centre - self.prior_centre, 0.0)
        middle = self.prior_centre + shift.sum(dim=1) / total
        shape = expert - centre[..., None]
        share = shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-300)
        shape = (share[..., None] * shape / spread[..., None]).sum(dim=1)
        out = middle[:, None] + shape * total.rsqrt()[:, None]
        return torch.where(presence.any(dim=1, keepdim=True), out, self.prior)

    def row_loss(self, data: PoolData, presence: Tensor) -> Tensor:
        return Pinball(self.levels.tolist()).row_loss(self(data.expert, presence), data.target)

    def expert_loss(self, data: PoolData) -> Tensor:
        """Pinball loss (n, M) of every modality by itself, summed over levels."""
        loss = Pinball(self.levels.tolist()).row_loss
        single = [loss(quantiles, data.target) for quantiles in data.expert.unbind(dim=1)]
        return torch.stack(single, dim=1)

    def _centre_and_spread(self, expert: Tensor) -> tuple[Tensor, Tensor]:
        """Median and spread (n, M) of every expert."""
        centre = _middle(expert, self.levels)
        if len(self.levels) == 1:
            return centre, self.spread.expand(len(expert), -1)
        wide = expert[..., -1] - expert[..., 0]
        score = torch.special.ndtri(self.levels)
        typical = self.spread
        wide = torch.maximum(wide / (score[-1] - score[0]), typical / _REACH)
        return centre, torch.minimum(wide, typical * _REACH)

    @torch.no_grad()
    def set_prior(self, data: PoolData) -> None:
        """Quantiles, median and spread of the target."""
        value = data.target[:, 0]
        order = value.argsort()
        mass = data.weight[order].cumsum(0)
        wanted = torch.cat([self.levels, self.levels.new_tensor([0.5])]) * mass[-1] * (1 - 1e-12)
        found = value[order][torch.searchsorted(mass, wanted).clamp(max=len(value) - 1)]
        self.prior.copy_(found[:-1])
        self.prior_centre.copy_(found[-1])
        share = data.weight / data.weight.sum()
        size = (share * (value - found[-1]).abs()).sum() * 1.2533  # normal: deviation over mean
        self.prior_spread.copy_(size.clamp(min=1e-6))

    @torch.no_grad()
    def start_from(self, data: PoolData) -> None:
        """Typical spread of every expert: of its out-of-fold errors, not above the prior's."""
        error = (data.target - _middle(data.expert.sort(dim=-1).values, self.levels)).abs()
        error = torch.where(data.presence, error, 0.0)
        weight = torch.where(data.presence, data.weight[:, None], 0.0)
        size = (weight * error).sum(0) / weight.sum(0).clamp(min=1e-12) * 1.2533
        self.spread.copy_(size.clamp(_LEAST * self.prior_spread, 0.999 * self.prior_spread))


class QuantilePool(_Pool, QuantileEvidence):
    """The weights and the independence of `mmfuse.heads.pool`, learned by the pinball loss.

    The plain mean of the experts' quantiles (Vincent's average) is what this would be without the
    prior; it is never narrower than the narrowest expert.
    """


def _middle(quantiles: Tensor, levels: Tensor) -> Tensor:
    """The median, or what lies closest to it: by a line between the two levels around 0.5."""
    high = int((levels < 0.5).sum())
    if high in (0, len(levels)):
        return quantiles[..., min(high, len(levels) - 1)]
    low = high - 1
    part = (0.5 - levels[low]) / (levels[high] - levels[low])
    return quantiles[..., low] + part * (quantiles[..., high] - quantiles[..., low])
