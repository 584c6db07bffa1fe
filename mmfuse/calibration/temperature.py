"""Calibration of scores, fitted on scores of rows that the head did not see."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

__all__ = ["Calibrator", "TemperatureScaling", "check_calibration", "make_calibrator"]

_MIN_ROWS = 10
_BOUND = 3.0  # temperatures between 1/20 and 20
_PULL = 2.0  # weight of the pull towards 1; it matters only where rows are few or separable


class Calibrator(Protocol):
    """What the estimator asks of a calibrator."""

    def transform(self, scores: np.ndarray, present: np.ndarray) -> np.ndarray: ...

    def get_state(self) -> dict: ...


class TemperatureScaling:
    """Divide the scores by one temperature that minimises the log loss.

    One number, so that the order of the classes never changes and few rows are enough. A weak
    pull towards 1, worth about two rows, keeps a handful of separable rows from making the
    probabilities certain; it is ours and not in the paper.

    Attributes
    ----------
    temperature_ : float
        Above 1: the head was over-confident.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger (2017), "On calibration of modern neural networks".
    """

    name = "temperature"

    def fit(
        self, scores: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None
    ) -> TemperatureScaling:
        """Fit on out-of-fold scores.

        Parameters
        ----------
        scores : ndarray of shape (n, K)
        y : ndarray of shape (n,)
            Class indices.
        weight : ndarray of shape (n,), optional
        """
        scores = np.asarray(scores, dtype=np.float64)
        weight = np.ones(len(y)) if weight is None else np.asarray(weight, dtype=np.float64)
        true = scores[np.arange(len(y)), y]

        def slope(log_b: float) -> float:
            """Derivative of the penalised log loss in the log of the inverse temperature."""
            b = np.exp(log_b)
            expected = (softmax(b * scores, axis=1) * scores).sum(axis=1)
            return float(b * (weight @ (expected - true))) + _PULL * log_b

        # the loss is convex in b, and bounds hold where the scores say nothing or separate all
        low, high = -_BOUND, _BOUND
        if slope(low) >= 0:
            log_b = low
        elif slope(high) <= 0:
            log_b = high
        else:
            log_b = brentq(slope, low, high, xtol=1e-13, rtol=1e-13)
        self.temperature_ = float(np.exp(-log_b))
        return self

    def transform(self, scores: np.ndarray, present: np.ndarray | None = None) -> np.ndarray:
        """Calibrated scores, of the same shape."""
        return scores / self.temperature_

    def slope(self, present: np.ndarray) -> np.ndarray:
        """By what raw scores are multiplied in each row: (n,)."""
        return np.full(len(present), 1 / self.temperature_)

    def get_state(self) -> dict:
        """What was learned, ready for JSON."""
        return {"temperature": self.temperature_}

    @classmethod
    def from_state(cls, state: dict) -> TemperatureScaling:
        """Build a fitted calibrator from ``get_state()``."""
        self = cls()
        self.temperature_ = float(state["temperature"])
        return self


def check_calibration(kind: str | None) -> None:
    """Raise ValueError for a calibration that there is not."""
    if kind not in ("auto", "temperature", None):
        raise ValueError(f"calibration must be 'auto', 'temperature' or None; got {kind!r}.")


def make_calibrator(
    kind: str | None, scores: np.ndarray | None, y: np.ndarray, weight: np.ndarray
) -> TemperatureScaling | None:
    """Fit the calibrator that the estimator asks for, or None.

    Parameters
    ----------
    kind : {"auto", "temperature", None}
        ``"auto"`` calibrates when there are at least 10 out-of-fold rows.
    scores : ndarray of shape (n, K) or None
        Out-of-fold scores; NaN rows were never held out.

    Raises
    ------
    ValueError
        For another kind, or if ``"temperature"`` is asked for and there are no out-of-fold scores.
    """
    check_calibration(kind)
    if kind is None:
        return None
    held = np.zeros(len(y), bool) if scores is None else np.isfinite(scores).all(axis=1)
    held &= weight > 0
    if scores is None or held.sum() < (_MIN_ROWS if kind == "auto" else 2):
        if kind == "temperature":
            raise ValueError(
                "calibration='temperature' needs out-of-fold rows and there are too few rows or "
                "groups to hold any out; use calibration='auto' or None."
            )
        return None
    return TemperatureScaling().fit(scores[held], y[held], weight[held])
