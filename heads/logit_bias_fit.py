"""Training of logit-bias fusion: class means, a few steps, and alpha from held-out rows."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from mmfuse.heads.base import FitData, FitResult
from mmfuse.patterns import dropout_masks

if TYPE_CHECKING:
    from mmfuse.heads.logit_bias import LogitBiasFusion, LogitBiasModule

__all__ = ["fit_logit_bias", "training_loss"]

_STOPS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)  # shares of the steps after which a fold is looked at
_PULL = 0.3  # weight of the pull of alpha to where it starts; it matters where rows are few


def fit_logit_bias(head: LogitBiasFusion, data: FitData) -> FitResult:
    """Fit the module, with alpha and the number of steps from held-out rows."""
    module = head.build(data.dims, data.n_outputs, data.task).to(data.presence.device)
    _start(module, data)
    _check_classes(module, data)
    if not module.names:
        return _prior_alone(module, data)
    folds = [_Fold(head, data, train, test) for train, test in data.folds]
    usable = torch.zeros_like(data.presence[:, 0])
    for fold in folds:
        usable[fold.test[fold.usable]] = True
    stop, losses = 0, []  # without held-out rows the class means stay as they are
    if usable.any():
        _choose_alpha(head, module, _gather(folds, data, 0), data, usable)
        for fold in folds:
            fold.train(module)
        losses = _held_out_losses(folds, data)
        stop = int(np.argmin(losses))
    _train(head, module, data, stops=(_STOPS[stop],))
    oof, masked = None, None
    if usable.any():
        _choose_alpha(head, module, _gather(folds, data, stop), data, usable)
        if data.need_oof:
            oof, masked = _cross_fit(head, module, folds, stop, data, usable)
    elif not _is_cv(head):
        module.alpha.fill_(float(head.alpha))
    history = {
        "alpha": dict(zip(module.names, module.alpha.tolist(), strict=True)),
        "alpha_alone": dict(zip(module.names, module.alpha_alone.tolist(), strict=True)),
        "steps": int(round(_STOPS[stop] * head.max_steps)),
        "held_out_loss": losses,
    }
    return FitResult(module.eval(), oof, history, masked)


@torch.no_grad()
def _prior_alone(module: LogitBiasModule, data: FitData) -> FitResult:
    """Without auxiliary blocks nothing is trained, so that every row counts as held out."""
    oof = module(data.blocks, data.presence).scores.cpu().numpy()
    masked = None
    if data.masked is not None:
        masked = module(data.blocks, data.masked).scores.cpu().numpy()
    history = {"alpha": {}, "alpha_alone": {}, "steps": 0, "held_out_loss": []}
    return FitResult(module.eval(), oof, history, masked)


class _Fold:
    """One fold: its module at every stop, and which of its held-out rows may be counted."""

    def __init__(
        self, head: LogitBiasFusion, data: FitData, train: np.ndarray, test: np.ndarray
    ) -> None:
        self.head, self.part, self.held = head, data.take(train), data.take(test)
        self.test = torch.as_tensor(test, device=data.presence.device)
        module = head.build(data.dims, data.n_outputs, data.task).to(data.presence.device)
        seen = _start(module, self.part)  # (A, K)
        present = self.held.presence[:, module.columns]
        known = seen[:, self.held.target].T
        self.usable = (known | ~present).all(dim=1) & self.held.presence.any(dim=1)
        self.modules = [module]

    def train(self, like: LogitBiasModule) -> None:
        """Train with the alphas of ``like``, keeping the module at every stop."""
        module = copy.deepcopy(self.modules[0])
        module.alpha.copy_(like.alpha)
        module.alpha_alone.copy_(like.alpha_alone)
        self.modules = _train(self.head, module, self.part, stops=_STOPS)

    @torch.no_grad()
    def scores(
        self, stop: int, like: LogitBiasModule | None = None, presence: Tensor | None = None
    ) -> Tensor:
        """Scores of the held-out rows, with the alphas of ``like`` and a presence, where given."""
        module = copy.deepcopy(self.modules[stop])
        if like is not None:
            module.alpha.copy_(like.alpha)
            module.alpha_alone.copy_(like.alpha_alone)
        shown = self.held.presence if presence is None else presence
        return module(self.held.blocks, shown).scores


@dataclass(frozen=True)
class _HeldOut:
    """What alpha is chosen from: standardised logits of rows that the branches did not see."""

    branches: Tensor  # (n, A, K)
    log_prior: Tensor  # (n, K), of the fold's training rows


@torch.no_grad()
def _gather(folds: list[_Fold], data: FitData, stop: int) -> _HeldOut:
    first = folds[0].modules[stop]
    shape = (len(data.weight), len(first.names), data.n_outputs)
    branches = torch.zeros(shape, dtype=torch.float64, device=data.presence.device)
    log_prior = torch.zeros_like(branches[:, 0])
    for fold in folds:
        module = fold.modules[stop]
        branches[fold.test] = module.branches(module.features(fold.held.blocks))
        log_prior[fold.test] = module.log_prior
    return _HeldOut(branches, log_prior)


@torch.no_grad()
def _start(module: LogitBiasModule, data: FitData) -> Tensor:
    """Class means and class frequencies; returns which classes every branch has seen (A, K)."""
    weight = data.weight.double()
    member = nn.functional.one_hot(data.target, data.n_outputs).double() * weight[:, None]
    share = (member.sum(0) + 1e-3) / (member.sum(0) + 1e-3).sum()
    module.log_prior.copy_(share.log())
    features, seen = module.features(data.blocks), []
    for column, values, parameter in zip(module.columns, features, module.weight, strict=True):
        kept = member * data.presence[:, column, None]
        total = kept.sum(0)
        parameter.copy_((kept.T @ values) / total.clamp(min=1e-12)[:, None])
        seen.append(total > 0)
    module.spread.copy_(module.common_spread(features, data.presence, weight))
    return torch.stack(seen) if seen else torch.zeros(0, data.n_outputs, dtype=torch.bool)


def _check_classes(module: LogitBiasModule, data: FitData) -> None:
    for name, column in zip(module.names, module.columns, strict=True):
        rows = data.presence[:, column] & (data.weight > 0)
        counts = torch.bincount(data.target[rows], minlength=data.n_outputs)
        missing = (counts == 0).nonzero()[:, 0].tolist()
        if missing:
            raise ValueError(
                f"LogitBiasFusion starts every branch from class means, and no training row of "
                f"class {missing[0]} (counted from 0 in the order of classes_) has the modality "
                f"{name!r}; every class needs at least one row with a positive weight."
            )


def training_loss(
    head: LogitBiasFusion,
    module: LogitBiasModule,
    data: FitData,
    features: list[Tensor],
    masks: Tensor,
    mask_weight: Tensor,
) -> Tensor:
    """Share of the fused cross-entropy plus share of the branches' mean cross-entropy."""
    weight = data.weight.double()
    spread = module.common_spread(features, data.presence, weight)
    branches = module.branches(features, spread)
    present = data.presence[:, module.columns].double()
    target = data.target[:, None].expand(-1, len(module.names))
    each = nn.functional.cross_entropy(branches.transpose(1, 2), target, reduction="none")
    heard = weight * (present.sum(dim=1) > 0)
    single = (each * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)
    loss = (1 - head.fused_share) * (heard * single).sum() / heard.sum().clamp(min=1e-12)
    for mask, chance in zip(masks.unbind(dim=1), mask_weight, strict=True):
        scores = module.fuse(data.blocks, branches, mask).scores
        rows = nn.functional.cross_entropy(scores, data.target, reduction="none")
        loss = loss + head.fused_share * chance * (weight * rows).sum() / weight.sum()
    return loss


