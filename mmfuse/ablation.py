"""Ablation: every subset of the modalities, fold and strength, in a few shared passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.base import clone
from sklearn.utils.multiclass import type_of_target

from mmfuse._random import spawn_seed
from mmfuse.blocks import Blocks
from mmfuse.splits import make_folds
from mmfuse.targets import check_class_target, check_groups, check_value_target, check_weight

if TYPE_CHECKING:
    from mmfuse.plotting.ablation import AblationDisplay

__all__ = ["Ablation", "ablate"]

LINEAR = "linear"
_DECADES = np.arange(-3.0, 5.0)  # of strengths, over the total width


@dataclass(frozen=True)
class Ablation:
    """What every subset of the modalities is worth on held-out rows.

    Attributes
    ----------
    frame : DataFrame
        A row per head, subset, strength and fold: ``loss`` (log loss, or mean squared error in the
        unit of y) and ``score`` (accuracy, or R^2) of the rows held out. The strength of heads
        other than the batched linear one is NaN.
    summary : DataFrame
        A row per head and subset, at the strength with the lowest loss, best first: ``loss``,
        ``loss_low``, ``loss_high``, ``score`` over all held-out rows.
    confidence : float
        Of the intervals.
    task : {"classification", "regression"}
    """

    frame: pd.DataFrame
    summary: pd.DataFrame
    confidence: float
    task: str

    def plot(self, ax: Any = None) -> AblationDisplay:
        """Draw the loss of every subset with its interval; needs ``mmfuse[plot]``."""
        from mmfuse.plotting.ablation import AblationDisplay

        return AblationDisplay(self).plot(ax)

    def __repr__(self) -> str:
        return f"Ablation of {len(self.summary)} subsets and heads\n{self.summary.to_string()}"


def ablate(
    X: Any,
    y: Any,
    *,
    heads: Mapping[str, Any] | None = None,
    subsets: str | Iterable[Iterable[str]] = "all",
    cv: Any = 5,
    strengths: Iterable[float] | None = None,
    encoders: Mapping[str, Any] | None = None,
    modalities: Mapping[str, Any] | None = None,
    task: str = "auto",
    sample_weight: Any = None,
    groups: Any = None,
    confidence: float = 0.95,
    device: str = "auto",
    random_state: Any = None,
    verbose: int = 0,
) -> Ablation:
    """Fit linear fusion on every subset of the modalities, fold and strength, all at once.

    X is encoded once. The linear problems of all subsets and folds share every pass over the rows
    and go along the strengths together, so that hundreds of fits cost about as much as a few.

    Parameters
    ----------
    X : ModalityTable, DataFrame, dict of columns, array or Blocks
        n rows.
    y : array-like of shape (n,)
        Classes, or values.
    heads : dict of str to head, optional
        Further heads to compare. Each is fitted anew on every subset and fold, through
        `FusionClassifier` or `FusionRegressor`, without strengths of ours.
    subsets : {"all", "single", "leave-one-out"} or iterable of iterables of str, default="all"
        Sets of modalities; "leave-one-out" holds the full set too.
    cv : int, splitter or iterable, default=5
        Folds to measure on; group-disjoint where ``groups`` are given.
    strengths : iterable of float, optional
        Inverse regularisation strengths C, as in scikit-learn; by default eight decades around the
        inverse of the number of features.
    encoders, modalities, device, random_state, verbose
        As in `FusionClassifier`.
    task : {"auto", "classification", "regression"}, default="auto"
        "auto" takes fractional numbers for values.
    sample_weight, groups : array-like of shape (n,), optional
    confidence : float, default=0.95
        Of the intervals, which are normal, over rows, or over groups where there are any.

    Returns
    -------
    Ablation

    Raises
    ------
    ValueError
        If a subset names an unknown modality, no fold can be made, or an argument is not allowed.

    Notes
    -----
    A row that lacks some of the modalities of a subset has their learned tokens in their place.
    Features are standardised once, over all rows, without looking at y. The strength of the summary
    is chosen on the rows that it is measured on, which flatters all subsets alike, a little.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse import ablate
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], 60)
    >>> X = {"a": rng.normal(y[:, None], 1, (120, 3)), "noise": rng.normal(size=(120, 2))}
    >>> found = ablate(X, y, random_state=0)
    >>> bool(found.summary.loc[("linear", "noise"), "score"] < 0.65)
    True
    """
    from mmfuse.estimators.classifier import FusionClassifier, FusionRegressor

    if task not in ("auto", "classification", "regression"):
        raise ValueError(
            f"ablate: task must be 'auto', 'classification' or 'regression'; got {task!r}."
        )
    if task == "auto":
        task = "regression" if type_of_target(y).startswith("continuous") else "classification"
    kind = FusionClassifier if task == "classification" else FusionRegressor
    options = {"device": device, "random_state": random_state}
    model = kind(encoders=encoders, modalities=modalities, verbose=verbose, **options)
    blocks = model._encode_training(model._open(X, reset=True))
    target = _Target(y, task, len(blocks))
    weight = check_weight(sample_weight, len(blocks))
    groups = check_groups(groups, len(blocks))
    by_class = task == "classification"
    seed = spawn_seed(random_state)
    folds = make_folds(cv, target.index, groups, classification=by_class, seed=seed)
    if not folds:
        raise ValueError("ablate: the rows cannot be split into folds; more rows or groups needed.")
    names = _subsets(subsets, blocks.names)
    grid = _strengths(strengths, sum(blocks.dims.values()))
    held = _HeldOut(target, weight, groups, folds, confidence)
    _linear(blocks, target, weight, folds, names, grid, held, device)
    for label, head in (heads or {}).items():
        estimator = kind(head, **options)
        _refit(estimator, label, blocks, y, sample_weight, groups, folds, names, held, verbose)
    return Ablation(held.frame(), held.summary(), confidence, task)


class _Target:
    """The target as the solver wants it, and what predictions cost under it."""

    def __init__(self, y: Any, task: str, n_rows: int) -> None:
        self.classification = task == "classification"
        if self.classification:
            self.classes, self.index = check_class_target(y, n_rows, "ablate")
        else:
            self.index = check_value_target(y, n_rows, "ablate").reshape(n_rows, -1)
            self.centre = self.index.mean(axis=0)
            self.unit = np.maximum(self.index.std(axis=0), 1e-300)

    def cost(self, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Loss (n,), and hits or squared errors (n,), of logits or values (n, K)."""
        if not self.classification:
            error = ((prediction - self.index) ** 2).sum(axis=1)
            return error, error
        rows = np.arange(len(self.index))
        top = prediction.max(axis=1, keepdims=True)
        total = top[:, 0] + np.log(np.exp(prediction - top).sum(axis=1))
        return total - prediction[rows, self.index], prediction.argmax(axis=1) == self.index

    def score(self, second: np.ndarray, weight: np.ndarray, rows: np.ndarray) -> float:
        """Accuracy, or R^2, of rows from the second answer of `cost`."""
        mean = float(np.average(second, weights=weight))
        if self.classification:
            return mean
        value = self.index[rows]
        spread = ((value - np.average(value, axis=0, weights=weight)) ** 2).sum(axis=1)
        return 1.0 - mean / max(float(np.average(spread, weights=weight)), 1e-300)


