"""What every head must do with ordered classes, through the classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from mmfuse import FusionClassifier, FusionRegressor, ModalityTable, load, modality_report
from mmfuse.heads import AutoFusion, BaseHead, EarlyFusion, LateFusion, LogitBiasFusion
from mmfuse.heads.base import FitData, FitResult
from mmfuse.metrics import ranked_probability_score
from tests.head_list import NOMINAL, heads_for

CLASSIFIER_HEADS = heads_for("classification")
HEADS = {name: head for name, head in CLASSIFIER_HEADS.items() if name not in NOMINAL}
every_head = pytest.mark.parametrize("name", HEADS)


def grades(n: int = 150, *, absent: float = 0.3, seed: int = 0):
    """Two views of one latent score and four ordered classes, the lowest of them rare."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=n)
    a = latent[:, None] * [1.0, 0.5, 0.0] + 0.7 * rng.normal(size=(n, 3))
    b = latent[:, None] * [0.8, 0.0] + 0.7 * rng.normal(size=(n, 2))
    y = np.digitize(latent + 0.3 * rng.logistic(size=n), [-1.3, 0.0, 0.9])
    gone = rng.random((n, 2)) < absent
    gone[gone.all(axis=1)] = False
    a[gone[:, 0]], b[gone[:, 1]] = np.nan, np.nan
    return ModalityTable({"a": a, "b": b}), y


def fitted(head: BaseHead, X, y, **params) -> FusionClassifier:
    return FusionClassifier(clone(head), target="ordinal", random_state=0, **params).fit(X, y)


def score(model: FusionClassifier, X, y) -> float:
    return ranked_probability_score(y, model.predict_proba(X), classes=model.classes_)


@every_head
def test_any_subset_nothing_and_back_from_disk(name: str, tmp_path: Path) -> None:
    X, y = grades()
    model = fitted(HEADS[name], X, y)
    assert model.head_.task == "ordinal"
    proba = model.predict_proba(X)
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    X_new, y_new = grades(400, absent=0.0, seed=1)
    prior = ranked_probability_score(y_new, np.tile(model.prior_, (400, 1)), classes=model.classes_)
    full = score(model, X_new, y_new)
    assert full < 0.95 * prior  # trees of a few leaves are no better on 150 rows
    for hidden in ("a", "b"):
        assert full - 0.03 < score(model, X_new.hide(hidden), y_new) < prior
    nothing = model.predict_proba(X[:2].hide(["a", "b"]))
    np.testing.assert_allclose(nothing, np.tile(model.prior_, (2, 1)), atol=1e-9)
    again = load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict_proba(X), proba)
    assert again.target == "ordinal" and again.history_ == model.history_


@every_head
def test_same_seed_same_result(name: str) -> None:
    X, y = grades(80)
    p = [fitted(HEADS[name], X, y).predict_proba(X) for _ in range(2)]
    np.testing.assert_array_equal(p[0], p[1])


@pytest.mark.parametrize("name", NOMINAL)
def test_heads_over_logits_of_classes_refuse(name: str) -> None:
    head = CLASSIFIER_HEADS[name]
    X, y = grades(40)
    with pytest.raises(ValueError, match="LogitBiasFusion .* has no form for ordered classes"):
        fitted(head, X, y)
    with pytest.raises(ValueError, match="has no form for regression"):
        FusionRegressor(head).fit(X, y)
    with pytest.raises(ValueError, match="has no form for ordered classes"):
        fitted(AutoFusion({"bias": LogitBiasFusion()}), X, y)


@pytest.mark.parametrize("name", ["early-linear", "late-linear", "contextual", "early-mlp"])
def test_cumulative_probabilities_fall_along_the_score(name: str) -> None:
    X, y = grades(absent=0.0)
    model = fitted(HEADS[name], X, y)
    line = np.linspace(-4, 4, 60)
    grid = {"a": line[:, None] * [1.0, 0.5, 0.0], "b": line[:, None] * [0.8, 0.0]}
    below = model.predict_proba(grid).cumsum(axis=1)
    assert (np.diff(below, axis=0) < 1e-3).all()
    assert (np.diff(model.predict_expected(grid)) > -1e-3).all()


@pytest.mark.parametrize("C", ["cv", 0.3])
def test_two_classes_are_logistic_regression(C) -> None:
    X, y = grades()
    binary = (y > 1).astype(int)
    models = [
        FusionClassifier(EarlyFusion(C=C), target=target, random_state=0).fit(X, binary)
        for target in ("nominal", "ordinal")
    ]
    p = [model.predict_proba(X) for model in models]
    np.testing.assert_allclose(p[0], p[1], atol=1e-5)


def test_a_network_of_two_classes_is_close_to_logistic_regression() -> None:
    X, y = grades(300, absent=0.0)
    network = EarlyFusion("mlp", hidden=(), dropout=0.0, learning_rate=0.03, weight_decay=0.0)
    p = [fitted(h, X, y, calibration=None).predict_proba(X) for h in (network, EarlyFusion(C=1e3))]
    assert np.abs(p[0] - p[1]).mean() < 0.03


def test_a_class_that_no_fold_can_hold_twice() -> None:
    X, y = grades(60, absent=0.0)
    y[y == 2] = 1
    y[0] = 2  # one row: in one fold its class is never learned
    for head in (EarlyFusion(), LateFusion(), HEADS["early-trees"], HEADS["early-mlp"]):
        proba = fitted(head, X, y).predict_proba(X)
        assert np.isfinite(proba).all() and proba.shape == (60, 4)


