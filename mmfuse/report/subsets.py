"""Predictions of every subset of modalities, and the losses that a report is made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from mmfuse.blocks import Blocks
from mmfuse.metrics import expected_calibration_error, log_loss_per_row, reliability_curve

__all__ = [
    "BASELINE",
    "ClassificationTask",
    "RegressionTask",
    "SubsetScores",
    "Task",
    "score_subsets",
]


class Task(Protocol):
    """What a report needs to know of a kind of target.

    ``loss`` and ``score`` name two metrics that are functions of means over rows: ``moments``
    gives the quantities of one prediction, ``shared`` those that need no prediction, and
    ``measure`` turns their means into the two metrics. The same function serves the estimate
    and each bootstrap replicate.
    """

    kind: str
    loss: str
    score: str
    shared: np.ndarray
    weight: np.ndarray

    def predict(self, model: Any, blocks: Blocks) -> np.ndarray: ...

    def moments(self, prediction: np.ndarray) -> np.ndarray: ...

    def measure(self, means: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...

    def third(self, prediction: np.ndarray) -> tuple[str, float]: ...

    def baseline(self) -> tuple[str, np.ndarray]: ...

    def movement(self, one: np.ndarray, other: np.ndarray) -> np.ndarray: ...


class ClassificationTask:
    """Log loss, accuracy and calibration error.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        True classes, all of them among ``classes``.
    classes : ndarray of shape (n_classes,)
        Classes in the order of the probabilities.
    weight : ndarray of shape (n_samples,)
        Positive weight of each row.
    """

    kind = "classification"
    loss = "log_loss"
    score = "accuracy"

    def __init__(self, y: np.ndarray, classes: np.ndarray, weight: np.ndarray) -> None:
        self.y, self.classes, self.weight = y, classes, weight
        self.shared = np.empty((len(y), 0))

    def predict(self, model: Any, blocks: Blocks) -> np.ndarray:
        """Probabilities (n_samples, n_classes)."""
        return np.asarray(model.predict_proba(blocks))

    def moments(self, prediction: np.ndarray) -> np.ndarray:
        """Log loss and hit of each row (n_samples, 2)."""
        losses = log_loss_per_row(self.y, prediction, classes=self.classes)
        return np.column_stack([losses, self.classes[prediction.argmax(axis=1)] == self.y])

    def measure(self, means: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log loss and accuracy."""
        return means[..., 0], means[..., 1]

    def third(self, prediction: np.ndarray) -> tuple[str, float]:
        """Calibration error."""
        return "ece", expected_calibration_error(
            self.y, prediction, classes=self.classes, sample_weight=self.weight
        )

    def baseline(self) -> tuple[str, np.ndarray]:
        """The class frequencies of these rows, which predict the most common class."""
        place = {label: k for k, label in enumerate(self.classes.tolist())}
        codes = np.array([place[label] for label in self.y.tolist()])
        share = np.bincount(codes, weights=self.weight, minlength=len(self.classes))
        name = f"majority class ({self.classes[share.argmax()]})"
        return name, np.tile(share / share.sum(), (len(self.y), 1))

    def movement(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Probability that moves to other classes, of each row (n_samples,)."""
        return np.abs(one - other).sum(axis=1) / 2

    def reliability(self, prediction: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of the reliability diagram."""
        curve = reliability_curve(
            self.y, prediction, classes=self.classes, sample_weight=self.weight
        )
        return asdict(curve)


class RegressionTask:
    """Root mean squared error, R2 and mean absolute error, averaged over the targets.

    Parameters
    ----------
    y : ndarray of shape (n_samples, n_targets)
        True values.
    weight : ndarray of shape (n_samples,)
        Positive weight of each row.
    """

    kind = "regression"
    loss = "rmse"
    score = "r2"

    def __init__(self, y: np.ndarray, weight: np.ndarray) -> None:
        self.y, self.weight = y, weight
        centred = y - np.average(y, axis=0, weights=weight)  # so that squares lose no digits
        self.shared = np.column_stack([centred, np.square(centred)])

    def predict(self, model: Any, blocks: Blocks) -> np.ndarray:
        """Predicted values (n_samples, n_targets)."""
        prediction = np.asarray(model.predict(blocks), dtype=np.float64)
        if prediction.size != self.y.size:
            raise ValueError(
                f"modality_report: the model predicts an array of shape {prediction.shape} and y "
                f"has the shape {self.y.shape}; they must hold the same targets."
            )
        return prediction.reshape(self.y.shape)

    def moments(self, prediction: np.ndarray) -> np.ndarray:
        """Squared errors (n_samples, n_targets)."""
        return np.square(prediction - self.y)

    def measure(self, means: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Root mean squared error, and R2 (NaN where a target does not vary)."""
        n_targets = self.y.shape[1]
        variance = shared[..., n_targets:] - np.square(shared[..., :n_targets])
        spread = np.where(variance > 1e-12 * self.shared[:, n_targets:].max(), variance, np.nan)
        return np.sqrt(means).mean(axis=-1), 1.0 - (means / spread).mean(axis=-1)

    def third(self, prediction: np.ndarray) -> tuple[str, float]:
        """Mean absolute error."""
        error = np.abs(prediction - self.y).mean(axis=1)
        return "mae", float(np.average(error, weights=self.weight))

    def baseline(self) -> tuple[str, np.ndarray]:
        """The mean of these rows."""
        mean = np.average(self.y, axis=0, weights=self.weight)
        return "mean of these rows", np.tile(mean, (len(self.y), 1))

    def movement(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Change of the predicted values in standard deviations of the target (n_samples,)."""
        spread = np.sqrt(np.average(self.shared[:, self.y.shape[1] :], axis=0, weights=self.weight))
        return (np.abs(one - other) / np.maximum(spread, 1e-300)).mean(axis=1)


@dataclass(frozen=True)
class SubsetScores:
    """Scores of all subsets of the modalities, by bitmask.

    Attributes
    ----------
    loss, score, third : ndarray of shape (2**n_modalities,)
        Position is the bitmask: bit i is modality i.
    third_name : str
        Name of the third metric.
    moments : dict of int to ndarray
        Per-row quantities of the full set, of the sets without one modality, of the single
        modalities, of ``best_part`` and, under `BASELINE`, of the baseline: those that are compared
        by the bootstrap.
    full : ndarray
        Prediction from everything.
    best_part : int
        The subset of the lowest loss among those that lack a modality and are not empty; the full
        set of a model of one modality.
    baseline : tuple of str, float, float, float
        Name, loss, score and third metric of the prediction without a model.
    movement : ndarray of shape (n_modalities,)
        Mean change of the prediction when a modality is hidden, in rows that have it; NaN if none.
    """

    loss: np.ndarray
    score: np.ndarray
    third: np.ndarray
    third_name: str
    moments: dict[int, np.ndarray]
    full: np.ndarray
    best_part: int
    baseline: tuple[str, float, float, float]
    movement: np.ndarray


BASELINE = -1
"""Key of the baseline among the moments."""


def score_subsets(model: Any, blocks: Blocks, names: tuple[str, ...], task: Task) -> SubsetScores:
    """Predict from every subset of the modalities and score each.

    Parameters
    ----------
    model : estimator
        Fitted; predicts from Blocks.
    blocks : Blocks
        Encoded rows. A modality of ``names`` that is not in them is absent.
    names : tuple of str
        Modalities of the model.
    task : Task
        Metrics and true targets.

    Returns
    -------
    SubsetScores
        The empty subset is the prediction with everything hidden.
    """
    everything = 2 ** len(names) - 1
    compared = {everything} | {everything ^ (1 << i) for i in range(len(names))}
    compared |= {1 << i for i in range(len(names))}
    table = np.empty((3, everything + 1))
    kept: dict[int, np.ndarray] = {}
    without: dict[int, np.ndarray] = {}
    shared = np.average(task.shared, axis=0, weights=task.weight)
    best, best_moments = everything, np.empty(0)
    for mask in range(everything + 1):
        hidden = [n for i, n in enumerate(names) if not mask >> i & 1 and n in blocks.names]
        prediction = task.predict(model, blocks.hide(hidden) if hidden else blocks)
        moments, table[:2, mask], (third_name, table[2, mask]) = _score(task, prediction, shared)
        if mask in compared:
            kept[mask] = moments
        if 0 < mask < everything and (best == everything or table[0, mask] < table[0, best]):
            best, best_moments = mask, moments
        if mask != everything and everything ^ mask in (1 << i for i in range(len(names))):
            without[everything ^ mask] = prediction
    if best != everything:
        kept[best] = best_moments
    label, constant = task.baseline()
    kept[BASELINE], (loss, score), (_, third) = _score(task, constant, shared)
    return SubsetScores(
        *table,
        third_name,
        moments=kept,
        full=prediction,
        best_part=best,
        baseline=(label, float(loss), float(score), float(third)),
        movement=_movement(task, prediction, without, blocks, names),
    )


def _score(task: Task, prediction: np.ndarray, shared: np.ndarray) -> tuple:
    """Moments of each row, loss and score, name and value of the third metric."""
    moments = task.moments(prediction)
    means = np.average(moments, axis=0, weights=task.weight)
    return moments, task.measure(means, shared), task.third(prediction)


def _movement(
    task: Task,
    full: np.ndarray,
    without: dict[int, np.ndarray],
    blocks: Blocks,
    names: tuple[str, ...],
) -> np.ndarray:
    out = np.full(len(names), np.nan)
    for i, name in enumerate(names):
        if name in blocks.names:
            there = blocks.present[:, blocks.names.index(name)]
            if there.any():
                moved = task.movement(full, without[1 << i])[there]
                out[i] = np.average(moved, weights=task.weight[there])
    return out
