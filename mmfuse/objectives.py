"""What a head learns: how many scores a row has, and what a target costs under them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = [
    "Absolute",
    "Cumulative",
    "Huber",
    "Multinomial",
    "Objective",
    "Pinball",
    "Squared",
    "of_classes",
]

_CLASS_TASKS = ("classification", "ordinal")
_ZONE = 0.02  # half width of the zone in which |error| is a parabola, for a target of scale one


def of_classes(task: str) -> bool:
    """Whether scores of a task are of classes, that is log probabilities but for a constant."""
    return task in _CLASS_TASKS


class Objective:
    """A loss of scores, with the number of scores that it needs.

    Attributes
    ----------
    task : {"classification", "ordinal", "regression", "quantiles", "mixture"}
        What kind of module a head builds, so what its scores are: logits of classes, log
        probabilities of ordered ones, values, quantiles of one value, or parameters of a mixture.
    n_outputs : int
        Scores of a row.
    convex : bool
        Whether the loss is convex in the scores, and has ``row_gradient`` and ``bend``: then linear
        heads are fitted by the convex solver, else by gradient descent.
    uneven : bool
        Whether rows differ so much in curvature that the solver should look at every score.
    blends : bool
        Whether a weighted mean of what several models answer is an answer again.
    name : str
        How messages name it, by the argument that asks for it.
    """

    task: str
    n_outputs: int
    convex = True
    uneven = False
    blends = True
    name = "this objective"

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

    def estimator_settings(self) -> list[tuple[dict, ...]]:
        """How scikit-learn estimators learn this.

        Returns
        -------
        list of tuple of dict
            One entry for every estimator that must be fitted: settings of its parameters, of which
            the first that it accepts is taken. Empty where estimators have no form for it.
        """
        return [({},)]


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
        rest = (1 - p).clamp(min=1e-12)
        others = p.square().sum(dim=-1, keepdim=True) - p.square()
        return p * rest * (1 + (others / rest.square()).clamp(0, 1))


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

    def estimator_settings(self) -> list[tuple[dict, ...]]:
        return [({},)] * (self.n_outputs - 1)  # one estimator for every threshold


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


class Absolute(Objective):
    """Absolute error, summed over values (n, T): its answer is a conditional median.

    Closer to zero than 0.02, in the scale of the standardised target, the error counts as a
    parabola, since the solver needs a gradient that does not jump. The answer is then off by a
    fraction of that zone.
    """

    task = "regression"
    name = "loss='absolute'"

    def __init__(self, n_outputs: int) -> None:
        self.n_outputs = n_outputs

    def row_loss(self, scores: Tensor, target: Tensor) -> Tensor:
        return (_huber(scores - target, _ZONE) / _ZONE).sum(dim=-1)

    def row_gradient(self, scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        residual = scores - target[:, None, :]
        return (_huber(residual, _ZONE) / _ZONE).sum(-1), (residual / _ZONE).clamp(-1, 1)

    def bend(self, scores: Tensor) -> Tensor:
        return torch.full_like(scores, 1 / _ZONE)

    def target(self, target: Tensor) -> Tensor:
        return target.double()

    def estimator_settings(self) -> list[tuple[dict, ...]]:
        return [({"loss": "absolute_error"}, {"criterion": "absolute_error"})]


class Huber(Objective):
    """Half the squared error up to a threshold, linear beyond it; summed over values (n, T).

    Parameters
    ----------
    threshold : sequence of float
        One for every value, in the scale of the standardised target.
    """

    task = "regression"
    name = "loss='huber'"

    def __init__(self, threshold: Sequence[float]) -> None:
        self.n_outputs = len(threshold)
        self.threshold = torch.tensor([float(t) for t in threshold], dtype=torch.float64)

    def row_loss(self, scores: Tensor, target: Tensor) -> Tensor:
        return _huber(scores - target, self.threshold.to(scores)).sum(dim=-1)

    def row_gradient(self, scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        residual, threshold = scores - target[:, None, :], self.threshold.to(scores)
        return _huber(residual, threshold).sum(-1), residual.clamp(-threshold, threshold)

    def bend(self, scores: Tensor) -> Tensor:
        return torch.ones_like(scores)

    def target(self, target: Tensor) -> Tensor:
        return target.double()

    def estimator_settings(self) -> list[tuple[dict, ...]]:
        return [({"loss": "huber"},)]


class Pinball(Objective):
    """Pinball loss of one value (n, 1), summed over levels: its answers are quantiles.

    The kink is rounded as in `Absolute`.

    Parameters
    ----------
    levels : sequence of float
        Between 0 and 1; the score of each is the quantile of that level.
    """

    task = "quantiles"
    name = "output='quantiles'"

    def __init__(self, levels: Sequence[float]) -> None:
        self.levels = tuple(float(level) for level in levels)
        self.n_outputs = len(self.levels)

    def row_loss(self, scores: Tensor, target: Tensor) -> Tensor:
        residual = scores - target
        tilt = 0.5 - torch.tensor(self.levels).to(scores)
        return (0.5 * _huber(residual, _ZONE) / _ZONE + tilt * residual).sum(dim=-1)

    def row_gradient(self, scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        residual = scores - target[:, None, :]
        tilt = 0.5 - torch.tensor(self.levels).to(scores)
        value = 0.5 * _huber(residual, _ZONE) / _ZONE + tilt * residual
        return value.sum(-1), 0.5 * (residual / _ZONE).clamp(-1, 1) + tilt

    def bend(self, scores: Tensor) -> Tensor:
        return torch.full_like(scores, 0.5 / _ZONE)

    def target(self, target: Tensor) -> Tensor:
        return target.double()

    def estimator_settings(self) -> list[tuple[dict, ...]]:
        return [
            (
                {"loss": "quantile", "quantile": level},
                {"quantile": level},
                {"loss": "quantile", "alpha": level},
            )
            for level in self.levels
        ]


def _huber(residual: Tensor, threshold: Tensor | float) -> Tensor:
    """A parabola up to the threshold, then its tangent."""
    size = residual.abs()
    inner = torch.minimum(size, torch.as_tensor(threshold, dtype=size.dtype, device=size.device))
    return inner * (size - 0.5 * inner)
