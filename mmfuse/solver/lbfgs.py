"""L-BFGS for many smooth convex problems at once, each with its own history and step length."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["minimise"]

_TRIES = 30


def minimise(
    function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    precondition: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    threshold: Tensor,
    *,
    max_iter: int,
    memory: int = 12,
    noise: float = 1e-12,
) -> tuple[Tensor, Tensor, int]:
    """Minimise B independent convex functions (Liu and Nocedal 1989).

    Parameters
    ----------
    function : callable
        ``function(z (b, P), rows (b,))`` gives values (b,) and gradients (b, P) of those problems.
    precondition : callable
        ``precondition(gradient (b, P), rows (b,))``: about the inverse curvature times gradients.
    start : Tensor of shape (B, P)
    threshold : Tensor of shape (B,)
        A problem is done when the square root of ``gradient . precondition(gradient)`` is below.
    max_iter : int
    memory : int, default=12
        Steps that are remembered.
    noise : float, default=1e-12
        Relative rounding error of the values.

    Returns
    -------
    z : Tensor of shape (B, P)
    done : Tensor of shape (B,), bool
        False where ``max_iter`` came first. A problem that no step can lower at this precision
        is done.
    n_iter : int
    """
    z = start.clone()
    rows = torch.arange(len(z), device=z.device)
    value, gradient = function(z, rows)
    turned = precondition(gradient, rows)
    done = _size(gradient, turned) <= threshold
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    last = turned
    n_iter = 0
    while n_iter < max_iter and not done.all():
        live = (~done).nonzero()[:, 0]
        n_iter += 1
        history = [s[live] for s in steps], [c[live] for c in changes], last[live]
        direction = -_two_loop(gradient[live], *history, precondition, live)
        slope = (direction * gradient[live]).sum(1)
        bad = slope >= 0
        if bad.any():
            direction[bad] = -turned[live[bad]]
            slope = (direction * gradient[live]).sum(1)
        new_z, new_value, new_gradient, moved = _backtrack(
            function, z[live], value[live], direction, slope, live, noise
        )
        step, change = torch.zeros_like(z), torch.zeros_like(z)
        step[live], change[live] = new_z - z[live], new_gradient - gradient[live]
        z[live], value[live], gradient[live] = new_z, new_value, new_gradient
        steps, changes = [*steps, step][-memory:], [*changes, change][-memory:]
        new_turned = precondition(new_gradient, live)
        last = torch.zeros_like(z)
        last[live] = new_turned - turned[live]
        turned[live] = new_turned
        done[live] = ~moved | (_size(new_gradient, new_turned) <= threshold[live])
    return z, done, n_iter


def _size(gradient: Tensor, turned: Tensor) -> Tensor:
    return (gradient * turned).sum(1).clamp(min=0).sqrt()


def _two_loop(
    gradient: Tensor,
    steps: list[Tensor],
    changes: list[Tensor],
    last: Tensor,
    precondition: Callable,
    rows: Tensor,
) -> Tensor:
    """Product of the inverse Hessian estimate and the gradient, per problem.

    ``last`` is the last change, preconditioned.
    """
    q = gradient.clone()
    stack = []
    for s, c in zip(reversed(steps), reversed(changes), strict=True):
        curve = (s * c).sum(1)
        rho = torch.where(curve > 1e-300, 1.0 / curve.clamp(min=1e-300), torch.zeros_like(curve))
        alpha = rho * (s * q).sum(1)
        q -= alpha[:, None] * c
        stack.append((rho, alpha, s, c))
    q = precondition(q, rows)
    if steps:  # the last step tells how far the preconditioner is off
        curve = (steps[-1] * changes[-1]).sum(1)
        size = (changes[-1] * last).sum(1)
        q *= torch.where(size > 0, curve / size.clamp(min=1e-300), torch.ones_like(size))[:, None]
    for rho, alpha, s, c in reversed(stack):
        q += (alpha - rho * (c * q).sum(1))[:, None] * s
    return q


def _backtrack(function, z, value, direction, slope, rows, noise):
    """Halve each problem's step until it lowers the value enough (Armijo).

    Close to the optimum the change of the value drowns in rounding; there the slope decides, as in
    the approximate Wolfe condition of Hager and Zhang (2005).
    """
    length = torch.ones_like(value)
    new_z = z + direction
    new_value, new_gradient = function(new_z, rows)
    slack = noise * value.abs()
    for _ in range(_TRIES):
        fine = new_value <= value + 1e-4 * length * slope
        end_slope = (new_gradient * direction).sum(1)
        fine |= (new_value <= value + slack) & (end_slope.abs() <= -0.9 * slope)
        fine &= torch.isfinite(new_value)
        if fine.all():
            return new_z, new_value, new_gradient, fine
        again = (~fine).nonzero()[:, 0]
        length[again] *= 0.5
        new_z[again] = z[again] + length[again, None] * direction[again]
        new_value[again], new_gradient[again] = function(new_z[again], rows[again])
    back = (~fine).nonzero()[:, 0]
    new_z[back] = z[back]
    new_value[back], new_gradient[back] = function(new_z[back], rows[back])
    return new_z, new_value, new_gradient, fine
