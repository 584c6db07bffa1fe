"""Decision curves: what acting on a model is worth, at every threshold of acting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from mmfuse.metrics._checks import check_scored
from mmfuse.metrics._events import event_probability, event_sets
from mmfuse.metrics.resampling import bootstrap_means, check_draws, check_units, percentile_interval

if TYPE_CHECKING:
    from mmfuse.plotting.decisions import DecisionCurveDisplay

__all__ = ["DecisionCurve", "check_thresholds", "decision_curve"]


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit of a model, of acting on all, and of acting on none.

    One row an event, one column a threshold. Net benefit is in true positives a row: 0.1 is as
    good as finding 10 cases in 100 rows without one false alarm.

    Attributes
    ----------
    events : tuple of str
    thresholds : ndarray of shape (T,)
    net_benefit : ndarray of shape (E, T)
        Of acting where the probability of the event is at least the threshold.
    low, high : ndarray of shape (E, T) or None
        Its bootstrap interval.
    treat_all : ndarray of shape (E, T)
        Of acting on every row.
    treat_none : ndarray of shape (E, T)
        Of acting on none: 0.
    advantage, advantage_low, advantage_high : ndarray of shape (E, T) or None
        Net benefit of the model less that of the better of the two, and its interval. The rows of a
        resample are the same for both, so this is the interval to judge a model by.
    prevalence : ndarray of shape (E,)
        Share of rows with the event, or the prevalence that was given.
    n_rows : int
    n_units : int
        Rows, or groups, that were drawn from.
    confidence : float
    """

    events: tuple[str, ...]
    thresholds: np.ndarray
    net_benefit: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    treat_all: np.ndarray
    advantage: np.ndarray
    advantage_low: np.ndarray | None
    advantage_high: np.ndarray | None
    prevalence: np.ndarray
    n_rows: int
    n_units: int
    confidence: float

    @property
    def treat_none(self) -> np.ndarray:
        return np.zeros_like(self.net_benefit)

    @property
    def interventions_avoided(self) -> np.ndarray:
        """Needless actions that the model spares against acting on all, a row; NaN at threshold 0.

        At the same number of true positives: shape (E, T).
        """
        odds = _odds(self.thresholds)
        with np.errstate(divide="ignore", invalid="ignore"):
            spared = (self.net_benefit - self.treat_all) / odds
        return np.where(odds > 0, spared, np.nan)

    def to_frame(self) -> pd.DataFrame:
        """A row an event and threshold, in a frame."""
        shape = self.net_benefit.shape
        gap = np.full(shape, np.nan)
        columns = {
            "event": np.repeat(np.array(self.events, dtype=object), shape[1]),
            "threshold": np.tile(self.thresholds, shape[0]),
            "prevalence": np.repeat(self.prevalence, shape[1]),
        }
        for name in ("net_benefit", "low", "high", "treat_all", "treat_none"):
            columns[name] = getattr(self, name)
        for name in ("advantage", "advantage_low", "advantage_high", "interventions_avoided"):
            columns[name] = getattr(self, name)
        return pd.DataFrame(
            {name: np.ravel(gap if one is None else one) for name, one in columns.items()}
        )

    def plot(self, ax: Any = None, *, name: str | None = None) -> DecisionCurveDisplay:
        """Draw it; see `mmfuse.plotting.DecisionCurveDisplay.plot`."""
        from mmfuse.plotting.decisions import DecisionCurveDisplay

        return DecisionCurveDisplay(curve=self, name=name).plot(ax)


