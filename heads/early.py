"""Early fusion: concatenate the blocks, then one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmfuse.heads.base import BaseHead, FitData, FitResult, FusionModule
from mmfuse.heads.descent import fit_linear_descent
from mmfuse.heads.frank_hall import FrankHallModule
from mmfuse.heads.linear import LinearModule, check_strength, fit_linear
from mmfuse.heads.mlp import MLPModule
from mmfuse.heads.wrapped import (
    WrappedModule,
    check_estimator_kind,
    check_estimator_learns,
    fit_wrapped,
)
from mmfuse.objectives import Objective

__all__ = ["EarlyFusion"]


class EarlyFusion(BaseHead):
    """Concatenate the blocks and fit one model over all of them.

    Every model knows absence: the linear one and the network have a learned token in the place of
    an absent block, a scikit-learn estimator sees NaN (where it allows it, else the training mean)
    and presence bits. All are trained with modality dropout, so what is learned for absence is
    learned even when the training table is complete.

    Parameters
    ----------
    model : {"linear", "mlp"} or scikit-learn estimator, default="linear"
        ``"linear"``: multinomial logistic regression, ridge or another convex loss, fitted by a
        convex solver; a mixture, which is not convex, by quasi-Newton steps over all rows, as many
        as are best out of fold.
        ``"mlp"``: a multilayer perceptron trained by gradient descent.
    C : float or "cv", default="cv"
        For ``"linear"``: inverse regularisation strength, as in scikit-learn's
        ``LogisticRegression``, on standardised features. ``"cv"`` chooses it for each modality
        by out-of-fold loss.
    modality_dropout : float, default=0.2
        Chance that a modality is hidden from a training row; a row keeps at least one.
    hidden : sequence of int, default=(128,)
        For ``"mlp"``: widths of the hidden layers.
    dropout : float, default=0.2
        For ``"mlp"``: chance that a hidden unit is dropped.
    learning_rate : float, default=1e-3
        For ``"mlp"``, as are all that follow.
    weight_decay : float, default=1e-2
    batch_size : int, default=128
    max_epochs : int, default=200
    patience : int, default=15
        Epochs without a lower held-out loss before a fold stops.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse import FusionClassifier
    >>> from mmfuse.heads import EarlyFusion
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], 30)
    >>> X = {"a": rng.normal(y[:, None], 1, (60, 3)), "b": rng.normal(y[:, None], 1, (60, 2))}
    >>> model = FusionClassifier(EarlyFusion(), random_state=0).fit(X, y)
    >>> model.predict_proba({"a": X["a"][:2]}).shape  # b is missing
    (2, 2)
    """

    def __init__(
        self,
        model: Any = "linear",
        *,
        C: float | str = "cv",
        modality_dropout: float = 0.2,
        hidden: Sequence[int] = (128,),
        dropout: float = 0.2,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        batch_size: int = 128,
        max_epochs: int = 200,
        patience: int = 15,
    ) -> None:
        self.model = model
        self.C = C
        self.modality_dropout = modality_dropout
        self.hidden = hidden
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience

    def check_parameters(self, block_dims: dict[str, int], objective: Objective) -> None:
        owner = type(self).__name__
        check_strength(owner, self.C)
        for name in ("modality_dropout", "dropout"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"{owner}: {name} must be in [0, 1); got {value!r}.")
        for name in ("batch_size", "max_epochs", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{owner}: {name} must be at least 1; got {getattr(self, name)!r}."
                )
        if isinstance(self.model, str):
            if self.model not in ("linear", "mlp"):
                raise ValueError(
                    f"{owner}: model must be 'linear', 'mlp' or a scikit-learn estimator; "
                    f"got {self.model!r}."
                )
        else:
            check_estimator_kind(owner, self.model, objective.task)
            check_estimator_learns(owner, self.model, objective)

    def build(self, block_dims: dict[str, int], n_outputs: int, task: str) -> FusionModule:
        if isinstance(self.model, str) and self.model == "linear":
            return LinearModule(block_dims, n_outputs, task)
        if isinstance(self.model, str):
            return MLPModule(block_dims, n_outputs, task, hidden=self.hidden, dropout=self.dropout)
        return WrappedModule(block_dims, n_outputs, task)

    def make_module(self, block_dims: dict[str, int], n_outputs: int, task: str) -> FusionModule:
        """As the base, except that scikit-learn estimators learn ordered classes by thresholds."""
        if isinstance(self.model, str) or task != "ordinal":
            return super().make_module(block_dims, n_outputs, task)
        return FrankHallModule(block_dims, n_outputs, task)

    def fit_module(self, data: FitData) -> FitResult:
        """Solve the linear model, train the network, or fit the estimator on every fold."""
        if isinstance(self.model, str) and self.model == "linear":
            fit = fit_linear if data.objective.convex else fit_linear_descent
            return fit(data, C=self.C, modality_dropout=self.modality_dropout)
        if isinstance(self.model, str):
            return super().fit_module(data)
        module = self.make_module(data.dims, data.n_outputs, data.task)
        return fit_wrapped(module, self.model, data, modality_dropout=self.modality_dropout)
