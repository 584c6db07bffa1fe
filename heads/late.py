"""Calibrated late fusion: one calibrated model per modality, then a rule that combines them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from mmfuse.exceptions import UnsupportedObjectiveError
from mmfuse.heads.base import BaseHead, FitData, FitResult, FusionModule, HeadOutput
from mmfuse.heads.calibrators import CALIBRATORS, ModalityCalibrator
from mmfuse.heads.combination import Combination, PoolData
from mmfuse.heads.combine import COMBINATIONS
from mmfuse.heads.early import EarlyFusion
from mmfuse.objectives import Objective
from mmfuse.splits import folds_within

__all__ = ["LateFusion"]


class LateFusion(BaseHead):
    """One model per modality, each calibrated, then one rule that combines their answers.

    Every modality's model is trained on the rows that have it and calibrated on its out-of-fold
    scores. The rule learns from the same scores, and sees in every row only what is present.
    A row with nothing gets the training prior.

    Parameters
    ----------
    base : {"linear", "mlp"}, scikit-learn estimator or head, default="linear"
        The model of each modality; a string or estimator means ``EarlyFusion(base)`` over one
        block.
    C : float or "cv", default="cv"
        For ``base="linear"``: inverse regularisation strength of every modality's model.
    calibrate : {"temperature", "vector", "sigmoid", "isotonic", None}, default="temperature"
        Calibration of each modality before fusion, for classification: one temperature; a scale
        and a bias for every class, kept near one temperature where rows are few; a logistic or a
        monotone curve of every class against the rest, normalised. ``"isotonic"`` needs the most
        rows. See `mmfuse.heads.calibrators`. Values and quantiles stay as they are; how large each
        modality's errors are is measured out of fold instead.
    combine : str, default="log-pool"
        How the modalities that are present in a row become one answer.

        - ``"log-pool"``: learned log-linear weights, renormalised over what is present, and one
          learned exponent for redundancy (see `mmfuse.heads.pool`).
        - ``"product"``: sum of ``log p_m - log prior``, plus the log prior: naive Bayes, as if the
          modalities were independent. For regression the product of the Gaussians.
        - ``"mean"``: mean of the probabilities, of the predictions, or of the quantiles of a level.
        - ``"best"``: the one modality with the lowest out-of-fold loss; in a row that lacks it the
          next best.
        - ``"vote"``: each modality votes for its most probable class, with a weight from its
          out-of-fold accuracy; ties go to the class that is more probable on average (see
          `mmfuse.heads.combine.Vote`). For classification only.
        - ``"stack"``: multinomial logistic regression on the log probabilities, or ridge on the
          predictions, with a learned token for an absent modality. Not for quantiles.

        ``"product"``, ``"mean"`` and ``"best"`` learn next to nothing: they are the references that
        a learned rule is to be compared with. With these and ``"log-pool"`` a row with one modality
        gets exactly that modality's calibrated answer.
    modality_dropout : float, default=0.2
        Chance that a modality is hidden while the pool or the stack learns.

    Notes
    -----
    The idea of calibrating each modality before fusing them on the decision level follows
    "Tri-Modal Severity Fused Diagnosis across Depression and PTSD" (arXiv 2510.20239). Its
    published code concatenates features and calibrates nothing; calibration and rules here are
    ours or textbook: the pool is log-linear with the class prior counted once, and one exponent for
    redundancy between modalities.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse import FusionClassifier
    >>> from mmfuse.heads import LateFusion
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], 30)
    >>> X = {"a": rng.normal(y[:, None], 1, (60, 3)), "b": rng.normal(y[:, None], 1, (60, 2))}
    >>> model = FusionClassifier(LateFusion(), random_state=0).fit(X, y)
    >>> model.predict_proba({"b": X["b"][:2]}).shape  # a is missing
    (2, 2)
    """

    def __init__(
        self,
        base: Any = "linear",
        *,
        C: float | str = "cv",
        calibrate: str | None = "temperature",
        combine: str = "log-pool",
        modality_dropout: float = 0.2,
    ) -> None:
        self.base = base
        self.C = C
        self.calibrate = calibrate
        self.combine = combine
        self.modality_dropout = modality_dropout

    def _base(self) -> BaseHead:
        if isinstance(self.base, BaseHead):
            return self.base
        return EarlyFusion(self.base, C=self.C)

    def check_parameters(self, block_dims: dict[str, int], objective: Objective) -> None:
        self._check_choice("calibrate", list(CALIBRATORS["classification"]))
        self._check_choice("combine", list(COMBINATIONS["classification"]))
        self._check_rule(objective)
        if not 0 <= self.modality_dropout < 1:
            raise ValueError(
                f"LateFusion: modality_dropout must be in [0, 1); got {self.modality_dropout!r}."
            )
        if not isinstance(self.base, (str, BaseEstimator)):
            raise ValueError(
                "LateFusion: base must be 'linear', 'mlp', a scikit-learn estimator or a head; "
                f"got {self.base!r}."
            )
        for name, width in block_dims.items():
            self._base().check_parameters({name: width}, objective)
            if self._base().raw_blocks({name: width}):
                raise ValueError(
                    f"LateFusion: base {type(self._base()).__name__} reads the logits of a prior "
                    "block, and every modality is standardised here; use that head by itself."
                )

    def _check_choice(self, argument: str, allowed: list[str | None]) -> None:
        value = getattr(self, argument)
        if not isinstance(value, (str, type(None))) or value not in allowed:
            raise ValueError(
                f"LateFusion: {argument} must be one of {', '.join(map(repr, allowed))}; "
                f"got {value!r}."
            )

    def _check_rule(self, objective: Objective) -> None:
        """Raise where what the objective asks for cannot be combined, or not by this rule."""
        if objective.task not in COMBINATIONS:
            raise UnsupportedObjectiveError(
                "LateFusion combines probabilities, values and quantiles, and has no rule for "
                f"{objective.name}; use EarlyFusion, or output='quantiles' or 'binned'."
            )
        rules = COMBINATIONS[objective.task]
        if self.combine not in rules:
            raise UnsupportedObjectiveError(
                f"LateFusion: combine={self.combine!r} has no form for {objective.task}; "
                f"use one of {', '.join(map(repr, rules))}."
            )

    def build(self, block_dims: dict[str, int], n_outputs: int, task: str) -> LateModule:
        base = self._base()
        experts = [base.make_module({name: d}, n_outputs, task) for name, d in block_dims.items()]
        return self._module(block_dims, n_outputs, task, experts)

    def _module(
        self, block_dims: dict[str, int], n_outputs: int, task: str, experts: list[FusionModule]
    ) -> LateModule:
        """The one place where task and arguments choose the parts."""
        count = len(block_dims)
        kind = CALIBRATORS[task][self.calibrate]
        calibrators = [kind(n_outputs) for _ in range(count)]
        rule = COMBINATIONS[task][self.combine](count, n_outputs)
        return LateModule(block_dims, n_outputs, task, experts, calibrators, rule)

    def make_module(self, block_dims: dict[str, int], n_outputs: int, task: str) -> LateModule:
        """As ``build``: of ordered classes, every expert has thresholds of its own."""
        return self.build(block_dims, n_outputs, task)

    def fit_module(self, data: FitData) -> FitResult:
        """Fit every modality's model out of fold, then calibrators and rule on what they said."""
        base, history = self._base(), {}
        experts, columns = [], []
        for m, name in enumerate(data.blocks):
            result, column = _fit_expert(base, data, m)
            experts.append(result.module)
            columns.append(column)
            history[name] = result.history
        module = self._module(data.dims, data.n_outputs, data.task, experts)
        module.to(data.presence.device)
        raw = torch.stack(columns, dim=1)  # (n, M, K), NaN where never held out
        everything = torch.ones(len(data.weight), dtype=torch.bool, device=raw.device)
        _fit_fusion(module, raw, data, everything, self.modality_dropout)
        history["pool"] = module.describe()
        oof, masked = self._cross_fit(module, raw, data) if data.need_oof else (None, None)
        return FitResult(module.eval(), oof, history, masked)

    def _cross_fit(
        self, fitted: LateModule, raw: Tensor, data: FitData
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Fused scores of every fold from calibrators and a rule fitted on the other folds."""
        if not data.folds or not torch.isfinite(raw).all(dim=2).any():
            return None, None
        oof = torch.full_like(raw[:, 0], torch.nan)
        masked = None if data.masked is None else oof.clone()
        for _, test in data.folds:
            test = torch.as_tensor(test, device=raw.device)
            others = torch.ones(len(raw), dtype=torch.bool, device=raw.device)
            others[test] = False
            part = self._module(data.dims, data.n_outputs, data.task, []).to(raw.device)
            part.rule.adopt(fitted.rule)
            _fit_fusion(part, raw, replace(data, folds=[]), others, self.modality_dropout)
            held = raw[test]
            present = data.presence[test] & torch.isfinite(held).all(dim=2)
            expert = part.calibrated(torch.where(present[..., None], held, 0.0))
            with torch.no_grad():
                oof[test] = part.rule(expert, present)
                if masked is not None and data.masked is not None:
                    masked[test] = part.rule(expert, present & data.masked[test])
        return oof.cpu().numpy(), None if masked is None else masked.cpu().numpy()


class LateModule(FusionModule):
    """Experts, a calibrator for each, and the rule that combines them."""

    def __init__(
        self,
        block_dims: dict[str, int],
        n_outputs: int,
        task: str,
        experts: list[FusionModule],
        calibrators: list[ModalityCalibrator],
        rule: Combination,
    ) -> None:
        super().__init__(block_dims, n_outputs, task)
        self.experts = nn.ModuleList(experts)
        self.calibrators = nn.ModuleList(calibrators)
        self.rule = rule

    def calibrated(self, raw: Tensor) -> Tensor:
        """Log probabilities or predictions (n, M, K) from raw scores (n, M, K)."""
        return torch.stack([f(raw[:, m]) for m, f in enumerate(self.calibrators)], dim=1)

    def expert_scores(self, blocks: dict[str, Tensor], presence: Tensor) -> Tensor:
        """Raw scores of every expert on the rows that have its modality: (n, M, K)."""
        raw = torch.zeros(
            *presence.shape, self.n_outputs, dtype=torch.float64, device=presence.device
        )
        for m, (name, expert) in enumerate(zip(self.block_dims, self.experts, strict=True)):
            rows = presence[:, m].nonzero()[:, 0]
            if len(rows):
                present = torch.ones(len(rows), 1, dtype=torch.bool, device=presence.device)
                raw[rows, m] = expert({name: blocks[name][rows]}, present).scores.double()
        return raw

    def forward(self, blocks: dict[str, Tensor], presence: Tensor) -> HeadOutput:
        return self.rule.output(self.calibrated(self.expert_scores(blocks, presence)), presence)

    @torch.no_grad()
    def describe(self) -> dict[str, Any]:
        """What rule and calibrators learned, by name of the modality."""
        names = list(self.block_dims)
        learned = [calibrator.describe() for calibrator in self.calibrators]
        return {
            **self.rule.describe(names),
            "calibration": dict(zip(names, learned, strict=True)),
        }


@torch.no_grad()
def _fit_fusion(
    module: LateModule, raw: Tensor, data: FitData, rows: Tensor, modality_dropout: float
) -> None:
    """Calibrators and rule of ``module`` from the out-of-fold scores of ``rows`` (n,) bool."""
    seen = torch.isfinite(raw).all(dim=2) & data.presence & rows[:, None]
    weight = data.weight.double()
    for m, calibrator in enumerate(module.calibrators):
        own = seen[:, m] & (weight > 0)
        if own.any():
            calibrator.fit(*(x[own].cpu().numpy() for x in (raw[:, m], data.target, weight)))
    expert = module.calibrated(torch.where(seen[..., None], raw, 0.0))
    target = data.objective.target(data.target)
    pool_data = PoolData(expert, seen, target, weight, data.folds).take(rows)
    module.rule.learn(data.objective)
    module.rule.fit(pool_data, modality_dropout)


def _fit_expert(base: BaseHead, data: FitData, m: int) -> tuple[FitResult, Tensor]:
    """Fit modality m on the rows that have it; its out-of-fold scores go back to all rows."""
    name = list(data.blocks)[m]
    rows = data.presence[:, m].cpu().numpy().nonzero()[0]
    folds = folds_within(data.folds, rows, len(data.weight))
    part = data.take(rows, folds)
    part = FitData(
        {name: part.blocks[name]},
        part.presence[:, m : m + 1],
        part.target,
        part.weight,
        part.folds,
        part.objective,
        part.seed,
        part.verbose,
        need_oof=True,  # the pool learns from them, whoever else does
    )
    result = base.fit_module(part)
    column = torch.full(
        (len(data.weight), data.n_outputs),
        torch.nan,
        dtype=torch.float64,
        device=part.weight.device,
    )
    if result.oof_scores is not None:
        scores = torch.as_tensor(result.oof_scores, dtype=torch.float64)
        column[torch.as_tensor(rows)] = scores.to(column.device)
    return result, column
