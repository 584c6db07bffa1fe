"""Calibrators of one modality, against scikit-learn and on known truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.isotonic import IsotonicRegression

from mmfuse.calibration import TemperatureScaling
from mmfuse.heads.calibrators import CALIBRATORS, Isotonic, Sigmoid, VectorScaling, log_odds

KINDS = [kind for kind in CALIBRATORS["classification"] if kind is not None]
every_kind = pytest.mark.parametrize("kind", KINDS)


def drawn(n: int, classes: int = 3, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels drawn from their softmax."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(n, classes))
    y = np.array([rng.choice(classes, p=p) for p in softmax(logits, axis=1)])
    return logits, y


def fitted(kind: str | None, scores, y, weight=None):
    calibrator = CALIBRATORS["classification"][kind](scores.shape[1])
    calibrator.fit(scores, y, np.ones(len(y)) if weight is None else weight)
    return calibrator


def log_proba(calibrator, scores) -> np.ndarray:
    return calibrator(torch.as_tensor(scores)).numpy()


def loss(calibrator, scores, y) -> float:
    return -log_proba(calibrator, scores)[np.arange(len(y)), y].mean()


class Odds(ClassifierMixin, BaseEstimator):
    """A binary classifier whose decision is its only feature."""

    def fit(self, X, y, sample_weight=None):
        self.classes_ = np.array([0, 1])
        return self

    def predict(self, X):
        return (X[:, 0] > 0).astype(int)

    def decision_function(self, X):
        return X[:, 0]


def curve_of_sklearn(method: str, odds, hit, weight, at) -> np.ndarray:
    """Calibrated probability of one class against the rest."""
    reference = CalibratedClassifierCV(Odds(), method=method, ensemble=False)
    reference.fit(odds[:, None], hit.astype(int), sample_weight=weight)
    return reference.predict_proba(at[:, None])[:, 1]


# -- references -----------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
def test_sigmoid_is_platt_scaling_of_each_class(classes: int) -> None:
    scores, y = drawn(400, classes)
    weight = np.random.default_rng(1).uniform(0.5, 2, 400)
    odds = log_odds(torch.as_tensor(scores)).numpy()
    parts = [curve_of_sklearn("sigmoid", o, y == k, weight, o) for k, o in enumerate(odds.T)]
    expected = np.stack(parts, axis=1)
    expected /= expected.sum(axis=1, keepdims=True)
    found = np.exp(log_proba(fitted("sigmoid", 1.0 * scores, y, weight), scores))
    np.testing.assert_allclose(found, expected, atol=2e-4)  # what scikit-learn's tolerance leaves


@pytest.mark.parametrize("classes", [2, 3])
def test_isotonic_is_scikit_learns_with_two_more_rows(classes: int) -> None:
    scores, y = drawn(300, classes)
    at, _ = drawn(200, classes, seed=5)
    weight = np.random.default_rng(1).uniform(0.5, 2, 300)
    odds, odds_at = (log_odds(torch.as_tensor(s)).numpy() for s in (scores, at))
    expected = []
    for k in range(classes):
        x = [*odds[:, k], odds[:, k].min(), odds[:, k].max()]
        model = IsotonicRegression(out_of_bounds="clip")
        model.fit(x, [*(y == k), 1, 0], sample_weight=[*weight, 1, 1])
        expected.append(model.predict(odds_at[:, k]))
    expected = np.stack(expected, axis=1)
    expected /= expected.sum(axis=1, keepdims=True)
    found = np.exp(log_proba(fitted("isotonic", scores, y, weight), at))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_two_classes_mirror_each_other() -> None:
    """One against the rest needs no normalising there: both curves are the same curve."""
    scores, y = drawn(200, 2)
    for kind in ("sigmoid", "isotonic"):
        ours = fitted(kind, scores, y)
        swapped = fitted(kind, scores[:, ::-1].copy(), 1 - y)
        found = log_proba(swapped, scores[:, ::-1].copy())[:, ::-1]
        np.testing.assert_allclose(found, log_proba(ours, scores), atol=1e-6)


def test_temperature_is_the_estimators() -> None:
    scores, y = drawn(200)
    expected = log_softmax(TemperatureScaling().fit(scores, y).transform(scores), axis=1)
    np.testing.assert_allclose(log_proba(fitted("temperature", scores, y), scores), expected)
    plain = log_proba(fitted(None, scores, y), scores)
    np.testing.assert_allclose(plain, log_softmax(scores, axis=1))


# -- known truth ----------------------------------------------------------------------------------


def test_vector_scaling_recovers_scales_and_biases() -> None:
    logits, y = drawn(20_000)
    logits -= logits.mean(axis=1, keepdims=True)
    scale, bias = np.array([0.5, 1.0, 2.0]), np.array([0.6, -0.6, 0.0])
    # what was said is so that scale * said + bias is the truth, up to a constant in each row
    said = (logits - bias) / scale
    said -= (said.sum(axis=1) / (1 / scale).sum())[:, None] / scale  # centred, the truth unmoved
    found = VectorScaling(3)
    found.fit(said, y, np.ones(len(y)))
    np.testing.assert_allclose(found.scale.numpy(), scale, rtol=0.1)
    np.testing.assert_allclose(found.bias.numpy() - found.bias.mean().numpy(), bias, atol=0.06)


@every_kind
def test_calibrated_scores_stay_calibrated(kind: str) -> None:
    scores, y = drawn(3000)
    test_scores, test_y = drawn(3000, seed=1)
    plain = -log_softmax(test_scores, axis=1)[np.arange(3000), test_y].mean()
    assert loss(fitted(kind, scores, y), test_scores, test_y) < plain + 0.02


@every_kind
@pytest.mark.parametrize("factor", [0.3, 4.0])
def test_wrong_confidence_is_mended(kind: str, factor: float) -> None:
    scores, y = drawn(2000)
    test_scores, test_y = drawn(2000, seed=1)
    best = -log_softmax(test_scores, axis=1)[np.arange(2000), test_y].mean()
    assert loss(fitted(kind, factor * scores, y), factor * test_scores, test_y) < best + 0.03


def test_few_rows_do_vector_scaling_no_harm() -> None:
    test_scores, test_y = drawn(4000, 5, seed=99)
    losses = {"temperature": [], "vector": []}
    for seed in range(20):
        scores, y = drawn(30, 5, seed=seed)
        for kind, found in losses.items():
            found.append(loss(fitted(kind, 2 * scores, y), 2 * test_scores, test_y))
    assert np.mean(losses["vector"]) < np.mean(losses["temperature"]) + 0.015


# -- properties -----------------------------------------------------------------------------------


@every_kind
def test_a_constant_in_a_row_says_nothing(kind: str) -> None:
    scores, y = drawn(100)
    shift = np.random.default_rng(0).normal(size=(100, 1))
    found = fitted(kind, scores + shift, y)
    np.testing.assert_allclose(
        log_proba(found, scores), log_proba(fitted(kind, scores, y), scores), atol=1e-5
    )


@every_kind
def test_probabilities_sum_to_one_and_are_never_zero(kind: str) -> None:
    scores, y = drawn(60)
    extreme = np.concatenate([scores, 1000 * np.eye(3), -1000 * np.eye(3)])
    found = log_proba(fitted(kind, scores, y), extreme)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)


def test_floor_of_isotonic() -> None:
    """Separable scores: every curve goes from one pseudo-row's share to one minus it."""
    y = np.arange(90) % 3
    found = fitted("isotonic", 5.0 * np.eye(3)[y], y)
    lowest = 1 / 61  # of 60 rows of the other classes and the one that was added
    np.testing.assert_allclose(found.knot_value.min(dim=1).values, lowest)
    assert lowest > 1 / (90 + 2)
    p = np.exp(log_proba(found, 9.0 * np.eye(3)))
    high = 30 / 31
    np.testing.assert_allclose(np.diag(p), high / (high + 2 * lowest))


