"""The convex solver of linear fusion for ordered classes: proportional odds, many fits at once.

The same problem as in `mmfuse.solver`, with one column of coefficients and K - 1 thresholds in the
place of K columns and K intercepts::

    sum_i w_i sum_S q_iS loss(y_i, u_iS, threshold) + sum_m (|w_m|^2 + t_m^2) / (2 C_m)
    u_iS = sum_{m in S} x_im w_m + sum_{m not in S} t_m

The loss of a row is the sum of two logistic losses, at the thresholds below and above its class,
and of a term in the gap between them alone; it is convex, and infinite where thresholds are not in
order, so that no constraint is needed. The method is Newton's with conjugate gradients, each
problem with its own step length.

A class without weight in a problem, such as one that a fold lacks, has no finite thresholds; it
gets one ten-thousandth of the problem's weight at a latent score of zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmfuse.cumulative import class_thresholds, log_probabilities
from mmfuse.objectives import Objective
from mmfuse.solver.batched import LinearSolution
from mmfuse.solver.columns import Column

__all__ = ["OrdinalProblems", "OrdinalSolution"]

_PSEUDO = 1e-4  # share of the weight that a class without rows gets
_CG_STEPS = 250
_HALVINGS = 40


@dataclass(frozen=True)
class OrdinalSolution(LinearSolution):
    """Coefficients of B problems; those of `LinearSolution` have K = 1, the intercepts are zero.

    Attributes
    ----------
    threshold : Tensor of shape (B, K - 1)
        Increasing; no penalty.
    """

    threshold: Tensor


@dataclass
class _Point:
    """The objective of b problems at one place, and what its curvature needs."""

    value: Tensor  # (b,)
    gradient: Tensor  # (b, P)
    upper: Tensor  # (n, S, b) weighted curvature at the threshold above the class of the row
    lower: Tensor  # (n, S, b) and at the one below
    gap: Tensor  # (b, K - 2) curvature in the gaps between thresholds

    def put(self, rows: Tensor, other: _Point) -> None:
        """Take problems ``rows`` from another point."""
        self.value[rows], self.gradient[rows], self.gap[rows] = (
            other.value,
            other.gradient,
            other.gap,
        )
        self.upper[..., rows], self.lower[..., rows] = other.upper, other.lower


class OrdinalProblems:
    """Proportional-odds problems that share their blocks.

    Parameters and methods are those of `mmfuse.solver.LinearProblems`; the target holds class
    indices (n,), and scores are log probabilities. All products are in float64, on one standardised
    copy of the blocks, whatever ``dtype`` says.
    """

    dtype = torch.float64
    by_score = False  # no problem is solved on a sample of the rows

    def __init__(
        self,
        blocks: list,
        presence: Tensor,
        target: Tensor,
        objective: Objective,
        *,
        masks: Tensor,
        mask_weight: Tensor,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.n_outputs = objective.n_outputs
        self.present, self.target, self.n_rows = presence, target, len(presence)
        columns = [b if isinstance(b, Column) else Column(b, dtype=dtype) for b in blocks]
        turned = [_rotate(column.rows(slice(None)).to(self.dtype)) for column in columns]
        self.bases = [basis for _, basis in turned]
        self.widths = [block.shape[1] for block, _ in turned]
        # one more row for every class, of nothing but zeros: where classes without rows stand
        self.blocks = [_extended(block, self.n_outputs, 0.0) for block, _ in turned]
        extra = torch.arange(self.n_outputs, device=target.device)
        self.classes = torch.cat([target, extra])
        self.one_hot = torch.nn.functional.one_hot(self.classes, self.n_outputs)
        self.one_hot = self.one_hot.to(self.dtype)
        self._take_masks(masks, mask_weight)

    def _take_masks(self, masks: Tensor, mask_weight: Tensor) -> None:
        self.kept = _extended(masks, self.n_outputs, True).to(self.dtype)
        self.mask_weight = mask_weight.to(self.dtype)

    @property
    def n_parameters(self) -> int:
        return sum(self.widths) + len(self.widths) + self.n_outputs - 1

    def _split(self, theta: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        sizes = [*self.widths, len(self.widths), self.n_outputs - 1]
        parts = theta.split(sizes, dim=1)
        return list(parts[:-2]), parts[-2], parts[-1]

    def _all_weight(self, weight: Tensor) -> Tensor:
        """Weights (n + K, B): of the rows, and of the classes that have none."""
        total = self.one_hot[: self.n_rows].T @ weight
        missing = torch.where(total > 0, 0.0, _PSEUDO * weight.sum(dim=0))
        return torch.cat([weight, missing])

    # -- the linear map and its transpose -------------------------------------------------------

    def _latent(self, coef: list[Tensor], token: Tensor) -> Tensor:
        """Latent score of every row in every pattern: (n, S, B)."""
        latent = (1 - self.kept) @ token.T
        for m, (block, w) in enumerate(zip(self.blocks, coef, strict=True)):
            latent += self.kept[:, :, m, None] * (block @ w.T)[:, None]
        return latent

    def _back(self, part: Tensor) -> tuple[list[Tensor], Tensor]:
        """Transpose of `_latent`: from (n, S, B) to coefficients (B, r_m) and tokens (B, M)."""
        coef, token = [], []
        for m, block in enumerate(self.blocks):
            seen = (self.kept[:, :, m, None] * part).sum(dim=1)
            coef.append(seen.T @ block)
            token.append((part.sum(dim=1) - seen).sum(dim=0))
        return coef, torch.stack(token, dim=1)

    def _around(self, threshold: Tensor, ends: tuple[float, float]) -> tuple[Tensor, Tensor]:
        """Thresholds above and below the class of every row, (n, 1, B) each."""
        b = len(threshold)
        low, high = (torch.full((b, 1), e, dtype=self.dtype, device=threshold.device) for e in ends)
        padded = torch.cat([low, threshold, high], dim=1).T
        return padded[self.classes + 1][:, None], padded[self.classes][:, None]

    def _to_thresholds(self, upper: Tensor, lower: Tensor) -> Tensor:
        """Transpose of `_around`: from (n, S, B) twice to (B, K - 1)."""
        up, low = self.one_hot.T @ upper.sum(dim=1), self.one_hot.T @ lower.sum(dim=1)
        return (up[:-1] + low[1:]).T

    # -- the objective ------------------------------------------------------------------------

    def scores(self, theta: Tensor, presence: Tensor | None = None) -> Tensor:
        """Log probabilities of every row under every problem, as observed: (n, B, K)."""
        coef, token, threshold = self._split(theta)
        present = self.present if presence is None else presence
        latent = (~present).to(self.dtype) @ token.T
        for m, (block, w) in enumerate(zip(self.blocks, coef, strict=True)):
            latent += torch.where(present[:, m, None], block[: self.n_rows] @ w.T, 0.0)
        return log_probabilities(latent, threshold)

    def held_scores(self, theta: Tensor, held: Tensor, presence: Tensor | None = None) -> Tensor:
        """Scores (n, K) of every row under the problem that ``held`` (n, B) names, else NaN."""
        scores = self.scores(theta, presence)
        found = torch.full_like(scores[:, 0], torch.nan)
        for b in range(len(theta)):
            found = torch.where(held[:, b, None], scores[:, b], found)
        return found

    def pattern_loss(self, theta: Tensor) -> Tensor:
        """Loss of every row under every problem, averaged over the patterns: (n, B)."""
        coef, token, threshold = self._split(theta)
        latent = self._latent(coef, token)[: self.n_rows]
        index = self.target[:, None, None].expand(-1, len(theta), 1)
        total = torch.zeros_like(latent[:, 0])
        for s, share in enumerate(self.mask_weight):
            log_p = log_probabilities(latent[:, s], threshold)
            total -= share * log_p.gather(-1, index)[..., 0]
        return total

    def held_loss(self, theta: Tensor, held: Tensor) -> Tensor:
        """Loss (B,) of the rows that ``held`` (n, B) weights, summed."""
        return (self.pattern_loss(theta) * held).sum(dim=0)

    def _evaluate(self, theta: Tensor, weight: Tensor, penalty: Tensor) -> _Point:
        coef, token, threshold = self._split(theta)
        latent = self._latent(coef, token)
        above, below = self._around(threshold, (-torch.inf, torch.inf))
        above, below = above - latent, below - latent
        w = weight[:, None] * self.mask_weight[:, None]
        value = -(w * (logsigmoid(above) + logsigmoid(-below))).sum(dim=(0, 1))
        right, left = torch.sigmoid(-above), torch.sigmoid(below)
        coef_grad, token_grad = self._back(w * (right - left))
        threshold_grad = self._to_thresholds(-w * right, w * left)
        gap, total = threshold.diff(dim=1), (self.one_hot.T @ weight).T[:, 1:-1]
        ordered = (gap > 0).all(dim=1)
        gap = torch.where(gap > 0, gap, 1.0)
        value -= (total * torch.log(-torch.expm1(-gap))).sum(dim=1)
        push = total / torch.expm1(gap)
        threshold_grad[:, :-1] += push
        threshold_grad[:, 1:] -= push
        for m, part in enumerate(coef):
            value += 0.5 * penalty[:, m] * (part.square().sum(dim=1) + token[:, m].square())
            coef_grad[m] += penalty[:, m, None] * part
        token_grad += penalty * token
        return _Point(
            torch.where(ordered, value, torch.inf),
            torch.cat([*coef_grad, token_grad, threshold_grad], dim=1),
            w * right * (1 - right),
            w * left * (1 - left),
            total / (4 * torch.sinh((gap / 2).clamp(max=300)).square()),
        )

    def _curve(self, point: _Point, direction: Tensor, penalty: Tensor) -> Tensor:
        """Product of the Hessian and a direction (b, P)."""
        coef, token, threshold = self._split(direction)
        latent = self._latent(coef, token)
        above, below = self._around(threshold, (0.0, 0.0))
        up, low = point.upper * (above - latent), point.lower * (below - latent)
        coef_out, token_out = self._back(-(up + low))
        threshold_out = self._to_thresholds(up, low)
        bend = point.gap * threshold.diff(dim=1)
        threshold_out[:, 1:] += bend
        threshold_out[:, :-1] -= bend
        coef_out = [p + penalty[:, m, None] * coef[m] for m, p in enumerate(coef_out)]
        return torch.cat([*coef_out, token_out + penalty * token, threshold_out], dim=1)

    def _diagonal(self, point: _Point, penalty: Tensor) -> Tensor:
        """Diagonal of the Hessian: (b, P)."""
        bend = point.upper + point.lower
        coef, token = [], []
        for m, block in enumerate(self.blocks):
            seen = (self.kept[:, :, m, None] * bend).sum(dim=1)
            coef.append(seen.T @ block.square() + penalty[:, m, None])
            token.append((bend.sum(dim=1) - seen).sum(dim=0) + penalty[:, m])
        threshold = self._to_thresholds(point.upper, point.lower)
        threshold[:, 1:] += point.gap
        threshold[:, :-1] += point.gap
        floor = 1e-12 * threshold.amax(dim=1, keepdim=True) + 1e-300
        return torch.cat([*coef, torch.stack(token, dim=1), threshold + floor], dim=1)

    # -- solving ------------------------------------------------------------------------------

    def _origin(self, weight: Tensor) -> Tensor:
        """Where every fit starts: no effect of any block, and the shares of the classes."""
        start = torch.zeros(weight.shape[1], self.n_parameters, dtype=self.dtype)
        start = start.to(weight.device)
        start[:, 1 - self.n_outputs :] = class_thresholds((self.one_hot.T @ weight).T)
        return start

    def solve(
        self,
        weight: Tensor,
        strength: Tensor,
        *,
        start: Tensor | None = None,
        tol: float = 1e-12,
        max_iter: int = 200,
        held: Tensor | None = None,  # noqa: ARG002  (nothing is known beforehand here)
    ) -> tuple[Tensor, Tensor, int]:
        """Solve B problems; see `mmfuse.solver.LinearProblems.solve`."""
        weight, penalty = self._all_weight(weight.to(self.dtype)), 1.0 / strength.to(self.dtype)
        theta = self._origin(weight)
        point = self._evaluate(theta, weight, penalty)
        reference = (point.gradient * self._diagonal(point, penalty).rsqrt()).norm(dim=1)
        if start is not None:
            theta = start.clone()
            point = self._evaluate(theta, weight, penalty)
        converged = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
        n_iter = 0
        for n_iter in range(max_iter + 1):  # noqa: B007  (the count is returned)
            inverse = 1.0 / self._diagonal(point, penalty)
            norm = (point.gradient * inverse.sqrt()).norm(dim=1)
            converged |= norm <= tol * reference
            if converged.all() or n_iter == max_iter:
                break
            left = norm / reference.clamp(min=1e-300)
            step = self._newton_step(point, penalty, inverse, left, converged)
            stuck = self._move(theta, step, point, weight, penalty, ~converged)
            converged |= stuck  # no step lowers the value at this precision
        return theta, converged, n_iter

    def _newton_step(
        self, point: _Point, penalty: Tensor, inverse: Tensor, left: Tensor, done: Tensor
    ) -> Tensor:
        """Conjugate gradients on the Newton equations, the more exactly the less is left."""
        step, residual = torch.zeros_like(point.gradient), -point.gradient
        scaled = inverse * residual
        direction, size = scaled.clone(), (residual * scaled).sum(dim=1)
        goal = size * left.clamp(max=0.0625)  # the norm falls by the root of what is left
        for _ in range(min(self.n_parameters, _CG_STEPS)):
            live = ~done & (size > goal)
            if not live.any():
                break
            curved = self._curve(point, direction, penalty)
            bend = (direction * curved).sum(dim=1)
            live &= bend > 0
            alpha = torch.where(live, size / bend.clamp(min=1e-300), 0.0)[:, None]
            step += alpha * direction
            residual = residual - alpha * curved
            scaled = inverse * residual
            new = (residual * scaled).sum(dim=1)
            ratio = torch.where(live, new / size.clamp(min=1e-300), 0.0)
            direction = torch.where(live[:, None], scaled + ratio[:, None] * direction, direction)
            size = torch.where(live, new, torch.zeros_like(size))
        return step

    def _move(self, theta, step, point: _Point, weight, penalty, live: Tensor) -> Tensor:
        """Halve each problem's step until it lowers the value enough; True (B,) where none does."""
        slope = (step * point.gradient).sum(dim=1)
        noise = 1e-13 * point.value.abs()
        length = torch.ones_like(slope)
        left = live.nonzero()[:, 0]
        for _ in range(_HALVINGS):
            trial = theta[left] + length[left, None] * step[left]
            new = self._evaluate(trial, weight[:, left], penalty[left])
            limit = point.value[left] + 1e-4 * length[left] * slope[left] + noise[left]
            fine = new.value <= limit
            better = new.gradient.norm(dim=1) < point.gradient[left].norm(dim=1)
            fine &= (new.value < point.value[left]) | better
            taken = left[fine]
            theta[taken] = trial[fine]
            point.put(taken, _pick(new, fine))
            left = left[~fine]
            if len(left) == 0:
                break
            length[left] *= 0.5
        stuck = torch.zeros_like(live)
        stuck[left] = True
        return stuck

    def solution(self, theta: Tensor, converged: Tensor, n_iter: int) -> OrdinalSolution:
        """Coefficients in the coordinates of the original blocks."""
        coef, token, threshold = self._split(theta)
        turned = [(w @ basis.T)[..., None] for basis, w in zip(self.bases, coef, strict=True)]
        zero = torch.zeros_like(threshold[:, :1])
        return OrdinalSolution(turned, token[..., None], zero, n_iter, converged, threshold)


def _rotate(block: Tensor) -> tuple[Tensor, Tensor]:
    """Turn a block (n, d) into min(n, d) coordinates with a diagonal second moment.

    Returns the turned block and the orthonormal basis (d, r). An L2 penalty is the same in both
    coordinates, so coefficients go back by ``basis @ coef``.
    """
    basis = None
    if block.shape[1] > block.shape[0]:  # the solution lies in the span of the rows
        basis = torch.linalg.qr(block.T).Q
        block = block @ basis
    turn = torch.linalg.eigh(block.T @ block).eigenvectors
    return block @ turn, turn if basis is None else basis @ turn


def _extended(rows: Tensor, count: int, value: float | bool) -> Tensor:
    """``rows`` and ``count`` more rows of one value."""
    return torch.cat([rows, torch.full_like(rows[:1], value).expand(count, *rows.shape[1:])])


def _pick(point: _Point, rows: Tensor) -> _Point:
    return _Point(
        point.value[rows],
        point.gradient[rows],
        point.upper[..., rows],
        point.lower[..., rows],
        point.gap[rows],
    )
