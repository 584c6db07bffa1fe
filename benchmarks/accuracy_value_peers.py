"""Regressors of scikit-learn with a density each: the peers of the benchmark of values.

Gradient boosting gets NaN where a view is absent, the others the means of the training rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from accuracy_peers import ABSENT, joined, mean_of_rows
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmfuse import Blocks
from mmfuse.density import Density

__all__ = ["VALUE_PEERS"]

GRID = 200  # bins of the densities


def grid_of(y: np.ndarray) -> np.ndarray:
    margin = 0.25 * np.ptp(y)
    return np.linspace(y.min() - margin, y.max() + margin, GRID + 1)


def weighted_targets(weight: np.ndarray, y: np.ndarray, edges: np.ndarray) -> Density:
    """Densities of rows that average the training targets with ``weight`` (n, n_train)."""
    bins = np.clip(np.searchsorted(edges, y, "right") - 1, 0, GRID - 1)
    mass = np.zeros((len(weight), GRID))
    for number in np.unique(bins):
        mass[:, number] = weight[:, bins == number].sum(axis=1)
    return Density(edges, mass / mass.sum(axis=1, keepdims=True))


class Normal:
    """A regressor with normal errors, as wide as they are out of fold."""

    def __init__(self, maker: Callable[[], Any], hiding: bool = False) -> None:
        self.maker = maker
        self.hiding = hiding

    def fit(self, X: Blocks, y: np.ndarray) -> Normal:
        features = joined(X)
        error = y - cross_val_predict(self.maker(), features, y, cv=5)
        self.spread, self.edges = float(np.sqrt((error**2).mean())), grid_of(y)
        if self.hiding:
            gone = np.random.default_rng(0).random(X.shape) < ABSENT
            columns = np.repeat(np.arange(X.shape[1]), list(X.dims.values()))
            features = np.vstack([features, np.where(gone[:, columns], np.nan, features)])
            y = np.concatenate([y, y])
        self.model = self.maker().fit(features, y)
        return self

    def predict(self, X: Blocks) -> np.ndarray:
        return self.model.predict(joined(X))

    def predict_density(self, X: Blocks) -> Density:
        return Density.from_normal(self.predict(X), self.spread, self.edges)


class Neighbours:
    """Nearest neighbours, as many as cross-validation likes; the density is their targets."""

    def fit(self, X: Blocks, y: np.ndarray) -> Neighbours:
        pipeline = make_pipeline(mean_of_rows(), StandardScaler(), KNeighborsRegressor())
        numbers = {"kneighborsregressor__n_neighbors": [5, 10, 20, 40]}
        self.model = GridSearchCV(pipeline, numbers, cv=5).fit(joined(X), y).best_estimator_
        self.y, self.edges = y, grid_of(y)
        return self

    def predict(self, X: Blocks) -> np.ndarray:
        return self.model.predict(joined(X))

    def predict_density(self, X: Blocks) -> Density:
        graph = self.model[-1].kneighbors_graph(self.model[:-1].transform(joined(X)))
        return weighted_targets(graph.toarray(), self.y, self.edges)


class Forest:
    """Random forest; the density weighs training targets by shared leaves (Meinshausen 2006)."""

    def fit(self, X: Blocks, y: np.ndarray) -> Forest:
        forest = RandomForestRegressor(300, min_samples_leaf=5, random_state=0)
        self.model = make_pipeline(mean_of_rows(), forest).fit(joined(X), y)
        self.y, self.edges = y, grid_of(y)
        self.leaves = self.model[-1].apply(self.model[:-1].transform(joined(X)))
        return self

    def predict(self, X: Blocks) -> np.ndarray:
        return self.model.predict(joined(X))

    def predict_density(self, X: Blocks) -> Density:
        found = self.model[-1].apply(self.model[:-1].transform(joined(X)))
        weight = np.zeros((len(found), len(self.y)), dtype=np.float32)
        for ours, theirs in zip(found.T, self.leaves.T, strict=True):
            size = np.bincount(theirs)
            weight += (ours[:, None] == theirs) / np.maximum(size[ours], 1)[:, None]
        return weighted_targets(weight, self.y, self.edges)


def ridge() -> Any:
    return make_pipeline(mean_of_rows(), StandardScaler(), RidgeCV(np.logspace(-2, 5, 15)))


def boosting() -> Any:
    return HistGradientBoostingRegressor(random_state=0)


VALUE_PEERS: dict[str, Callable[[], Any]] = {
    "ridge": lambda: Normal(ridge),
    "nearest neighbours": Neighbours,
    "random forest": Forest,
    "boosting": lambda: Normal(boosting),
    "boosting, views hidden": lambda: Normal(boosting, hiding=True),
}
