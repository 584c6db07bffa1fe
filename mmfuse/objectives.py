"""What a head learns: how many scores a row has, and what a target costs under them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Cumulative", "Multinomial", "Objective", "Squared"]


class Objective:
    """A loss of scores, with the number of scores that it needs.

    Attributes
    ----------
    task : {"classification", "ordinal", "regression"}
        What kind of module a head builds.
    n_outputs : int
        Scores of a row.
    convex : bool
        Whether the loss is convex in the scores, and has ``row_gradient`` and ``bend``: then linear
        heads are fitted by the convex solver, else by gradient descent.
    uneven : bool
        Whether rows differ so much in curvature that the solver should look at every score.
    """

    task: str
    n_outputs: int
    convex = True
    uneven = False

    def row_loss(self, scores: Tensor, target: Tensor) -> Tensor:
        """Loss (n,) of scores (n, n_outputs); differentiable."""
        raise NotImplementedError(f"{type(self).__name__} does not define row_loss")

    def row_gradient(self, scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (n, B) and its gradient in the scores (n, B, n_outputs) of B models."""
        raise NotImplementedError(f"{type(self).__name__} does not define row_gradient")

    def bend(self, scores: Tensor) -> Tensor:
        """Diagonal of the curvature in the scores, or a bound on it: (n, B, n_outputs)."""
        raise NotImplementedError(f"{type(self).__name__} does not define bend")

    def columns_gradient(self, scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """``row_gradient`` with rows last: loss (B, n) and gradient (B, n_outputs, n)."""
        loss, gradient = self.row_gradient(scores.permute(2, 0, 1), target)
        return loss.T, gradient.permute(1, 2, 0)

    @property
    def penalty_scale(self) -> float:
        """Factor on an L2 penalty that gives ``C`` the meaning that scikit-learn gives it."""
        return 1.0

    def target(self, target: Tensor) -> Tensor:
        """The target in the type that the loss needs."""
        return target


class Multinomial(Objective):
    """Cross-entropy of class indices (n,) under logits.

    With two classes the penalty is doubled, which makes the softmax over two classes equal to
    scikit-learn's binary logistic regression.
    """

    task = "classification"
    uneven = True

    def __init__(self, n_outputs: int) -> None:
        self.n_outputs = n_outputs

    @property
    def penalty_scale(self) -> float:
        return 2.0 if self.n_outputs == 2 else 1.0

    def row_loss(self, scores: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(scores, target, reduction="none")

    def row_gradient(self, scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        log_p = torch.log_softmax(scores, dim=-1)
        index = target[:, None, None].expand(-1, scores.shape[1], 1)
        gradient = log_p.exp()
        gradient.scatter_add_(-1, index, torch.full_like(index, -1, dtype=gradient.dtype))
        return -log_p.gather(-1, index)[..., 0], gradient

    def columns_gradient(self, scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        log_p = torch.log_softmax(scores, dim=1)
        index = target[None, None].expand(len(scores), 1, -1)
        loss = -log_p.gather(1, index)[:, 0]
        gradient = log_p.exp_()
        gradient.scatter_add_(1, index, torch.full_like(loss, -1)[:, None])
        return loss, gradient

    def bend(self, scores: Tensor) -> Tensor:
        p = torch.softmax(scores, dim=-1)
        return p * (1 - p)


class Cumulative(Multinomial):
    """Cross-entropy of indices (n,) of ordered classes under log probabilities (n, n_outputs).

    That the probabilities come from one latent score and increasing thresholds (proportional odds;
    McCullagh 1980) is the module's affair, and in linear heads the solver's. The loss of a row is
    the same, and so are pools and blends of such probabilities.
    """

    task = "ordinal"

    @property
    def penalty_scale(self) -> float:
        return 1.0  # one column of coefficients, with two classes as with more


class Squared(Objective):
    """Half the squared error, summed over values (n, T)."""

    task = "regression"

    def __init__(self, n_outputs: int) -> None:
        self.n_outputs = n_outputs

    def row_loss(self, scores: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (scores - target).square().sum(dim=-1)

    def row_gradient(self, scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        residual = scores - target[:, None, :]
        return 0.5 * residual.square().sum(-1), residual

    def bend(self, scores: Tensor) -> Tensor:
        return torch.ones_like(scores)

    def target(self, target: Tensor) -> Tensor:
        return target.double()
