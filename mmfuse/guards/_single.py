"""How much one modality alone knows of the target, by a linear model, with bootstrap replicates."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import f_classif, f_regression
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from mmfuse.metrics.resampling import bootstrap_means

__all__ = ["Judge", "best_column", "held_out_predictions", "linear_model", "principal_model"]

_STRENGTH = 0.1  # C of the logistic regression, on standardised features


def linear_model(classification: bool) -> Any:
    """A regularised linear model on standardised features."""
    last = LogisticRegression(C=_STRENGTH, max_iter=200) if classification else Ridge(1.0)
    return make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), last)


def principal_model(classification: bool, n_components: int) -> Any:
    """The same on the first principal components, which know nothing of the target."""
    steps = linear_model(classification).steps
    pca = PCA(n_components, svd_solver="full")
    return make_pipeline(*[step for _, step in steps[:-1]], pca, steps[-1][1])


def held_out_predictions(model: Any, x: np.ndarray, y: np.ndarray, folds: list) -> np.ndarray:
    """Predictions of every row by a model that did not see it (n,)."""
    out = np.empty(len(y), dtype=y.dtype if y.dtype.kind != "f" else np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for train, test in folds:
            out[test] = model.fit(x[train], y[train]).predict(x[test])
    return out


def best_column(x: np.ndarray, y: np.ndarray, folds: list, classification: bool) -> tuple:
    """The single feature from which a small tree predicts best, and those predictions."""
    filled = SimpleImputer(keep_empty_features=True).fit_transform(x)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strength = (f_classif if classification else f_regression)(filled, y)[0]
    column = int(np.argmax(np.nan_to_num(strength, nan=-1.0, posinf=np.inf)))
    if classification:
        leaves = 2 * len(np.unique(y))
        tree: Any = DecisionTreeClassifier(max_leaf_nodes=leaves, random_state=0)
    else:
        tree = DecisionTreeRegressor(max_leaf_nodes=64, random_state=0)
    return column, held_out_predictions(tree, filled[:, [column]], y, folds)


class Judge:
    """Skill of predictions: 0 for one that knows nothing, 1 for one that knows all.

    For classes (balanced accuracy - 1/K) / (1 - 1/K), which a shift of class frequencies between
    two parts does not change; for values R2.

    Parameters
    ----------
    y : ndarray of shape (n,)
        Codes of classes, or values.
    groups : ndarray of shape (n,) or None
        The bootstrap draws whole groups.
    n_classes : int
        0 for values.
    """

    def __init__(
        self, y: np.ndarray, groups: np.ndarray | None, n_classes: int, n_bootstrap: int, seed: int
    ) -> None:
        self.y, self.groups, self.n_classes = y, groups, n_classes
        self.n_bootstrap, self.seed = n_bootstrap, seed

    def skill(self, prediction: np.ndarray, rows: np.ndarray) -> tuple[float, np.ndarray]:
        """Skill on some rows, and its replicates (B,)."""
        y, said = self.y[rows], prediction[rows]
        if self.n_classes:
            member = y[:, None] == np.arange(self.n_classes)
            parts = np.column_stack([member * (said == y)[:, None], member]).astype(float)
        else:
            centred = y - y.mean()
            parts = np.column_stack([(said - y) ** 2, centred, centred**2])
        draws = bootstrap_means(
            parts,
            n_bootstrap=self.n_bootstrap,
            rng=np.random.default_rng(self.seed),
            groups=None if self.groups is None else self.groups[rows],
        )
        return float(self._measure(parts.mean(axis=0)[None])[0]), self._measure(draws)

    def _measure(self, means: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Mean of empty slice")
            if not self.n_classes:
                return 1.0 - means[:, 0] / (means[:, 2] - means[:, 1] ** 2)
            hits, size = np.split(means, 2, axis=1)
            seen = size > 0
            recall = np.where(seen, hits / np.where(seen, size, 1.0), np.nan)
            chance = 1.0 / seen.sum(axis=1)
            return (np.nanmean(recall, axis=1) - chance) / (1.0 - chance)