def decision_curve(
    y_true: ArrayLike,
    proba: ArrayLike,
    *,
    classes: ArrayLike,
    events: Any = "classes",
    thresholds: ArrayLike | None = None,
    prevalence: float | Mapping[str, float] | None = None,
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    random_state: Any = None,
) -> DecisionCurve:
    """Compare acting on a model with acting on all and on none, over thresholds.

    Whoever acts from a probability t on holds a false alarm for ``t / (1 - t)`` times as bad as a
    true positive is good. The net benefit at t is then ``TP / n - FP / n * t / (1 - t)``.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True classes.
    proba : array-like of shape (n_samples, n_classes)
        Probabilities; column k belongs to ``classes[k]``.
    classes : array-like of shape (n_classes,)
        Class of each column; for ordered classes from the lowest to the highest.
    events : {"classes", "at_least"}, list or dict, default="classes"
        What is acted upon. ``"classes"``: each class against the others, of two classes the second.
        ``"at_least"``: each class and all above it. A list holds classes and texts such as
        ``">= moderate"``; a dict gives lists of classes a name.
    thresholds : array-like of shape (T,), default=None
        Probabilities from 0 to below 1; None takes 0, 0.01, ..., 0.99.
    prevalence : float or dict of event to float, default=None
        Share of the event where the model will be used, if rows were picked by outcome; None takes
        the share among the rows. One number is for one event.
    groups : array-like of shape (n_samples,), default=None
        Whole groups are drawn where given.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each row.
    n_bootstrap : int, default=1000
        Resamples for the intervals; 0 leaves them out.
    confidence : float, default=0.95
        Of the intervals, which hold for each threshold by itself.
    random_state : int, RandomState or None, default=None

    Returns
    -------
    DecisionCurve

    Raises
    ------
    ValueError
        As for `mmfuse.metrics.log_loss`; for an event that is not there, holds all classes, or,
        with ``prevalence``, has no row or every row; for arguments out of their range.

    References
    ----------
    A. J. Vickers and E. B. Elkin, "Decision curve analysis: a novel method for evaluating
    prediction models", Medical Decision Making, 2006.

    Examples
    --------
    >>> from mmfuse import decision_curve
    >>> proba = [[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.1, 0.3, 0.6], [0.6, 0.3, 0.1]]
    >>> grades = ["mild", "moderate", "severe"]
    >>> y = ["mild", "moderate", "severe", "moderate"]
    >>> options = {"classes": grades, "events": [">= moderate"], "n_bootstrap": 0}
    >>> curve = decision_curve(y, proba, thresholds=[0.2, 0.5], **options)
    >>> curve.net_benefit.tolist(), curve.treat_all.tolist()
    ([[0.6875, 0.5]], [[0.6875, 0.5]])
    """
    caller = "decision_curve"
    values, codes, weight = check_scored(y_true, proba, classes, sample_weight, caller)
    sets = event_sets(events, np.asarray(classes), caller)
    cuts = check_thresholds(np.arange(100) / 100 if thresholds is None else thresholds, caller)
    if not (isinstance(n_bootstrap, (int, np.integer)) and n_bootstrap == 0):
        check_draws(n_bootstrap, confidence, caller)
    units = check_units(groups, len(values), caller)
    shares = _prevalences(prevalence, sets, caller)
    draw = None
    if n_bootstrap:
        seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
        draw = _Draw(n_bootstrap, seed, weight, units)
    parts = []
    for name, mask in sets.items():
        rows = _moments(event_probability(values, mask), mask[codes], cuts)
        means = np.average(rows, axis=0, weights=weight)[None]
        _check_both(means[0, 0], shares[name], name, caller)
        draws = None if draw is None else draw(rows)
        parts.append(_curve(means, draws, cuts, shares[name], confidence))
    joined = {key: _stack([part[key] for part in parts]) for key in parts[0]}
    n_units = len(values) if units is None else len(np.unique(units))
    return DecisionCurve(
        events=tuple(sets),
        thresholds=cuts,
        n_rows=len(values),
        n_units=n_units,
        confidence=confidence,
        **joined,
    )


@dataclass(frozen=True)
class _Draw:
    """Means of resamples, which are the same for every event."""

    n_bootstrap: int
    seed: int
    weight: np.ndarray
    units: np.ndarray | None

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        options: dict[str, Any] = {"weight": self.weight, "groups": self.units}
        return bootstrap_means(rows, n_bootstrap=self.n_bootstrap, rng=rng, **options)


