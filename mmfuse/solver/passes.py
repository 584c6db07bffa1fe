"""Passes over the rows of linear problems: scores, loss and gradient, a chunk at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmfuse.objectives import Objective
from mmfuse.solver.columns import Column

__all__ = ["Evaluation", "Passes"]

_CHUNK_SCORES = 131_072  # scores of a chunk: they and the rows stay in the cache
_CHUNK_ROWS = (256, 1024)
_CHUNK_ROWS_GPU = 65_536


@dataclass
class Evaluation:
    """Value (B,), gradient (B, D, K) or flat, and the loss (B,) of rows held out, where asked."""

    value: Tensor
    gradient: Tensor
    held: Tensor | None = None

    def of(self, problems: Tensor) -> Evaluation:
        """Some of the problems, as copies."""
        held = None if self.held is None else self.held[problems]
        return Evaluation(self.value[problems], self.gradient[problems], held)

    def put(self, problems: Tensor, other: Evaluation) -> None:
        """Take what another evaluation found for these problems."""
        self.value[problems], self.gradient[problems] = other.value, other.gradient
        if self.held is not None and other.held is not None:
            self.held[problems] = other.held


class Passes:
    """What is summed over rows, for parameters of shape (B, D, K): features, tokens, intercept.

    Parameters
    ----------
    columns : list of Column
    target : Tensor
    objective : Objective
    masks : Tensor of shape (n, S, M), bool
    mask_weight : Tensor of shape (S,)
    """

    def __init__(
        self,
        columns: list[Column],
        target: Tensor,
        objective: Objective,
        masks: Tensor,
        mask_weight: Tensor,
    ) -> None:
        self.columns, self.target, self.loss = columns, target, objective
        self.masks = masks
        self.mask_weight = mask_weight.tolist()
        self.dtype = columns[0].dtype
        self.widths = [column.width for column in columns]
        self.uniform = _uniform(masks)
        self.n_rows, self.device = len(target), target.device

    # -- chunks --------------------------------------------------------------------------------

    def _chunks(self, n_scores: int) -> list[slice]:
        low, high = _CHUNK_ROWS
        size = min(max(_CHUNK_SCORES // n_scores, low), high)
        if self.device.type != "cpu":
            size = _CHUNK_ROWS_GPU
        return [slice(i, min(i + size, self.n_rows)) for i in range(0, self.n_rows, size)]

    def _coefficients(self, theta: Tensor, kept: Tensor | None) -> _Coefficients:
        return _Coefficients(self, theta, kept)

    # -- sums ----------------------------------------------------------------------------------

    def evaluate(
        self, theta: Tensor, weight: Tensor, kept: Tensor | None, held: Tensor | None = None
    ) -> Evaluation:
        """Loss and gradient, without penalties; ``weight`` is (n, B).

        ``held`` (n, B), weights too, asks for the loss of those rows, which costs next to nothing
        here and a pass elsewhere.
        """
        if kept is None and len(self.mask_weight) > 1 and self.same_everywhere:
            return self._evaluate_together(theta, weight, held)
        coef = self._coefficients(theta, kept)
        sums = _Sums(self, coef, held)
        weight = weight.T.to(self.dtype)
        for where in self._chunks(theta.shape[0] * theta.shape[2]):
            rows = [column.chunk(where) for column in self.columns]
            pieces = coef.pieces(rows)
            target = self.target[where]
            back: Any = sums.fresh()
            for s, chance in enumerate(self.mask_weight):
                scores = coef.pattern(pieces, self.uniform[s], self.masks[where, s])
                loss, gradient = self.loss.columns_gradient(scores, target)
                w = weight[:, where] * chance if chance != 1 else weight[:, where]
                sums.value += (loss * w).sum(1).double()
                sums.add_held(loss, where, chance)
                gradient *= w[:, None]
                sums.add_gradient(back, gradient, self.uniform[s], self.masks[where, s])
            sums.close(back, rows)
        return sums.result()

    @property
    def same_everywhere(self) -> bool:
        """Whether each pattern keeps the same blocks in all rows."""
        return not any(kept is None for pattern in self.uniform for kept in pattern)

    def _evaluate_together(self, theta: Tensor, weight: Tensor, held: Tensor | None) -> Evaluation:
        """As ``evaluate``, for patterns that are the same in all rows: all of them at once.

        Adding up blocks is then a small matrix product, and every other step is one operation on
        all patterns, which saves most of the time that many small ones take.
        """
        coef = self._coefficients(theta, None)
        sums = _Sums(self, coef, held)
        n_patterns, (n_problems, _, k) = len(self.uniform), theta.shape
        keep = torch.tensor(self.uniform, dtype=self.dtype, device=self.device)  # (S, M)
        chance = torch.tensor(self.mask_weight, dtype=self.dtype, device=self.device)
        tokens = torch.einsum("sm,bmk->sbk", 1 - keep, coef.token)
        base = (coef.intercept + tokens)[..., None]  # (S, B, K, 1)
        weight = weight.T.to(self.dtype)
        whole = torch.zeros(base.shape[:-1], dtype=torch.float64, device=self.device)
        for where in self._chunks(n_patterns * n_problems * k):
            rows = [column.chunk(where) for column in self.columns]
            pieces = torch.stack([p.flatten() for p in coef.pieces(rows) if p is not None])
            scores = (keep @ pieces).view(n_patterns, n_problems, k, -1) + base
            loss, gradient = self.loss.columns_gradient(scores.flatten(0, 1), self.target[where])
            loss = torch.einsum("s,sbc->bc", chance, loss.view(n_patterns, n_problems, -1))
            sums.value += (loss * weight[:, where]).sum(1).double()
            sums.add_held(loss, where)
            gradient = gradient.reshape(scores.shape)
            gradient *= (chance[:, None, None] * weight[:, where])[:, :, None]
            whole += gradient.sum(3).double()
            back = keep.T @ gradient.view(n_patterns, -1)
            sums.close(list(back.view(len(rows), n_problems, k, -1)), rows)
        sums.intercept += whole.sum(0)
        sums.token += torch.einsum("sm,sbk->bmk", 1 - keep.double(), whole)
        return sums.result()

    def scores(self, theta: Tensor, present: Tensor) -> Tensor:
        """Scores (n, B, K) with the blocks that are ``present`` (n, M)."""
        out = [part.permute(2, 0, 1) for _, part in self._score_chunks(theta, present)]
        return torch.cat(out) if out else theta.new_zeros(0, theta.shape[0], theta.shape[2])

    def held_scores(self, theta: Tensor, present: Tensor, held: Tensor) -> Tensor:
        """Scores (n, K) of every row under the problem that ``held`` (n, B) names; else NaN."""
        out = torch.full(
            (self.n_rows, theta.shape[2]), torch.nan, dtype=torch.float64, device=self.device
        )
        for where, part in self._score_chunks(theta, present):
            for b in range(theta.shape[0]):
                mine = held[where, b]
                out[where] = torch.where(mine[:, None], part[b].T.double(), out[where])
        return out

    def pattern_loss(self, theta: Tensor) -> Tensor:
        """Loss (n, B) averaged over the patterns."""
        out = torch.zeros(self.n_rows, theta.shape[0], dtype=torch.float64, device=self.device)
        coef = self._coefficients(theta, None)
        for where in self._chunks(theta.shape[0] * theta.shape[2]):
            pieces = coef.pieces([column.chunk(where) for column in self.columns])
            for s, chance in enumerate(self.mask_weight):
                scores = coef.pattern(pieces, self.uniform[s], self.masks[where, s])
                loss, _ = self.loss.columns_gradient(scores, self.target[where])
                out[where] += chance * loss.T.double()
        return out

    def _score_chunks(self, theta: Tensor, present: Tensor):
        coef = self._coefficients(theta, None)
        uniform = _uniform(present[:, None])[0]
        for where in self._chunks(theta.shape[0] * theta.shape[2]):
            pieces = coef.pieces([column.chunk(where) for column in self.columns])
            yield where, coef.pattern(pieces, uniform, present[where])


def _uniform(masks: Tensor) -> list[list[bool | None]]:
    """For every pattern and block: kept in all rows, in none, or None for some of each."""
    everywhere, somewhere = masks.all(dim=0).tolist(), masks.any(dim=0).tolist()
    return [
        [True if a else (None if b else False) for a, b in zip(all_s, any_s, strict=True)]
        for all_s, any_s in zip(everywhere, somewhere, strict=True)
    ]


class _Coefficients:
    """Parameters in the layout of products: problems and scores first, rows last."""

    def __init__(self, passes: Passes, theta: Tensor, kept: Tensor | None) -> None:
        self.n_problems, _, self.n_outputs = theta.shape
        dtype = passes.dtype
        parts = theta.split([*passes.widths, len(passes.widths), 1], dim=1)
        self.token = parts[-2].to(dtype)  # (B, M, K)
        self.intercept = parts[-1][:, 0].to(dtype)  # (B, K)
        self.chosen: list[Tensor | None] = []  # problems that have the block, None for all
        self.blocks: list[tuple[Tensor, Tensor | None]] = []
        for m, (column, part) in enumerate(zip(passes.columns, parts[:-2], strict=True)):
            chosen = None
            if kept is not None and not bool(kept[:, m].all()):
                chosen = kept[:, m].nonzero()[:, 0]
                part = part[chosen]
            self.chosen.append(chosen)
            self.blocks.append(column.forward(part.transpose(1, 2).flatten(0, 1)))

    def pieces(self, rows: list[Tensor]) -> list[Tensor | None]:
        """Scores of every block alone: (b, K, c)."""
        out: list[Tensor | None] = []
        for (coef, constant), x in zip(self.blocks, rows, strict=True):
            if len(coef) == 0:
                out.append(None)
                continue
            product = coef @ x.T if constant is None else torch.addmm(constant, coef, x.T)
            out.append(product.view(-1, self.n_outputs, len(x)))
        return out

    def pattern(
        self, pieces: list[Tensor | None], uniform: list[bool | None], mask: Tensor
    ) -> Tensor:
        """Scores (B, K, c) of the rows under one pattern."""
        base = self.intercept
        for m, kept in enumerate(uniform):
            if kept is False:
                base = base + self.token[:, m]
        count = len(mask)
        scores = base[..., None].expand(-1, -1, count).contiguous()
        for m, (piece, kept) in enumerate(zip(pieces, uniform, strict=True)):
            if kept is False or piece is None:
                continue
            chosen = self.chosen[m]
            part = piece
            if kept is None:
                token = self.token[:, m] if chosen is None else self.token[chosen, m]
                part = torch.where(mask[:, m], piece, token[..., None])
            if chosen is None:
                scores += part
            else:
                scores.index_add_(0, chosen, part)
        return scores


class _Sums:
    """Accumulators of one pass, in float64."""

    def __init__(self, passes: Passes, coef: _Coefficients, held: Tensor | None) -> None:
        self.passes, self.coef = passes, coef
        self.held_weight = None if held is None else held.T.to(passes.dtype)
        b, k, device = coef.n_problems, coef.n_outputs, passes.device
        options: dict[str, Any] = {"dtype": torch.float64, "device": device}
        self.value = torch.zeros(b, **options)
        self.held = None if held is None else torch.zeros(b, **options)
        self.token = torch.zeros(b, len(passes.widths), k, **options)
        self.intercept = torch.zeros(b, k, **options)
        self.product = [torch.zeros(c.shape, **options) for c, _ in coef.blocks]
        self.total = [torch.zeros(len(c), **options) for c, _ in coef.blocks]

    def add_held(self, loss: Tensor, where: slice, chance: float = 1.0) -> None:
        """Losses (B, c) of the rows held out."""
        if self.held_weight is not None:
            self.held += chance * (loss * self.held_weight[:, where]).sum(1).double()

    def fresh(self) -> list[Tensor | None]:
        """Gradients in the scores of the blocks, for one chunk."""
        return [None] * len(self.product)

    def add_gradient(
        self, back: list, gradient: Tensor, uniform: list[bool | None], mask: Tensor
    ) -> None:
        whole = gradient.sum(2).double()
        self.intercept += whole
        for m, kept in enumerate(uniform):
            if kept is False:
                self.token[:, m] += whole
                continue
            part = gradient
            if kept is None:
                part = torch.where(mask[:, m], gradient, 0.0)
                self.token[:, m] += whole - part.sum(2).double()
            chosen = self.coef.chosen[m]
            if chosen is not None:
                part = part[chosen]
            back[m] = part if back[m] is None else back[m] + part

    def close(self, back: list, rows: list[Tensor]) -> None:
        """Products of the chunk's gradients and rows."""
        for m, (part, x) in enumerate(zip(back, rows, strict=True)):
            if part is None or not len(self.product[m]):
                continue
            flat = part.flatten(0, 1)
            self.product[m] += flat @ x
            if self.passes.columns[m].folded:
                self.total[m] += flat.sum(1).double()

    def result(self) -> Evaluation:
        b, k = self.intercept.shape
        parts = []
        for m, column in enumerate(self.passes.columns):
            gradient = column.backward(self.product[m], self.total[m])
            gradient = gradient.view(-1, k, column.width).transpose(1, 2)
            chosen = self.coef.chosen[m]
            if chosen is not None:
                full = torch.zeros(b, column.width, k, dtype=torch.float64, device=gradient.device)
                gradient = full.index_copy_(0, chosen, gradient)
            parts.append(gradient)
        gradient = torch.cat([*parts, self.token, self.intercept[:, None]], dim=1)
        return Evaluation(self.value, gradient, self.held)