@every_kind
def test_order_within_a_class_is_kept(kind: str) -> None:
    scores, y = drawn(80, 2)
    p = log_proba(fitted(kind, scores, y), scores)[:, 1]
    order = np.argsort(scores[:, 1] - scores[:, 0])
    assert (np.diff(p[order]) >= -1e-12).all()


@every_kind
def test_weights_are_repetitions(kind: str) -> None:
    scores, y = drawn(90)
    weight = np.arange(90) % 3
    rows = np.repeat(np.arange(90), weight)
    kept = weight > 0
    a = fitted(kind, scores[kept], y[kept], weight[kept].astype(float))
    b = fitted(kind, scores[rows], y[rows])
    np.testing.assert_allclose(log_proba(a, scores), log_proba(b, scores), atol=1e-6)


@every_kind
def test_worse_than_chance_says_nothing_rather_than_the_opposite(kind: str) -> None:
    scores, y = drawn(300, 2)
    found = np.exp(log_proba(fitted(kind, -scores, y), -scores))
    assert np.ptp(found[:, 1]) < 0.3  # the scores reach from 0.01 to 0.99


@every_kind
def test_a_class_without_rows_and_a_single_row(kind: str) -> None:
    scores, _ = drawn(20)
    y = np.arange(20) % 2  # never class 2
    assert np.isfinite(log_proba(fitted(kind, scores, y), scores)).all()
    one = log_proba(fitted(kind, scores[:1], y[:1]), scores)
    assert np.isfinite(one).all() and np.exp(one).max() < 0.999


@every_kind
def test_state_comes_back(kind: str) -> None:
    """The number of knots depends on the data, and is restored from what was saved."""
    scores, y = drawn(120)
    calibrator = fitted(kind, scores, y)
    again = CALIBRATORS["classification"][kind](3)
    again.load_state_dict(calibrator.state_dict())
    np.testing.assert_array_equal(log_proba(again, scores), log_proba(calibrator, scores))
    once_more = fitted(kind, *drawn(40, seed=7))
    once_more.load_state_dict(calibrator.state_dict())
    np.testing.assert_array_equal(log_proba(once_more, scores), log_proba(calibrator, scores))


def test_unfitted_is_the_softmax() -> None:
    scores, _ = drawn(10)
    for kind in (Isotonic, VectorScaling):
        np.testing.assert_allclose(log_proba(kind(3), scores), log_softmax(scores, axis=1))
    p = log_proba(Sigmoid(2), scores[:, :2])
    np.testing.assert_allclose(p, log_softmax(scores[:, :2], axis=1))
