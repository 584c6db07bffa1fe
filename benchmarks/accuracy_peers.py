"""What a careful user of scikit-learn would build: the peers of the accuracy benchmark.

Every peer gets the best that its interface allows where a view is absent: NaN where it takes NaN,
the vote or term left out where votes are summed, the mean of the training rows elsewhere. Folds
inside a peer respect groups.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    StackingClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmfuse import Blocks

__all__ = ["ABSENT", "PEERS", "joined"]

ABSENT = 0.3  # chance that a view is hidden
Splits = list[tuple[np.ndarray, np.ndarray]]
Maker = Callable[[Splits], BaseEstimator]


def inner_splits(y: np.ndarray, groups: np.ndarray | None) -> Splits:
    """Three folds over training rows, group-disjoint where there are groups."""
    if groups is None:
        return list(StratifiedKFold(3, shuffle=True, random_state=0).split(y, y))
    return list(StratifiedGroupKFold(3, shuffle=True, random_state=0).split(y, y, groups))


def joined(X: Blocks) -> np.ndarray:
    """All views side by side, NaN where absent."""
    return np.hstack([X[name] for name in X.names])


def mean_of_rows() -> SimpleImputer:
    return SimpleImputer(keep_empty_features=True)


def logistic(splits: Splits) -> BaseEstimator:
    return make_pipeline(mean_of_rows(), StandardScaler(), LogisticRegression(max_iter=1000))


def tuned_logistic(splits: Splits) -> BaseEstimator:
    last = LogisticRegressionCV(
        Cs=np.logspace(-4, 2, 7), cv=splits, scoring="neg_log_loss", max_iter=300
    )
    return make_pipeline(mean_of_rows(), StandardScaler(), last)


def extra_trees(splits: Splits) -> BaseEstimator:
    return make_pipeline(mean_of_rows(), ExtraTreesClassifier(300, random_state=0))


def tempered_trees(splits: Splits) -> BaseEstimator:
    trees = extra_trees(splits)
    return CalibratedClassifierCV(trees, method="temperature", cv=splits, ensemble=False)


def boosting(splits: Splits) -> BaseEstimator:
    return HistGradientBoostingClassifier(random_state=0)


def network(splits: Splits) -> BaseEstimator:
    last = MLPClassifier(early_stopping=True, max_iter=300, random_state=0)
    return make_pipeline(mean_of_rows(), StandardScaler(), last)


class Joined:
    """One classifier over the views side by side.

    ``hiding`` adds a copy of the training rows with views hidden at random, which is how a user of
    a model that takes NaN would prepare it for gaps.
    """

    def __init__(self, maker: Maker, hiding: bool = False) -> None:
        self.maker = maker
        self.hiding = hiding

    def fit(self, X: Blocks, y: np.ndarray, groups: np.ndarray | None) -> Joined:
        self.model = self.maker(inner_splits(y, groups))
        features = joined(X)
        if self.hiding:
            gone = np.random.default_rng(0).random(X.shape) < ABSENT
            columns = np.repeat(np.arange(X.shape[1]), list(X.dims.values()))
            features = np.vstack([features, np.where(gone[:, columns], np.nan, features)])
            y = np.concatenate([y, y])
        self.model.fit(features, y)
        self.classes_ = self.model.classes_
        return self

    def predict_proba(self, X: Blocks) -> np.ndarray:
        return self.model.predict_proba(joined(X))


class Stacked:
    """scikit-learn's StackingClassifier over one pipeline per view."""

    def __init__(self, maker: Maker) -> None:
        self.maker = maker

    def fit(self, X: Blocks, y: np.ndarray, groups: np.ndarray | None) -> Stacked:
        splits = inner_splits(y, groups)
        ends = np.cumsum(list(X.dims.values()))
        members = []
        for name, stop, width in zip(X.names, ends, X.dims.values(), strict=True):
            columns = make_column_transformer(("passthrough", slice(stop - width, stop)))
            # a member is fitted on parts of the rows, for which these splits would not fit
            members.append((name, make_pipeline(columns, self.maker(3))))
        last = LogisticRegression(max_iter=1000)
        self.model = StackingClassifier(members, last, cv=splits, stack_method="predict_proba").fit(
            joined(X), y
        )
        self.classes_ = self.model.classes_
        return self

    def predict_proba(self, X: Blocks) -> np.ndarray:
        return self.model.predict_proba(joined(X))


