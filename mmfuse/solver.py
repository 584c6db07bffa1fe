"""One convex solver for linear fusion: multinomial logistic and ridge, many problems at once.

A problem is a set of row weights (a fold is a set of zeros) and one strength per block. All
problems share the blocks, so one matrix product serves them together. Modality dropout is part of
the objective: a *pattern* is a set of blocks that is kept, and the loss is the weighted mean over
patterns. The pattern changes only which block logits are added, so no row is ever copied.

The objective of a problem, with strengths ``C_m`` in scikit-learn's meaning (the loss is a sum over
rows), is::

    sum_i w_i sum_S q_iS loss(y_i, b + sum_{m in S} x_im W_m + sum_{m not in S} t_m)
        + sum_m (|W_m|^2 + |t_m|^2) / (2 C_m)

``t_m`` is the learned token for absence of block m: its effect on the scores. The method is L-BFGS
(Liu and Nocedal 1989), each problem with its own step length, in coordinates in which the curvature
is nearly diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmfuse.objectives import Multinomial, Objective

__all__ = ["LinearProblems", "LinearSolution", "rotate"]

_RESCALE_AFTER = 25  # steps before the first rescaling; the span doubles, for memory is lost


def rotate(block: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Turn a block into coordinates with a diagonal second moment.

    Parameters
    ----------
    block : Tensor of shape (n, d)
    weight : Tensor of shape (n,)
        Row weights of the second moment.

    Returns
    -------
    rotated : Tensor of shape (n, r), ``r = min(n, d)`` at most
    basis : Tensor of shape (d, r)
        Orthonormal columns; ``rotated = block @ basis``. An L2 penalty is the same in both
        coordinates, so coefficients go back by ``basis @ coef``.
    """
    n, d = block.shape
    weighted = block * weight.sqrt()[:, None]
    if d <= n:
        values, basis = torch.linalg.eigh(weighted.T @ weighted)
    else:  # fewer rows than columns: the solution lies in the span of the rows
        basis = torch.linalg.qr(block.T).Q
        inner = weighted @ basis
        values, turn = torch.linalg.eigh(inner.T @ inner)
        basis = basis @ turn
    order = torch.argsort(values, descending=True)
    basis = basis[:, order]
    return block @ basis, basis


@dataclass(frozen=True)
class LinearSolution:
    """Coefficients of B problems.

    Attributes
    ----------
    coef : list of Tensor of shape (B, d_m, K)
        One per block.
    token : Tensor of shape (B, M, K)
    intercept : Tensor of shape (B, K)
    n_iter : int
    converged : Tensor of shape (B,), bool
    """

    coef: list[Tensor]
    token: Tensor
    intercept: Tensor
    n_iter: int
    converged: Tensor


