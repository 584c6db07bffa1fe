"""Models with known answers, for the tests of metrics, reports and plots."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from mmfuse.blocks import Blocks


class EvidenceClassifier(ClassifierMixin, BaseEstimator):
    """Softmax of the prior's logits plus the logits that each present block holds.

    With independent modalities given the class, this is the exact posterior.
    """

    def __init__(self, modalities=("image", "audio"), classes=("a", "b"), prior=None, scale=None):
        self.modalities = modalities
        self.classes = classes
        self.prior = prior
        self.scale = scale

    @property
    def modalities_(self):
        return tuple(self.modalities)

    @property
    def classes_(self):
        return np.asarray(self.classes)

    @property
    def prior_(self):
        n_classes = len(self.classes)
        return np.full(n_classes, 1 / n_classes) if self.prior is None else np.asarray(self.prior)

    def fit(self, X, y):
        return self

    def encode(self, X):
        return X if isinstance(X, Blocks) else Blocks(X)

    def predict_proba(self, X):
        blocks = self.encode(X)
        logits = np.tile(np.log(self.prior_), (len(blocks), 1))
        for name in blocks.names:
            scale = 1.0 if self.scale is None else self.scale.get(name, 1.0)
            logits += scale * np.nan_to_num(blocks[name])
        proba = np.exp(logits - logits.max(axis=1, keepdims=True))
        return proba / proba.sum(axis=1, keepdims=True)

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class SumRegressor(RegressorMixin, BaseEstimator):
    """The prior plus the sum of what the present blocks hold."""

    def __init__(self, modalities=("image", "audio"), prior=0.0):
        self.modalities = modalities
        self.prior = prior

    @property
    def modalities_(self):
        return tuple(self.modalities)

    @property
    def prior_(self):
        return self.prior

    def fit(self, X, y):
        return self

    def encode(self, X):
        return X if isinstance(X, Blocks) else Blocks(X)

    def predict(self, X):
        blocks = self.encode(X)
        total = self.prior + sum(np.nan_to_num(blocks[name]) for name in blocks.names)
        return total[:, 0] if total.shape[1] == 1 else total


def class_evidence(n_rows, strengths, *, n_classes=2, seed=0, absent=None):
    """Blocks of logits: Gaussian evidence of a given strength (0 is noise), and the classes.

    Evidence is the log likelihood of a point in a row of class means ``strength`` apart; noise
    modalities hold logits of their own that say nothing about the class.
    """
    rng = np.random.default_rng(seed)
    y = rng.integers(n_classes, size=n_rows)
    arrays = {}
    for name, strength in strengths.items():
        means = strength * np.eye(n_classes)
        points = rng.normal(size=(n_rows, n_classes)) + means[y]
        logits = points @ means if strength else 0.5 * points
        if absent and name in absent:
            logits[rng.random(n_rows) < absent[name]] = np.nan
        arrays[name] = logits
    return Blocks(arrays), y


TWO = {"image": 1.2, "audio": 0.8}
THREE = {"image": 1.2, "audio": 0.8, "noise": 0.0}


def report_case(strengths=TWO, n_rows=400, classes=("a", "b"), **options):
    """A classifier that knows the evidence, its blocks and the true classes."""
    blocks, codes = class_evidence(n_rows, strengths, n_classes=len(classes), **options)
    model = EvidenceClassifier(tuple(strengths), classes=classes)
    return model, blocks, np.asarray(classes)[codes]


def slow_shapley(worth, n_members):
    """Shapley values by walking through all orders."""
    shares = np.zeros(n_members)
    orders = list(permutations(range(n_members)))
    for order in orders:
        mask = 0
        for member in order:
            shares[member] += worth[mask | 1 << member] - worth[mask]
            mask |= 1 << member
    return shares / len(orders)
