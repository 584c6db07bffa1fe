"""About the inverse curvature of linear problems, from a sample of their rows."""

from __future__ import annotations

import torch
from scipy.linalg import blas
from torch import Tensor

__all__ = ["Axes", "AxesPreconditioner", "ByScorePreconditioner", "gram"]

_DOUBLE_UP_TO = 256  # features; beyond, float32 is close enough to turn by


class Axes:
    """Directions along which the curvature of all problems is nearly diagonal.

    In coordinates that make the penalty one, the features are turned to the axes of their second
    moment. Finding the axes is what costs; they serve for other penalties and at other places too.

    Parameters
    ----------
    features : Tensor of shape (m, D)
    spread : Tensor of shape (m,)
        Weights of the rows in the second moment.
    penalty : Tensor of shape (B, D)
        Above zero; where problems differ, their geometric mean is taken.
    """

    def __init__(self, features: Tensor, spread: Tensor, penalty: Tensor) -> None:
        m, width = features.shape
        self.features = features
        self.thin = width > m
        double = self.thin or width <= _DOUBLE_UP_TO
        dtype = torch.float64 if double else torch.float32
        self.root = penalty.log().mean(dim=0).mul(-0.5).exp().to(dtype)  # (D,)
        rows = features.to(dtype) * self.root
        scaled = rows * spread.sqrt()[:, None].to(dtype)
        if self.thin:  # there is no curvature beyond the span of the rows
            values, turn = torch.linalg.eigh(scaled @ scaled.T)
            kept = values > values[-1] * 1e-12
            self.axes = (scaled.T @ turn[:, kept]) / values[kept].sqrt()
        else:
            _, self.axes = torch.linalg.eigh(gram(scaled))  # reads the lower triangle
        self.squares = (rows @ self.axes).square_()

    def preconditioner(self, bend: Tensor, penalty: Tensor) -> AxesPreconditioner:
        """For problems with these curvatures (m, B, K) of the rows and penalties (B, D)."""
        return AxesPreconditioner(self, bend, penalty)


class AxesPreconditioner:
    """Invert the diagonal of the curvature along axes.

    Parameters
    ----------
    axes : Axes
    bend : Tensor of shape (m, B, K)
        Weighted curvature of the rows in every score.
    penalty : Tensor of shape (B, D)
        Above zero.
    """

    def __init__(self, axes: Axes, bend: Tensor, penalty: Tensor) -> None:
        self.axes, self.root, self.thin = axes.axes, axes.root, axes.thin
        self.dtype = penalty.dtype
        dtype = axes.axes.dtype
        curvature = axes.squares.T @ bend.to(dtype).flatten(1)
        curvature = curvature.view(-1, *bend.shape[1:]).permute(1, 2, 0)  # (B, K, r)
        own = penalty.to(dtype) * self.root.square()  # one, if the axes were made for it
        self.beyond = (1 / own.log().mean(dim=1).exp())[:, None, None]  # where there is no axis
        self.inverse = 1 / (curvature + (own @ self.axes.square())[:, None])

    def __call__(self, gradient: Tensor, problems: Tensor) -> Tensor:
        """Apply to gradients (b, D, K) of the problems (b,)."""
        b, width, k = gradient.shape
        # one product with long rows: many small ones, a problem each, take several times as long
        turned = gradient.to(self.axes.dtype).transpose(1, 2).reshape(b * k, width) * self.root
        inside = turned @ self.axes  # (b K, r)
        inverse = self.inverse[problems].flatten(0, 1)
        if self.thin:
            beyond = self.beyond[problems].expand(-1, k, -1).flatten(0, 1)
            out = torch.addmm(turned * beyond, inside * (inverse - beyond), self.axes.T)
        else:
            out = (inside * inverse) @ self.axes.T
        return (out * self.root).view(b, k, width).transpose(1, 2).to(self.dtype)


def gram(rows: Tensor) -> Tensor:
    """``rows.T @ rows`` (D, D), of which only the lower triangle is sure to be filled.

    On the processor BLAS does that in half the time of a product, and torch has no name for it.
    """
    if rows.device.type != "cpu":
        return rows.T @ rows
    syrk = blas.dsyrk if rows.dtype == torch.float64 else blas.ssyrk
    return torch.from_numpy(syrk(1.0, rows.contiguous().numpy().T, lower=1))


class ByScorePreconditioner:
    """Invert ``scale_b * A_k + diag(penalty_b)`` for every score k, exactly, for B problems.

    Every score has a second moment of its own, weighted by the curvature of the rows in that score;
    the curvature between scores is left out. That is close where rows differ much in curvature, as
    they do between classes that are told apart well, and costs K factorisations for each distinct
    penalty.

    Parameters
    ----------
    moments : Tensor of shape (K, D, D)
        A; only the lower triangles are read.
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
