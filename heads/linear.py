"""The linear module and its convex fit, shared by the heads that are linear inside."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mmfuse.heads.base import FitData, FitResult, FusionModule, HeadOutput
from mmfuse.heads.cumulative import module_for
from mmfuse.ordinal_solver import OrdinalProblems
from mmfuse.patterns import dropout_masks
from mmfuse.solver import LinearProblems, LinearSolution

__all__ = ["LinearModule", "check_strength", "fit_linear"]

_DECADES = np.arange(-3.0, 5.0)  # strengths tried, in powers of ten over the total width
_FACTORS = (0.03, 0.2, 5.0, 30.0)  # then tried per modality, around the common one
_EXACT_UP_TO = 100_000  # rows times parameters; so small a problem is solved to rounding
_CV_TOL = 1e-4


class LinearModule(FusionModule):
    """Scores are a sum over modalities: of ``x W`` where present, of a learned token where not."""

    def __init__(self, block_dims: dict[str, int], n_outputs: int, task: str) -> None:
        super().__init__(block_dims, n_outputs, task)
        options = {"dtype": torch.float64}
        self.coef = nn.ParameterList(
            [nn.Parameter(torch.zeros(d, n_outputs, **options)) for d in block_dims.values()]
        )
        self.token = nn.Parameter(torch.zeros(len(block_dims), n_outputs, **options))
        self.intercept = nn.Parameter(torch.zeros(n_outputs, **options))

    def forward(self, blocks: dict[str, Tensor], presence: Tensor) -> HeadOutput:
        scores = self.intercept.expand(len(presence), -1)
        for m, name in enumerate(self.block_dims):
            part = blocks[name].to(self.coef[m].dtype) @ self.coef[m]
            scores = scores + torch.where(presence[:, m, None], part, self.token[m])
        return HeadOutput(scores)

    @torch.no_grad()
    def assign(self, solution: LinearSolution, problem: int) -> LinearModule:
        """Take the coefficients of one solved problem."""
        for parameter, coef in zip(self.coef, solution.coef, strict=True):
            parameter.copy_(coef[problem])
        self.token.copy_(solution.token[problem])
        self.intercept.copy_(solution.intercept[problem])
        return self


def check_strength(owner: str, C: float | str) -> None:
    """Raise unless ``C`` is ``"cv"`` or a positive number."""
    if C == "cv":
        return
    if isinstance(C, str) or not np.isscalar(C) or not np.isfinite(C) or C <= 0:
        raise ValueError(f"{owner}: C must be 'cv' or a positive number; got {C!r}.")


def fit_linear(data: FitData, *, C: float | str, modality_dropout: float) -> FitResult:
    """Fit a linear module by convex optimisation.

    Parameters
    ----------
    data : FitData
    C : float or "cv"
        Inverse regularisation strength in scikit-learn's meaning, on standardised features.
        ``"cv"`` first chooses a strength for all modalities, then one multiple of it per
        modality, by out-of-fold loss; without folds it is 1.
    modality_dropout : float
        Chance of hiding a modality; part of the objective, nothing is drawn.
    """
    fit = _LinearFit(data, modality_dropout)
    n_blocks = len(data.blocks)
    history: dict = {}
    if C == "cv" and data.folds:
        strength, tried = fit.choose()
        history["strengths_tried"] = tried
    else:
        strength = torch.full((n_blocks,), 1.0 if C == "cv" else float(C), dtype=torch.float64)
    oof, masked, start = None, None, None
    if data.folds and data.need_oof:
        oof, masked, start = fit.cross_fit(strength)
    theta, converged, n_iter = fit.problems.solve(
        fit.weight[:, None], strength[None].to(fit.weight.device), start=start, tol=fit.tol
    )
    module = module_for(LinearModule, data.dims, data.n_outputs, data.task)
    module.to(data.presence.device)
    module.assign(fit.problems.solution(theta, converged, n_iter), 0)
    history["C"] = dict(zip(data.blocks, strength.tolist(), strict=True))
    history["n_iter"] = n_iter
    return FitResult(module.eval(), oof, history, masked)


class _LinearFit:
    """The linear problems of one fit: every fold, and all rows."""

    def __init__(self, data: FitData, modality_dropout: float) -> None:
        masks, mask_weight = dropout_masks(data.presence, modality_dropout, data.seed)
        device = data.presence.device
        self.data = data
        kind = OrdinalProblems if data.task == "ordinal" else LinearProblems
        self.problems = kind(
            list(data.blocks.values()),
            data.presence,
            data.target,
            data.objective,
            masks=masks,
            mask_weight=mask_weight,
        )
        self.weight = data.weight.double()
        self.fold_weight = torch.zeros(
            len(self.weight), len(data.folds), dtype=torch.float64, device=device
        )
        self.held = torch.zeros_like(self.fold_weight, dtype=torch.bool)
        for f, (train, test) in enumerate(data.folds):
            train_rows = torch.as_tensor(train, device=device)
            self.fold_weight[train_rows, f] = self.weight[train_rows]
            self.held[torch.as_tensor(test, device=device), f] = True
        size = len(self.weight) * self.problems.n_parameters
        self.tol = 1e-12 if size <= _EXACT_UP_TO else 1e-6
        self._warm: Tensor | None = None

    def choose(self) -> tuple[Tensor, list]:
        """Strength per modality with the lowest out-of-fold loss."""
        width, n_blocks = sum(self.data.dims.values()), len(self.data.blocks)
        common = torch.tensor(10.0**_DECADES / width)
        strength, lowest, losses = self._best_of(common[:, None].expand(-1, n_blocks))
        tried = list(zip(common.tolist(), losses, strict=True))
        for m in range(n_blocks if n_blocks > 1 else 0):
            options = strength.repeat(len(_FACTORS), 1)
            options[:, m] *= torch.tensor(_FACTORS, dtype=options.dtype)
            best, loss, _ = self._best_of(options, unless_above=lowest)
            if loss < lowest:
                strength, lowest = best, loss
        return strength, tried

    def _best_of(
        self, strengths: Tensor, unless_above: float = np.inf
    ) -> tuple[Tensor, float, list[float]]:
        """The row of ``strengths`` (S, M) with the lowest held-out loss, and all losses.

        Strengths go from weak to strong and each starts from the solution before it; the solution
        of the best is kept as the next start, if it is below ``unless_above``.
        """
        held = self.held * self.weight[:, None]
        theta, kept = self._warm, self._warm
        losses: list[float] = []
        for options in strengths:
            strength = options.to(self.weight.device).expand(self.fold_weight.shape[1], -1)
            theta, _, _ = self.problems.solve(self.fold_weight, strength, start=theta, tol=_CV_TOL)
            loss = float((self.problems.pattern_loss(theta) * held).sum() / held.sum())
            if loss < min([unless_above, *losses]):
                kept = theta
            losses.append(loss)
        self._warm = kept
        best = int(np.argmin(losses))
        return strengths[best], losses[best], losses

    def cross_fit(self, strength: Tensor) -> tuple[np.ndarray, np.ndarray | None, Tensor]:
        """Out-of-fold scores (n, K) as observed and as masked, and a start for the final fit."""
        folds = self.fold_weight.shape[1]
        options = strength[None].to(self.weight.device).expand(folds, -1)
        theta, _, _ = self.problems.solve(self.fold_weight, options, start=self._warm, tol=self.tol)
        oof = self._held_scores(theta, None)
        masked = None if self.data.masked is None else self._held_scores(theta, self.data.masked)
        return oof, masked, theta.mean(dim=0, keepdim=True)

    def _held_scores(self, theta: Tensor, presence: Tensor | None) -> np.ndarray:
        """Score of every row by the fold that held it out."""
        scores = self.problems.scores(theta, presence)
        oof = torch.full_like(scores[:, 0], torch.nan)
        for f in range(self.fold_weight.shape[1]):
            oof = torch.where(self.held[:, f, None], scores[:, f], oof)
        return oof.cpu().numpy()
