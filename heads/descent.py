"""The linear module under an objective that is not convex: quasi-Newton steps over all rows."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from mmfuse.heads.base import FitData, FitResult
from mmfuse.heads.linear import LinearModule
from mmfuse.patterns import dropout_masks

__all__ = ["fit_linear_descent"]

_WEAK = 1000.0  # strength over the total width where the number of steps is what is chosen
_MOST = 600  # steps
_PATIENCE = 20  # steps without a lower held-out loss
_ROWS = 8192  # at once


def fit_linear_descent(data: FitData, *, C: float | str, modality_dropout: float) -> FitResult:
    """Fit a linear module from scores of zero, without drawing anything.

    It descends on the same sum as the convex solver does, with modality dropout as part of it, by
    L-BFGS. There is no single optimum to reach, and with few rows the nearest one is too narrow:
    the number of steps with the lowest loss of held-out rows is taken. A row of weight two counts
    as two rows, and the same rows give the same module.

    Parameters
    ----------
    data : FitData
    C : float or "cv"
        Inverse regularisation strength of all modalities; ``"cv"`` is a weak one, since the number
        of steps regularises as well.
    modality_dropout : float
        Chance of hiding a modality.
    """
    strength = _WEAK / sum(data.dims.values()) if isinstance(C, str) else float(C)
    hiding = len(data.blocks) > 1 and modality_dropout > 0
    module = LinearModule(data.dims, data.n_outputs, data.task).to(data.presence.device)
    problem = _Descent(data, modality_dropout if hiding else 0.0)
    runs = [
        problem.descend(problem.weights_of(train), strength, problem.weights_of(test))
        for train, test in data.folds
    ]
    steps, losses = _best_step([held for _, held in runs])
    oof, masked = None, None
    if runs and data.need_oof:
        oof = np.full((len(data.weight), data.n_outputs), np.nan)
        masked = None if data.masked is None else oof.copy()
        part = LinearModule(data.dims, data.n_outputs, data.task).to(data.presence.device)
        for (_, test), (path, _) in zip(data.folds, runs, strict=True):
            problem.assign(part, path[min(steps, len(path) - 1)])
            held = data.take(test)
            oof[test] = _scores(part, held, held.presence)
            if masked is not None and held.masked is not None:
                masked[test] = _scores(part, held, held.masked)
    path, _ = problem.descend(data.weight.double(), strength, None, steps)
    problem.assign(module, path[-1])
    history = {
        "C": dict.fromkeys(data.blocks, strength),
        "steps": steps,
        "held_out_loss": losses,
    }
    return FitResult(module.eval(), oof, history, masked)


def _best_step(losses: list[list[float]]) -> tuple[int, list[float]]:
    """Number of steps with the lowest mean held-out loss, and that loss after every step.

    A fold that stopped early keeps its last loss; without folds the number is a sixth of the most.
    """
    if not losses:
        return _MOST // 6, []
    length = max(map(len, losses))
    table = [np.pad(fold, (0, length - len(fold)), mode="edge") for fold in losses]
    mean = np.mean(table, axis=0)
    return int(np.argmin(mean)), mean.tolist()


def _scores(module: LinearModule, held: FitData, presence: Tensor) -> np.ndarray:
    with torch.no_grad():
        return module(held.blocks, presence).scores.cpu().numpy()


def _turn(block: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in coordinates with a diagonal second moment (n, r), and the basis (d, r)."""
    n, d = block.shape
    basis = torch.eye(d, dtype=block.dtype, device=block.device)
    if d > n:  # the solution lies in the span of the rows
        basis = torch.linalg.qr(block.T).Q
    inner = (block * weight.sqrt()[:, None]) @ basis
    basis = basis @ torch.linalg.eigh(inner.T @ inner).eigenvectors
    return block @ basis, basis


class _Stop(Exception):
    """The held-out loss no longer falls."""