class LinearProblems:
    """Linear problems that share their blocks.

    Parameters
    ----------
    blocks : list of Tensor of shape (n, d_m)
        Standardised, zero where absent.
    presence : Tensor of shape (n, M), bool
    target : Tensor of shape (n,) of class indices, or (n, K) of values
    objective : Objective
        What a row costs; K scores.
    masks : Tensor of shape (n, S, M), bool
        Which of its blocks each row keeps in each pattern.
    mask_weight : Tensor of shape (S,)
        Sums to one.
    dtype : torch.dtype, default=torch.float64
    """

    def __init__(
        self,
        blocks: list[Tensor],
        presence: Tensor,
        target: Tensor,
        objective: Objective,
        *,
        masks: Tensor,
        mask_weight: Tensor,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.dtype, self.loss, self.n_outputs = dtype, objective, objective.n_outputs
        self.present = presence
        self.target = objective.target(target)
        ones = torch.ones(len(presence), dtype=dtype, device=presence.device)
        turned = [rotate(block.to(dtype), ones) for block in blocks]
        self.blocks = [block for block, _ in turned]
        self.bases = [basis for _, basis in turned]
        self.widths = [block.shape[1] for block in self.blocks]
        self.masks, self.mask_weight = masks, mask_weight.to(dtype)

    # -- parameters: one flat vector a problem -------------------------------------------------

    @property
    def n_parameters(self) -> int:
        return (sum(self.widths) + len(self.widths) + 1) * self.n_outputs

    def _split(self, theta: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        sizes = [w * self.n_outputs for w in [*self.widths, len(self.widths), 1]]
        parts = theta.split(sizes, dim=1)
        shaped = [p.unflatten(1, (-1, self.n_outputs)) for p in parts]
        return shaped[:-2], shaped[-2], shaped[-1][:, 0]

    # -- the objective ------------------------------------------------------------------------

    def block_scores(self, coef: list[Tensor]) -> list[Tensor]:
        """Scores of every block alone: M tensors of shape (n, B, K), one matrix product each."""
        out = []
        for block, w in zip(self.blocks, coef, strict=True):
            b, r, k = w.shape
            out.append((block @ w.permute(1, 0, 2).reshape(r, b * k)).view(-1, b, k))
        return out

    def scores(self, theta: Tensor, presence: Tensor | None = None) -> Tensor:
        """Scores of every row under every problem, as observed: shape (n, B, K)."""
        coef, token, intercept = self._split(theta)
        present = self.present if presence is None else presence
        total = intercept[None].expand(len(present), -1, -1).clone()
        for m, u in enumerate(self.block_scores(coef)):
            total += torch.where(present[:, m, None, None], u, token[None, :, m])
        return total

    def row_loss(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (n, B) and its gradient in the scores (n, B, K)."""
        return self.loss.row_gradient(scores, self.target)

    def pattern_loss(self, theta: Tensor) -> Tensor:
        """Loss of every row under every problem, averaged over the patterns: shape (n, B)."""
        coef, token, intercept = self._split(theta)
        pieces = self.block_scores(coef)
        total = torch.zeros_like(pieces[0][..., 0])
        for s in range(self.masks.shape[1]):
            scores = self._pattern_scores(pieces, token, intercept, s)
            total += self.mask_weight[s] * self.row_loss(scores)[0]
        return total

    def _pattern_scores(self, pieces, token, intercept, s: int) -> Tensor:
        scores = intercept[None].expand(len(self.present), -1, -1).clone()
        for m, u in enumerate(pieces):
            scores += torch.where(self.masks[:, s, m, None, None], u, token[None, :, m])
        return scores

    def objective(self, theta: Tensor, weight: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        """Value (B,) and gradient (B, P) of all problems.

        ``weight`` is (n, B), ``strength`` is (B, M).
        """
        coef, token, intercept = self._split(theta)
        pieces = self.block_scores(coef)
        value = torch.zeros(theta.shape[0], dtype=self.dtype, device=theta.device)
        back = [torch.zeros_like(piece) for piece in pieces]
        token_grad, intercept_grad = torch.zeros_like(token), torch.zeros_like(intercept)
        for s in range(self.masks.shape[1]):
            loss, grad = self.row_loss(self._pattern_scores(pieces, token, intercept, s))
            w = weight * self.mask_weight[s]
            value += (loss * w).sum(0)
            grad *= w[..., None]
            intercept_grad += grad.sum(0)
            for m in range(len(pieces)):
                kept = self.masks[:, s, m, None, None]
                back[m] += torch.where(kept, grad, 0.0)
                token_grad[:, m] += torch.where(kept, 0.0, grad).sum(0)
        penalty = self._penalty(strength)
        coef_grad = []
        for m, block in enumerate(self.blocks):
            b, r, k = coef[m].shape
            g = (block.T @ back[m].reshape(len(block), b * k)).view(r, b, k).permute(1, 0, 2)
            coef_grad.append((g + penalty[:, m, None, None] * coef[m]).reshape(b, -1))
            value += 0.5 * penalty[:, m] * coef[m].square().sum((1, 2))
        value += 0.5 * (penalty[:, :, None] * token.square()).sum((1, 2))
        token_grad += penalty[:, :, None] * token
        gradient = torch.cat([*coef_grad, token_grad.flatten(1), intercept_grad], dim=1)
        return value, gradient

    def _penalty(self, strength: Tensor) -> Tensor:
        return self.loss.penalty_scale / strength

    def _curvature(self, theta: Tensor, weight: Tensor, strength: Tensor) -> Tensor:
        """Diagonal of the Hessian at ``theta``: (B, P)."""
        coef, token, intercept = self._split(theta)
        pieces = self.block_scores(coef)
        kept = [torch.zeros_like(piece) for piece in pieces]
        gone, total = torch.zeros_like(token), torch.zeros_like(intercept)
        for s in range(self.masks.shape[1]):
            bend = self.loss.bend(self._pattern_scores(pieces, token, intercept, s))
            bend *= (weight * self.mask_weight[s])[..., None]
            total += bend.sum(0)
            for m in range(len(pieces)):
                mask = self.masks[:, s, m, None, None]
                kept[m] += torch.where(mask, bend, 0.0)
                gone[:, m] += torch.where(mask, 0.0, bend).sum(0)
        penalty = self._penalty(strength)
        parts = []
        for m, block in enumerate(self.blocks):
            b, r, k = coef[m].shape
            moment = block.square().T @ kept[m].reshape(len(block), b * k)
            diagonal = moment.view(r, b, k).permute(1, 0, 2) + penalty[:, m, None, None]
            parts.append(diagonal.reshape(b, -1))
        floor = 1e-6 * weight.sum(0)[:, None] + 1e-12  # the intercept has no penalty
        parts += [(gone + penalty[:, :, None]).flatten(1), total + floor]
        return torch.cat(parts, dim=1)

    # -- solving ----------------------------------------------------------------------------

    def solve(
        self,
        weight: Tensor,
        strength: Tensor,
        *,
        start: Tensor | None = None,
        tol: float = 1e-12,
        max_iter: int = 2000,
    ) -> tuple[Tensor, Tensor, int]:
        """Solve B problems.

        Parameters
        ----------
        weight : Tensor of shape (n, B)
        strength : Tensor of shape (B, M)
            C of every problem and block.
        start : Tensor of shape (B, P), optional
        tol : float
            A problem is done when the preconditioned gradient is below ``tol`` times its
            value at the start from zero.

        Returns
        -------
        theta : Tensor of shape (B, P)
        converged : Tensor of shape (B,), bool
        n_iter : int
        """
        weight, strength = weight.to(self.dtype), strength.to(self.dtype)
        zero = torch.zeros(
            strength.shape[0], self.n_parameters, dtype=self.dtype, device=weight.device
        )
        scale = self._curvature(zero, weight, strength).rsqrt()
        reference = (self.objective(zero, weight, strength)[1] * scale).norm(dim=1)
        theta = zero if start is None else start.clone()
        converged = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
        live, n_iter = torch.arange(len(theta), device=theta.device), 0
        span = _RESCALE_AFTER
        while len(live) and n_iter < max_iter:
            # the curvature changes on the way: rescale now and then, with what is not yet solved
            w, c = weight[:, live], strength[live]
            scale = self._curvature(theta[live], w, c).rsqrt()
            function = _rescaled(self.objective, scale, w, c)
            z, done, steps = _lbfgs(function, theta[live] / scale, reference[live] * tol, span)
            span *= 2
            theta[live] = z * scale
            n_iter += steps
            converged[live] = done
            live = live[~done]
        return theta, converged, n_iter

    def solution(self, theta: Tensor, converged: Tensor, n_iter: int) -> LinearSolution:
        """Coefficients in the coordinates of the original blocks."""
        coef, token, intercept = self._split(theta)
        coef = [basis @ w for basis, w in zip(self.bases, coef, strict=True)]
        if isinstance(self.loss, Multinomial):  # no penalty fixes the sum of the intercepts
            intercept = intercept - intercept.mean(dim=1, keepdim=True)
        return LinearSolution(coef, token, intercept, n_iter, converged)


def _rescaled(objective, scale: Tensor, weight: Tensor, strength: Tensor):
    """The objective in coordinates ``z = theta / scale``, on some of the problems."""

    def function(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = objective(z * scale[rows], weight[:, rows], strength[rows])
        return value, gradient * scale[rows]

    return function


def _lbfgs(function, z: Tensor, threshold: Tensor, max_iter: int, memory: int = 12):
    """Minimise B independent smooth convex functions; each keeps its own history and step.

    ``function(z (b, P), rows (b,))`` gives values (b,) and gradients (b, P) of those problems.
    """
    count = z.shape[0]
    z = z.clone()
    rows = torch.arange(count, device=z.device)
    value, gradient = function(z, rows)
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    converged = gradient.norm(dim=1) <= threshold
    stuck = torch.zeros_like(converged)
    n_iter = 0
    for n_iter in range(1, max_iter + 1):  # noqa: B007  (the count is returned)
        live = (~(converged | stuck)).nonzero()[:, 0]
        if len(live) == 0:
            n_iter -= 1
            break
        direction = -_two_loop(gradient[live], [s[live] for s in steps], [c[live] for c in changes])
        slope = (direction * gradient[live]).sum(1)
        bad = slope >= 0
        direction[bad], slope[bad] = -gradient[live][bad], -gradient[live][bad].square().sum(1)
        new_z, new_value, new_gradient, moved = _backtrack(
            function, z[live], value[live], direction, slope, live
        )
        step = torch.zeros_like(z)
        change = torch.zeros_like(z)
        step[live], change[live] = new_z - z[live], new_gradient - gradient[live]
        z[live], value[live], gradient[live] = new_z, new_value, new_gradient
        steps, changes = [*steps, step][-memory:], [*changes, change][-memory:]
        converged[live] = gradient[live].norm(dim=1) <= threshold[live]
        stuck[live] = ~moved & ~converged[live]
    return z, converged | stuck, n_iter  # stuck: no step lowers the value at this precision


def _two_loop(gradient: Tensor, steps: list[Tensor], changes: list[Tensor]) -> Tensor:
    """Product of the inverse Hessian estimate and the gradient, per problem."""
    q = gradient.clone()
    stack = []
    for s, c in zip(reversed(steps), reversed(changes), strict=True):
        curve = (s * c).sum(1)
        rho = torch.where(curve > 1e-300, 1.0 / curve.clamp(min=1e-300), torch.zeros_like(curve))
        alpha = rho * (s * q).sum(1)
        q -= alpha[:, None] * c
        stack.append((rho, alpha, s, c))
    if steps:
        curve, size = (steps[-1] * changes[-1]).sum(1), changes[-1].square().sum(1)
        q *= torch.where(size > 0, curve / size.clamp(min=1e-300), torch.ones_like(size))[:, None]
    for rho, alpha, s, c in reversed(stack):
        q += (alpha - rho * (c * q).sum(1))[:, None] * s
    return q


def _backtrack(function, z, value, direction, slope, rows, tries: int = 30):
    """Halve each problem's step until it lowers the value enough (Armijo).

    Close to the optimum the change of the value drowns in rounding; there the slope decides, as in
    the approximate Wolfe condition of Hager and Zhang (2005).
    """
    length = torch.ones_like(value)
    new_z = z + direction
    new_value, new_gradient = function(new_z, rows)
    noise = 1e-12 * value.abs()
    for _ in range(tries):
        fine = new_value <= value + 1e-4 * length * slope
        end_slope = (new_gradient * direction).sum(1)
        fine |= (new_value <= value + noise) & (end_slope.abs() <= -0.9 * slope)
        fine &= torch.isfinite(new_value)
        if fine.all():
            break
        again = (~fine).nonzero()[:, 0]
        length[again] *= 0.5
        new_z[again] = z[again] + length[again, None] * direction[again]
        new_value[again], new_gradient[again] = function(new_z[again], rows[again])
    moved = fine.clone()
    new_z[~fine] = z[~fine]
    if (~fine).any():
        back = (~fine).nonzero()[:, 0]
        new_value[back], new_gradient[back] = function(new_z[back], rows[back])
    return new_z, new_value, new_gradient, moved
