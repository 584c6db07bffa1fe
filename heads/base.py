"""The contract of a head: parameters here, tensors in the module that it builds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from mmfuse.objectives import Objective
from mmfuse.patterns import draw_presence
from mmfuse.solver.columns import Column
from mmfuse.standardize import StandardisedBlocks

__all__ = ["BaseHead", "FitData", "FitResult", "FusionModule", "HeadOutput"]


@dataclass(frozen=True)
class HeadOutput:
    """What a fusion module answers.

    Attributes
    ----------
    scores : Tensor of shape (n, n_outputs)
        Logits for classification, standardised values or quantiles for regression, parameters for
        mixtures.
    extras : dict
        Whatever a head wants to show, such as the evidence of every modality.
    """

    scores: Tensor
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FitData:
    """Training rows as a head sees them.

    Attributes
    ----------
    blocks : dict of str to Tensor of shape (n, d)
        Standardised float32, zero where absent.
    presence : Tensor of shape (n, M), bool
        Columns in the order of ``blocks``.
    target : Tensor
        Class indices (n,), or standardised values (n, n_outputs).
    weight : Tensor of shape (n,), float64
        Sample weights times class weights.
    folds : list of (train, test)
        Group-disjoint row numbers for cross-fitting; may be empty.
    objective : Objective
        What is learned; its ``task`` and ``n_outputs`` are attributes here too.
    seed : int
    verbose : int
    need_oof : bool
        Whether anybody will use out-of-fold scores; a head may skip the work when not.
    masked : Tensor of shape (n, M), bool, or None
        A second, sparser presence under which held-out rows are scored too, for those who ask
        how a head does when modalities are missing.
    """

    blocks: Mapping[str, Tensor]
    presence: Tensor
    target: Tensor
    weight: Tensor
    folds: list[tuple[np.ndarray, np.ndarray]]
    objective: Objective
    seed: int
    verbose: int = 0
    need_oof: bool = True
    masked: Tensor | None = None

    @property
    def task(self) -> str:
        return self.objective.task

    @property
    def n_outputs(self) -> int:
        return self.objective.n_outputs

    @property
    def dims(self) -> dict[str, int]:
        if isinstance(self.blocks, StandardisedBlocks):
            return self.blocks.widths()
        return {name: block.shape[1] for name, block in self.blocks.items()}

    def columns(self) -> list[Column]:
        """The blocks for the linear solver, without a standardised copy where there is none."""
        if isinstance(self.blocks, StandardisedBlocks):
            return [self.blocks.column(name) for name in self.blocks]
        return [Column(block, dtype=block.dtype) for block in self.blocks.values()]

    def only(self, name: str) -> FitData:
        """The same rows with one block."""
        m = list(self.blocks).index(name)
        lazy = isinstance(self.blocks, StandardisedBlocks)
        blocks = self.blocks.select(name) if lazy else {name: self.blocks[name]}
        return replace(self, blocks=blocks, presence=self.presence[:, m : m + 1], masked=None)

    def take(self, rows: Any, folds: list | None = None) -> FitData:
        """The same data on some rows; the folds go unless new ones are given."""
        rows = torch.as_tensor(rows, device=self.presence.device)
        if isinstance(self.blocks, StandardisedBlocks):
            blocks: Mapping[str, Tensor] = self.blocks.take(rows)
        else:
            blocks = {name: block[rows] for name, block in self.blocks.items()}
        return replace(
            self,
            blocks=blocks,
            presence=self.presence[rows],
            target=self.target[rows],
            weight=self.weight[rows],
            folds=folds or [],
            masked=None if self.masked is None else self.masked[rows],
        )


@dataclass
class FitResult:
    """A trained module.

    Attributes
    ----------
    module : FusionModule
    oof_scores : ndarray of shape (n, n_outputs) or None
        Score of every training row by a module that was not trained on it; NaN rows were never held
        out. Calibration is fitted on them.
    history : dict
        What happened while training; JSON-able.
    oof_masked : ndarray of shape (n, n_outputs) or None
        The same as ``oof_scores`` under the presence ``FitData.masked``, where that was given.
    head : BaseHead or None
        The head that builds ``module``, where fitting chose another than the one it was asked of.
    """

    module: FusionModule
    oof_scores: np.ndarray | None
    history: dict[str, Any]
    oof_masked: np.ndarray | None = None
    head: BaseHead | None = None


class FusionModule(nn.Module):
    """Base of the modules that heads build.

    A module may hold scikit-learn estimators in ``estimators``; they are saved apart from
    the tensors.
    """

    def __init__(self, block_dims: dict[str, int], n_outputs: int, task: str) -> None:
        super().__init__()
        self.block_dims = dict(block_dims)
        self.n_outputs = n_outputs
        self.task = task
        self.estimators: dict[str, Any] = {}

    def forward(self, blocks: dict[str, Tensor], presence: Tensor) -> HeadOutput:
        """Scores of n rows; ``presence`` is (n, M) bool in the order of ``block_dims``."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def start(self, target: Tensor, weight: Tensor) -> None:
        """Set what can be read off the target before training; by default nothing."""

    def all_estimators(self, prefix: str = "") -> dict[str, Any]:
        """scikit-learn estimators of this module and of the modules inside, by dotted name."""
        found = {f"{prefix}{key}": value for key, value in self.estimators.items()}
        for name, child in self.named_modules():
            if name and isinstance(child, FusionModule):
                found |= {f"{prefix}{name}.{k}": v for k, v in child.estimators.items()}
        return found

    def set_estimator(self, key: str, estimator: Any) -> None:
        """Put an estimator back under a name that ``all_estimators`` gave."""
        owner, _, name = key.rpartition(".")
        self.get_submodule(owner).estimators[name] = estimator


