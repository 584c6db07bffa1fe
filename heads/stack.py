"""Stacking: a linear model over what the modalities say, with a token for the silent ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmfuse.heads.base import FitData, HeadOutput
from mmfuse.heads.combination import Combination, PoolData
from mmfuse.heads.linear import LinearFit, LinearModule
from mmfuse.objectives import Multinomial, Objective, Squared

__all__ = ["Stack", "ValueStack"]

_STRENGTHS = (0.01, 0.1, 1.0)  # tried for all modalities together
_EXACT_UP_TO = 20_000  # rows times parameters; beyond, a millionth of the first gradient is enough
_FLOOR = -27.6  # log probabilities are cut at 1e-12: one certain answer must not rule the fit


class Stack(Combination):
    """Multinomial logistic regression on the modalities' centred log probabilities.

    An absent modality has a learned token in place of its answer, and modality dropout is part of
    the convex objective, so that any subset works. The strength of the penalty is chosen by
    cross-validation. Where nothing can be held out the log probabilities are added.

    References
    ----------
    Wolpert (1992), "Stacked generalization"; on probabilities after Ting and Witten (1999). Tokens
    and dropout are ours.
    """

    strength: Tensor
    _task = "classification"

    def __init__(self, n_modalities: int, n_outputs: int) -> None:
        super().__init__(n_modalities, n_outputs)
        self.linear = LinearModule(
            {str(m): n_outputs for m in range(n_modalities)}, n_outputs, self._task
        )
        self.register_buffer("strength", torch.ones((), dtype=torch.float64))
        with torch.no_grad():
            for coef in self.linear.coef:
                coef.copy_(self._start())

    def _start(self) -> Tensor:
        """Coefficients of a modality before anything is learned."""
        return torch.eye(self.n_outputs, dtype=torch.float64)

    def _objective(self) -> Objective:
        return Multinomial(self.n_outputs)

    def features(self, expert: Tensor, presence: Tensor) -> dict[str, Tensor]:
        """A block (n, K) per modality, zero where absent."""
        log_p = expert.clamp(min=_FLOOR)
        centred = log_p - log_p.mean(dim=2, keepdim=True)
        return self._blocks(torch.where(presence[..., None], centred, 0.0))

    def _blocks(self, values: Tensor) -> dict[str, Tensor]:
        return {str(m): values[:, m] for m in range(self.n_modalities)}

    def adopt(self, other: Combination) -> None:
        self.strength.copy_(other.get_buffer("strength"))

    def fit(self, data: PoolData, modality_dropout: float) -> None:
        data = data.usable()
        if len(data.weight) == 0:
            return
        rows = FitData(
            self.features(data.expert, data.presence),
            data.presence,
            data.target,
            data.weight,
            data.folds,
            self._objective(),
            seed=0,
            need_oof=False,
        )
        fit = LinearFit(rows, modality_dropout)
        if data.folds:
            options = torch.tensor(_STRENGTHS, dtype=torch.float64)[:, None]
            options = options.expand(-1, self.n_modalities)
            losses = [float(loss.mean()) for loss in fit._path(options)]
            self.strength.copy_(options[losses.index(min(losses)), 0])
        exact = len(data.weight) * fit.problems.n_parameters <= _EXACT_UP_TO
        theta, *found = fit.problems.solve(
            fit.weight[:, None],
            self.strength.expand(1, self.n_modalities),
            tol=fit.tol if exact else max(fit.tol, 1e-6),
        )
        self.linear.assign(fit.problems.solution(theta, *found), 0)

    def forward(self, expert: Tensor, presence: Tensor) -> Tensor:
        return self.output(expert, presence).scores

    def output(self, expert: Tensor, presence: Tensor) -> HeadOutput:
        return self.linear(self.features(expert, presence), presence)

    def describe(self, names: list[str]) -> dict[str, Any]:
        return {"C": float(self.strength)}


class ValueStack(Stack):
    """Ridge regression on the modalities' predictions; their mean before anything is learned."""

    _task = "regression"

    def _start(self) -> Tensor:
        return super()._start() / self.n_modalities

    def _objective(self) -> Objective:
        return Squared(self.n_outputs)

    def features(self, expert: Tensor, presence: Tensor) -> dict[str, Tensor]:
        return self._blocks(torch.where(presence[..., None], expert, 0.0))
