"""Calibration of one modality inside a fusion head: raw scores into log probabilities.

Every calibrator is fitted on out-of-fold scores of the rows that have the modality, and keeps what
it learned in buffers, so that it is saved with the module. Before it is fitted it is the softmax.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit, log_softmax
from sklearn.isotonic import IsotonicRegression
from torch import Tensor, nn

from mmfuse.calibration.temperature import TemperatureScaling

__all__ = [
    "CALIBRATORS",
    "Isotonic",
    "ModalityCalibrator",
    "Sigmoid",
    "Temperature",
    "Values",
    "VectorScaling",
]

_BIAS_PULL = 10.0  # precision of the biases around 0; with these vector scaling costs at most a
_SCALE_PULL = 30.0  # hundredth of log loss on 30 rows of 5 classes, and keeps most of its gain
_CERTAIN = -1e-16  # largest log probability with finite log odds
_TIGHT = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000}


class ModalityCalibrator(nn.Module):
    """No calibration: the softmax of the scores. Base of the others.

    Parameters
    ----------
    n_outputs : int
        Classes.
    """

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.n_outputs = n_outputs

    def fit(self, scores: np.ndarray, y: np.ndarray, weight: np.ndarray) -> None:
        """Learn from out-of-fold rows.

        Parameters
        ----------
        scores : ndarray of shape (n, K)
            Raw scores, n at least 1.
        y : ndarray of shape (n,)
            Class indices; a class may have no row.
        weight : ndarray of shape (n,)
            Above zero.
        """

    def forward(self, scores: Tensor) -> Tensor:
        """Log probabilities (n, K), float64, of raw scores (n, K)."""
        return torch.log_softmax(scores.double(), dim=-1)

    def describe(self) -> Any:
        """What was learned, ready for JSON."""
        return None


class Values(ModalityCalibrator):
    """For regression: predictions and quantiles stay as they are."""

    def forward(self, scores: Tensor) -> Tensor:
        return scores.double()


class Temperature(ModalityCalibrator):
    """One temperature, see `mmfuse.calibration.TemperatureScaling`."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__(n_outputs)
        self.register_buffer("log_temperature", torch.zeros((), dtype=torch.float64))

    def fit(self, scores: np.ndarray, y: np.ndarray, weight: np.ndarray) -> None:
        scaling = TemperatureScaling().fit(scores, y, weight)
        self.log_temperature.fill_(float(np.log(scaling.temperature_)))

    def forward(self, scores: Tensor) -> Tensor:
        return torch.log_softmax(scores.double() * (-self.log_temperature).exp(), dim=-1)

    def describe(self) -> float:
        return float(self.log_temperature.exp())


