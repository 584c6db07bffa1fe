"""Scores of a prediction with bootstrap replicates, all of them means over the same rows."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfuse.blocks import Blocks
from mmfuse.metrics.resampling import bootstrap_means, percentile_interval
from mmfuse.report.subsets import ClassificationTask, Task

__all__ = ["Prediction", "Scorer"]

_BINS = 15


@dataclass(frozen=True, eq=False)
class Prediction:
    """Of each row: moments (n, P), parts of the third metric (n, Q), whether it is covered (n,)."""

    moments: np.ndarray
    third: np.ndarray
    covered: np.ndarray | None


class Scorer:
    """Score, loss, calibration error (or MAE) and coverage, with intervals.

    Parameters
    ----------
    task : Task
    y : ndarray of shape (n,)
    groups : ndarray of shape (n,) or None
    coverage : float
        Asked of sets or intervals.
    n_bootstrap : int
    confidence : float
    seed : int
        All predictions are resampled by the same draws, so that differences are paired.
    """

    def __init__(
        self,
        task: Task,
        y: np.ndarray,
        groups: np.ndarray | None,
        coverage: float,
        n_bootstrap: int,
        confidence: float,
        seed: int,
    ) -> None:
        self.task, self.groups, self.coverage = task, groups, coverage
        self.y: Any = task.y  # type: ignore[attr-defined]
        self.n_bootstrap, self.confidence, self.seed = n_bootstrap, confidence, seed
        self.uncovered = False
        self.names = ("ece" if isinstance(task, ClassificationTask) else "mae", "coverage")

    def predict(self, model: Any, blocks: Blocks) -> Prediction:
        """Predict, and keep what scores are means of."""
        said = self.task.predict(model, blocks)
        if isinstance(self.task, ClassificationTask):
            third = _bin_gaps(said, self.task.classes, self.y)
        else:
            third = np.abs(said - self.y).mean(axis=1, keepdims=True)
        return Prediction(self.task.moments(said), third, self._tried(model, blocks))

    def _tried(self, model: Any, blocks: Blocks) -> np.ndarray | None:
        """The coverage, or a warning and None where the model cannot give sets or intervals."""
        if self.uncovered:
            return None
        try:
            return self._covered(model, blocks)
        except ValueError as exc:
            self.uncovered = True
            warnings.warn(f"degradation: coverage is left out: {exc}", UserWarning, stacklevel=5)
            return None

    def _covered(self, model: Any, blocks: Blocks) -> np.ndarray | None:
        """Whether the set or the interval of each row holds the truth; None without them."""
        if isinstance(self.task, ClassificationTask):
            if not hasattr(model, "predict_set"):
                return None
            members = np.asarray(model.predict_set(blocks, self.coverage), dtype=bool)
            column = {label: k for k, label in enumerate(self.task.classes.tolist())}
            truth = np.array([column[label] for label in self.y.tolist()])
            return members[np.arange(len(truth)), truth].astype(float)
        if not hasattr(model, "predict_interval") or self.y.shape[1] > 1:
            return None
        ends = np.asarray(model.predict_interval(blocks, coverage=self.coverage))
        inside = (ends[:, 0] <= self.y[:, 0]) & (self.y[:, 0] <= ends[:, 1])
        return inside.astype(float)

    def score(self, found: Prediction, clean: Prediction) -> tuple[dict[str, float], np.ndarray]:
        """Metrics with their ends, the change of the loss, and replicates of the loss (B,)."""
        parts = [found.moments, clean.moments, found.third, self.task.shared]
        parts.append(
            np.empty((len(found.third), 0)) if found.covered is None else found.covered[:, None]
        )
        stacked = np.column_stack(parts)
        edges = np.cumsum([part.shape[1] for part in parts])[:-1]
        draws = bootstrap_means(
            stacked,
            n_bootstrap=self.n_bootstrap,
            rng=np.random.default_rng(self.seed),
            groups=self.groups,
        )
        values = self._metrics(np.split(stacked.mean(axis=0)[None], edges, axis=1))
        samples = self._metrics(np.split(draws, edges, axis=1))
        row: dict[str, float] = {}
        for name, sample in samples.items():
            row[name] = float(values[name][0])
            row[f"{name}_low"], row[f"{name}_high"] = map(
                float, percentile_interval(sample, self.confidence)
            )
        return row, samples[self.task.loss]

    def above(self, one: np.ndarray, other: np.ndarray, least: float) -> bool:
        """Whether a loss is above another by the whole interval of paired replicates."""
        return bool(percentile_interval(one - other, self.confidence)[0] > least)

    def _metrics(self, parts: list[np.ndarray]) -> dict[str, np.ndarray]:
        moments, clean, third, shared, covered = parts
        loss, score = self.task.measure(moments, shared)
        before, _ = self.task.measure(clean, shared)
        out = {self.task.score: score, self.task.loss: loss}
        out[self.names[0]] = np.abs(third).sum(axis=1)
        if covered.shape[1]:
            out[self.names[1]] = covered[:, 0]
        return out | {f"{self.task.loss}_change": loss - before}


def _bin_gaps(proba: np.ndarray, classes: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Confidence less hit of each row in the column of its bin (n, 15).

    The calibration error is the sum of the sizes of the means of the columns.
    """
    top = proba.max(axis=1)
    hit = classes[proba.argmax(axis=1)] == y
    place = np.clip(np.ceil(top * _BINS).astype(int) - 1, 0, _BINS - 1)
    out = np.zeros((len(y), _BINS))
    out[np.arange(len(y)), place] = top - hit
    return out
