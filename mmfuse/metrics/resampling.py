"""The bootstrap over rows or groups: of any score, and vectorised over any number of means."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from mmfuse.metrics._checks import check_row_weight

__all__ = [
    "BootstrapResult",
    "bootstrap",
    "bootstrap_means",
    "check_draws",
    "check_units",
    "percentile_interval",
]

_CHUNK = 2**22  # draws held at once: 32 MiB of integers


@dataclass(frozen=True, eq=False)
class BootstrapResult:
    """A score of the rows as they are, and of resamples of them.

    Attributes
    ----------
    value : float or ndarray
        What the metric says of all rows.
    low, high : float or ndarray
        Ends of the interval; NaN where the score exists in no resample.
    samples : ndarray of shape (n_bootstrap, ...)
        What it says of every resample.
    confidence : float
        Share of the resamples that the interval is meant to cover.
    n_units : int
        Rows, or groups, that were drawn from.
    """

    value: Any
    low: Any
    high: Any
    samples: np.ndarray
    confidence: float
    n_units: int

    def __repr__(self) -> str:
        where = f"confidence={self.confidence:g}, n_units={self.n_units}"
        return f"BootstrapResult(value={self.value}, low={self.low}, high={self.high}, {where})"


def bootstrap(
    metric: Callable[..., Any],
    *arrays: Any,
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    method: str = "percentile",
    random_state: Any = None,
    **options: Any,
) -> BootstrapResult:
    """Put an interval around any score of rows.

    Parameters
    ----------
    metric : callable
        ``metric(*arrays, **options)`` gives a number or an array of numbers; any of
        `mmfuse.metrics` or of ``sklearn.metrics``. It gets ``sample_weight`` too if one is given.
    *arrays : array-like, DataFrame or Density of n_samples rows
        What is resampled, as the metric takes it: true classes and probabilities, for instance.
    groups : array-like of shape (n_samples,), default=None
        Whole groups are drawn where given. Rows of one person are no independent witnesses, and
        an interval that takes them for such is too narrow.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each row; a row that is drawn twice counts twice its weight.
    n_bootstrap : int, default=1000
        Number of resamples.
    confidence : float, default=0.95
        Between 0 and 1.
    method : {"percentile", "basic"}, default="percentile"
        ``"percentile"``: quantiles of the resamples. ``"basic"``: these mirrored at the value,
        which takes account of a bias of the score that a resample shows once more, such as that of
        a calibration error; it may leave the range of the score.
    random_state : int, RandomState or None, default=None
        Pass the same integer for two models to compare them on the same resamples.
    **options
        Further arguments of the metric, such as ``classes``.

    Returns
    -------
    BootstrapResult
        ``value``, ``low``, ``high`` and all ``samples``.

    Raises
    ------
    ValueError
        If lengths differ, ``groups`` has a gap or fewer than two groups, an argument is out of its
        range, or the metric refuses a resample.

    Warns
    -----
    UserWarning
        If the score is NaN in some resamples, as where no row of a class was drawn; they do not
        count for the interval.

    References
    ----------
    B. Efron and R. J. Tibshirani, "An introduction to the bootstrap", 1993; resampling of groups
    as in A. C. Davison and D. V. Hinkley, "Bootstrap methods and their application", 1997.

    Examples
    --------
    >>> from mmfuse.metrics import bootstrap, brier_score
    >>> proba = [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]] * 10
    >>> y = [0, 1, 1, 1] * 10
    >>> found = bootstrap(brier_score, y, proba, classes=[0, 1], random_state=0)
    >>> round(found.value, 3), bool(found.low < found.value < found.high)
    (0.25, True)
    """
    tables, n_rows = _tables(metric, arrays)
    check_draws(n_bootstrap, confidence, "bootstrap")
    if method not in ("percentile", "basic"):
        raise ValueError(f"bootstrap: method must be 'percentile' or 'basic'; got {method!r}.")
    units = check_units(groups, n_rows, "bootstrap")
    weight = None
    if sample_weight is not None:
        weight = check_row_weight(sample_weight, n_rows, "bootstrap")
        options = {**options, "sample_weight": weight}
    value = np.asarray(metric(*tables, **options), dtype=np.float64)
    rng = check_random_state(random_state)
    samples = np.empty((n_bootstrap, *value.shape))
    members = None if units is None else _members(units)
    n_units = n_rows if members is None else len(members)
    for b in range(n_bootstrap):
        rows = rng.randint(n_units, size=n_units)
        if members is not None:
            rows = np.concatenate([members[u] for u in rows])
        if weight is not None:
            options["sample_weight"] = weight[rows]
        samples[b] = _again(metric, [_take(table, rows) for table in tables], options, b)
    _warn_of_gaps(samples)
    low, high = percentile_interval(samples, confidence)
    if method == "basic":
        low, high = 2 * value - high, 2 * value - low
    ends = (value, low, high) if value.ndim else (float(value), float(low), float(high))
    return BootstrapResult(*ends, samples, confidence, n_units)


def check_draws(n_bootstrap: Any, confidence: Any, caller: str) -> None:
    """Refuse a number of resamples or a confidence that is none."""
    if not isinstance(n_bootstrap, Integral) or isinstance(n_bootstrap, bool) or n_bootstrap < 1:
        raise ValueError(
            f"{caller}: n_bootstrap must be an integer of at least 1; got {n_bootstrap!r}."
        )
    if not isinstance(confidence, Real) or not 0 < confidence < 1:
        raise ValueError(f"{caller}: confidence must lie between 0 and 1; got {confidence!r}.")


def check_units(groups: ArrayLike | None, n_rows: int, caller: str) -> np.ndarray | None:
    """Groups as integers 0, 1, ...; None where rows are drawn."""
    if groups is None:
        return None
    labels = np.asarray(groups)
    if labels.shape != (n_rows,):
        raise ValueError(
            f"{caller}: groups must have the shape ({n_rows},), one label per row; got "
            f"{labels.shape}."
        )
    codes, names = pd.factorize(labels)
    if (codes < 0).any():
        row = int(np.flatnonzero(codes < 0)[0])
        raise ValueError(f"{caller}: groups is missing in row {row}; give every row a group.")
    if len(names) < 2:
        raise ValueError(
            f"{caller}: groups must hold at least two groups, since whole groups are drawn; all "
            f"{n_rows} rows are in {names.tolist()[0]!r}."
        )
    return codes


def _tables(metric: Any, arrays: tuple) -> tuple[list, int]:
    """What is resampled, as something with rows, and how many there are."""
    if not callable(metric):
        raise ValueError(
            "bootstrap: metric must be a function of the arrays that follow it, such as "
            f"mmfuse.metrics.log_loss; got {metric!r}."
        )
    tables = [np.asarray(one) if isinstance(one, (list, tuple)) else one for one in arrays]
    lengths = [len(table) if hasattr(table, "__len__") else -1 for table in tables]
    if not tables or len(set(lengths)) > 1 or lengths[0] < 1:
        shown = ", ".join("no rows" if n < 0 else str(n) for n in lengths) or "none"
        raise ValueError(
            "bootstrap: the arrays after metric must have one length, with at least one row; got "
            f"{shown}. Arguments that are not resampled, such as classes, are passed by name."
        )
    return tables, lengths[0]


def _members(units: np.ndarray) -> list[np.ndarray]:
    """Rows of every group."""
    order = np.argsort(units, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(units[order])) + 1)


def _take(table: Any, rows: np.ndarray) -> Any:
    return table.iloc[rows] if hasattr(table, "iloc") else table[rows]


def _again(metric: Callable[..., Any], tables: list, options: dict, number: int) -> np.ndarray:
    """The metric of one resample."""
    try:
        return np.asarray(metric(*tables, **options), dtype=np.float64)
    except ValueError as exc:
        name = getattr(metric, "__name__", repr(metric))
        raise ValueError(
            f"bootstrap: {name} refuses resample {number}: {exc} A resample may lack a class; "
            "where the metric takes classes or labels, pass them."
        ) from exc


def _warn_of_gaps(samples: np.ndarray) -> None:
    gaps = np.isnan(samples).reshape(len(samples), -1).any(axis=1).sum()
    if gaps:
        warnings.warn(
            f"bootstrap: the score does not exist in {gaps} of {len(samples)} resamples, which do "
            "not count for the interval.",
            UserWarning,
            stacklevel=3,
        )


def bootstrap_means(
    values: np.ndarray,
    *,
    n_bootstrap: int,
    rng: np.random.Generator,
    weight: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Draw the weighted mean of every column again and again from resampled rows.

    All columns of one replicate use the same rows, so that differences between columns are
    paired.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_columns)
        One quantity per row and column.
    n_bootstrap : int
        Number of replicates.
    rng : numpy.random.Generator
        Source of the draws.
    weight : ndarray of shape (n_rows,), default=None
        Positive weight of each row; a row drawn twice counts twice its weight.
    groups : ndarray of shape (n_rows,), default=None
        Label of the group of each row. Whole groups are drawn instead of rows.

    Returns
    -------
    ndarray of shape (n_bootstrap, n_columns)
        Means of the replicates.

    References
    ----------
    B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics, 1979.
    """
    weight = np.ones(len(values)) if weight is None else weight
    sums = np.column_stack([values * weight[:, None], weight])  # the last column counts
    if groups is not None:
        _, codes = np.unique(groups, return_inverse=True)
        order = np.argsort(codes, kind="stable")
        starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
        sums = np.add.reduceat(sums[order], starts, axis=0)
    out = np.empty((n_bootstrap, values.shape[1]))
    step = max(1, _CHUNK // len(sums))
    for start in range(0, n_bootstrap, step):
        size = min(step, n_bootstrap - start)
        totals = _draw_counts(len(sums), size, rng) @ sums
        out[start : start + size] = totals[:, :-1] / totals[:, -1:]
    return out


def _draw_counts(n_units: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """How often each unit is drawn in ``size`` replicates: (size, n_units)."""
    draws = rng.integers(n_units, size=(size, n_units))
    draws += np.arange(size)[:, None] * n_units
    counts = np.bincount(draws.ravel(), minlength=size * n_units)
    return counts.reshape(size, n_units).astype(np.float64)


def percentile_interval(samples: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Give the percentile interval of bootstrap replicates.

    Parameters
    ----------
    samples : ndarray of shape (n_bootstrap, ...)
        Replicates; NaN replicates (a score that does not exist in a resample) are left out.
    confidence : float
        Share of the replicates between the two ends.

    Returns
    -------
    low, high : ndarray of shape (...)
        NaN where all replicates are NaN.
    """
    tail = (1.0 - confidence) / 2.0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All-NaN slice", category=RuntimeWarning)
        low, high = np.nanquantile(samples, [tail, 1.0 - tail], axis=0)
    return low, high