class BaseHead(BaseEstimator):
    """Base of the heads: a parameter object that builds and fits a fusion module.

    A subclass writes ``build``, and ``fit_module`` where it has something better than gradient
    descent. Constructor arguments are stored untouched and checked in ``check_parameters``.
    """

    def check_parameters(self, block_dims: dict[str, int], objective: Objective) -> None:
        """Raise a ValueError that names the head, the argument, what is allowed and what came.

        A head that cannot learn ``objective`` says so here.
        """

    def raw_blocks(self, block_dims: dict[str, int]) -> tuple[str, ...]:
        """Names of the blocks that must come as they are, not standardised."""
        return ()

    def build(self, block_dims: dict[str, int], n_outputs: int, task: str) -> FusionModule:
        """Make the untrained module; others call `make_module`.

        Parameters
        ----------
        block_dims : dict of str to int
            Width of every block.
        n_outputs : int
            Classes, or values per row.
        task : {"classification", "regression", "quantiles", "mixture"}
            Ordered classes come as regression with one value, unless the head overrides
            `make_module`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define build")

    def make_module(self, block_dims: dict[str, int], n_outputs: int, task: str) -> FusionModule:
        """Make the untrained module of any task: ``"ordinal"`` too, with thresholds around it."""
        from mmfuse.heads.cumulative import module_for

        return module_for(self.build, block_dims, n_outputs, task)

    def loss(
        self, output: HeadOutput, target: Tensor, weight: Tensor, objective: Objective
    ) -> Tensor:
        """Weighted mean of the objective's loss."""
        rows = objective.row_loss(output.scores, target)
        return (rows * weight).sum() / weight.sum().clamp(min=1e-12)

    def draw_presence(self, presence: Tensor, names: list[str]) -> Tensor:
        """What a batch keeps (n, M) under modality dropout; ``names`` are those of the columns."""
        return draw_presence(presence, self.modality_dropout, None)

    def fit_module(self, data: FitData) -> FitResult:
        """Train a module on ``data``; the default is gradient descent with modality dropout."""
        from mmfuse.heads.training import train_network

        return train_network(self, data)