class _HeldOut:
    """Losses of held-out rows, and the two frames made of them."""

    def __init__(self, target, weight, groups, folds, confidence: float) -> None:
        self.target, self.weight, self.folds = target, weight, folds
        self.codes = None if groups is None else np.unique(groups, return_inverse=True)[1]
        self.reach = float(norm.ppf(0.5 + confidence / 2))
        self.rows: list[dict[str, Any]] = []
        self.pooled: list[dict[str, Any]] = []

    def add(self, head: str, subset: tuple[str, ...], strength: float, scores: np.ndarray) -> None:
        """Take the held-out scores (n, K) of one head, subset and strength; NaN is left out."""
        loss, second = self.target.cost(scores)
        key = {"head": head, "subset": " + ".join(subset), "strength": strength}
        for fold, (_, test) in enumerate(self.folds):
            own = test[self.weight[test] > 0]
            w = self.weight[own]
            score = self.target.score(second[own], w, own)
            mean = float(np.average(loss[own], weights=w))
            self.rows.append({**key, "fold": fold, "loss": mean, "score": score})
        there = np.flatnonzero(np.isfinite(loss) & (self.weight > 0))
        w = self.weight[there]
        mean = float(np.average(loss[there], weights=w))
        reach = self.reach * self._error(w * (loss[there] - mean), there) / w.sum()
        ends = {"loss_low": mean - reach, "loss_high": mean + reach}
        score = self.target.score(second[there], w, there)
        size = {"n_modalities": len(subset)}
        self.pooled.append({**key, **size, "loss": mean, **ends, "score": score})

    def _error(self, away: np.ndarray, rows: np.ndarray) -> float:
        """Standard error of a sum whose parts are (n,), independent between rows or groups."""
        if self.codes is not None:
            away = np.bincount(self.codes[rows], weights=away)
        return float(np.sqrt((away**2).sum()))

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)

    def summary(self) -> pd.DataFrame:
        found = pd.DataFrame(self.pooled)
        best = found.loc[found.groupby(["head", "subset"])["loss"].idxmin()]
        return best.sort_values("loss", kind="stable").set_index(["head", "subset"])