def test_weights_classes_and_groups_are_honoured() -> None:
    X, y = grades(120, absent=0.0)
    weight = np.where(np.arange(120) < 60, 1.0, 0.0)
    some = FusionClassifier(EarlyFusion(C=1.0), target="ordinal", calibration=None)
    kept = clone(some).fit(X[:60], y[:60])
    all_rows = some.fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(all_rows.predict_proba(X), kept.predict_proba(X), atol=1e-6)
    plain, even = (fitted(EarlyFusion(C=1.0), X, y, class_weight=c) for c in (None, "balanced"))
    np.testing.assert_allclose(even.prior_, 0.25)
    assert even.predict_proba(X)[:, 0].mean() > plain.predict_proba(X)[:, 0].mean()
    groups = np.arange(120) % 7
    by_group = FusionClassifier(EarlyFusion(), target="ordinal", cv=GroupKFold(3), random_state=0)
    assert by_group.fit(X, y, groups=groups).score(X, y) > 0.4


# -- the order -----------------------------------------------------------------------------------


def test_an_ordered_categorical_gives_the_order() -> None:
    X, y = grades(absent=0.0)
    names = ["none", "mild", "middling", "severe"]
    labels = np.array(names)[y]
    ordered = pd.Series(pd.Categorical(labels, categories=[*names, "deadly"], ordered=True))
    models = [fitted(EarlyFusion(C=1.0), X, target) for target in (ordered, y)]
    assert models[0].classes_.tolist() == names  # a category without rows is no class
    p = [model.predict_proba(X) for model in models]
    np.testing.assert_array_equal(p[0], p[1])
    assert models[0].score(X, labels) == models[1].score(X, y)
    expected = [model.predict_expected(X) for model in models]
    np.testing.assert_allclose(expected[0], expected[1])  # places 0 to 3
    numbers = fitted(EarlyFusion(C=1.0), X, 10 * y)
    np.testing.assert_allclose(numbers.predict_expected(X), 10 * expected[0])


def test_text_without_an_order_is_warned_about() -> None:
    X, y = grades(60)
    with pytest.warns(UserWarning, match="order of the alphabet: a < b < c < d"):
        fitted(EarlyFusion(C=1.0), X, np.array(list("abcd"))[y])


@pytest.mark.parametrize("target", ["ranked", None, ["ordinal"]])
def test_an_unknown_target_is_named(target) -> None:
    X, y = grades(30)
    with pytest.raises(ValueError, match="target must be 'nominal' or 'ordinal', or a list"):
        FusionClassifier(target=target).fit(X, y)


def test_expected_class_needs_an_order() -> None:
    X, y = grades(60)
    with pytest.raises(ValueError, match="predict_expected needs classes on a scale"):
        FusionClassifier(EarlyFusion(C=1.0)).fit(X, y).predict_expected(X)


def test_a_report_of_ordered_classes() -> None:
    X, y = grades(200, absent=0.1)
    model = fitted(LateFusion(), X[:100], y[:100])
    report = modality_report(model, X[100:], y[100:], n_bootstrap=50)
    assert report.best_single == "a" and report.modalities["contributes"]["a"]


# -- what the order is worth ---------------------------------------------------------------------


def test_order_helps_where_rows_are_few() -> None:
    """Simulated grades, 60 rows and 20 features: a lower ranked score in every draw."""
    better, gains = 0, []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        a, b = rng.normal(size=(560, 10)), rng.normal(size=(560, 10))
        latent = a[:, 0] + a[:, 1] + b[:, 0] + rng.logistic(size=560)
        y = np.digitize(latent, [-2.0, -0.7, 0.7, 2.0])
        train, test = slice(0, 60), slice(60, None)
        found = []
        for target in ("nominal", "ordinal"):
            model = FusionClassifier(EarlyFusion(), target=target, random_state=0)
            model.fit({"a": a[train], "b": b[train]}, y[train])
            found.append(score(model, {"a": a[test], "b": b[test]}, y[test]))
        better += found[1] < found[0]
        gains.append(1 - found[1] / found[0])
    assert better == 3
    assert np.mean(gains) > 0.03


class OneLayer(BaseHead):
    """A leaf head that knows nothing of ordered classes."""

    max_epochs, patience, batch_size = 30, 5, 64
    learning_rate, weight_decay, modality_dropout = 0.05, 0.0, 0.1

    def build(self, block_dims, n_outputs, task):
        assert task in ("classification", "regression")
        return EarlyFusion("mlp", hidden=()).build(block_dims, n_outputs, task)

    def fit_module(self, data: FitData) -> FitResult:
        return super().fit_module(data)


def test_a_head_need_not_know() -> None:
    X, y = grades()
    model = fitted(OneLayer(), X, y)
    assert model.head_.threshold.shape == (3,)
    assert (torch.diff(model.head_.threshold) > 0).all()
    assert score(model, X, y) < 0.35


def test_a_wrapped_logistic_regression_is_close_to_the_linear_head() -> None:
    X, y = grades(200, absent=0.0)
    X_new, y_new = grades(600, absent=0.0, seed=1)
    wrapped = EarlyFusion(LogisticRegression())
    model = fitted(wrapped, X, y)
    assert sorted(model.head_.estimators) == ["above_0", "above_1", "above_2"]
    linear = score(fitted(EarlyFusion(C=1.0), X, y), X_new, y_new)
    assert abs(score(model, X_new, y_new) - linear) < 0.03