def _check_both(found: float, share: float | None, name: str, caller: str) -> None:
    if share is not None and not 0 < found < 1:
        raise ValueError(
            f"{caller}: prevalence needs rows with and without the event {name!r}; "
            f"{'all' if found else 'none'} of them have it."
        )


def check_thresholds(thresholds: ArrayLike, caller: str) -> np.ndarray:
    """Thresholds as float64 of shape (T,), in [0, 1)."""
    cuts = np.asarray(thresholds, dtype=np.float64)
    if cuts.ndim == 0:
        cuts = cuts[None]
    if cuts.ndim != 1 or not len(cuts):
        raise ValueError(f"{caller}: thresholds must have the shape (T,); got {cuts.shape}.")
    wrong = ~((cuts >= 0) & (cuts < 1))
    if wrong.any():
        raise ValueError(
            f"{caller}: thresholds must be probabilities from 0 to below 1; got {cuts[wrong][0]}."
        )
    return cuts


def _prevalences(prevalence: Any, sets: Mapping[str, Any], caller: str) -> dict[str, float | None]:
    """The given prevalence of every event, or None."""
    if isinstance(prevalence, Mapping):
        given = dict(prevalence)
    else:
        if prevalence is not None and len(sets) > 1:
            raise ValueError(
                f"{caller}: prevalence is one number and there are {len(sets)} events; pass a "
                f"mapping with the keys {', '.join(map(repr, sets))}."
            )
        given = {} if prevalence is None else dict.fromkeys(sets, prevalence)
    for name, share in given.items():
        if name not in sets:
            raise ValueError(
                f"{caller}: prevalence names {name!r}, which is not among the events "
                f"{', '.join(map(repr, sets))}."
            )
        if not 0 < share < 1:
            raise ValueError(
                f"{caller}: prevalence must lie between 0 and 1; got {share!r} for {name!r}."
            )
    return {name: given.get(name) for name in sets}


def _moments(risk: np.ndarray, event: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Event, true positive and false positive of every row: (n, 1 + 2 T)."""
    flagged = risk[:, None] >= cuts
    return np.concatenate(
        [event[:, None], flagged & event[:, None], flagged & ~event[:, None]], axis=1
    ).astype(np.float64)


def _odds(cuts: np.ndarray) -> np.ndarray:
    return cuts / (1.0 - cuts)


def _benefits(
    means: np.ndarray, cuts: np.ndarray, share: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Net benefit of the model and of acting on all (B, T), and the prevalence (B,)."""
    found, hits, alarms = means[:, 0], means[:, 1 : 1 + len(cuts)], means[:, 1 + len(cuts) :]
    if share is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            hits = hits / found[:, None] * share
            alarms = alarms / (1.0 - found[:, None]) * (1.0 - share)
        found = np.full(len(means), share)
    everyone = found[:, None] - (1.0 - found[:, None]) * _odds(cuts)
    return hits - alarms * _odds(cuts), everyone, found


def _curve(
    means: np.ndarray,
    draws: np.ndarray | None,
    cuts: np.ndarray,
    share: float | None,
    confidence: float,
) -> dict[str, Any]:
    """The numbers of one event."""
    model, everyone, found = _benefits(means, cuts, share)
    part: dict[str, Any] = {
        "prevalence": found[0],
        "net_benefit": model[0],
        "treat_all": everyone[0],
        "advantage": model[0] - np.maximum(everyone[0], 0.0),
    }
    if draws is None:
        return {**part, **dict.fromkeys(("low", "high", "advantage_low", "advantage_high"))}
    model, everyone, _ = _benefits(draws, cuts, share)
    part["low"], part["high"] = percentile_interval(model, confidence)
    ends = percentile_interval(model - np.maximum(everyone, 0.0), confidence)
    part["advantage_low"], part["advantage_high"] = ends
    return part


def _stack(rows: list) -> np.ndarray | None:
    return None if rows[0] is None else np.stack(rows)