def _subsets(subsets: Any, names: tuple[str, ...]) -> list[tuple[str, ...]]:
    every = len(names)
    if isinstance(subsets, str):
        sizes = {"all": range(1, every + 1), "single": [1], "leave-one-out": [every - 1, every]}
        if subsets not in sizes:
            raise ValueError(
                "ablate: subsets must be 'all', 'single', 'leave-one-out' or sets of modalities; "
                f"got {subsets!r}."
            )
        return [s for size in sizes[subsets] if size for s in combinations(names, size)]
    found = [tuple(name for name in names if name in set(s)) for s in map(list, subsets)]
    for asked, kept in zip(map(set, map(list, subsets)), found, strict=True):
        if asked - set(names) or not kept:
            raise ValueError(
                f"ablate: subset {sorted(asked)} must hold some of the modalities "
                f"{', '.join(names)}, and no others."
            )
    return list(dict.fromkeys(found))


def _strengths(strengths: Any, width: int) -> np.ndarray:
    grid = 10.0**_DECADES / width if strengths is None else np.asarray(list(strengths), float)
    if grid.ndim != 1 or len(grid) == 0 or not np.isfinite(grid).all() or (grid <= 0).any():
        raise ValueError(f"ablate: strengths must be positive numbers; got {strengths!r}.")
    return np.sort(grid)


def _linear(blocks, target, weight, folds, subsets, grid, held: _HeldOut, device: str) -> None:
    """Solve all subsets and folds together, along the strengths."""
    import torch

    from mmfuse._device import resolve_device
    from mmfuse.objectives import Multinomial, Squared
    from mmfuse.solver.batched import LinearProblems
    from mmfuse.standardize import StandardisedBlocks, Standardizer

    place = resolve_device(device)
    raw = {name: torch.tensor(blocks[name], device=place) for name in blocks.names}
    scaler = Standardizer(blocks.dims).to(place).fit(raw, torch.as_tensor(weight, device=place))
    small = blocks.shape[0] * sum(blocks.dims.values()) <= 500_000
    lazy = StandardisedBlocks(raw, scaler, torch.float64 if small else torch.float32)
    columns = [lazy.column(name) for name in blocks.names]
    present = torch.as_tensor(blocks.present, device=place)
    if target.classification:
        objective: Any = Multinomial(len(target.classes))
        values = torch.as_tensor(target.index, device=place)
    else:
        objective = Squared(target.index.shape[1])
        values = torch.as_tensor((target.index - target.centre) / target.unit, device=place)
    problems = LinearProblems(
        columns,
        present,
        values,
        objective,
        masks=present[:, None],
        mask_weight=torch.ones(1, dtype=torch.float64, device=place),
        dtype=columns[0].dtype,
    )
    fold_weight = torch.zeros(len(weight), len(folds), dtype=torch.float64, device=place)
    out = torch.zeros(len(weight), len(folds), dtype=torch.bool, device=place)
    for f, (train, test) in enumerate(folds):
        fold_weight[torch.as_tensor(train), f] = torch.as_tensor(weight[train], device=place)
        out[torch.as_tensor(test), f] = True
    has = torch.tensor([[name in s for name in blocks.names] for s in subsets], device=place)
    kept = has.repeat_interleave(len(folds), dim=0)
    everything = fold_weight.repeat(1, len(subsets))
    theta, tol = None, 0.03 if problems.by_score else 1e-4
    for strength in grid:
        c = torch.full(kept.shape, float(strength), dtype=torch.float64, device=place)
        theta, _, _ = problems.solve(everything, c, start=theta, tol=tol, kept=kept)
        for s, subset in enumerate(subsets):
            part = slice(s * len(folds), (s + 1) * len(folds))
            scores = problems.held_scores(theta[part], out).cpu().numpy()
            if not target.classification:
                scores = scores * target.unit + target.centre
            held.add(LINEAR, subset, float(strength), scores)


def _refit(
    estimator, label, blocks, y, sample_weight, groups, folds, subsets, held: _HeldOut, verbose
) -> None:
    """Fit one head on every subset and fold."""
    from tqdm.auto import tqdm

    y = np.asarray(y)
    jobs = [(s, f) for s in range(len(subsets)) for f in range(len(folds))]
    answers = [None] * len(subsets)
    for s, f in tqdm(jobs, desc=label, disable=not verbose):
        columns = [blocks.names.index(name) for name in subsets[s]]
        part = Blocks({n: blocks[n] for n in subsets[s]}, blocks.presence[:, columns])
        train, test = folds[f]
        given = {
            name: np.asarray(value)[train]
            for name, value in (("sample_weight", sample_weight), ("groups", groups))
            if value is not None
        }
        fitted = clone(estimator).fit(part[train], y[train], **given)
        if hasattr(fitted, "predict_log_proba"):
            prediction = np.full((len(y), len(held.target.classes)), -np.inf)
            places = np.searchsorted(held.target.classes, fitted.classes_)
            prediction[np.ix_(test, places)] = fitted.predict_log_proba(part[test])
        else:
            prediction = np.full(held.target.index.shape, np.nan)
            prediction[test] = fitted.predict(part[test]).reshape(len(test), -1)
        if answers[s] is None:
            answers[s] = np.full(prediction.shape, np.nan)
        answers[s][test] = prediction[test]
    for subset, answer in zip(subsets, answers, strict=True):
        held.add(label, subset, np.nan, answer)
