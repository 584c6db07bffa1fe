"""Explanations of many rows: sizes with intervals, and how stable they are over fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.base import clone
from sklearn.utils import _safe_indexing, check_random_state

from mmfuse._random import spawn_seed
from mmfuse.metrics._checks import check_row_weight
from mmfuse.metrics.resampling import bootstrap_means, percentile_interval
from mmfuse.presence import Presence

if TYPE_CHECKING:
    from mmfuse.explanations.explanation import Explanation

__all__ = ["Stability", "check_bootstrap", "group_codes", "refit", "stability", "summarise"]

_KINDS = ("bootstrap", "seed")


def check_bootstrap(caller: str, n_bootstrap: Any, confidence: float) -> None:
    """Raise a ValueError for what is no number of replicates, or no confidence."""
    whole = isinstance(n_bootstrap, (int, np.integer)) and not isinstance(n_bootstrap, bool)
    if not whole or n_bootstrap < 1:
        raise ValueError(
            f"{caller}: n_bootstrap must be an integer of at least 1; got {n_bootstrap!r}."
        )
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"{caller}: confidence must lie between 0 and 1; got {confidence!r}.")


def group_codes(caller: str, groups: Any, n_rows: int) -> np.ndarray | None:
    """Groups as integers; one label for every row, at least two of them."""
    if groups is None:
        return None
    codes, labels = pd.factorize(np.asarray(groups))
    if len(codes) != n_rows:
        raise ValueError(f"{caller}: there are {n_rows} rows and groups has {len(codes)}.")
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        raise ValueError(f"{caller}: groups is missing in row {row}; give every row a group.")
    if len(labels) < 2:
        raise ValueError(
            f"{caller}: groups must hold at least two groups, since whole groups are drawn; got "
            f"{labels[0]!r} in all rows."
        )
    return codes


def summarise(
    explanation: Explanation,
    by: str,
    groups: Any,
    n_bootstrap: int,
    confidence: float,
    random_state: Any,
    sample_weight: Any = None,
) -> pd.DataFrame:
    """The table of `Explanation.summary`."""
    caller = "Explanation.summary"
    if by not in ("part", "modality"):
        raise ValueError(f"{caller}: by must be 'part' or 'modality'; got {by!r}.")
    check_bootstrap(caller, n_bootstrap, confidence)
    if len(explanation) == 0:
        raise ValueError(f"{caller}: there are no rows to summarise.")
    codes = group_codes(caller, groups, len(explanation))
    weight = check_row_weight(sample_weight, len(explanation), caller)
    values, names, there = explanation.values, list(explanation.names), explanation.states
    if by == "modality":
        order = list(dict.fromkeys(explanation.modality))
        first = [explanation.modality.index(name) for name in order]
        values, names, there = explanation.by_modality(), order, there[:, first]
    n, parts, count = values.shape
    sizes = np.abs(values)
    rng = np.random.default_rng(spawn_seed(random_state))
    flat = sizes.reshape(n, parts * count)
    draws = bootstrap_means(flat, n_bootstrap=n_bootstrap, rng=rng, weight=weight, groups=codes)
    low, high = percentile_interval(draws, confidence)
    seen = there == Presence.PRESENT
    mass = weight @ seen
    with np.errstate(invalid="ignore"):
        total = np.tensordot(weight, sizes, axes=1)
        when_there = total / np.where(mass > 0, mass, np.nan)[:, None]
    index = pd.MultiIndex.from_product([names, explanation.outputs], names=["part", "output"])
    table = pd.DataFrame(
        {
            "mean_abs": np.average(flat, axis=0, weights=weight),
            "low": low,
            "high": high,
            "mean_abs_present": when_there.ravel(),
            "mean": np.average(values, axis=0, weights=weight).ravel(),
            "n_present": np.repeat(seen.sum(axis=0), count),
        },
        index=index,
    ).swaplevel()
    ranked = [table.xs(o, level=0, drop_level=False) for o in explanation.outputs]
    return pd.concat([part.sort_values("mean_abs", ascending=False) for part in ranked])


@dataclass(frozen=True, eq=False)
class Stability:
    """How far several fits agree on what matters.

    Attributes
    ----------
    table : DataFrame
        Indexed by output and part: ``mean`` over the fits of the mean size of the contributions,
        their standard deviation ``sd`` (ddof 1), ``low`` and ``high`` (least and greatest), and
        ``rank_low`` and ``rank_high``, 1 being the largest.
    rank_correlation : float
        Spearman correlation of the mean sizes of the parts, mean over pairs of fits and outputs.
        NaN where there is one part.
    lowest_rank_correlation : float
        The least of these.
    row_correlation : float
        Pearson correlation of single contributions over all rows, parts and outputs, mean over
        pairs of fits: whether fits agree row by row, not on the average only.
    n_models : int
    """

    table: pd.DataFrame
    rank_correlation: float
    lowest_rank_correlation: float
    row_correlation: float
    n_models: int


def stability(models: Sequence[Any], X: Any, **options: Any) -> Stability:
    """Explain the same rows with several fits of a model and compare.

    Parameters
    ----------
    models : sequence of at least two fitted models
        Such as those of `refit`; of one output, on the same modalities and classes.
    X : ModalityTable, DataFrame, dict, array or Blocks
    **options
        Of `mmfuse.explain`.

    Returns
    -------
    Stability

    Raises
    ------
    ValueError
        For fewer than two models, or models that do not explain the same parts and outputs.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse import FusionClassifier
    >>> from mmfuse.explanations import refit, stability
    >>> from mmfuse.heads import EarlyFusion
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(80) % 2
    >>> X = {"a": y[:, None] + rng.normal(size=(80, 2)), "b": rng.normal(size=(80, 2))}
    >>> models = refit(FusionClassifier(EarlyFusion(C=1.0)), X, y, n_models=3, random_state=0)
    >>> stability(models, X).rank_correlation
    1.0
    """
    from mmfuse.explanations.explain import explain

    if len(models) < 2:
        raise ValueError(f"stability: needs at least two models; got {len(models)}.")
    every = [explain(model, X, **options) for model in models]
    first = every[0]
    if isinstance(first, dict):
        raise ValueError("stability: models must be of one output; pass model.output(t) of each.")
    for one in every[1:]:
        if (one.names, one.outputs) != (first.names, first.outputs):
            raise ValueError(
                "stability: the models do not explain the same parts and outputs; fit all of them "
                "on the same modalities and classes."
            )
    sizes = np.stack([np.abs(one.values).mean(axis=0) for one in every])  # (F, P, K)
    ranks = rankdata(-sizes, axis=1)
    pairs = list(combinations(range(len(every)), 2))
    between = [
        _correlation(ranks[i][:, k], ranks[j][:, k]) for i, j in pairs for k in _outputs(first)
    ]
    rows = [_correlation(every[i].values.ravel(), every[j].values.ravel()) for i, j in pairs]
    index = pd.MultiIndex.from_product([first.names, first.outputs], names=["part", "output"])
    columns = {
        "mean": sizes.mean(axis=0),
        "sd": sizes.std(axis=0, ddof=1),
        "low": sizes.min(axis=0),
        "high": sizes.max(axis=0),
        "rank_low": ranks.min(axis=0),
        "rank_high": ranks.max(axis=0),
    }
    table = pd.DataFrame({k: v.ravel() for k, v in columns.items()}, index=index).swaplevel()
    known = [value for value in between if np.isfinite(value)]
    return Stability(
        table,
        float(np.mean(known)) if known else np.nan,
        min(known) if known else np.nan,
        float(np.mean(rows)),
        len(every),
    )


def _outputs(explanation: Explanation) -> range:
    return range(len(explanation.outputs))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return round(float(a @ b / size), 12) if size > 0 else np.nan


def refit(
    model: Any,
    X: Any,
    y: Any,
    *,
    n_models: int = 5,
    resample: str = "bootstrap",
    groups: Any = None,
    random_state: Any = None,
) -> list[Any]:
    """Fit clones of a model on resampled rows, or on the same rows with other seeds.

    Parameters
    ----------
    model : FusionClassifier or FusionRegressor
    X, y
        Training rows, as for ``fit``.
    n_models : int, default=5
    resample : {"bootstrap", "seed"}, default="bootstrap"
        ``"bootstrap"`` draws rows, or whole groups, with replacement; copies of a row never stand
        on both sides of an internal split. ``"seed"`` changes ``random_state`` alone, which
        linear heads hardly notice.
    groups : array-like of shape (n,), optional
    random_state : int, RandomState or None, default=None

    Returns
    -------
    list of fitted models

    Raises
    ------
    ValueError
        For an unknown ``resample`` or fewer than one model.
    """
    if resample not in _KINDS:
        raise ValueError(f"refit: resample must be 'bootstrap' or 'seed'; got {resample!r}.")
    if not isinstance(n_models, (int, np.integer)) or n_models < 1:
        raise ValueError(f"refit: n_models must be an integer of at least 1; got {n_models!r}.")
    y = np.asarray(y)
    codes = group_codes("refit", groups, len(y))
    units = np.arange(len(y)) if codes is None else codes
    members = [np.flatnonzero(units == u) for u in range(units.max() + 1)]
    random = check_random_state(random_state)
    fitted = []
    for _ in range(n_models):
        one = clone(model).set_params(random_state=spawn_seed(random))
        if resample == "seed":
            fitted.append(one.fit(X, y, groups=groups))
            continue
        drawn = random.randint(len(members), size=len(members))
        rows = np.concatenate([members[u] for u in drawn])
        fitted.append(one.fit(_take(X, rows), y[rows], groups=units[rows]))
    return fitted


def _take(X: Any, rows: np.ndarray) -> Any:
    from mmfuse.blocks import Blocks
    from mmfuse.table import ModalityTable

    if isinstance(X, (Blocks, ModalityTable)):
        return X[rows]
    if isinstance(X, dict):
        return {name: _safe_indexing(column, rows) for name, column in X.items()}
    return _safe_indexing(X, rows)