def _train(
    head: LogitBiasFusion, module: LogitBiasModule, data: FitData, stops: tuple[float, ...]
) -> list[LogitBiasModule]:
    """Adam over all rows with a cosine schedule; a copy of the module at every stop but the last.

    The last stop is ``module`` itself.
    """
    points = [int(round(share * head.max_steps)) for share in stops]
    kept: list[LogitBiasModule] = []
    features = module.features(data.blocks)
    masks, chances = dropout_masks(data.presence, head.modality_dropout, data.seed)
    groups = [
        {"params": [w], "lr": head.learning_rate * float(w.detach().square().mean().sqrt())}
        for w in module.weight
    ]
    optimiser = torch.optim.Adam(groups)
    total = max(head.max_steps, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.5 * (1 + np.cos(np.pi * min(step, total) / total))
    )
    for step in range(points[-1] + 1):
        for _ in range(points[:-1].count(step)):
            kept.append(_snapshot(module, features, data))
        if step < points[-1]:
            optimiser.zero_grad()
            with torch.enable_grad():
                training_loss(head, module, data, features, masks, chances).backward()
            optimiser.step()
            schedule.step()
    module.zero_grad(set_to_none=True)
    last = _snapshot(module, features, data)
    module.load_state_dict(last.state_dict())
    return [*kept, module]


