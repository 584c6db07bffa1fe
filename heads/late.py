"""Calibrated late fusion: one calibrated model per modality, then a log-linear pool."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from mmfuse.calibration import TemperatureScaling
from mmfuse.exceptions import UnsupportedObjectiveError
from mmfuse.heads.base import BaseHead, FitData, FitResult, FusionModule, HeadOutput
from mmfuse.heads.early import EarlyFusion
from mmfuse.heads.pool import GaussianPool, LogPool, PoolData, fit_pool
from mmfuse.heads.quantile_pool import QuantilePool
from mmfuse.objectives import Objective

__all__ = ["LateFusion"]


_POOLS = {"classification": LogPool, "regression": GaussianPool, "quantiles": QuantilePool}


class LateFusion(BaseHead):
    """One model per modality, each calibrated, fused by learned log-linear weights.

    Every modality's model is trained on the rows that have it. Its out-of-fold scores are
    calibrated by one temperature, and the pool (see `mmfuse.heads.pool`) learns from them how much
    each modality counts and how independent the modalities are. In a row, the weights are
    renormalised over what is present: a row with one modality gets exactly that modality's
    calibrated answer, a row with none gets the training prior.

    Parameters
    ----------
    base : {"linear", "mlp"}, scikit-learn estimator or head, default="linear"
        The model of each modality; a string or estimator means ``EarlyFusion(base)`` over one
        block.
    C : float or "cv", default="cv"
        For ``base="linear"``: inverse regularisation strength of every modality's model.
    calibrate : {"temperature", None}, default="temperature"
        Calibration of each modality before fusion, for classification. For regression each
        modality's error variance is always measured out of fold.
    modality_dropout : float, default=0.2
        Chance that a modality is hidden while the pool learns.

    Notes
    -----
    The idea of calibrating each modality before fusing them on the decision level follows
    "Tri-Modal Severity Fused Diagnosis across Depression and PTSD" (arXiv 2510.20239). Its
    published code concatenates features and calibrates nothing; the calibration and the pool here
    are ours: log-linear pooling with the class prior counted once, and one exponent for redundancy
    between modalities.

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
        modality_dropout: float = 0.2,
    ) -> None:
        self.base = base
        self.C = C
        self.calibrate = calibrate
        self.modality_dropout = modality_dropout

    def _base(self) -> BaseHead:
        if isinstance(self.base, BaseHead):
            return self.base
        return EarlyFusion(self.base, C=self.C)

    def check_parameters(self, block_dims: dict[str, int], objective: Objective) -> None:
        if self.calibrate not in ("temperature", None):
            raise ValueError(
                f"LateFusion: calibrate must be 'temperature' or None; got {self.calibrate!r}."
            )
        if not 0 <= self.modality_dropout < 1:
            raise ValueError(
                f"LateFusion: modality_dropout must be in [0, 1); got {self.modality_dropout!r}."
            )
        if not isinstance(self.base, (str, BaseEstimator)):
            raise ValueError(
                "LateFusion: base must be 'linear', 'mlp', a scikit-learn estimator or a head; "
                f"got {self.base!r}."
            )
        if objective.task not in _POOLS:
            raise UnsupportedObjectiveError(
                f"LateFusion pools probabilities, values and quantiles, and has no pool for "
                f"{objective.name}; use EarlyFusion, or output='quantiles' or 'binned'."
            )
        for name, width in block_dims.items():
            self._base().check_parameters({name: width}, objective)
            if self._base().raw_blocks({name: width}):
                raise ValueError(
                    f"LateFusion: base {type(self._base()).__name__} reads the logits of a prior "
                    "block, and every modality is standardised here; use that head by itself."
                )

    def build(self, block_dims: dict[str, int], n_outputs: int, task: str) -> LateModule:
        base = self._base()
        experts = [base.build({name: d}, n_outputs, task) for name, d in block_dims.items()]
        return LateModule(block_dims, n_outputs, task, experts)

    def fit_module(self, data: FitData) -> FitResult:
        """Fit every modality's model out of fold, then the pool on what they said."""
        base, history = self._base(), {}
        experts, columns = [], []
        for m, name in enumerate(data.blocks):
            result, column = _fit_expert(base, data, m)
            experts.append(result.module)
            columns.append(column)
            history[name] = result.history
        module = LateModule(data.dims, data.n_outputs, data.task, experts)
        module.to(data.presence.device)
        raw = torch.stack(columns, dim=1)  # (n, M, K), NaN where never held out
        everything = torch.ones(len(data.weight), dtype=torch.bool, device=raw.device)
        self._fit_fusion(module, raw, data, everything)
        history["pool"] = module.describe()
        oof, masked = self._cross_fit(raw, data) if data.need_oof else (None, None)
        return FitResult(module.eval(), oof, history, masked)

    def _fit_fusion(self, module: LateModule, raw: Tensor, data: FitData, rows: Tensor) -> None:
        """Temperatures and pool of ``module`` from the out-of-fold scores of ``rows``."""
        seen = torch.isfinite(raw).all(dim=2) & data.presence & rows[:, None]
        if self.calibrate is not None and data.task == "classification":
            for m in range(raw.shape[1]):
                module.log_temperature[m] = _log_temperature(raw[:, m], data, seen[:, m])
        expert = module.calibrated(torch.where(seen[..., None], raw, 0.0))
        target = data.target if data.task == "classification" else data.target.double()
        module.pool.learn(data.objective)
        pool_data = PoolData(expert, seen, target, data.weight.double()).take(rows)
        module.pool.set_prior(pool_data)
        fit_pool(module.pool, pool_data, self.modality_dropout)

    def _cross_fit(self, raw: Tensor, data: FitData) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Fused scores of every fold from temperatures and a pool fitted on the other folds."""
        if not data.folds or not torch.isfinite(raw).all(dim=2).any():
            return None, None
        oof = torch.full_like(raw[:, 0], torch.nan)
        masked = None if data.masked is None else oof.clone()
        for _, test in data.folds:
            test = torch.as_tensor(test, device=raw.device)
            others = torch.ones(len(raw), dtype=torch.bool, device=raw.device)
            others[test] = False
            part = LateModule(data.dims, data.n_outputs, data.task, []).to(raw.device)
            self._fit_fusion(part, raw, data, others)
            held = raw[test]
            present = data.presence[test] & torch.isfinite(held).all(dim=2)
            expert = part.calibrated(torch.where(present[..., None], held, 0.0))
            with torch.no_grad():
                oof[test] = part.pool(expert, present)
                if masked is not None and data.masked is not None:
                    masked[test] = part.pool(expert, present & data.masked[test])
        return oof.cpu().numpy(), None if masked is None else masked.cpu().numpy()


class LateModule(FusionModule):
    """Calibrated experts and the pool."""

    def __init__(
        self,
        block_dims: dict[str, int],
        n_outputs: int,
        task: str,
        experts: list[FusionModule],
    ) -> None:
        super().__init__(block_dims, n_outputs, task)
        self.experts = nn.ModuleList(experts)
        self.pool = _POOLS[task](len(block_dims), n_outputs)
        self.register_buffer("log_temperature", torch.zeros(len(block_dims), dtype=torch.float64))

    def calibrated(self, raw: Tensor) -> Tensor:
        """Log probabilities (n, M, K) from raw scores; predictions stay as they are."""
        if self.task != "classification":
            return raw.double()
        scaled = raw.double() * (-self.log_temperature).exp()[None, :, None]
        return torch.log_softmax(scaled, dim=-1)

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
        expert = self.calibrated(self.expert_scores(blocks, presence))
        if self.task == "quantiles":
            return HeadOutput(self.pool(expert, presence))
        if self.task == "regression":
            mean, variance = self.pool.moments(expert, presence)
            return HeadOutput(mean, {"variance": variance})
        evidence = self.pool.evidence(expert, presence)
        return HeadOutput(self.pool.log_prior + evidence.sum(dim=1), {"evidence": evidence})

    @torch.no_grad()
    def describe(self) -> dict[str, Any]:
        """Weights, independence and temperatures, by name."""
        names = list(self.block_dims)
        return {
            "weight": dict(zip(names, self.pool.weight.tolist(), strict=True)),
            "independence": float(self.pool.independence),
            "temperature": dict(zip(names, self.log_temperature.exp().tolist(), strict=True)),
        }


def _fit_expert(base: BaseHead, data: FitData, m: int) -> tuple[FitResult, Tensor]:
    """Fit modality m on the rows that have it; its out-of-fold scores go back to all rows."""
    name = list(data.blocks)[m]
    rows = data.presence[:, m].cpu().numpy().nonzero()[0]
    place = np.full(len(data.weight), -1)
    place[rows] = np.arange(len(rows))
    folds = []
    for train, test in data.folds:
        inner = place[train][place[train] >= 0], place[test][place[test] >= 0]
        if len(inner[0]) and len(inner[1]):
            folds.append(inner)
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


def _log_temperature(raw: Tensor, data: FitData, rows: Tensor) -> float:
    if not rows.any():
        return 0.0
    scores, y, w = raw[rows].cpu().numpy(), data.target[rows].cpu(), data.weight[rows].cpu()
    scaling = TemperatureScaling().fit(scores, y.numpy(), w.numpy())
    return float(np.log(scaling.temperature_))
