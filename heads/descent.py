"""The linear module under an objective that is not convex: quasi-Newton steps over all rows."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from mmfuse.heads.base import FitData, FitResult
from mmfuse.heads.linear import LinearModule
from mmfuse.patterns import dropout_masks
from mmfuse.solver import rotate

__all__ = ["fit_linear_descent"]

_DECADES = np.arange(-1.0, 5.0)  # strengths tried, in powers of ten over the total width
_PULL = 1.0  # rows' worth of pull on the intercepts: it bounds those of unused components
_ROUGH = {"maxiter": 100, "ftol": 1e-6}
_FINE = {"maxiter": 3000, "maxfun": 6000, "ftol": 1e-15, "gtol": 1e-9}
_LARGE = {"maxiter": 300, "ftol": 1e-9}
_FINE_UP_TO = 200_000  # rows times parameters; so small a problem is solved to rounding


def fit_linear_descent(data: FitData, *, C: float | str, modality_dropout: float) -> FitResult:
    """Fit a linear module from scores of zero, without drawing anything.

    Minimises the same sum as the convex solver does, with modality dropout as part of it and a
    small penalty on the intercepts as well, by L-BFGS. The optimum is a local one, the same for
    the same rows; a row of weight two counts as two rows.

    Parameters
    ----------
    data : FitData
    C : float or "cv"
        Inverse regularisation strength; ``"cv"`` chooses one for all modalities by out-of-fold
        loss; without folds it is 1.
    modality_dropout : float
        Chance of hiding a modality.
    """
    problem = _Descent(data, modality_dropout)
    folds = [problem.weights_of(train) for train, _ in data.folds]
    starts: list[np.ndarray | None] = [None] * len(folds)
    history: dict = {}
    strength = 1.0 if isinstance(C, str) else float(C)
    if isinstance(C, str) and folds:
        strength, starts, history["strengths_tried"] = _choose(problem, data, folds)
    oof, masked = None, None
    if folds and data.need_oof:
        oof = np.full((len(data.weight), data.n_outputs), np.nan)
        masked = None if data.masked is None else oof.copy()
        for (_, test), weight, start in zip(data.folds, folds, starts, strict=True):
            module = problem.module(problem.solve(weight, strength, start, problem.exact))
            held = data.take(test)
            oof[test] = _scores(module, held, held.presence)
            if masked is not None and held.masked is not None:
                masked[test] = _scores(module, held, held.masked)
    module = problem.module(problem.solve(data.weight.double(), strength, None, problem.exact))
    history["C"] = dict.fromkeys(data.blocks, strength)
    return FitResult(module.eval(), oof, history, masked)


def _choose(problem: _Descent, data: FitData, folds: list[Tensor]) -> tuple[float, list, list]:
    """Strength with the lowest loss of held-out rows, its solutions, and all losses."""
    width = sum(data.dims.values())
    starts: list = [None] * len(folds)
    best: tuple[float, float, list] = (np.inf, 1.0, starts)
    tried = []
    for decade in _DECADES:
        strength = float(10.0**decade / width)
        starts = [
            problem.solve(weight, strength, start, _ROUGH)
            for weight, start in zip(folds, starts, strict=True)
        ]
        total = count = 0.0
        for (_, test), theta in zip(data.folds, starts, strict=True):
            weight = torch.zeros_like(data.weight, dtype=torch.float64)
            weight[test] = data.weight.double()[test]
            total += problem.mean_loss(theta, weight) * float(weight.sum())
            count += float(weight.sum())
        tried.append((strength, total / count))
        if total / count >= best[0]:
            break
        best = (total / count, strength, starts)
    return best[1], best[2], tried


def _scores(module: LinearModule, held: FitData, presence: Tensor) -> np.ndarray:
    with torch.no_grad():
        return module(held.blocks, presence).scores.cpu().numpy()


class _Descent:
    """The loss of a linear module over all rows, in coordinates of nearly equal curvature."""

    def __init__(self, data: FitData, modality_dropout: float) -> None:
        self.data = data
        self.target = data.objective.target(data.target)
        self.masks, self.chances = dropout_masks(data.presence, modality_dropout, data.seed)
        weight = data.weight.double()
        turned = [rotate(block.double(), weight) for block in data.blocks.values()]
        self.blocks = [block for block, _ in turned]
        self.bases = [basis for _, basis in turned]
        total = weight.sum()
        self.moments = [(weight[:, None] * b.square()).sum(0) / total for b in self.blocks]
        size = len(weight) * (sum(b.shape[1] for b in self.blocks) + 1) * data.n_outputs
        self.exact = _FINE if size <= _FINE_UP_TO else _LARGE

    def weights_of(self, rows: np.ndarray) -> Tensor:
        """Weights (n,), zero outside ``rows``."""
        weight = torch.zeros_like(self.data.weight, dtype=torch.float64)
        weight[rows] = self.data.weight.double()[rows]
        return weight

    def solve(
        self, weight: Tensor, strength: float, start: np.ndarray | None, options: dict
    ) -> np.ndarray:
        """Flat coefficients in the turned coordinates: of the blocks, tokens and intercept."""
        total = weight.sum()
        penalty = 1.0 / (strength * total)
        k = self.data.n_outputs
        parts = [(m + penalty).rsqrt().repeat_interleave(k) for m in self.moments]
        scale = torch.cat([*parts, weight.new_ones((len(self.blocks) + 1) * k)])
        ridge = torch.full_like(scale, float(penalty))
        ridge[-k:] = _PULL / total

        def function(z: np.ndarray) -> tuple[float, np.ndarray]:
            theta = (torch.as_tensor(z, device=scale.device) * scale).requires_grad_()
            loss = self._loss(theta, weight) / total
            loss = loss + 0.5 * (ridge * theta.square()).sum()
            (gradient,) = torch.autograd.grad(loss, theta)
            return float(loss.detach()), (gradient * scale).cpu().numpy()

        first = np.zeros(len(scale)) if start is None else start / scale.cpu().numpy()
        with torch.enable_grad():
            best = minimize(function, first, jac=True, method="L-BFGS-B", options=options)
        return best.x * scale.cpu().numpy()

    def mean_loss(self, theta: np.ndarray, weight: Tensor) -> float:
        """Weighted mean loss under modality dropout."""
        flat = torch.as_tensor(theta, device=weight.device)
        with torch.no_grad():
            return float(self._loss(flat, weight) / weight.sum())

    def _loss(self, theta: Tensor, weight: Tensor) -> Tensor:
        """Weighted sum of the loss over rows and patterns."""
        *coef, token, intercept = self._split(theta)
        rows = (weight > 0).nonzero()[:, 0]
        pieces = [block[rows] @ w for block, w in zip(self.blocks, coef, strict=True)]
        total = theta.new_zeros(())
        for s, chance in enumerate(self.chances):
            scores = intercept.expand(len(rows), -1)
            for m, piece in enumerate(pieces):
                scores = scores + torch.where(self.masks[rows, s, m, None], piece, token[m])
            loss = self.data.objective.row_loss(scores, self.target[rows])
            total = total + chance * (weight[rows] * loss).sum()
        return total

    @torch.no_grad()
    def module(self, theta: np.ndarray) -> LinearModule:
        """The module with these coefficients."""
        data = self.data
        flat = torch.as_tensor(theta, device=data.presence.device)
        *coef, token, intercept = self._split(flat)
        module = LinearModule(data.dims, data.n_outputs, data.task).to(data.presence.device)
        for parameter, basis, w in zip(module.coef, self.bases, coef, strict=True):
            parameter.copy_(basis @ w)
        module.token.copy_(token)
        module.intercept.copy_(intercept[0])
        return module

    def _split(self, theta: Tensor) -> list[Tensor]:
        """Coefficients of every block, tokens (M, K) and intercept (1, K)."""
        k = self.data.n_outputs
        rows = [*(block.shape[1] for block in self.blocks), len(self.blocks), 1]
        return [part.view(-1, k) for part in theta.split([r * k for r in rows])]