@torch.no_grad()
def _snapshot(module: LogitBiasModule, features: list[Tensor], data: FitData) -> LogitBiasModule:
    module.zero_grad(set_to_none=True)
    out = copy.deepcopy(module)
    out.spread.copy_(out.common_spread(features, data.presence, data.weight.double()))
    return out.eval()


def _held_out_losses(folds: list[_Fold], data: FitData) -> list[float]:
    """Weighted mean log loss of the usable held-out rows at every stop."""
    losses = []
    for stop in range(len(_STOPS)):
        total, mass = 0.0, 0.0
        for fold in folds:
            rows = fold.usable
            each = nn.functional.cross_entropy(
                fold.scores(stop)[rows], fold.held.target[rows], reduction="none"
            )
            weight = fold.held.weight.double()[rows]
            total, mass = total + float((weight * each).sum()), mass + float(weight.sum())
        losses.append(total / max(mass, 1e-12))
    return losses


def _is_cv(head: LogitBiasFusion) -> bool:
    return isinstance(head.alpha, str)


def _choose_alpha(
    head: LogitBiasFusion, module: LogitBiasModule, held: _HeldOut, data: FitData, rows: Tensor
) -> None:
    """Set the weights of the branches, with the prior and without it."""
    here = module.has_prior(data.presence)
    heard = data.presence[:, module.columns].any(dim=1) & rows
    if _is_cv(head):
        start, factor = module.base(data.blocks, here)
        best = _best_alpha(head, held.branches, start, factor, data, module, heard & here, 0.5)
        module.alpha.copy_(best)
    else:
        module.alpha.fill_(float(head.alpha))
    one = torch.ones_like(held.log_prior[:, 0])
    best = _best_alpha(head, held.branches, held.log_prior, one, data, module, heard, 1.0)
    module.alpha_alone.copy_(best)


def _best_alpha(
    head: LogitBiasFusion,
    branches: Tensor,
    start: Tensor,
    factor: Tensor,
    data: FitData,
    module: LogitBiasModule,
    rows: Tensor,
    initial: float,
) -> Tensor:
    """Weights from 0 on with the lowest log loss over ``rows``; a convex problem.

    Patterns of modality dropout over the auxiliaries are part of it, so that the weights suit
    rows that lack some.
    """
    size = branches.shape[1]
    if not rows.any():
        return torch.full((size,), initial, dtype=torch.float64)
    present = data.presence[rows][:, module.columns]
    masks, chances = dropout_masks(present, head.modality_dropout, data.seed)
    step = factor[rows, None, None] * branches[rows]
    base, target, weight = start[rows], data.target[rows], data.weight[rows].double()
    parts = [step * mask[..., None] for mask in masks.unbind(dim=1)]

    def function(value: np.ndarray) -> tuple[float, np.ndarray]:
        alpha = torch.tensor(value, device=step.device, requires_grad=True)
        loss = _PULL * (alpha - initial).square().sum()
        for part, chance in zip(parts, chances, strict=True):
            scores = base + (alpha[:, None] * part).sum(dim=1)
            each = nn.functional.cross_entropy(scores, target, reduction="none")
            loss = loss + chance * (weight * each).sum()
        loss.backward()
        return float(loss.detach()), alpha.grad.cpu().numpy()

    with torch.enable_grad():
        best = minimize(
            function, np.full(size, initial), jac=True, method="L-BFGS-B", bounds=[(0, 1e3)] * size
        )
    return torch.as_tensor(best.x)


def _cross_fit(
    head: LogitBiasFusion,
    module: LogitBiasModule,
    folds: list[_Fold],
    stop: int,
    data: FitData,
    usable: Tensor,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Out-of-fold scores as observed and as masked; NaN where unusable.

    Each fold has alphas that were chosen on the other folds.
    """
    held = _gather(folds, data, stop)
    oof = torch.full_like(held.log_prior, torch.nan)
    masked = None if data.masked is None else oof.clone()
    for fold in folds:
        others = usable.clone()
        others[fold.test] = False
        part = copy.deepcopy(module)
        _choose_alpha(head, part, held, data, others)
        oof[fold.test] = fold.scores(stop, part)
        if masked is not None:
            masked[fold.test] = fold.scores(stop, part, fold.held.masked)
            masked[~usable] = torch.nan
    oof[~usable] = torch.nan
    return oof.cpu().numpy(), None if masked is None else masked.cpu().numpy()
