"""One value per row and target, by squared, absolute or Huber's error, and a density around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mmfuse._random import spawn_seed
from mmfuse._rows import PREDICT_ROWS
from mmfuse.blocks import Blocks
from mmfuse.density.binning import (
    centre_and_spread,
    default_grid,
    step_quantile,
    weighted_quantiles,
)
from mmfuse.density.forest import forest_or_none
from mmfuse.density.piecewise import Density, check_edges
from mmfuse.exceptions import UnsupportedObjectiveError
from mmfuse.outputs.base import Output, Train, fill_with_prior

__all__ = ["PointOutput"]

_LOSSES = ("squared", "absolute", "huber")
_INSIDE = 0.6827  # share of a normal distribution within one standard deviation
_FEATURES_UP_TO = 100  # beyond, a density follows the prediction and what is present alone
_MOST_ROWS = 5000  # from which densities are learned; more change them by little
_LEAST = 1e-3  # of the target's spread: Huber's threshold where the errors are all but zero


class PointOutput(Output):
    """The value itself, and a density around it from out-of-fold errors.

    It is a `DensityForest` where that is clearly better than a normal density of one width.
    """

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

    def learn_density(self, model: Any, held: Any, y: np.ndarray, weight: np.ndarray) -> None:
        if model.residual_std_ is None or y.shape[1] != 1 or held is None:
            return
        if model.loss != "squared":  # wild targets are not to widen densities
            return
        seed = spawn_seed(model.random_state)
        blocks, scores, rows = _held_rows(held, weight, seed)
        mean = model.prior_[0] + scores * model.target_scale_[0]
        part = np.zeros(len(y), dtype=bool)
        for _, test in held.folds[::2]:
            part[test] = True
        model.density_forest_ = forest_or_none(
            _features(model, blocks, mean),
            mean,
            y[rows, 0],
            weight[rows],
            half=part[rows],
            complete=blocks.present.all(axis=1),
            edges=_grid(model, None),
            seed=seed,
        )

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
        forest = model.density_forest_
        edges = _grid(model, forest) if grid is None else check_edges(grid, "predict_density")
        if forest is None:
            found = Density.from_normal(mean, std, edges)
        else:
            found = forest.density(_features(model, blocks, mean), mean, edges)
        probabilities = np.array(found.probabilities)
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


def _held_rows(held: Any, weight: np.ndarray, seed: int) -> tuple[Blocks, np.ndarray, np.ndarray]:
    """Blocks, scores (m,) and numbers of held-out rows: as they were, then with less."""
    rows = np.flatnonzero(np.isfinite(held.scores).all(axis=1) & (weight > 0))
    if len(rows) > _MOST_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MOST_ROWS, replace=False))
    blocks, scores = held.blocks[rows], held.scores[rows, 0]
    if held.masked is None or held.masked_present is None:
        return blocks, scores, rows
    differs = (held.present[rows] != held.masked_present[rows]).any(axis=1)
    less = rows[differs & np.isfinite(held.masked[rows]).all(axis=1)]
    gone = held.blocks[less]
    for j, name in enumerate(gone.names):
        gone = gone.hide(name, ~held.masked_present[less, j])
    arrays = {name: np.concatenate([blocks[name], gone[name]]) for name in blocks.names}
    both = Blocks(arrays, np.concatenate([blocks.presence, gone.presence]))
    scores = np.concatenate([scores, held.masked[less, 0]])
    return both, scores, np.concatenate([rows, less])


def _features(model: Any, blocks: Blocks, mean: np.ndarray) -> np.ndarray:
    """What a density follows (n, d): features where they are few, presence, the prediction."""
    parts = [blocks.present, (mean[:, None] - model.prior_[0]) / model.target_scale_[0]]
    if sum(blocks.dims.values()) <= _FEATURES_UP_TO:
        values = model.scaler_(model._tensors(blocks)).values()
        parts += [
            np.where(blocks.present[:, j : j + 1], value.cpu().numpy(), 0.0)
            for j, value in enumerate(values)
        ]
    return np.concatenate(parts, axis=1, dtype=np.float32)


def _grid(model: Any, forest: Any) -> np.ndarray:
    low, high = model.prior_quantiles_[[0, -1]]
    error = model.residual_std_[0] if forest is None else forest.error_spread_
    return default_grid(low, high, error, model.target_scale_[0])


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
