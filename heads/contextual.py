"""Contextual fusion: a joint linear layer that can be pushed off a suspect modality."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone, is_classifier
from torch import Tensor

from mmfuse.exceptions import UnsupportedObjectiveError
from mmfuse.heads.base import BaseHead, FitData, FitResult, FusionModule
from mmfuse.heads.cumulative import module_for
from mmfuse.heads.linear import LinearFit, LinearModule, check_strength
from mmfuse.objectives import Objective
from mmfuse.targets import count_outputs

__all__ = ["ContextualFusion", "contextual_path"]


class ContextualFusion(BaseHead):
    """One linear layer over a foreground and a background, with a penalty on the suspect one.

    The layer is fitted by a convex solver, and minimises::

        mean loss + penalties of all blocks (by C) + alpha * |W_suspect|^2

    With a growing alpha the decision leaves the suspect block, and in the limit it is that of a
    model of the other blocks alone: a perturbation of the suspect block then changes nothing.
    `contextual_path` shows what that costs.

    Parameters
    ----------
    foreground, background : str or None, default=None
        Names of the two blocks, such as features of the object and of the scene. None takes the
        first modality, and the first of the rest. Further blocks have no part in alpha.
    suspect : str, default="foreground"
        ``"foreground"``, ``"background"`` or the name of a modality; the block that alpha presses
        on.
    alpha : float, default=0.01
        Extra squared penalty on the suspect block's weights, against the mean loss of a row.
    C : float or "cv", default="cv"
        Inverse regularisation strength of every block, as in scikit-learn's
        ``LogisticRegression``, on standardised features. ``"cv"`` chooses it for each modality by
        out-of-fold loss, as if alpha were zero.
    modality_dropout : float, default=0.2
        Chance that a modality is hidden from a training row; a row keeps at least one. With
        several modalities it is part of the objective.

    Notes
    -----
    After "Contextual Fusion For Adversarial Robustness" (arXiv 2011.09526) and the same group's
    follow-up (arXiv 2406.05120), which has the penalty on the foreground half of the fusion layer.
    No code and no value of alpha are published; the formula is the follow-up's, the rest is ours:

    - blocks are standardised, for otherwise alpha means something else for every backbone, and the
      layer is solved to its optimum, so that the weights are a function of alpha;
    - every block has an ordinary penalty too, any block may be the suspect, and there may be more
      than two; regression has squared error in the place of cross-entropy;
    - a block that is absent in a row is replaced by a learned token, its mean effect on the scores.
      The suspect's token is penalised as its weights are.

    Features come from fixed encoders. Attacks on encoders are not part of this library: an attack
    that knows the whole model can still move the other blocks.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse import FusionClassifier
    >>> from mmfuse.heads import ContextualFusion
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], 30)
    >>> X = {n: rng.normal(y[:, None], 1, (60, 3)) for n in ("object", "scene")}
    >>> head = ContextualFusion("object", "scene", alpha=1e6)
    >>> model = FusionClassifier(head, random_state=0).fit(X, y)
    >>> norms = model.history_["norms"]
    >>> norms["object"] < 1e-4 < norms["scene"]
    True
    """

    def __init__(
        self,
        foreground: str | None = None,
        background: str | None = None,
        *,
        suspect: str = "foreground",
        alpha: float = 0.01,
        C: float | str = "cv",
        modality_dropout: float = 0.2,
    ) -> None:
        self.foreground = foreground
        self.background = background
        self.suspect = suspect
        self.alpha = alpha
        self.C = C
        self.modality_dropout = modality_dropout

    def check_parameters(self, block_dims: dict[str, int], objective: Objective) -> None:
        owner = type(self).__name__
        for argument in ("foreground", "background"):
            name = getattr(self, argument)
            if name is not None and name not in block_dims:
                raise ValueError(
                    f"{owner}: {argument} must be one of the modalities {', '.join(block_dims)}, "
                    f"or None; got {name!r}."
                )
        roles = self.roles(block_dims)
        if roles["foreground"] == roles["background"]:
            raise ValueError(
                f"{owner}: foreground and background must differ; both are {self.foreground!r}."
            )
        if self.suspect not in block_dims and roles.get(self.suspect) is None:
            raise ValueError(
                f"{owner}: suspect must be 'foreground', 'background' or one of the modalities "
                f"{', '.join(block_dims)}; got {self.suspect!r}."
            )
        if not objective.convex:
            raise UnsupportedObjectiveError(
                f"{owner} solves convex losses, and {objective.name} is not one; use EarlyFusion, "
                "or output='quantiles' or 'binned'."
            )
        check_strength(owner, self.C)
        _check_alpha(owner, self.alpha)
        if not 0 <= self.modality_dropout < 1:
            raise ValueError(
                f"{owner}: modality_dropout must be in [0, 1); got {self.modality_dropout!r}."
            )

    def roles(self, block_dims: dict[str, int]) -> dict[str, str | None]:
        """Names of the foreground and of the background; None where there is one block only."""
        names = list(block_dims)
        first = self.foreground
        if first is None:
            first = next((name for name in names if name != self.background), names[0])
        rest = [name for name in names if name != first]
        second = self.background if self.background is not None else next(iter(rest), None)
        return {"foreground": first, "background": second}

    def suspect_name(self, block_dims: dict[str, int]) -> str:
        """Name of the block that alpha presses on."""
        return self.roles(block_dims).get(self.suspect) or self.suspect

    def build(self, block_dims: dict[str, int], n_outputs: int, task: str) -> FusionModule:
        return LinearModule(block_dims, n_outputs, task)

    def fit_module(self, data: FitData) -> FitResult:
        """Solve the folds and all rows at once."""
        return self.fit_path(data, [self.alpha])[0]

    def fit_path(self, data: FitData, alphas: Iterable[float]) -> list[FitResult]:
        """Fit for every alpha, each from the solution of the one before it.

        ``C="cv"`` chooses once. The history of every result holds ``alpha``, the Frobenius norms of
        the blocks' weights, and the weighted mean loss of held-out rows where there are folds.
        """
        fit = LinearFit(data, self.modality_dropout)
        base = torch.full((len(data.blocks),), 1.0, dtype=torch.float64)
        if not isinstance(self.C, str):
            base = base * float(self.C)
        elif data.folds:
            base, _ = fit.choose()
        results, theta = [], None
        for alpha in alphas:
            theta, result = self._solve(fit, data, base, float(alpha), theta)
            results.append(result)
        return results

    def _solve(
        self, fit: LinearFit, data: FitData, base: Tensor, alpha: float, start: Tensor | None
    ) -> tuple[Tensor, FitResult]:
        weight = torch.cat([fit.fold_weight, fit.weight[:, None]], dim=1)
        place = list(data.blocks).index(self.suspect_name(data.dims))
        strength = base.to(weight.device).repeat(weight.shape[1], 1)
        # the solver's penalty is scale / (2 C), on a sum of losses; alpha is on their mean
        extra = 2 * alpha * weight.sum(dim=0) / data.objective.penalty_scale
        strength[:, place] = 1 / (1 / strength[:, place] + extra)
        theta, converged, n_iter = fit.problems.solve(weight, strength, start=start, tol=fit.tol)
        solution = fit.problems.solution(theta, converged, n_iter)
        module = module_for(LinearModule, data.dims, data.n_outputs, data.task)
        module.to(data.presence.device).assign(solution, -1)
        history: dict[str, Any] = {
            "alpha": alpha,
            "suspect": list(data.blocks)[place],
            "C": dict(zip(data.blocks, base.tolist(), strict=True)),
            "norms": {
                name: float(coef[-1].norm())
                for name, coef in zip(data.blocks, solution.coef, strict=True)
            },
        }
        oof, masked = None, None
        if data.folds:
            oof = fit.problems.held_scores(theta[:-1], fit.held)
            if data.masked is not None:
                masked = fit.problems.held_scores(theta[:-1], fit.held, data.masked)
            history["held_out_loss"] = _mean_loss(oof, data)
        as_array = [None if x is None else x.cpu().numpy() for x in (oof, masked)]
        return theta, FitResult(module.eval(), as_array[0], history, as_array[1])


def contextual_path(
    model: Any,
    X: Any,
    y: Any,
    alphas: Iterable[float],
    *,
    sample_weight: Any = None,
    groups: Any = None,
) -> pd.DataFrame:
    """Trade-off of a `ContextualFusion` along alpha: what leaving the suspect block costs.

    Parameters
    ----------
    model : FusionClassifier or FusionRegressor
        With a `ContextualFusion` head; need not be fitted, and is not changed.
    X, y, sample_weight, groups
        As for ``model.fit``; X is encoded once.
    alphas : iterable of float
        In any order; they are solved in this order, each from the solution before it.

    Returns
    -------
    pandas.DataFrame
        A row per alpha, in the order given: index ``alpha``, ``held_out_loss`` (weighted mean log
        loss or half the squared error of the standardised target, not calibrated; NaN where no
        rows can be held out) and ``norm_NAME`` of every block's weights.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse import FusionClassifier
    >>> from mmfuse.heads import ContextualFusion, contextual_path
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], 30)
    >>> X = {n: rng.normal(y[:, None], 1, (60, 3)) for n in ("object", "scene")}
    >>> model = FusionClassifier(ContextualFusion("object", "scene"), random_state=0)
    >>> path = contextual_path(model, X, y, [0.0, 0.1, 10.0])
    >>> bool(path["norm_object"].is_monotonic_decreasing)
    True
    """
    if not isinstance(getattr(model, "head", None), ContextualFusion):
        raise ValueError(
            "contextual_path needs an estimator with a ContextualFusion head; "
            f"got {getattr(model, 'head', model)!r}."
        )
    if is_classifier(model) and count_outputs(y) > 1:
        raise ValueError(
            f"contextual_path: y must have one column for a classifier; got {count_outputs(y)}. "
            "Draw a path for every output."
        )
    values = [_check_alpha("contextual_path", alpha) for alpha in alphas]
    if not values:
        raise ValueError("contextual_path needs at least one alpha; got none.")
    recorder = clone(model).set_params(head=_PathRecorder(model.head, values))
    recorder.fit(X, y, **_given(sample_weight=sample_weight, groups=groups))
    return pd.DataFrame(recorder.history_["path"]).set_index("alpha")


class _PathRecorder(BaseHead):
    """Fits the path and keeps what it saw; the module is that of the last alpha."""

    def __init__(self, head: ContextualFusion, alphas: list[float]) -> None:
        self.head = head
        self.alphas = alphas

    def check_parameters(self, block_dims: dict[str, int], objective: Objective) -> None:
        self.head.check_parameters(block_dims, objective)

    def fit_module(self, data: FitData) -> FitResult:
        results = self.head.fit_path(data, self.alphas)
        path = [
            {
                "alpha": result.history["alpha"],
                "held_out_loss": result.history.get("held_out_loss", np.nan),
                **{f"norm_{name}": norm for name, norm in result.history["norms"].items()},
            }
            for result in results
        ]
        return FitResult(results[-1].module, results[-1].oof_scores, {"path": path})


def _check_alpha(owner: str, alpha: Any) -> float:
    number = isinstance(alpha, (int, float, np.integer, np.floating))
    if not number or isinstance(alpha, bool) or not 0 <= alpha < np.inf:
        raise ValueError(f"{owner}: alpha must be a finite number from 0 on; got {alpha!r}.")
    return float(alpha)


def _given(**arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


def _mean_loss(oof: Tensor, data: FitData) -> float:
    """Weighted mean loss of the rows that were held out."""
    rows = torch.isfinite(oof).all(dim=1)
    weight = data.weight.double()[rows]
    loss = data.objective.row_loss(oof[rows], data.target[rows])
    return float((weight * loss).sum() / weight.sum().clamp(min=1e-12))
