"""ModalityTable as an object array, and through the tools of scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    cross_val_predict,
    cross_val_score,
    learning_curve,
    permutation_test_score,
    train_test_split,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import _safe_indexing, resample, shuffle

from mmfuse.presence import Presence
from mmfuse.table import ModalityTable, stack_numeric

ABSENT, PRESENT, FAILED, EMPTY = sorted(Presence)
NAN = np.nan
NAMES = ("signal", "noise", "clip")


@pytest.fixture
def table() -> ModalityTable:
    return ModalityTable(
        {
            "image": np.arange(5 * 2 * 2, dtype=np.uint8).reshape(5, 2, 2),
            "audio": [np.ones(3), None, Presence.FAILED, np.ones(4), np.ones(0)],
            "clinic": pd.DataFrame({"age": [1, 2, NAN, 4, NAN], "sex": ["f", None, "", "m", "f"]}),
        },
    )


def test_as_array(table):
    cells = np.asarray(table)
    assert cells.shape == (5, 3) and cells.dtype == object
    np.testing.assert_array_equal(cells[1, 0], [[4, 5], [6, 7]])
    assert cells[1:3, 1].tolist() == [Presence.ABSENT, Presence.FAILED]
    assert cells[4, 1] is Presence.EMPTY
    assert cells[0, 2] == {"age": 1.0, "sex": "f"} and cells[2, 2] is Presence.ABSENT
    assert np.array(table, dtype=object).shape == (5, 3)
    with pytest.raises(TypeError, match="object array only, not float64"):
        np.asarray(table, dtype=np.float64)
    with pytest.raises(TypeError, match="for name in X.modalities"):
        iter(table)


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="copy=False is numpy 2")
def test_as_array_always_copies(table):
    with pytest.raises(ValueError, match="by copying only"):
        np.array(table, copy=False)


CELLS = st.one_of(
    st.sampled_from([None, FAILED, EMPTY, "", "text", b"bytes"]),
    st.lists(st.sampled_from([0.0, 1.5, NAN]), max_size=3).map(np.array),
    st.dictionaries(st.sampled_from("ab"), st.sampled_from([1, NAN, "u"]), max_size=2),
    st.sampled_from([1, 2.5, NAN, True]),
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_round_trip_through_an_object_array(data):
    n = data.draw(st.integers(0, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    columns = {
        "cells": data.draw(st.lists(CELLS, min_size=n, max_size=n)),
        "vectors": rng.choice([1.0, NAN], size=(n, 2)),
        "image": rng.integers(0, 255, size=(n, 2, 2), dtype=np.uint8),
    }
    table = ModalityTable(columns, presence=rng.integers(0, 4, size=(n, 3)))
    array = np.asarray(table)
    back = ModalityTable.from_object_array(array, table.modalities)
    np.testing.assert_array_equal(back.presence, table.presence)
    again = np.asarray(back)
    for cell, other in zip(array.flat, again.flat, strict=True):
        if isinstance(cell, Presence):
            assert other is cell
        elif isinstance(cell, dict):
            assert other is cell
        else:
            np.testing.assert_array_equal(other, cell)


def test_from_object_array_makes_blocks_again():
    table = ModalityTable(
        {
            "image": np.ones((3, 2, 2), dtype=np.uint8),
            "vector": np.float32([[1, 2], [NAN, NAN], [NAN, 4]]),
            "count": np.array([[1], [2], [3]]),
        }
    )
    back = ModalityTable.from_object_array(np.asarray(table), table.modalities, ids=[1, 2, 3])
    for name in table.modalities:
        np.testing.assert_array_equal(back[name], table[name])
        assert back[name].dtype == table[name].dtype
    hidden = np.asarray(table.hide("image", [1]))
    images = ModalityTable.from_object_array(hidden, table.modalities)["image"]
    assert images.dtype == object and images[0].dtype == np.uint8 and images[1] is None


def test_from_object_array_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"shape \(2, 3\); for the modalities a, b .*\(n, 2\)"):
        ModalityTable.from_object_array(np.full((2, 3), None), ["a", "b"])
    with pytest.raises(ValueError, match="must differ"):
        ModalityTable.from_object_array(np.full((2, 2), None), ["a", "a"])
    with pytest.raises(ValueError, match="row 0 is Presence.PRESENT"):
        ModalityTable.from_object_array([[Presence.PRESENT]], ["a"])


def _sizes(clips: np.ndarray) -> np.ndarray:
    """Encode samples of any length by their length."""
    sizes = np.empty(len(clips), dtype=object)
    for row, clip in enumerate(clips):
        sizes[row] = [float(np.size(clip))]
    return sizes


class Means(ClassifierMixin, BaseEstimator):
    """Nearest class mean over the modalities that a row has; what it is given is recorded."""

    def __init__(self, shift: float = 0.0):
        self.shift = shift

    def _vectors(self, X):
        if not isinstance(X, ModalityTable):
            assert isinstance(X, np.ndarray) and X.dtype == object and X.shape[1] == len(NAMES)
            X = ModalityTable.from_object_array(X, NAMES)
        assert X.modalities == NAMES
        parts = []
        for j, (name, width) in enumerate(zip(NAMES, (2, 3, 1), strict=True)):
            column = _sizes(X[name]) if name == "clip" else X[name]
            parts.append(stack_numeric(column, X.presence[:, j], name=name, width=width))
        return np.hstack(parts)

    def fit(self, X, y):
        vectors = self._vectors(X)
        assert len(vectors) == len(y)
        self.classes_ = np.unique(y)
        self.means_ = np.stack([np.nanmean(vectors[y == c], axis=0) for c in self.classes_])
        return self

    def predict_proba(self, X):
        gaps = self._vectors(X)[:, None, :] - self.means_ + self.shift
        scores = -np.nansum(gaps**2, axis=2)
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


@pytest.fixture(scope="module")
def problem():
    """Two classes that the first modality separates; a fifth of the second is missing."""
    rng = np.random.default_rng(0)
    y = np.tile([0, 1], 30)
    signal = rng.normal(size=(60, 2)) + 4 * y[:, None]
    noise = rng.normal(size=(60, 3))
    noise[rng.random(60) < 0.2] = NAN
    clip = np.empty(60, dtype=object)
    for row in range(60):
        clip[row] = np.zeros(rng.integers(3, 5)) if row % 7 else None
    X = ModalityTable({"signal": signal, "noise": noise, "clip": clip}, ids=np.arange(60) + 100)
    return X, y, np.arange(60) // 6


def test_train_test_split_keeps_rows_together(problem):
    X, y, _ = problem
    train, test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0, test_size=20)
    assert isinstance(train, ModalityTable) and train.shape == (40, 3) and test.shape == (20, 3)
    assert y_test.mean() == 0.5
    assert sorted([*train.ids, *test.ids]) == list(range(100, 160))
    for part, labels in ((train, y_train), (test, y_test)):
        rows = part.ids - 100
        np.testing.assert_array_equal(part["signal"], X["signal"][rows])
        np.testing.assert_array_equal(part.presence, X.presence[rows])
        np.testing.assert_array_equal(labels, y[rows])


def test_shuffle_and_resample(problem):
    X, y, _ = problem
    mixed, labels = shuffle(X, y, random_state=0)
    assert sorted(mixed.ids) == list(range(100, 160)) and list(mixed.ids) != list(X.ids)
    np.testing.assert_array_equal(labels, y[mixed.ids - 100])
    drawn = resample(X, random_state=0)
    assert len(drawn) == 60 and len(set(drawn.ids)) < 60
    np.testing.assert_array_equal(drawn["signal"], X["signal"][drawn.ids - 100])


@pytest.mark.parametrize("key", [[1, 3], np.array([True, False] * 30), slice(2, 5)], ids=type)
def test_safe_indexing(problem, key):
    X = problem[0]
    assert _safe_indexing(X, key).ids.tolist() == X.ids[key].tolist()


def test_folds_with_groups(problem):
    X, y, groups = problem
    for train, test in GroupKFold(5).split(X, y, groups):
        assert not set(groups[X[train].ids - 100]) & set(groups[X[test].ids - 100])
    scores = cross_val_score(Means(), X, y, groups=groups, cv=GroupKFold(5))
    assert scores.mean() > 0.95


@pytest.mark.parametrize(
    "model",
    [
        CalibratedClassifierCV(Means(), cv=3),
        VotingClassifier([("a", Means()), ("b", Means(1.0))]),
        StackingClassifier([("a", Means())], LogisticRegression(), cv=3),
        BaggingClassifier(Means(), n_estimators=3, random_state=0),
        OneVsRestClassifier(Means()),
        GridSearchCV(Means(), {"shift": [0.0, 1.0]}, cv=3),
        make_pipeline(FunctionTransformer(), Means()),
    ],
    ids=lambda model: type(model).__name__,
)
def test_meta_estimators(problem, model):
    X, y, _ = problem
    assert model.fit(X, y).score(X, y) > 0.95


def test_scores_over_folds(problem):
    X, y, _ = problem
    assert (cross_val_predict(Means(), X, y, cv=3) == y).mean() > 0.95
    _, _, scores = learning_curve(Means(), X, y, cv=3, train_sizes=[0.5, 1.0])
    assert scores.mean() > 0.95
    score, by_chance, _ = permutation_test_score(
        Means(), X, y, cv=KFold(3), n_permutations=5, random_state=0
    )
    assert score > 0.95 and by_chance.mean() < 0.75


def test_permutation_importance_is_per_modality(problem):
    X, y, _ = problem
    found = permutation_importance(Means().fit(X, y), X, y, n_repeats=3, random_state=0)
    assert found.importances_mean.shape == (3,)
    assert found.importances_mean[0] > 0.3
    assert np.abs(found.importances_mean[1:]).max() < 0.1
