"""One value per row and target, by squared, absolute or Huber's error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mmfuse._rows import PREDICT_ROWS
from mmfuse.density.binning import (
    centre_and_spread,
    default_grid,
    step_quantile,
    weighted_quantiles,
)
from mmfuse.density.piecewise import Density, check_edges
from mmfuse.exceptions import UnsupportedObjectiveError
from mmfuse.outputs.base import Output, Train, fill_with_prior

__all__ = ["PointOutput"]

_LOSSES = ("squared", "absolute", "huber")
_INSIDE = 0.6827  # share of a normal distribution within one standard deviation
_LEAST = 1e-3  # of the target's spread: Huber's threshold where the errors are all but zero


class PointOutput(Output):
    """The value itself; a normal density around it, as wide as the out-of-fold errors."""

    name = "point"
    several_targets = True

    def check(self, model: Any) -> None:
        if not isinstance(model.loss, str) or model.loss not in _LOSSES:
            raise ValueError(f"loss must be 'squared', 'absolute' or 'huber'; got {model.loss!r}.")
        if not _is_positive(model.huber_threshold):
            raise ValueError(
                f"huber_threshold must be a number above 0; got {model.huber_threshold!r}."
            )

    def fit(self, model: Any, y: np.ndarray, weight: np.ndarray, train: Train) -> None:
        from mmfuse.objectives import Absolute, Huber, Squared

        squared = model.loss == "squared"
        model.prior_, model.target_scale_ = (
            _mean_and_deviation(y, weight) if squared else centre_and_spread(y, weight)
        )
        if y.shape[1] == 1:
            model.prior_quantiles_ = weighted_quantiles(y[:, 0], weight)
        target = (y - model.prior_) / model.target_scale_
        if model.loss == "huber":
            start = Huber([model.huber_threshold] * y.shape[1])
            oof = train(target, start, refine=_threshold_from_errors(model.huber_threshold))
        else:
            oof = train(target, Squared(y.shape[1]) if squared else Absolute(y.shape[1]))
        if oof is None or model.calibration is None:
            return
        held = np.isfinite(oof).all(axis=1) & (weight > 0)
        error, weight = oof[held] - target[held], weight[held]
        deviation = np.sqrt((weight[:, None] * error**2).sum(axis=0) / weight.sum())
        spread = deviation
        if not squared:
            spread = np.array([step_quantile(abs(e), weight, [_INSIDE])[0] for e in error.T])
        model.residual_std_ = spread * model.target_scale_
        model.spread_ratio_ = np.where(deviation > 0, spread / np.maximum(deviation, 1e-300), 1.0)

    def predict(self, model: Any, X: Any) -> np.ndarray:
        blocks, scores = model._output(X)
        scores[~blocks.present.any(axis=1)] = 0.0
        return model.prior_ + scores * model.target_scale_

    def density(self, model: Any, X: Any, grid: ArrayLike | None) -> Density:
        if model.prior_quantiles_ is None or model.residual_std_ is None:
            reason = "the spread of its errors was not measured: fit with calibration='auto'"
            if model.prior_quantiles_ is None:
                reason = "it predicts several values per row"
            raise ValueError(f"This model has no predictive density, since {reason}.")
        blocks, mean, std = _moments(model, X)
        if grid is None:
            low, high = model.prior_quantiles_[[0, -1]]
            edges = default_grid(low, high, model.residual_std_[0], model.target_scale_[0])
        else:
            edges = check_edges(grid, "predict_density")
        probabilities = np.array(Density.from_normal(mean, std, edges).probabilities)
        fill_with_prior(model, edges, blocks.present, probabilities)
        return Density(edges, probabilities)


def _is_positive(value: Any) -> bool:
    number = isinstance(value, (int, float, np.integer, np.floating)) and value is not True
    return bool(number and np.isfinite(value) and value > 0)


def _mean_and_deviation(y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    share = (weight / weight.sum())[:, None]
    mean = (share * y).sum(axis=0)
    spread = np.sqrt((share * (y - mean) ** 2).sum(axis=0))
    return mean, np.where(spread > 0, spread, 1.0)


def _threshold_from_errors(threshold: float) -> Callable[[Any, Any], Any]:
    """Huber's objective once the spread of the errors is known from a fit by absolute error."""

    def refine(head: Any, data: Any) -> Any:
        from mmfuse.objectives import Absolute, Huber

        target = data.target.cpu().numpy()
        first = replace(data, objective=Absolute(target.shape[1]), need_oof=True)
        try:
            head.check_parameters(data.dims, first.objective)
            oof = head.fit_module(first).oof_scores
        except UnsupportedObjectiveError:
            oof = None
        if oof is None:  # the unit is then the spread of the target, which is one
            return data.objective
        weight = data.weight.cpu().numpy()
        held = np.isfinite(oof).all(axis=1) & (weight > 0)
        _, spread = centre_and_spread(oof[held] - target[held], weight[held])
        return Huber(np.maximum(threshold * spread, _LEAST).tolist())

    return refine


def _moments(model: Any, X: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """Blocks, and mean and standard deviation (n,) of a single target in its unit."""
    import torch

    blocks = model.encode(X)
    mean, std = np.empty((2, len(blocks)))
    std[:] = model.residual_std_[0]
    with torch.inference_mode():
        for start in range(0, len(blocks), PREDICT_ROWS):
            rows = slice(start, start + PREDICT_ROWS)
            part = blocks[rows]
            present = torch.as_tensor(part.present, device=model.device_)
            output = model.head_(model.scaler_(model._tensors(part)), present)
            mean[rows] = output.scores[:, 0].double().cpu().numpy()
            if "variance" in output.extras:
                variance = output.extras["variance"][:, 0].double().cpu().numpy()
                scale = model.target_scale_[0] * model.spread_ratio_[0]
                std[rows] = np.sqrt(variance) * scale
    return blocks, model.prior_[0] + mean * model.target_scale_[0], np.maximum(std, 1e-300)
