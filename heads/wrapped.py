"""Any scikit-learn estimator over concatenated blocks, as a fusion module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.utils import get_tags
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.validation import has_fit_parameter
from torch import Tensor

from mmfuse.exceptions import UnsupportedObjectiveError
from mmfuse.heads.base import FitData, FitResult, FusionModule, HeadOutput
from mmfuse.objectives import Objective, of_classes
from mmfuse.patterns import draw_presence

__all__ = [
    "WrappedModule",
    "check_estimator_kind",
    "check_estimator_learns",
    "fit_estimator",
    "fit_wrapped",
]

_FLOOR = 1e-6  # a forest may give probability zero; its logarithm may not


class WrappedModule(FusionModule):
    """Features of an absent block are NaN where the estimator allows it, else the training mean.

    With more than one modality the presence bits are features too. There is one estimator for each
    name in ``keys``; the objective's ``estimator_settings`` says how each of them learns.
    """

    @property
    def keys(self) -> list[str]:
        """Names of the estimators: for quantiles one for each level, in the order of the scores."""
        if self.task == "quantiles":
            return [f"model-{i}" for i in range(self.n_outputs)]
        return ["model"]

    def features(self, blocks: dict[str, Tensor], presence: Tensor) -> np.ndarray:
        """Concatenated features: ndarray of shape (n, sum of widths [+ M])."""
        any_of_them = next(iter(self.estimators.values()))
        fill = np.nan if get_tags(any_of_them).input_tags.allow_nan else 0.0
        parts = [
            torch.where(presence[:, m, None], blocks[name], fill)
            for m, name in enumerate(self.block_dims)
        ]
        if len(parts) > 1:
            parts.append(presence.to(parts[0].dtype))
        return torch.cat(parts, dim=1).cpu().numpy()

    def forward(self, blocks: dict[str, Tensor], presence: Tensor) -> HeadOutput:
        X = self.features(blocks, presence)
        if not of_classes(self.task):
            values = [self.estimators[key].predict(X).reshape(len(X), -1) for key in self.keys]
            joined = np.concatenate(values, axis=1).astype(np.float64)
            return HeadOutput(torch.as_tensor(joined, device=presence.device))
        model = self.estimators["model"]
        proba = np.full((len(X), self.n_outputs), _FLOOR)
        proba[:, model.classes_] = model.predict_proba(X)
        scores = np.log(np.clip(proba, _FLOOR, 1.0))
        return HeadOutput(torch.as_tensor(scores, device=presence.device))

    def learn(
        self, models: Sequence[BaseEstimator], X: np.ndarray, y: np.ndarray, weight: np.ndarray
    ) -> None:
        """Fit a clone of each model, one for every key, on features, targets and row weights."""
        parts = [self.learn_part(i, model, X, y, weight) for i, model in enumerate(models)]
        fitted = zip(self.keys, parts, strict=True)
        self.estimators = {key: part for key, part in fitted if part is not None}
        if not self.estimators:  # the model says whether it allows NaN, no more
            self.estimators["unused"] = models[0]

    def learn_part(
        self, part: int, model: BaseEstimator, X: np.ndarray, y: np.ndarray, weight: np.ndarray
    ) -> BaseEstimator | None:
        """The fitted estimator of a key, or None where it has nothing to learn."""
        return fit_estimator(model, X, y, weight)


def check_estimator_kind(owner: str, model: Any, task: str) -> None:
    """Raise unless ``model`` is a scikit-learn estimator that fits the task."""
    if not isinstance(model, BaseEstimator) or not hasattr(model, "fit"):
        raise ValueError(
            f"{owner}: the model must be 'linear', 'mlp' or a scikit-learn estimator; "
            f"got {model!r}."
        )
    if of_classes(task):
        if not is_classifier(model) or not hasattr(model, "predict_proba"):
            raise ValueError(
                f"{owner}: {type(model).__name__} is not a classifier with predict_proba; "
                "FusionClassifier needs probabilities (for a support vector machine, wrap it in "
                "CalibratedClassifierCV)."
            )
    elif not is_regressor(model):
        raise ValueError(f"{owner}: FusionRegressor needs a regressor; got {model!r}.")


def check_estimator_learns(owner: str, model: BaseEstimator, objective: Objective) -> None:
    """Raise unless ``model`` has an option for every part of the objective.

    An estimator without such an option is refused rather than fitted by a loss of its own, so that
    a loss that was asked for is the loss that was minimised.
    """
    name = type(model).__name__
    if not objective.estimator_settings():
        raise UnsupportedObjectiveError(
            f"{owner}: {objective.name} has parameters that scikit-learn estimators do not learn; "
            f"use 'linear' or 'mlp' in the place of {name}, or output='quantiles' or 'binned'."
        )
    for options in objective.estimator_settings():
        if _adjusted(model, options) is None:
            raise UnsupportedObjectiveError(
                f"{owner}: {name} has no option for {objective.name}; a scikit-learn estimator "
                f"needs one of the settings {', '.join(map(str, options))}. Use one that has it, "
                "'linear' or 'mlp', or ask for another output or loss."
            )


def _adjusted(model: BaseEstimator, options: tuple[dict, ...]) -> BaseEstimator | None:
    """A clone with the first of the settings that the estimator accepts."""
    for setting in options:
        if not setting:
            return clone(model)
        if not set(setting) <= set(model.get_params(deep=False)):
            continue
        adjusted = clone(model).set_params(**setting)
        try:
            adjusted._validate_params()  # scikit-learn's own list of allowed values
        except InvalidParameterError:
            continue
        return adjusted
    return None


def fit_wrapped(
    module: WrappedModule, model: BaseEstimator, data: FitData, *, modality_dropout: float
) -> FitResult:
    """Fit clones of ``model`` on every fold and on all rows.

    Modality dropout adds one copy of each row with at least one modality hidden. Where the
    estimator takes sample weights, the copy weighs as much as its chance.
    """
    oof, masked = None, None
    if data.folds and data.need_oof:
        oof = np.full((len(data.weight), data.n_outputs), np.nan)
        masked = None if data.masked is None else oof.copy()
        for train, test in data.folds:
            _fit(module, model, data.take(train), modality_dropout)
            held = data.take(test)
            oof[test] = module(held.blocks, held.presence).scores.cpu().numpy()
            if held.masked is not None and masked is not None:
                masked[test] = module(held.blocks, held.masked).scores.cpu().numpy()
    _fit(module, model, data, modality_dropout)
    return FitResult(module.eval(), oof, {"model": type(model).__name__}, masked)


def _fit(module: WrappedModule, model: BaseEstimator, data: FitData, rate: float) -> None:
    models = [_adjusted(model, options) for options in data.objective.estimator_settings()]
    for part in models:
        if part.get_params().get("random_state", 0) is None:
            part.set_params(random_state=data.seed)
    # whether they allow NaN decides what the features are
    module.estimators = dict(zip(module.keys, models, strict=True))
    X = module.features(data.blocks, data.presence)
    y, weight = data.target.cpu().numpy(), data.weight.cpu().numpy()
    hidden = _hidden_copy(data, rate)
    if hidden is not None:
        X = np.concatenate([X, module.features(data.blocks, hidden)])
        y = np.concatenate([y, y])
        lost = 1 - (1 - rate) ** len(data.blocks)
        weight = np.concatenate([weight * (1 - lost), weight * lost])
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if not has_fit_parameter(model, "sample_weight") and not np.allclose(
        data.weight.cpu().numpy(), data.weight[0].item()
    ):
        raise ValueError(
            f"{type(model).__name__} takes no sample_weight in fit; leave sample_weight and "
            "class_weight out or choose another estimator."
        )
    module.learn(models, X, y, weight)


def fit_estimator(
    model: BaseEstimator, X: np.ndarray, y: np.ndarray, weight: np.ndarray
) -> BaseEstimator:
    """A fitted clone; where it takes no weights, it learns from the rows that have some."""
    if has_fit_parameter(model, "sample_weight"):
        return clone(model).fit(X, y, sample_weight=weight)
    return clone(model).fit(X[weight > 0], y[weight > 0])


def _hidden_copy(data: FitData, rate: float) -> Tensor | None:
    """Presence with at least one modality more hidden in every row that can spare one."""
    if len(data.blocks) == 1 or rate == 0:
        return None
    generator = torch.Generator().manual_seed(data.seed)
    present = data.presence.cpu()
    hidden = draw_presence(present, rate, generator)
    same = (hidden == present).all(dim=1) & (present.sum(dim=1) > 1)
    chance = torch.where(present, torch.rand(present.shape, generator=generator), -1.0)
    hidden[same, chance.argmax(dim=1)[same]] = False
    return hidden.to(data.presence.device)