_KNOWN: dict[int, tuple[BaseEstimator, float]] = {}  # three votes share the models of the views


class PerView:
    """One model per view, trained on the rows that have it; views that are absent have no say.

    ``combine``: ``"mean"`` of the probabilities (soft voting), ``"sum"`` of their logarithms with
    the prior counted once, or the ``"best"`` view alone, chosen by out-of-fold log loss on the
    training rows.
    """

    def __init__(self, maker: Maker, combine: str) -> None:
        self.maker = maker
        self.combine = combine

    def fit(self, X: Blocks, y: np.ndarray, groups: np.ndarray | None) -> PerView:
        self.classes_, counts = np.unique(y, return_counts=True)
        prior = counts / counts.sum()
        self.log_prior = np.log(prior)
        self.models, trial, self.shared_seconds = {}, {}, 0.0
        for j, name in enumerate(X.names):
            there = X.present[:, j]
            inner = None if groups is None else groups[there]
            model, known_for = self._model(X[name][there], y[there], inner)
            self.models[name] = model
            self.shared_seconds += known_for
            if self.combine == "best":
                held_out = next(iter(model[-1].scores_.values())).mean(axis=0).max()
                # the prior answers for the rows without the view
                trial[name] = there.mean() * held_out + (~there).mean() * prior @ self.log_prior
        self.names = [max(trial, key=trial.__getitem__)] if trial else list(X.names)
        return self

    def _model(
        self, features: np.ndarray, y: np.ndarray, groups: np.ndarray | None
    ) -> tuple[BaseEstimator, float]:
        """A fitted model, and the seconds that another vote has spent on it already."""
        key = hash((features.tobytes(), y.tobytes(), self.maker.__name__))
        if key in _KNOWN:
            return _KNOWN[key]
        start = time.process_time()
        model = self.maker(inner_splits(y, groups)).fit(features, y)
        _KNOWN[key] = model, time.process_time() - start
        return model, 0.0

    def predict_proba(self, X: Blocks) -> np.ndarray:
        out = np.zeros((len(X), len(self.classes_)))
        count = np.zeros((len(X), 1))
        for name in self.names:
            there = X.present[:, X.names.index(name)]
            if not there.any():
                continue
            p = np.zeros_like(out)
            places = np.searchsorted(self.classes_, self.models[name].classes_)
            p[np.ix_(there, places)] = self.models[name].predict_proba(X[name][there])
            part = np.log(np.clip(p, 1e-12, 1)) - self.log_prior if self.combine == "sum" else p
            out += np.where(there[:, None], part, 0)
            count += there[:, None]
        if self.combine != "sum":
            return np.where(count > 0, out / np.maximum(count, 1), np.exp(self.log_prior))
        out = np.exp(out + self.log_prior - (out + self.log_prior).max(axis=1, keepdims=True))
        return out / out.sum(axis=1, keepdims=True)


PEERS: dict[str, Callable[[], Any]] = {
    "best single view": lambda: PerView(tuned_logistic, "best"),
    "soft voting, linear": lambda: PerView(tuned_logistic, "mean"),
    "soft voting, extra trees": lambda: PerView(extra_trees, "mean"),
    "prior-corrected sum, linear": lambda: PerView(tuned_logistic, "sum"),
    "stacking, linear": lambda: Stacked(tuned_logistic),
    "stacking, extra trees": lambda: Stacked(extra_trees),
    "concat, logistic regression": lambda: Joined(logistic),
    "concat, tuned logistic regression": lambda: Joined(tuned_logistic),
    "concat, network": lambda: Joined(network),
    "concat, extra trees": lambda: Joined(extra_trees),
    "concat, extra trees, tempered": lambda: Joined(tempered_trees),
    "concat, boosting": lambda: Joined(boosting),
    "concat, boosting, views hidden": lambda: Joined(boosting, hiding=True),
}
