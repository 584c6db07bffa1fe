"""Operating points: what a threshold finds and misses, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtri
from sklearn.utils import check_random_state

from mmfuse.metrics._checks import check_scored
from mmfuse.metrics._events import event_probability, event_sets
from mmfuse.metrics.net_benefit import check_thresholds
from mmfuse.metrics.resampling import bootstrap_means, check_draws, check_units, percentile_interval

__all__ = ["choose_threshold", "operating_points", "wilson_interval"]

_RATES = {  # of the cells true positive, false positive, false negative, true negative
    "sensitivity": (0, 2),
    "specificity": (3, 1),
    "ppv": (0, 1),
    "npv": (3, 2),
}


def operating_points(
    y_true: ArrayLike,
    proba: ArrayLike,
    *,
    classes: ArrayLike,
    events: Any = "classes",
    thresholds: ArrayLike | None = None,
    sensitivity: ArrayLike | None = None,
    specificity: ArrayLike | None = None,
    interval: str = "auto",
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    n_bootstrap: int = 2000,
    confidence: float = 0.95,
    random_state: Any = None,
) -> pd.DataFrame:
    """Sensitivity, specificity and predictive values where rows are flagged from a threshold on.

    Parameters
    ----------
    y_true, proba, sample_weight
        As in `mmfuse.metrics.log_loss`.
    classes : array-like of shape (n_classes,)
        Class of each column; for ordered classes from the lowest to the highest.
    events : {"classes", "at_least"}, list or dict, default="classes"
        What is looked for, as in `mmfuse.decision_curve`.
    thresholds : float or array-like of shape (T,), default=None
        A row is flagged where the probability of the event is at least this.
    sensitivity, specificity : float or array-like of floats, default=None
        In place of ``thresholds``: levels to be reached, see `choose_threshold`. Intervals are then
        those of a threshold that was fixed beforehand. Choose it on other rows, such as out-of-fold
        predictions, and pass it as ``thresholds`` for figures that hold for new rows.
    interval : {"auto", "wilson", "bootstrap"}, default="auto"
        ``"auto"`` is Wilson's for single rows, and the bootstrap where there are groups or weights,
        for which Wilson's does not hold.
    groups : array-like of shape (n_samples,), default=None
        Whole groups are drawn where given.
    n_bootstrap : int, default=2000
        Number of resamples.
    confidence : float, default=0.95
    random_state : int, RandomState or None, default=None

    Returns
    -------
    DataFrame
        A row an event and threshold: ``event``, ``target``, ``threshold``, ``flagged`` (share),
        sums of weights ``tp``, ``fp``, ``fn``, ``tn``, then ``sensitivity``, ``specificity``,
        ``ppv`` and ``npv``, each with ``_low`` and ``_high``. A rate of no rows is NaN. The
        predictive values are those at the prevalence of these rows.

    Raises
    ------
    ValueError
        As for `mmfuse.decision_curve`; if not exactly one of ``thresholds``, ``sensitivity`` and
        ``specificity`` is given; if Wilson's interval is asked for with groups or weights.

    References
    ----------
    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of
    the American Statistical Association, 1927.

    Examples
    --------
    >>> from mmfuse.metrics.thresholds import operating_points
    >>> proba = [[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.2, 0.8], [0.1, 0.9]]
    >>> table = operating_points([0, 0, 1, 1, 1], proba, classes=[0, 1], sensitivity=0.6)
    >>> table[["threshold", "sensitivity", "specificity", "ppv"]].round(2).to_numpy().tolist()
    [[0.8, 0.67, 1.0, 1.0]]
    """
    caller = "operating_points"
    given = {"thresholds": thresholds, "sensitivity": sensitivity, "specificity": specificity}
    kind, wanted = _one_of(given, caller)
    values, codes, weight = check_scored(y_true, proba, classes, sample_weight, caller)
    sets = event_sets(events, np.asarray(classes), caller)
    units = check_units(groups, len(values), caller)
    check_draws(n_bootstrap, confidence, caller)
    plain = units is None and sample_weight is None
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    ends = _Interval(_kind_of(interval, plain, caller), n_bootstrap, confidence, seed, units)
    tables = []
    for name, mask in sets.items():
        risk, event = event_probability(values, mask), mask[codes]
        cuts = _cuts(risk, event, weight, kind, wanted, name, caller)
        table = _table(risk, event, weight, cuts, ends)
        target = [f"{kind} >= {level:g}" for level in wanted] if kind != "thresholds" else "given"
        table.insert(0, "event", name)
        table.insert(1, "target", target)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def choose_threshold(
    y_true: ArrayLike,
    proba: ArrayLike,
    *,
    classes: ArrayLike,
    event: Any,
    sensitivity: float | None = None,
    specificity: float | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Find the threshold that reaches a sensitivity, or a specificity, and gives up least for it.

    Parameters
    ----------
    y_true, proba, classes, sample_weight
        As in `operating_points`.
    event : class, str or dict
        One event, such as ``">= moderate"``.
    sensitivity : float, default=None
        The highest threshold at which this share of the events is flagged.
    specificity : float, default=None
        The lowest at which this share of the other rows is not.

    Returns
    -------
    float
        A probability that some row has; if no row may be flagged, just above the highest.

    Raises
    ------
    ValueError
        As for `operating_points`, and if no row, or every row, has the event.

    Examples
    --------
    >>> from mmfuse.metrics.thresholds import choose_threshold
    >>> proba = [[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.2, 0.8], [0.1, 0.9]]
    >>> options = {"classes": [0, 1], "event": 1}
    >>> choose_threshold([0, 0, 1, 1, 1], proba, sensitivity=0.95, **options)
    0.4
    """
    caller = "choose_threshold"
    kind, wanted = _one_of({"sensitivity": sensitivity, "specificity": specificity}, caller)
    values, codes, weight = check_scored(y_true, proba, classes, sample_weight, caller)
    events = event if isinstance(event, dict) else [event]
    sets = event_sets(events, np.asarray(classes), caller)
    if len(sets) > 1 or len(wanted) > 1:
        raise ValueError(f"{caller}: one event and one level at a time; use operating_points.")
    ((name, mask),) = sets.items()
    risk = event_probability(values, mask)
    return float(_cuts(risk, mask[codes], weight, kind, wanted, name, caller)[0])


