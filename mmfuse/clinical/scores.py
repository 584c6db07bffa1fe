"""Scores of a classifier with grouped intervals, beside those of the majority class."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mmfuse.clinical.draws import draw_counts
from mmfuse.metrics._events import event_probability
from mmfuse.metrics.resampling import percentile_interval

__all__ = [
    "LOWER_IS_BETTER",
    "Scored",
    "score_draws",
    "score_interval",
    "score_names",
    "score_values",
]

LOWER_IS_BETTER = ("log loss", "Brier score", "ranked probability score")

_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True, eq=False)
class Scored:
    """Rows with an outcome, and what the model says of them.

    Attributes
    ----------
    codes : ndarray of shape (n,)
        True class.
    predicted : ndarray of shape (n,)
        Predicted class.
    proba : ndarray of shape (n, K)
    groups : ndarray of shape (n,) or None
    events : dict of str to ndarray of shape (K,), bool
    ordinal : bool
    weight : ndarray of shape (n,) or None
        None where all rows count alike.
    """

    codes: np.ndarray
    predicted: np.ndarray
    proba: np.ndarray
    groups: np.ndarray | None
    events: dict[str, np.ndarray]
    ordinal: bool
    weight: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: np.ndarray) -> Scored:
        """Some of the rows."""
        return replace(
            self,
            codes=self.codes[rows],
            predicted=self.predicted[rows],
            proba=self.proba[rows],
            groups=None if self.groups is None else self.groups[rows],
            weight=None if self.weight is None else self.weight[rows],
        )

    @property
    def masses(self) -> np.ndarray:
        """What every row counts (n,)."""
        return np.ones(len(self)) if self.weight is None else self.weight

    def mean(self, values: np.ndarray) -> float:
        """Weighted mean of a number per row."""
        return float(np.average(values, weights=self.weight))

    @property
    def n_units(self) -> int:
        """Rows, or groups, that a bootstrap draws from."""
        return len(self) if self.groups is None else len(np.unique(self.groups))

    def enough_units(self) -> bool:
        """Whether there is anything to draw."""
        return self.n_units >= 2

    def majority(self) -> Scored:
        """The model that always answers the most frequent class of these rows, and their shares."""
        totals = np.bincount(self.codes, weights=self.masses, minlength=self.proba.shape[1])
        shares = totals / totals.sum()
        return replace(
            self,
            predicted=np.full(len(self), int(shares.argmax())),
            proba=np.tile(shares, (len(self), 1)),
        )


def score_names(scored: Scored) -> list[str]:
    """Names of the scores of a task."""
    events = list(scored.events)
    names = ["AUC"] if len(events) == 1 else [f"AUC of {event}" for event in events] + ["mean AUC"]
    names += ["accuracy", "balanced accuracy"]
    names += ["quadratic kappa", "ranked probability score"] if scored.ordinal else []
    return [*names, "log loss", "Brier score"]


def score_values(scored: Scored) -> np.ndarray:
    """The scores in the order of `score_names`; NaN where one does not exist."""
    return score_draws(scored, scored.masses[None])[0]


def score_draws(scored: Scored, counts: np.ndarray) -> np.ndarray:
    """The scores of resamples (B, S); ``counts`` (B, n) says what a row counts in each."""
    codes, proba, size = scored.codes, scored.proba, scored.proba.shape[1]
    areas = [
        _areas(mask[codes], event_probability(proba, mask), counts)
        for mask in scored.events.values()
    ]
    columns = areas if len(areas) == 1 else [*areas, np.mean(areas, axis=0)]
    cells = counts @ np.eye(size * size)[codes * size + scored.predicted]
    cells = cells.reshape(-1, size, size)
    total = counts.sum(axis=1)
    right = np.diagonal(cells, axis1=1, axis2=2)
    seen = cells.sum(axis=2)
    with np.errstate(invalid="ignore"):
        recall = np.nanmean(right / seen, axis=1)
    columns += [right.sum(axis=1) / total, recall]
    truth = np.eye(size)[codes]
    if scored.ordinal:
        steps = np.cumsum(proba - truth, axis=1)[:, :-1]
        columns += [_kappas(cells), counts @ np.square(steps).sum(axis=1) / total]
    said = np.maximum(proba[np.arange(len(codes)), codes], _TINY)
    losses = np.stack([-np.log(said), np.square(proba - truth).sum(axis=1)], axis=1)
    return np.column_stack([*columns, counts @ losses / total[:, None]])


def score_interval(
    scored: Scored, names: list[str], *, n_bootstrap: int, confidence: float, seed: int
) -> pd.DataFrame:
    """Scores with intervals, and their advantage over the majority class.

    Columns ``value``, ``low``, ``high``; ``majority``, the same score of always giving the most
    frequent class (probabilities: the shares of the classes); ``gain``, ``gain_low`` and
    ``gain_high``, above zero where the model is better. Both are scored on the same resamples.
    """
    every = score_names(scored)
    chosen = [every.index(name) for name in names]
    sign = np.array([-1.0 if name in LOWER_IS_BETTER else 1.0 for name in names])
    both = scored, scored.majority()
    model, plain = (score_values(one)[chosen] for one in both)
    draws = [
        [score_draws(one, counts)[:, chosen] for one in both]
        for counts in draw_counts(scored.groups, len(scored), n_bootstrap, seed, scored.weight)
    ]
    own, other = (np.concatenate(parts) for parts in zip(*draws, strict=True))
    low, high = percentile_interval(own, confidence)
    gain_low, gain_high = percentile_interval(sign * (own - other), confidence)
    columns = {
        "value": model,
        "low": low,
        "high": high,
        "majority": plain,
        "gain": sign * (model - plain),
        "gain_low": gain_low,
        "gain_high": gain_high,
    }
    return pd.DataFrame(columns, index=pd.Index(names, name="score"))


def _areas(event: np.ndarray, risk: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Areas under the ROC curve (B,); NaN where all rows have the event or none has."""
    order = np.argsort(risk, kind="stable")
    starts = np.flatnonzero(np.diff(risk[order], prepend=-1.0))
    counts, event = counts[:, order], event[order]
    hits = np.add.reduceat(counts * event, starts, axis=1)  # by distinct risk
    misses = np.add.reduceat(counts * ~event, starts, axis=1)
    below = np.cumsum(misses, axis=1) - 0.5 * misses
    pairs = hits.sum(axis=1) * misses.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(pairs > 0, (hits * below).sum(axis=1) / pairs, np.nan)


def _kappas(cells: np.ndarray) -> np.ndarray:
    """Quadratic kappas (B,) of confusion matrices (B, K, K); NaN where there is one class only."""
    place = np.arange(cells.shape[1])
    apart = np.square(place[:, None] - place)
    joint = cells / cells.sum(axis=(1, 2), keepdims=True)
    alone = joint.sum(axis=2)[:, :, None] * joint.sum(axis=1)[:, None, :]
    chance = (alone * apart).sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance > 0, 1.0 - (joint * apart).sum(axis=(1, 2)) / chance, np.nan)
