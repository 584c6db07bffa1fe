"""The linear module and its convex fit, shared by the heads that are linear inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmfuse.heads.base import FitData, FitResult, FusionModule, HeadOutput
from mmfuse.heads.cumulative import module_for
from mmfuse.patterns import dropout_masks
from mmfuse.solver.batched import LinearProblems, LinearSolution
from mmfuse.solver.ordinal import OrdinalProblems

__all__ = ["LinearFit", "LinearModule", "check_strength", "fit_linear"]

_DECADES = np.arange(-3.0, 5.0)  # strengths tried, in powers of ten over the total width
_FACTORS = ((5.0, 6.0), (0.2, 1 / 6))  # steps then tried per modality, up and down
_EXACT_UP_TO = 100_000  # rows times parameters; so small a problem is solved to rounding
_WORSE = 1.02  # a path of ever weaker penalties ends where the loss was so much higher twice


class LinearModule(FusionModule):
    """Scores are a sum over modalities: of ``x W`` where present, of a learned token where not.

    Parameters
    ----------
    block_dims, n_outputs, task
        As for every module.

    Notes
    -----
    The extra ``evidence`` (n, M, K) is ``x W`` less the token: what changes when the modality
    comes, zero where it is absent.
    """

    def __init__(self, block_dims: dict[str, int], n_outputs: int, task: str) -> None:
        super().__init__(block_dims, n_outputs, task)
        options = {"dtype": torch.float64}
        self.coef = nn.ParameterList(
            [nn.Parameter(torch.zeros(d, n_outputs, **options)) for d in block_dims.values()]
        )
        self.token = nn.Parameter(torch.zeros(len(block_dims), n_outputs, **options))
        self.intercept = nn.Parameter(torch.zeros(n_outputs, **options))

    def forward(self, blocks: dict[str, Tensor], presence: Tensor) -> HeadOutput:
        scores, evidence = self.intercept.expand(len(presence), -1), []
        for m, name in enumerate(self.block_dims):
            part = blocks[name].to(self.coef[m].dtype) @ self.coef[m]
            scores = scores + torch.where(presence[:, m, None], part, self.token[m])
            evidence.append(torch.where(presence[:, m, None], part - self.token[m], 0.0))
        return HeadOutput(scores, {"evidence": torch.stack(evidence, dim=1)})

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
    hiding = len(data.blocks) > 1 and modality_dropout > 0
    fit = LinearFit(data, modality_dropout if hiding else 0.0, given=C != "cv")
    module = module_for(LinearModule, data.dims, data.n_outputs, data.task)
    module.to(data.presence.device)
    history: dict[str, Any] = {}
    if C == "cv" and data.folds:
        strength, history["strengths_tried"] = fit.choose()
    else:
        constant = 1.0 if C == "cv" else float(C)
        strength = torch.full((len(data.blocks),), constant, dtype=torch.float64)
    oof, masked, start = None, None, None
    if data.folds and data.need_oof:
        oof, masked, start = fit.cross_fit(strength)
    theta, converged, n_iter = fit.problems.solve(
        fit.weight[:, None], strength[None].to(fit.weight.device), start=start, tol=fit.tol
    )
    module.assign(fit.problems.solution(theta, converged, n_iter), 0)
    history["C"] = dict(zip(data.blocks, strength.tolist(), strict=True))
    history["n_iter"] = n_iter
    return FitResult(module.eval(), oof, history, masked)


def _better(loss: np.ndarray, than: np.ndarray) -> bool:
    """Whether the losses of the folds (F,) are lower by more than half the standard error."""
    gain = than - loss
    noise = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else 0.0
    return bool(gain.mean() > 0.5 * noise)


def _strongest_of_the_best(losses: list[np.ndarray]) -> int:
    """The first of the losses that the lowest one is not better than."""
    lowest = min(losses, key=np.mean)
    return next(i for i, loss in enumerate(losses) if not _better(lowest, loss))


class LinearFit:
    """The linear problems of one fit: every fold, and all rows.

    Parameters
    ----------
    data : FitData
    modality_dropout : float
    given : bool, default=False
        Whether the strength of the penalty is the user's, so that it will not be chosen.
    """

    def __init__(self, data: FitData, modality_dropout: float, *, given: bool = False) -> None:
        masks, mask_weight = dropout_masks(data.presence, modality_dropout, data.seed)
        device, columns = data.presence.device, data.columns()
        kind = OrdinalProblems if data.task == "ordinal" else LinearProblems
        self.data = data
        self.problems = kind(
            columns,
            data.presence,
            data.target,
            data.objective,
            masks=masks,
            mask_weight=mask_weight,
            dtype=columns[0].dtype,
        )
        self._warm: Tensor | None = None  # solutions of the folds, where the next ones start
        self._lowest = np.inf  # and their held-out loss
        self.weight = data.weight.double()
        self.fold_weight = torch.zeros(
            len(self.weight), len(data.folds), dtype=torch.float64, device=device
        )
        self.held = torch.zeros_like(self.fold_weight, dtype=torch.bool)
        for f, (train, test) in enumerate(data.folds):
            train_rows = torch.as_tensor(train, device=device)
            self.fold_weight[train_rows, f] = self.weight[train_rows]
            self.held[torch.as_tensor(test, device=device), f] = True
        self.held_weight = self.held * self.weight[:, None]
        size = len(self.weight) * self.problems.n_parameters
        self.tol = 1e-12 if size <= _EXACT_UP_TO else 1e-6
        self.cv_tol = 3e-4  # looser, and what is not solved to the end would look like a penalty
        if self.problems.by_score:
            # further steps fit these rows better and others worse, unless strengths were chosen
            self.tol, self.cv_tol = 0.08 if given else 0.04, 0.05
        elif self.problems.dtype == torch.float32:
            self.tol = 1e-4

    def choose(self) -> tuple[Tensor, list]:
        """Strength per modality by held-out loss, in favour of strong penalties.

        A difference counts where its mean over the folds is above half its standard error: what
        folds do not agree on will not hold for other rows either. Half, since a whole one kept
        penalties too strong on sets of 80 to 300 rows, and none kept them too weak.
        """
        width, n_blocks = sum(self.data.dims.values()), len(self.data.blocks)
        common = torch.tensor(10.0**_DECADES / width)
        losses = self._path(common[:, None].expand(-1, n_blocks))
        place = _strongest_of_the_best(losses)
        strength, lowest = common[place].expand(n_blocks), losses[place]
        for m in range(n_blocks if n_blocks > 1 else 0):
            for factors in _FACTORS:  # further up or down only where the first step helped
                for factor in factors:
                    options = strength.clone()
                    options[m] *= factor
                    loss = self._path(options[None])[0]
                    if not _better(loss, lowest):
                        break
                    strength, lowest = options, loss
                else:
                    continue
        return strength, [
            [c, float(x.mean())] for c, x in zip(common.tolist(), losses, strict=False)
        ]

    def _path(self, strengths: Tensor) -> list[np.ndarray]:
        """Held-out loss of every fold (F,) for each of ``strengths`` (S, M).

        Strong penalties come first; each starts from the solution before it, and that of the
        lowest loss is kept. A path ends early where the loss rises.
        """
        held = self.held_weight
        total = held.sum(dim=0).clamp(min=1e-300)
        theta = self._warm
        losses: list[np.ndarray] = []
        for options in strengths:
            strength = options.to(self.weight.device).expand(self.fold_weight.shape[1], -1)
            theta, _, _ = self.problems.solve(
                self.fold_weight, strength, start=theta, tol=self.cv_tol, held=held
            )
            loss = (self.problems.held_loss(theta, held) / total).cpu().numpy()
            means = [x.mean() for x in losses]
            if loss.mean() < min([self._lowest, *means]):
                self._warm, self._lowest = theta, loss.mean()
            losses.append(loss)
            if len(means) > 1 and min(means[-1], loss.mean()) > _WORSE * min(means):
                break
        return losses

    def cross_fit(self, strength: Tensor) -> tuple[np.ndarray, np.ndarray | None, Tensor]:
        """Out-of-fold scores (n, K) as observed and as masked, and a start for the final fit."""
        folds = self.fold_weight.shape[1]
        options = strength[None].to(self.weight.device).expand(folds, -1)
        theta, _, _ = self.problems.solve(self.fold_weight, options, start=self._warm, tol=self.tol)
        scores = self.problems.held_scores
        oof = scores(theta, self.held).cpu().numpy()
        masked = None
        if self.data.masked is not None:
            masked = scores(theta, self.held, self.data.masked).cpu().numpy()
        return oof, masked, theta.mean(dim=0, keepdim=True)