def wilson_interval(
    hits: ArrayLike, total: ArrayLike, *, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval of a share.

    Parameters
    ----------
    hits, total : array-like
        How often it was so, of how many.
    confidence : float, default=0.95

    Returns
    -------
    low, high : ndarray
        In [0, 1]; NaN where ``total`` is 0.

    Examples
    --------
    >>> from mmfuse.metrics.thresholds import wilson_interval
    >>> [round(float(end), 4) for end in wilson_interval(81, 263)]
    [0.2553, 0.3662]
    """
    hits, total = np.asarray(hits, dtype=np.float64), np.asarray(total, dtype=np.float64)
    z2 = ndtri(0.5 + confidence / 2.0) ** 2
    n = np.where(total > 0, total, np.nan)
    share = hits / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    low, high = np.clip(centre - half, 0.0, 1.0), np.clip(centre + half, 0.0, 1.0)
    return np.minimum(low, share), np.maximum(high, share)  # equal at 0 and 1, but for rounding


@dataclass(frozen=True)
class _Interval:
    """How the ends of an interval are found."""

    kind: str
    n_bootstrap: int
    confidence: float
    seed: int
    units: np.ndarray | None

    def resample(self, cells: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Means of the cells, (n, 4 T), in every resample: (B, 4, T)."""
        rng = np.random.default_rng(self.seed)
        options: dict[str, Any] = {"weight": weight, "groups": self.units}
        means = bootstrap_means(cells, n_bootstrap=self.n_bootstrap, rng=rng, **options)
        return means.reshape(len(means), 4, -1)


def _one_of(given: dict[str, Any], caller: str) -> tuple[str, np.ndarray]:
    """The one argument that is given, as an array."""
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise ValueError(
            f"{caller}: give exactly one of {', '.join(given)}; got "
            f"{' and '.join(named) or 'none'}."
        )
    (name,) = named
    if name == "thresholds":
        return name, check_thresholds(given[name], caller)
    levels = np.atleast_1d(np.asarray(given[name], dtype=np.float64))
    if levels.ndim != 1 or not len(levels) or not ((levels > 0) & (levels <= 1)).all():
        raise ValueError(
            f"{caller}: {name} must lie above 0 and be at most 1; got {given[name]!r}."
        )
    return name, levels


def _kind_of(interval: str, plain: bool, caller: str) -> str:
    if interval not in ("auto", "wilson", "bootstrap"):
        raise ValueError(
            f"{caller}: interval must be 'auto', 'wilson' or 'bootstrap'; got {interval!r}."
        )
    if interval == "wilson" and not plain:
        raise ValueError(
            f"{caller}: Wilson's interval takes rows for independent and of equal weight; with "
            "groups or sample_weight use interval='bootstrap'."
        )
    return interval if interval != "auto" else "wilson" if plain else "bootstrap"


def _cuts(
    risk: np.ndarray,
    event: np.ndarray,
    weight: np.ndarray,
    kind: str,
    wanted: np.ndarray,
    name: str,
    caller: str,
) -> np.ndarray:
    """The thresholds of one event."""
    if kind == "thresholds":
        return wanted
    side = (event if kind == "sensitivity" else ~event) & (weight > 0)
    if not side.any():
        which = "with" if kind == "sensitivity" else "without"
        raise ValueError(
            f"{caller}: no row {which} the event {name!r} has weight, so no threshold reaches a "
            f"{kind}."
        )
    order = np.argsort(-risk[side] if kind == "sensitivity" else risk[side], kind="stable")
    ranked, level = risk[side][order], np.cumsum(weight[side][order])
    place = np.searchsorted(level, wanted * level[-1] * (1 - 1e-12))
    found = ranked[np.minimum(place, len(ranked) - 1)]
    if kind == "sensitivity":
        return found
    known = np.append(np.unique(risk), np.inf)
    above = known[np.searchsorted(known, found, side="right")]
    return np.where(np.isinf(above), np.nextafter(found, np.inf), above)


def _table(
    risk: np.ndarray,
    event: np.ndarray,
    weight: np.ndarray,
    cuts: np.ndarray,
    ends: _Interval,
) -> pd.DataFrame:
    flag, true = risk[:, None] >= cuts, event[:, None]
    cells = np.concatenate([flag & true, flag & ~true, ~flag & true, ~flag & ~true], axis=1)
    cells = cells.astype(np.float64)
    sums = (weight @ cells).reshape(4, -1)
    columns = {"threshold": cuts, "flagged": (sums[0] + sums[1]) / weight.sum()}
    columns |= dict(zip(("tp", "fp", "fn", "tn"), sums, strict=True))
    draws = ends.resample(cells, weight) if ends.kind == "bootstrap" else None
    for name, (hit, miss) in _RATES.items():
        columns[name] = _ratio(sums[hit], sums[hit] + sums[miss])
        if draws is None:
            total = sums[hit] + sums[miss]
            low, high = wilson_interval(sums[hit], total, confidence=ends.confidence)
        else:
            rates = _ratio(draws[:, hit], draws[:, hit] + draws[:, miss])
            low, high = percentile_interval(rates, ends.confidence)
        columns[f"{name}_low"], columns[f"{name}_high"] = low, high
    return pd.DataFrame(columns)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.nan)