class _Descent:
    """The loss of a linear module over all rows, in coordinates of nearly equal curvature."""

    def __init__(self, data: FitData, modality_dropout: float) -> None:
        self.data = data
        self.target = data.objective.target(data.target)
        self.masks, self.chances = dropout_masks(data.presence, modality_dropout, data.seed)
        weight = data.weight.double()
        turned = [_turn(block.double(), weight) for block in data.blocks.values()]
        self.blocks = [block for block, _ in turned]
        self.bases = [basis for _, basis in turned]
        total = weight.sum()
        self.moments = [(weight[:, None] * b.square()).sum(0) / total for b in self.blocks]

    def weights_of(self, rows: np.ndarray) -> Tensor:
        """Weights (n,), zero outside ``rows``."""
        weight = torch.zeros_like(self.data.weight, dtype=torch.float64)
        weight[rows] = self.data.weight.double()[rows]
        return weight

    def descend(
        self, weight: Tensor, strength: float, held: Tensor | None, most: int = _MOST
    ) -> tuple[list[Tensor], list[float]]:
        """Coefficients after every step from zero on, and the loss of the rows ``held`` there."""
        scale, ridge = self._coordinates(weight, strength)
        total, kept = weight.sum(), (weight > 0).nonzero()[:, 0]

        def function(z: np.ndarray) -> tuple[float, np.ndarray]:
            theta = torch.as_tensor(z, device=scale.device) * scale
            value, gradient = 0.5 * (ridge * theta.square()).sum(), ridge * theta
            for rows in kept.split(_ROWS):
                loss, slope = self._loss(theta, weight, rows)
                value, gradient = value + loss / total, gradient + slope / total
            return float(value), (gradient * scale).cpu().numpy()

        path, losses = [torch.zeros_like(scale)], []
        if held is not None:
            losses.append(self._mean_loss(path[0], held))

        def watch(z: np.ndarray) -> None:
            path.append(torch.as_tensor(np.array(z), device=scale.device) * scale)
            if held is not None:
                losses.append(self._mean_loss(path[-1], held))
                if len(losses) - 1 - int(np.argmin(losses)) >= _PATIENCE:
                    raise _Stop

        if most:
            options = {"maxiter": most, "maxfun": 10 * most}
            try:
                minimize(
                    function,
                    path[0].cpu(),
                    jac=True,
                    method="L-BFGS-B",
                    callback=watch,
                    options=options,
                )
            except _Stop:
                pass
        return path, losses

    def _coordinates(self, weight: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Step sizes of the flat parameters, and their penalties; the intercept has none."""
        k = self.data.n_outputs
        penalty = 1.0 / (strength * weight.sum())
        parts = [(m + penalty).rsqrt().repeat_interleave(k) for m in self.moments]
        scale = torch.cat([*parts, weight.new_ones((len(self.blocks) + 1) * k)])
        ridge = torch.full_like(scale, float(penalty))
        ridge[-k:] = 0.0
        return scale, ridge

    def _mean_loss(self, theta: Tensor, weight: Tensor) -> float:
        """Weighted mean loss under modality dropout."""
        kept = (weight > 0).nonzero()[:, 0]
        parts = [float(self._loss(theta, weight, rows)[0]) for rows in kept.split(_ROWS)]
        return sum(parts) / max(float(weight.sum()), 1e-300)

    def _loss(self, theta: Tensor, weight: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sum of the loss over rows and patterns, and its gradient in ``theta``."""
        *coef, token, intercept = self._split(theta)
        masks, blocks = self.masks[rows], [block[rows] for block in self.blocks]
        scores = intercept[None]  # grows to (n, S, K)
        for m, (block, w) in enumerate(zip(blocks, coef, strict=True)):
            scores = scores + torch.where(masks[:, :, m, None], (block @ w)[:, None], token[m])
        loss, back = self.data.objective.row_gradient(scores, self.target[rows])
        chance = weight[rows, None] * self.chances
        back = back * chance[..., None]
        kept = [torch.where(masks[:, :, m, None], back, 0.0).sum(1) for m in range(len(blocks))]
        everything = back.sum((0, 1))
        parts = [(block.T @ k).reshape(-1) for block, k in zip(blocks, kept, strict=True)]
        parts += [everything - k.sum(0) for k in kept]
        return (chance * loss).sum(), torch.cat([*parts, everything])

    @torch.no_grad()
    def assign(self, module: LinearModule, theta: Tensor) -> None:
        """Put coefficients into a module, in the coordinates of its blocks."""
        *coef, token, intercept = self._split(theta)
        for parameter, basis, w in zip(module.coef, self.bases, coef, strict=True):
            parameter.copy_(basis @ w)
        module.token.copy_(token)
        module.intercept.copy_(intercept[0])

    def _split(self, theta: Tensor) -> list[Tensor]:
        """Coefficients of every block, tokens (M, K) and intercept (1, K)."""
        k = self.data.n_outputs
        rows = [*(block.shape[1] for block in self.blocks), len(self.blocks), 1]
        return [part.view(-1, k) for part in theta.split([r * k for r in rows])]
