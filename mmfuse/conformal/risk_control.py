"""Thresholds of confidence at which the error rate among the answers is shown to be low enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import beta, binom

__all__ = ["TESTS", "RiskControl", "clopper_pearson", "controlled_threshold"]

TESTS = {"fixed-sequence": 200, "bonferroni": 25}  # thresholds that each tries
_TOP = 9.0  # log odds of the strictest threshold
_START = 10  # errors expected among the rows of the first test, if they just reached the risk


def clopper_pearson(
    errors: int, rows: int, confidence: float = 0.95, *, upper_only: bool = False
) -> tuple[float, float]:
    """Exact interval of a share: ``errors`` of ``rows``.

    Examples
    --------
    >>> from mmfuse.conformal.risk_control import clopper_pearson
    >>> [round(end, 3) for end in clopper_pearson(0, 29, upper_only=True)]
    [0.0, 0.098]
    """
    if rows == 0:
        return 0.0, 1.0
    tail = (1 - confidence) if upper_only else (1 - confidence) / 2
    low = 0.0 if errors == 0 or upper_only else beta.ppf(tail, errors, rows - errors + 1)
    high = 1.0 if errors == rows else beta.ppf(1 - tail, errors + 1, rows - errors)
    return float(low), float(high)


def controlled_threshold(
    confidences: np.ndarray,
    wrong: np.ndarray,
    *,
    risk: float,
    confidence: float,
    n_classes: int,
    test: str = "fixed-sequence",
) -> float:
    """Lowest threshold on the top probability at which the risk is shown to be at most ``risk``.

    Parameters
    ----------
    confidences : ndarray of shape (n,)
        Probability of the predicted class, in rows that the model did not see.
    wrong : ndarray of shape (n,), bool
    risk, confidence : float
    n_classes : int
        The grid of thresholds ends at 1 / n_classes, where everything is answered.
    test : {"fixed-sequence", "bonferroni"}

    Returns
    -------
    float
        Rows whose confidence is at least this are answered; infinite if nothing could be shown.
    """
    grid = _grid(n_classes, TESTS[test])
    count = (confidences[None, :] >= grid[:, None]).sum(axis=1)
    errors = (wrong[None, :] & (confidences[None, :] >= grid[:, None])).sum(axis=1)
    level = binom.cdf(errors, count, risk)  # of the hypothesis that the risk is larger
    limit = 1 - confidence
    if test == "bonferroni":
        shown = np.flatnonzero((level <= limit / len(grid)) & (count > 0))
        return float(grid[shown[-1]]) if len(shown) else np.inf
    enough = np.flatnonzero(count >= min(np.ceil(_START / risk), len(confidences)))
    if len(confidences) == 0 or len(enough) == 0:
        return np.inf
    failed = np.flatnonzero(level[enough[0] :] > limit)
    last = enough[0] + (failed[0] if len(failed) else len(grid) - enough[0]) - 1
    return float(grid[last]) if last >= enough[0] else np.inf


def _grid(n_classes: int, steps: int) -> np.ndarray:
    """Thresholds from strict to none, the same whatever the data."""
    odds = np.linspace(_TOP, -np.log(n_classes - 1.0), steps)
    grid = 1 / (1 + np.exp(-odds))
    grid[-1] = 0.0  # rounding must not keep a row from an answer
    return grid


@dataclass(frozen=True)
class RiskControl:
    """Thresholds of confidence for every availability pattern.

    Attributes
    ----------
    risk, confidence : float
        What was asked.
    test : str
    patterns : ndarray of shape (P, M), bool
        Patterns with a threshold of their own.
    thresholds : ndarray of shape (P,)
        Infinite where the risk could not be shown to be low enough.
    other : ndarray of shape (Q, M), bool
        Patterns of the calibration rows that share one threshold, since each is rare.
    other_threshold : float
    lines : tuple of dict
        Calibration rows, answers and errors of every threshold.
    """

    risk: float
    confidence: float
    test: str
    patterns: np.ndarray
    thresholds: np.ndarray
    other: np.ndarray
    other_threshold: float
    lines: tuple[dict, ...]

    def of_rows(self, present: np.ndarray) -> np.ndarray:
        """Threshold of every row (n,); infinite for a pattern that calibration never saw."""
        out = np.full(len(present), np.inf)
        for pattern, threshold in zip(self.patterns, self.thresholds, strict=True):
            out[(present == pattern).all(axis=1)] = threshold
        for pattern in self.other:
            out[(present == pattern).all(axis=1)] = self.other_threshold
        return out

    def get_state(self) -> dict[str, Any]:
        """What is saved as JSON; an infinite threshold is None."""
        return {
            "risk": self.risk,
            "confidence": self.confidence,
            "test": self.test,
            "modalities": int(self.patterns.shape[1]),
            "patterns": self.patterns.astype(int).tolist(),
            "thresholds": [_number(t) for t in self.thresholds],
            "other": self.other.astype(int).tolist(),
            "other_threshold": _number(self.other_threshold),
            "lines": [{k: _number(v) for k, v in line.items()} for line in self.lines],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> RiskControl:
        """Build from ``get_state()``."""
        shape = (-1, state["modalities"])
        lines = tuple({k: _back(v) for k, v in line.items()} for line in state["lines"])
        return cls(
            state["risk"],
            state["confidence"],
            state["test"],
            np.array(state["patterns"], dtype=bool).reshape(shape),
            np.array([_back(t) for t in state["thresholds"]], dtype=np.float64),
            np.array(state["other"], dtype=bool).reshape(shape),
            _back(state["other_threshold"]),
            lines,
        )


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and np.isinf(value) else value


def _back(value: Any) -> Any:
    return np.inf if value is None else value
