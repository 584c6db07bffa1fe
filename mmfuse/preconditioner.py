"""About the inverse curvature of linear problems, from a sample of their rows."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ByScorePreconditioner", "KroneckerPreconditioner"]

_DOUBLE_UP_TO = 256  # features; beyond, float32 is close enough to turn by
_FLAT = 0.05  # directions of the scores with less curvature count as this share of the most


class KroneckerPreconditioner:
    """Invert ``scale_b * (A kron V) + diag(penalty)``, approximately, for B problems.

    A is a second moment of the features weighted by the curvature of the rows, V the mean curvature
    in the scores. In coordinates that make the penalty one, both are turned to their axes once.

    Parameters
    ----------
    rows : Tensor of shape (m, D)
        Features times the square root of their weight, so that A is ``rows.T @ rows``. With fewer
        rows than features only the span of the rows has curvature beyond the penalty.
    curvature : Tensor of shape (K, K)
        V, with trace one.
    scale : Tensor of shape (B,)
    penalty : Tensor of shape (B, D)
        Above zero; where problems differ, their geometric mean is taken.
    """

    def __init__(self, rows: Tensor, curvature: Tensor, scale: Tensor, penalty: Tensor) -> None:
        self.dtype = penalty.dtype
        self.root = penalty.log().mean(dim=0).mul(-0.5).exp()[:, None]  # (D, 1)
        m, width = rows.shape
        self.thin = width > m
        wide = not self.thin and width > _DOUBLE_UP_TO
        rows = rows.to(torch.float32 if wide else self.dtype) * self.root[:, 0].to(
            torch.float32 if wide else self.dtype
        )
        if self.thin:
            values, turn = torch.linalg.eigh(rows @ rows.T)
            kept = values > values[-1] * 1e-12
            values, turn = values[kept], turn[:, kept]
            self.axes = (rows.T @ turn) / values.sqrt()
        else:
            values, self.axes = torch.linalg.eigh(rows.T @ rows)
        bend, self.turn = torch.linalg.eigh(curvature.to(self.dtype))
        bend = bend.clamp(min=float(bend[-1]) * _FLAT)
        values = values.to(self.dtype).clamp(min=0)
        self.inverse = 1 / (scale[:, None, None] * values[:, None] * bend + 1)

    def __call__(self, gradient: Tensor, problems: Tensor) -> Tensor:
        """Apply to gradients (b, D, K) of the problems (b,)."""
        turned = ((gradient @ self.turn) * self.root).to(self.axes.dtype)
        inside = self.axes.T @ turned  # (b, r, K)
        inverse = self.inverse[problems].to(turned.dtype)
        if self.thin:  # beyond the span of the rows there is the penalty alone
            out = turned + self.axes @ (inside * (inverse - 1))
        else:
            out = self.axes @ (inside * inverse)
        return (out.to(self.dtype) * self.root) @ self.turn.T


class ByScorePreconditioner:
    """Invert ``scale_b * A_k + diag(penalty_b)`` for every score k, exactly, for B problems.

    Every score has a second moment of its own, weighted by the curvature of the rows in that score;
    the curvature between scores is left out. That is close where rows differ much in curvature, as
    they do between classes that are told apart well, and costs K factorisations for each distinct
    penalty.

    Parameters
    ----------
    moments : Tensor of shape (K, D, D)
        A.
    scale : Tensor of shape (B,)
    penalty : Tensor of shape (B, D)
        Above zero.
    free : Tensor of shape (B, D), optional
        Zero for features that take no part in a problem.
    """

    def __init__(
        self, moments: Tensor, scale: Tensor, penalty: Tensor, free: Tensor | None = None
    ) -> None:
        keys = penalty if free is None else torch.cat([penalty, free], dim=1)
        self.dtype = moments.dtype
        _, self.kind = torch.unique(keys, dim=0, return_inverse=True)
        self.factors = []
        for kind in range(int(self.kind.max()) + 1):
            mine = self.kind == kind
            first = int(mine.nonzero()[0, 0])
            matrix = moments * scale[mine].mean().to(self.dtype)
            own = penalty[first].to(self.dtype)
            if free is not None:
                part = free[first].to(self.dtype)
                matrix = matrix * part[:, None] * part
                own = torch.where(part > 0, own, 1.0)
            diagonal = matrix.diagonal(dim1=1, dim2=2)
            # float32 factors want a little more than the rounding of the largest entries
            least = 1e-6 * diagonal.amax(dim=1, keepdim=True)
            diagonal += torch.maximum(own[None].expand_as(diagonal), least)
            self.factors.append(torch.linalg.cholesky(matrix))

    def __call__(self, gradient: Tensor, problems: Tensor) -> Tensor:
        """Apply to gradients (b, D, K) of the problems (b,)."""
        out = torch.empty_like(gradient)
        kinds = self.kind[problems]
        for kind in kinds.unique().tolist():
            rows = (kinds == kind).nonzero()[:, 0]
            columns = gradient[rows].permute(2, 1, 0).to(self.dtype)  # (K, D, b)
            solved = torch.cholesky_solve(columns, self.factors[kind])
            out[rows] = solved.permute(2, 1, 0).to(out.dtype)
        return out
