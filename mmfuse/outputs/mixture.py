"""A mixture of normal distributions for every row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import ndtr

from mmfuse.density.binning import (
    centre_and_spread,
    default_grid,
    step_quantile,
    weighted_quantiles,
)
from mmfuse.density.piecewise import Density, check_edges
from mmfuse.density.recalibration import PITRecalibrator, apply_map
from mmfuse.outputs.base import Output, Train, fill_with_prior

__all__ = ["MixtureOutput"]

_MIN_ROWS = 10
_BOUND = 3.0  # temperatures between 1/20 and 20
_PULL = 2.0  # of the log temperature towards 0, worth about two rows, as for classes
_SCALES = (0.05, 1.0)  # where components start, in the spread of the target


class MixtureOutput(Output):
    """The head gives weights, means and scales of the components; trained by likelihood."""

    name = "mixture"
    calibrations = ("auto", "pit", None)

    def check(self, model: Any) -> None:
        count = model.n_components
        if not isinstance(count, (int, np.integer)) or isinstance(count, bool) or count < 1:
            raise ValueError(f"n_components must be an integer of at least 1; got {count!r}.")

    def fit(self, model: Any, y: np.ndarray, weight: np.ndarray, train: Train) -> None:
        model.prior_, model.target_scale_ = centre_and_spread(y, weight)
        model.prior_quantiles_ = weighted_quantiles(y[:, 0], weight)
        target = (y - model.prior_) / model.target_scale_
        count = int(model.n_components)
        means = step_quantile(target[:, 0], weight, (np.arange(count) + 0.5) / count)
        gap = (means[-1] - means[0]) / (count - 1) if count > 1 else 1.0
        model.mixture_start_ = np.append(means, np.clip(gap, *_SCALES))
        oof = train(target, _objective(model))
        held = np.zeros(len(y), bool) if oof is None else np.isfinite(oof).all(axis=1)
        held &= weight > 0
        kept = oof is not None and held.sum() >= _MIN_ROWS
        narrow = 1.0
        if kept and oof is not None:
            parts, truth, weight = _components(model, oof[held]), target[held, 0], weight[held]
            if model.calibration is not None:
                model.temperature_ = _temperature(parts, truth, weight)
                model.history_["calibration"] = {"temperature": model.temperature_}
            share, _, scale = _tempered(parts, model.temperature_)
            narrow = float(step_quantile((share * scale).sum(axis=1), weight, [0.5])[0])
        low, high = model.prior_quantiles_[[0, -1]]
        unit = model.target_scale_[0]
        model.density_edges_ = default_grid(low, high, narrow * unit, unit)
        if kept and oof is not None and model.calibration == "pit":
            density = _on_grid(model, oof[held], model.density_edges_)
            fitted = PITRecalibrator().fit(density, y[held, 0], weight)
            model.pit_map_ = np.stack([fitted.pit_, fitted.level_])

    def density(self, model: Any, X: Any, grid: ArrayLike | None) -> Density:
        edges = model.density_edges_ if grid is None else check_edges(grid, "predict_density")
        blocks, scores = model._output(X)
        density = apply_map(model.pit_map_, _on_grid(model, scores, edges))
        proba = density.probabilities.copy()
        fill_with_prior(model, edges, blocks.present, proba)
        return Density(edges, proba)


Parts = tuple[np.ndarray, np.ndarray, np.ndarray]


def _objective(model: Any) -> Any:
    from mmfuse.mixture import GaussianMixture

    return GaussianMixture(model.mixture_start_[:-1], model.mixture_start_[-1])


def _components(model: Any, scores: np.ndarray) -> Parts:
    """Log weights, means and standard deviations of the standardised target: (n, K) each."""
    import torch

    log_weight, mean, log_scale = _objective(model).components(torch.as_tensor(scores))
    return log_weight.numpy(), mean.numpy(), log_scale.exp().numpy()


def _tempered(parts: Parts, temperature: float | None) -> Parts:
    """Weights, means and standard deviations at a temperature: of one component, its power."""
    heat = temperature or 1.0
    share = np.exp((parts[0] - parts[0].max(axis=1, keepdims=True)) / heat)
    return share / share.sum(axis=1, keepdims=True), parts[1], parts[2] * np.sqrt(heat)


def _temperature(parts: Parts, truth: np.ndarray, weight: np.ndarray) -> float:
    """Temperature of the lowest negative log likelihood on held-out rows."""

    def loss(log_heat: float) -> float:
        share, mean, scale = _tempered(parts, np.exp(log_heat))
        log_p = np.log(np.maximum(share, 1e-300)) - np.log(scale)
        log_p -= 0.5 * ((truth[:, None] - mean) / scale) ** 2
        top = log_p.max(axis=1)
        rows = top + np.log(np.exp(log_p - top[:, None]).sum(axis=1))
        return float(-(weight @ rows)) + 0.5 * _PULL * log_heat**2

    found = minimize_scalar(
        loss, bounds=(-_BOUND, _BOUND), method="bounded", options={"xatol": 1e-10}
    )
    return float(np.exp(found.x))


def _on_grid(model: Any, scores: np.ndarray, edges: np.ndarray) -> Density:
    """Exact probabilities of the cells; what lies beyond the grid counts to its outer cells."""
    share, mean, scale = _tempered(_components(model, scores), model.temperature_)
    grid = (edges - model.prior_[0]) / model.target_scale_[0]
    level = np.zeros((len(scores), len(grid)))
    for k in range(share.shape[1]):
        level += share[:, k, None] * ndtr((grid - mean[:, k, None]) / scale[:, k, None])
    level[:, 0], level[:, -1] = 0.0, 1.0
    return Density(edges, np.maximum(np.diff(level, axis=1), 0.0))
