"""One convex solver for linear fusion: multinomial logistic and ridge, many problems at once.

A problem is a set of row weights (a fold is a set of zeros), one strength per block and, where not
all of them take part, a set of blocks. All problems share the blocks, so one matrix product serves
them together. Modality dropout is part of the objective: a *pattern* is a set of blocks that is
kept, and the loss is the weighted mean over patterns. The pattern changes only which block logits
are added, so no row is ever copied.

The objective of a problem, with strengths ``C_m`` in scikit-learn's meaning (the loss is a sum over
rows), is::

    sum_i w_i sum_S q_iS loss(y_i, b + sum_{m in S} x_im W_m + sum_{m not in S} t_m)
        + sum_m (|W_m|^2 + |t_m|^2) / (2 C_m)

``t_m`` is the learned token for absence of block m: its effect on the scores. The method is L-BFGS
with a preconditioner from a sample of the rows. A pass over the data takes a chunk of rows, which
stays in the processor's cache, through scores, loss and gradient; standardisation is folded into
the coefficients. Products may be in float32; sums over rows are in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmfuse.objectives import Multinomial, Objective
from mmfuse.solver.columns import Column
from mmfuse.solver.lbfgs import minimise
from mmfuse.solver.passes import Evaluation, Passes
from mmfuse.solver.preconditioner import Axes, ByScorePreconditioner, gram

__all__ = ["LinearProblems", "LinearSolution"]

_SAMPLE = 8192  # rows that give the curvature; some times as many count as many
_AT_ONCE = 512  # rows that are gathered together
_MOMENT_ROWS = 3 * _SAMPLE  # rows of which those that bend are drawn for every score
_MOST_MOMENTS = 50_000_000  # numbers in the curvatures of all scores
_FIRST_STEPS = 4  # on some of the rows, from zero
_REMEMBERED = 4  # solutions of which is known what the rows cost there
_LOOK_AGAIN = 20  # steps before the curvature is looked at again; the span doubles
_FLOOR = 1e-4  # curvature of the intercept that has no penalty, for a sample may miss it
_NOISE = {torch.float64: 1e-12, torch.float32: 3e-7}


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


@dataclass(frozen=True)
class _Known:
    """What the rows cost at a solution, without penalties: the next strength may start there."""

    theta: Tensor
    weight: Tensor
    kept: Tensor | None
    held: Tensor | None
    found: Evaluation


class _Track:
    """Keep the last evaluation of every problem; that of the start may be known already.

    The line search accepts what it evaluated last, so these are evaluations at the solutions.
    """

    def __init__(self, count: int, start: Evaluation | None) -> None:
        self.count, self.start, self.found = count, start, start

    def __call__(self, problems: Tensor, evaluate: Callable[[], Evaluation]) -> Evaluation:
        if self.start is not None:
            start, self.start = self.start, None
            return start
        found = evaluate()
        if len(problems) == self.count:
            self.found = found
        else:
            self.found.put(problems, found)
        return found


class LinearProblems:
    """Linear problems that share their blocks.

    Parameters
    ----------
    blocks : list of Tensor of shape (n, d_m), or of Column
        Tensors are standardised, zero where absent.
    presence : Tensor of shape (n, M), bool
    target : Tensor of shape (n,) of class indices, or (n, K) of values
    objective : Objective
        What a row costs; K scores.
    masks : Tensor of shape (n, S, M), bool
        Which of its blocks each row keeps in each pattern.
    mask_weight : Tensor of shape (S,)
        Sums to one.
    dtype : torch.dtype, default=torch.float64
        Of the matrix products.
    """

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
        self.dtype, self.loss, self.n_outputs = dtype, objective, objective.n_outputs
        self.target = objective.target(target)
        if self.target.is_floating_point():  # residuals go into the products
            self.target = self.target.to(dtype)
        self.masks, self.mask_weight = masks, mask_weight.double()
        self.present = presence
        columns = [b if isinstance(b, Column) else Column(b, dtype=dtype) for b in blocks]
        reduced = [_reduce(column) for column in columns]
        self.columns = [column for column, _ in reduced]
        self.bases = [basis for _, basis in reduced]
        self.widths = [column.width for column in self.columns]
        self.passes = Passes(self.columns, self.target, objective, masks, self.mask_weight)
        self._moments: Tensor | None = None
        self._axes: Axes | None = None
        self._known: list[_Known] = []
        self._at_zero: _Known | None = None

    @property
    def n_parameters(self) -> int:
        return (sum(self.widths) + len(self.widths) + 1) * self.n_outputs

    def _shaped(self, theta: Tensor) -> Tensor:
        """Features, tokens and intercept along one axis: (B, D, K)."""
        return theta.view(len(theta), -1, self.n_outputs)

    # -- values -------------------------------------------------------------------------------

    def scores(self, theta: Tensor, presence: Tensor | None = None) -> Tensor:
        """Scores of every row under every problem, as observed: shape (n, B, K)."""
        present = self.present if presence is None else presence
        return self.passes.scores(self._shaped(theta), present)

    def held_scores(self, theta: Tensor, held: Tensor, presence: Tensor | None = None) -> Tensor:
        """Scores (n, K) of every row under the problem that ``held`` (n, B) names, else NaN."""
        present = self.present if presence is None else presence
        return self.passes.held_scores(self._shaped(theta), present, held)

    def pattern_loss(self, theta: Tensor) -> Tensor:
        """Loss of every row under every problem, averaged over the patterns: shape (n, B)."""
        return self.passes.pattern_loss(self._shaped(theta))

    def objective(
        self,
        theta: Tensor,
        weight: Tensor,
        strength: Tensor,
        *,
        kept: Tensor | None = None,
    ) -> Evaluation:
        """Value (B,) and gradient (B, P).

        ``weight`` is (n, B), ``strength`` is (B, M), ``kept`` is (B, M) bool.
        """
        found = self.passes.evaluate(self._shaped(theta), weight, kept)
        return self._penalised(found, theta, strength, kept)

    def _penalised(
        self, found: Evaluation, theta: Tensor, strength: Tensor, kept: Tensor | None
    ) -> Evaluation:
        """What the rows cost, with the penalties."""
        shaped = self._shaped(theta)
        penalty = self._penalty(strength, 0.0)[..., None]
        value = found.value + 0.5 * (penalty * shaped.square()).sum((1, 2))
        gradient = found.gradient + penalty * shaped
        if kept is not None:
            gradient *= self._free(kept)[..., None]
        return Evaluation(value, gradient.flatten(1), found.held)

    def held_loss(self, theta: Tensor, held: Tensor) -> Tensor:
        """Loss (B,) of the rows that ``held`` (n, B) weights, summed; free after `solve`."""
        known = next((k for k in self._known if k.theta is theta and k.held is held), None)
        if known is not None and known.found.held is not None:
            return known.found.held
        return (self.pattern_loss(theta) * held).sum(dim=0)

    def _penalty(self, strength: Tensor, intercept: Tensor | float) -> Tensor:
        """Penalty of every feature, token and the intercept: (B, D)."""
        per_block = self.loss.penalty_scale / strength
        parts = [per_block[:, m, None].expand(-1, w) for m, w in enumerate(self.widths)]
        last = torch.as_tensor(intercept, dtype=strength.dtype, device=strength.device)
        return torch.cat([*parts, per_block, last.expand(len(strength))[:, None]], dim=1)

    def _free(self, kept: Tensor) -> Tensor:
        """Which parameters take part in each problem: (B, D), as numbers."""
        parts = [kept[:, m, None].expand(-1, w) for m, w in enumerate(self.widths)]
        return torch.cat([*parts, kept, torch.ones_like(kept[:, :1])], dim=1).double()

    # -- solving ----------------------------------------------------------------------------

    def solve(
        self,
        weight: Tensor,
        strength: Tensor,
        *,
        start: Tensor | None = None,
        tol: float = 1e-12,
        max_iter: int = 2000,
        kept: Tensor | None = None,
        held: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, int]:
        """Solve B problems.

        Parameters
        ----------
        weight : Tensor of shape (n, B)
        strength : Tensor of shape (B, M)
            C of every problem and block.
        start : Tensor of shape (B, P), optional
        tol : float
            A problem is done when the preconditioned norm of its gradient is below ``tol`` times
            that at zero: its loss is then within about ``tol ** 2`` of what there was to gain.
            Where rows are many, that is taken to be one nat a row.
        max_iter : int
        kept : Tensor of shape (B, M), bool, optional
            Blocks that take part in each problem; the others have neither weights nor token.
        held : Tensor of shape (n, B), optional
            Weights of rows held out, whose loss `held_loss` then tells without a pass.

        Returns
        -------
        theta : Tensor of shape (B, P)
        converged : Tensor of shape (B,), bool
        n_iter : int
            Steps of the slowest problem; a step is a pass over the rows, seldom more.
        """
        weight, strength = weight.double(), strength.double()
        count = len(strength)
        known = self._known_at(start, weight, kept, held)
        if start is None:
            theta = self._first(weight, strength, kept)
        else:
            theta = start.clone()
        threshold = tol * self._size_at_zero(weight, strength, kept)
        converged = torch.zeros(count, dtype=torch.bool, device=weight.device)
        live, n_iter, span = torch.arange(count, device=weight.device), 0, _LOOK_AGAIN
        while len(live) and n_iter < max_iter:
            everything = len(live) == count
            w, c = (weight, strength) if everything else (weight[:, live], strength[live])
            k = None if kept is None else kept[live]
            if n_iter:
                self._moments = self._axes = None  # what is remembered served too badly
            out = held if everything or held is None else held[:, live]
            track = _Track(len(live), None if known is None else known.found.of(live))
            z, done, steps = minimise(
                self._function(w, c, k, out, track),
                self._preconditioner(theta[live], w, c, k),
                theta[live],
                threshold[live],
                max_iter=min(span, max_iter - n_iter),
                noise=_NOISE[self.dtype],
            )
            span *= 2
            theta[live] = z
            n_iter += steps
            converged[live] = done
            if known is None or everything:
                known = _Known(theta, weight, kept, held, track.found)
            else:
                known.found.put(live, track.found)
            live = live[~done]
        if known is not None:
            self._known = [*self._known, known][-_REMEMBERED:]
        return theta, converged, n_iter

    def _known_at(
        self, theta: Tensor | None, weight: Tensor, kept: Tensor | None, held: Tensor | None
    ) -> _Known | None:
        """What an earlier solution with the same rows found where it ended."""
        for one in self._known if theta is not None else []:
            same = one.theta is theta and one.weight is weight and one.kept is kept
            if same and (held is None or one.held is held):
                self._known = [k for k in self._known if k is not one] + [one]  # the last to go
                return one
        return None

    def _function(
        self,
        weight: Tensor,
        strength: Tensor,
        kept: Tensor | None,
        held: Tensor | None = None,
        track: _Track | None = None,
    ):
        track = track or _Track(len(strength), None)

        def function(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            some = None if kept is None else kept[rows]

            def part(wide: Tensor | None) -> Tensor | None:
                everything = wide is None or len(rows) == wide.shape[1]
                return wide if everything else wide[:, rows]

            found = track(
                rows,
                lambda: self.passes.evaluate(self._shaped(z), part(weight), some, part(held)),
            )
            found = self._penalised(found, z, strength[rows], some)
            return found.value, found.gradient

        return function

    def _zero(self, count: int) -> Tensor:
        options = {"dtype": torch.float64, "device": self.present.device}
        return torch.zeros(count, self.n_parameters, **options)

    @property
    def by_score(self) -> bool:
        """Whether rows are so many that a curvature for every score pays."""
        size = self.n_outputs * (self.n_parameters // self.n_outputs) ** 2
        return self.loss.uneven and len(self.present) > 4 * _SAMPLE and size <= _MOST_MOMENTS

    def _first(self, weight: Tensor, strength: Tensor, kept: Tensor | None) -> Tensor:
        """Where to start: zero, or a few steps on some of the rows where there are many."""
        theta = self._zero(len(strength))
        if not self.by_score:
            return theta
        rows = self._sample_rows(max(2 * _SAMPLE, min(len(weight) // 4, 16 * _SAMPLE)))
        part = LinearProblems(
            [column.take(rows) for column in self.columns],
            self.present[rows],
            self.target[rows],
            self.loss,
            masks=self.masks[rows],
            mask_weight=self.mask_weight,
            dtype=self.dtype,
        )
        w = weight[rows] * (len(weight) / len(rows))
        function = part._function(w, strength, kept)
        apply = part._along_axes(theta, w, strength, kept)
        nothing = torch.zeros(len(strength), dtype=torch.float64, device=weight.device)
        return minimise(function, apply, theta, nothing, max_iter=_FIRST_STEPS, noise=3e-7)[0]

    def _size_at_zero(self, weight: Tensor, strength: Tensor, kept: Tensor | None) -> Tensor:
        """Preconditioned norm (B,) of the gradient at zero; where rows are many, what it may be."""
        if self.by_score:  # a gain of one nat a row, of which a loss of some classes is a part
            return (2 * weight.sum(0)).sqrt()
        zero = self._zero(len(strength))
        at_zero = self._at_zero
        if at_zero is None or at_zero.weight is not weight or at_zero.kept is not kept:
            found = self.passes.evaluate(self._shaped(zero), weight, kept)
            self._at_zero = at_zero = _Known(zero, weight, kept, None, found)
        gradient = self._penalised(at_zero.found, zero, strength, kept).gradient
        apply = self._along_axes(zero, weight, strength, kept)
        everything = torch.arange(len(strength), device=weight.device)
        return (gradient * apply(gradient, everything)).sum(1).clamp(min=0).sqrt()

    # -- curvature ----------------------------------------------------------------------------

    def _sample_rows(self, count: int) -> Tensor:
        n = len(self.present)
        if n <= count:
            return torch.arange(n, device=self.present.device)
        generator = torch.Generator().manual_seed(n)  # any rows will do, but the same each time
        rows = torch.randint(n, (count,), generator=generator).sort().values
        return rows.to(self.present.device)

    def _drawn_masks(self, rows: Tensor) -> Tensor:
        """One pattern, drawn by its chance, for every sampled row: (m, M)."""
        if self.masks.shape[1] == 1:
            return self.masks[rows, 0]
        generator = torch.Generator().manual_seed(len(rows))
        drawn = torch.multinomial(self.mask_weight.cpu(), len(rows), True, generator=generator)
        return self.masks[rows, drawn.to(rows.device)]

    def _features(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Features under a pattern, bits of absence and a one: (m, D)."""
        width = self.n_parameters // self.n_outputs
        out = torch.ones(len(rows), width, dtype=self.dtype, device=mask.device)
        parts = zip(out.split(_AT_ONCE), rows.split(_AT_ONCE), mask.split(_AT_ONCE), strict=True)
        for part, some, kept in parts:  # few enough to stay in the cache
            places = part.split([*self.widths, len(self.widths), 1], dim=1)
            for m, column in enumerate(self.columns):
                places[m].copy_(column.rows(some)).masked_fill_(~kept[:, m, None], 0.0)
            places[-2].copy_(~kept)
        return out

    def _preconditioner(self, theta: Tensor, weight: Tensor, strength: Tensor, kept: Tensor | None):
        if not self.by_score:
            return self._along_axes(theta, weight, strength, kept)
        if self._moments is None:
            self._moments = self._score_moments(theta)
        share = weight.mean(dim=0)
        penalty = self._penalty(strength, _FLOOR * share * len(weight))
        free = None if kept is None else self._free(kept)
        inverse = ByScorePreconditioner(self._moments, share, penalty, free)
        return self._applied(inverse, free)

    def _applied(self, inverse, free: Tensor | None):
        def apply(gradient: Tensor, problems: Tensor) -> Tensor:
            out = inverse(self._shaped(gradient), problems)
            return (out if free is None else out * free[problems][..., None]).flatten(1)

        return apply

    def _along_axes(self, theta: Tensor, weight: Tensor, strength: Tensor, kept: Tensor | None):
        rows = self._sample_rows(_SAMPLE // 2 if len(weight) > 2 * _SAMPLE else _SAMPLE)
        axes = self._axes  # from an earlier solution, or made here
        features = axes.features if axes else self._features(rows, self._drawn_masks(rows))
        coef = self._shaped(theta).to(self.dtype)
        scores = torch.einsum("md,bdk->mbk", features, coef)
        w = weight[rows] * (len(weight) / len(rows))
        bend = self.loss.bend(scores).double() * w[..., None]
        total = bend.sum(dim=(0, 2)).clamp(min=1e-300)
        penalty = self._penalty(strength, _FLOOR * total)
        if axes is None:
            self._axes = axes = Axes(features, bend.mean(dim=(1, 2)), penalty)
        inverse = axes.preconditioner(bend, penalty)
        return self._applied(inverse, None if kept is None else self._free(kept))

    def _score_moments(self, theta: Tensor) -> Tensor:
        """Second moments (K, D, D) of the features, weighted by the curvature of every score.

        For every score rows are drawn with chances in proportion to their curvature and weighted
        back, for most rows of classes that are told apart well hardly bend at all.
        """
        rows = self._sample_rows(_MOMENT_ROWS)
        features = self._features(rows, self._drawn_masks(rows))
        coef = self._shaped(theta).mean(dim=0).to(self.dtype)
        bend = self.loss.bend((features @ coef)[:, None])[:, 0] * (len(self.present) / len(rows))
        count = max(2048, 3 * len(coef))
        generator = torch.Generator().manual_seed(0)
        moments = []
        for k in range(self.n_outputs):
            chance = (bend[:, k] / bend[:, k].sum().clamp(min=1e-30) * count).clamp(max=1)
            drawn = torch.rand(len(rows), generator=generator).to(rows.device) < chance
            heavy = (bend[drawn, k] / chance[drawn]).sqrt()[:, None].to(self.dtype)
            moments.append(gram(features[drawn] * heavy))
        return torch.stack(moments)

    def solution(self, theta: Tensor, converged: Tensor, n_iter: int) -> LinearSolution:
        """Coefficients in the coordinates of the original blocks."""
        parts = self._shaped(theta).split([*self.widths, len(self.widths), 1], dim=1)
        coef = [
            w if basis is None else basis @ w
            for basis, w in zip(self.bases, parts[:-2], strict=True)
        ]
        token, intercept = parts[-2], parts[-1][:, 0]
        if isinstance(self.loss, Multinomial):  # no penalty fixes the sum of the intercepts
            intercept = intercept - intercept.mean(dim=1, keepdim=True)
        return LinearSolution(coef, token, intercept, n_iter, converged)


def _reduce(column: Column) -> tuple[Column, Tensor | None]:
    """A block with more columns than rows, turned into the span of its rows.

    The solution lies there, and an L2 penalty is the same in both coordinates: coefficients go back
    by ``basis @ coef``.
    """
    if column.width <= len(column):
        return column, None
    block = column.rows(slice(None))
    basis = torch.linalg.qr(block.T.double()).Q
    return Column((block.double() @ basis).to(column.dtype), dtype=column.dtype), basis