class VectorScaling(ModalityCalibrator):
    """A scale and a bias for every class, on centred scores.

    The scales are ``a_k / T`` with the temperature T of `Temperature`; ``a_k`` (not negative) and
    the biases ``b_k`` minimise the summed log loss plus ``15 (a_k - 1)^2 + 5 b_k^2``, a Gaussian
    prior around temperature scaling that gives way as rows come in.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger (2017), "On calibration of modern neural networks". The penalty
    and the centring, without which a constant added to a row would change the answer, are ours.
    """

    def __init__(self, n_outputs: int) -> None:
        super().__init__(n_outputs)
        self.register_buffer("scale", torch.ones(n_outputs, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros(n_outputs, dtype=torch.float64))

    def fit(self, scores: np.ndarray, y: np.ndarray, weight: np.ndarray) -> None:
        temperature = TemperatureScaling().fit(scores, y, weight).temperature_
        z = (scores - scores.mean(axis=1, keepdims=True)) / temperature
        k, total = self.n_outputs, weight.sum()
        hit = np.eye(k)[y]

        def function(theta: np.ndarray) -> tuple[float, np.ndarray]:
            a, b = theta[:k], theta[k:]
            log_p = log_softmax(a * z + b, axis=1)
            slope = weight[:, None] * (np.exp(log_p) - hit)
            pull = 0.5 * _SCALE_PULL * ((a - 1) ** 2).sum() + 0.5 * _BIAS_PULL * (b**2).sum()
            gradient = np.concatenate([(slope * z).sum(0), slope.sum(0)])
            gradient += np.concatenate([_SCALE_PULL * (a - 1), _BIAS_PULL * b])
            return (pull - weight @ log_p[np.arange(len(y)), y]) / total, gradient / total

        start = np.concatenate([np.ones(k), np.zeros(k)])
        bounds = [(0.0, None)] * k + [(None, None)] * k
        best = minimize(
            function, start, jac=True, method="L-BFGS-B", bounds=bounds, options=_TIGHT
        ).x
        self.scale.copy_(torch.as_tensor(best[:k] / temperature))
        self.bias.copy_(torch.as_tensor(best[k:]))

    def forward(self, scores: Tensor) -> Tensor:
        scores = scores.double()
        centred = scores - scores.mean(dim=-1, keepdim=True)
        return torch.log_softmax(centred * self.scale + self.bias, dim=-1)

    def describe(self) -> dict[str, list[float]]:
        return {"scale": self.scale.tolist(), "bias": self.bias.tolist()}


class Sigmoid(ModalityCalibrator):
    """Platt scaling: a logistic curve of the log odds of every class against the rest, normalised.

    The targets are smoothed as Platt does, so that separable rows do not become certain. Slopes are
    not negative: a modality that is worse than chance out of fold then says nothing, instead of
    the opposite of what it predicts.

    References
    ----------
    Platt (1999), "Probabilistic outputs for support vector machines"; one against the rest after
    Zadrozny and Elkan (2002). The bound on the slope is ours.
    """

    def __init__(self, n_outputs: int) -> None:
        super().__init__(n_outputs)
        self.register_buffer("slope", torch.ones(n_outputs, dtype=torch.float64))
        self.register_buffer("intercept", torch.zeros(n_outputs, dtype=torch.float64))

    def fit(self, scores: np.ndarray, y: np.ndarray, weight: np.ndarray) -> None:
        odds = log_odds(torch.as_tensor(scores)).numpy()
        for k in range(self.n_outputs):
            self.slope[k], self.intercept[k] = _platt(odds[:, k], y == k, weight)

    def forward(self, scores: Tensor) -> Tensor:
        curve = log_odds(scores) * self.slope + self.intercept
        return torch.log_softmax(nn.functional.logsigmoid(curve), dim=-1)

    def describe(self) -> dict[str, list[float]]:
        return {"slope": self.slope.tolist(), "intercept": self.intercept.tolist()}


class Isotonic(ModalityCalibrator):
    """A monotone curve of the log odds of every class against the rest, normalised.

    Between its knots the probability is linear in the log odds, beyond them constant. One more row
    of the class stands at the lowest score and one of the others at the highest, each of weight
    1: before normalising no probability is below ``1 / (W + 2)`` or above ``1 - 1 / (W + 2)``, W
    being the weight of the training rows.

    References
    ----------
    Zadrozny and Elkan (2002), "Transforming classifier scores into accurate multiclass probability
    estimates". The two extra rows are ours.
    """

    def __init__(self, n_outputs: int) -> None:
        super().__init__(n_outputs)
        nothing = torch.zeros(n_outputs, 0, dtype=torch.float64)
        self.register_buffer("knot_score", nothing)
        self.register_buffer("knot_value", nothing.clone())

    def fit(self, scores: np.ndarray, y: np.ndarray, weight: np.ndarray) -> None:
        odds = log_odds(torch.as_tensor(scores)).numpy()
        curves = [_monotone(odds[:, k], y == k, weight) for k in range(self.n_outputs)]
        length = max(len(score) for score, _ in curves)
        knots = [
            [np.pad(part, (0, length - len(part)), mode="edge") for part in curve]
            for curve in curves
        ]
        stacked = torch.as_tensor(np.array(knots), device=self.knot_score.device)
        self.knot_score, self.knot_value = stacked[:, 0].contiguous(), stacked[:, 1].contiguous()

    def forward(self, scores: Tensor) -> Tensor:
        if self.knot_score.shape[1] == 0:
            return super().forward(scores)
        odds = log_odds(scores)
        x = odds.reshape(-1, self.n_outputs).T.contiguous()
        x = torch.minimum(torch.maximum(x, self.knot_score[:, :1]), self.knot_score[:, -1:])
        high = torch.searchsorted(self.knot_score, x).clamp(1, self.knot_score.shape[1] - 1)
        x0, x1 = (self.knot_score.gather(1, place) for place in (high - 1, high))
        y0, y1 = (self.knot_value.gather(1, place) for place in (high - 1, high))
        step = torch.where(x1 > x0, (x - x0) / (x1 - x0).clamp(min=1e-300), 0.0)
        value = torch.lerp(y0, y1, step)
        return torch.log_softmax(value.log().T.reshape(odds.shape), dim=-1)

    def describe(self) -> dict[str, int]:
        return {"knots": self.knot_score.shape[1]}

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        for name in ("knot_score", "knot_value"):  # as many knots as were saved
            saved = state_dict.get(prefix + name)
            if saved is not None:
                setattr(self, name, getattr(self, name).new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


def log_odds(scores: Tensor) -> Tensor:
    """Log odds of every class against all others (n, K), float64; at most about 37."""
    log_p = torch.log_softmax(scores.double(), dim=-1).clamp(max=_CERTAIN)
    return log_p - torch.log(-torch.expm1(log_p))


def _platt(odds: np.ndarray, hit: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the logistic curve of one class."""
    total, positive = weight.sum(), weight[hit].sum()
    negative = total - positive
    target = np.where(hit, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def function(theta: np.ndarray) -> tuple[float, np.ndarray]:
        curve = theta[0] * odds + theta[1]
        loss = weight @ (np.logaddexp(0, curve) - target * curve)
        slope = weight * (expit(curve) - target)
        return loss / total, np.array([slope @ odds, slope.sum()]) / total

    start = [0.0, np.log((positive + 1) / (negative + 1))]
    bounds = [(0.0, None), (None, None)]
    best = minimize(function, start, jac=True, method="L-BFGS-B", bounds=bounds, options=_TIGHT)
    return float(best.x[0]), float(best.x[1])


def _monotone(
    odds: np.ndarray, hit: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and probabilities at the knots of one class."""
    x = np.concatenate([odds, [odds.min(), odds.max()]])
    y = np.concatenate([hit, [1.0, 0.0]])
    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    fitted.fit(x, y, sample_weight=np.concatenate([weight, [1.0, 1.0]]))
    score, value = fitted.X_thresholds_, fitted.y_thresholds_
    if len(score) == 1:  # all scores are equal
        score, value = np.repeat(score, 2), np.repeat(value, 2)
    return score, value


CALIBRATORS: dict[str, dict[str | None, type[ModalityCalibrator]]] = {
    "classification": {
        "temperature": Temperature,
        "vector": VectorScaling,
        "sigmoid": Sigmoid,
        "isotonic": Isotonic,
        None: ModalityCalibrator,
    },
}
CALIBRATORS["ordinal"] = CALIBRATORS["classification"]  # of log probabilities, either way
for _task in ("regression", "quantiles"):
    CALIBRATORS[_task] = dict.fromkeys(CALIBRATORS["classification"], Values)
"""The calibrator that a task and the argument ``calibrate`` name."""
