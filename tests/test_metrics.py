"""Metrics against loops, scikit-learn and known answers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from mmfuse.metrics import (
    brier_score,
    brier_score_per_row,
    expected_calibration_error,
    log_loss,
    log_loss_per_row,
    reliability_curve,
)


def _random(n_rows=300, n_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.ones(n_classes), size=n_rows)
    y = np.array([rng.choice(n_classes, p=row) for row in proba])
    return y, proba, rng.random(n_rows)


def _slow_ece(y, proba, weight, n_bins):
    total = 0.0
    for b in range(n_bins):
        low, high = b / n_bins, (b + 1) / n_bins
        rows = [i for i, p in enumerate(proba) if low < max(p) <= high]
        mass = sum(weight[i] for i in rows)
        if mass:
            confidence = sum(weight[i] * max(proba[i]) for i in rows) / mass
            accuracy = sum(weight[i] * (np.argmax(proba[i]) == y[i]) for i in rows) / mass
            total += mass * abs(confidence - accuracy)
    return total / sum(weight)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_bins", [1, 7, 15])
def test_ece_is_that_of_a_loop(n_bins, weighted):
    y, proba, weight = _random()
    given_weight = weight if weighted else None
    expected = _slow_ece(y, proba, weight if weighted else np.ones(len(y)), n_bins)
    found = expected_calibration_error(y, proba, n_bins=n_bins, sample_weight=given_weight)
    assert found == pytest.approx(expected, abs=1e-12)


def test_ece_by_hand():
    proba = [[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]]
    # bins (0.8, 1]: 0.9 against 1/2; (0.6, 0.8]: 0.7 against 1; (0.4, 0.6]: 0.6 against 0
    expected = (2 * 0.4 + 0.3 + 0.6) / 4
    assert expected_calibration_error([0, 1, 1, 1], proba, n_bins=5) == pytest.approx(expected)


def test_ece_of_a_sure_and_right_model_is_zero_and_of_a_wrong_one_is_one():
    proba = np.eye(3)[[0, 1, 2, 1]]
    assert expected_calibration_error([0, 1, 2, 1], proba) == 0.0
    assert expected_calibration_error([1, 2, 0, 0], proba) == 1.0


def test_a_calibrated_model_has_a_small_ece_and_a_sharpened_one_does_not():
    y, proba, _ = _random(n_rows=20_000)
    sharp = proba**4 / (proba**4).sum(axis=1, keepdims=True)
    assert expected_calibration_error(y, proba) < 0.015
    assert expected_calibration_error(y, sharp) > 0.15


@pytest.mark.parametrize("strategy, theirs", [("width", "uniform"), ("mass", "quantile")])
def test_reliability_curve_is_scikit_learns(strategy, theirs):
    y, proba, _ = _random(n_rows=400)
    curve = reliability_curve(y, proba, n_bins=10, strategy=strategy)
    right, confidence = calibration_curve(
        proba.argmax(axis=1) == y, proba.max(axis=1), n_bins=10, strategy=theirs
    )
    filled = curve.count > 0
    np.testing.assert_allclose(curve.accuracy[filled], right)
    np.testing.assert_allclose(curve.confidence[filled], confidence)
    assert curve.count.sum() == 400
    assert np.isnan(curve.accuracy[~filled]).all()
    np.testing.assert_array_equal(curve.weight, curve.count)


def test_mass_bins_hold_equal_weight_and_keep_ties_together():
    y, proba, _ = _random(n_rows=200)
    assert reliability_curve(y, proba, n_bins=8, strategy="mass").count.tolist() == [25] * 8
    tied = np.repeat([[0.7, 0.3], [0.8, 0.2]], [10, 2], axis=0)
    curve = reliability_curve([0] * 6 + [1] * 6, tied, n_bins=4, strategy="mass")
    assert sorted(curve.count.tolist()) == [0, 0, 2, 10]


@pytest.mark.parametrize("strategy", ["width", "mass"])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_order_of_rows_does_not_matter_and_an_integer_weight_is_a_repeated_row(strategy, seed):
    rng = np.random.default_rng(seed)
    y, proba, _ = _random(n_rows=40, n_classes=2, seed=seed)
    proba = np.round(proba, 1)  # many ties
    counts = rng.integers(1, 4, size=40)
    options = {"n_bins": 6, "strategy": strategy, "classes": [0, 1]}
    once = expected_calibration_error(y, proba, sample_weight=counts, **options)
    rows = rng.permutation(np.repeat(np.arange(40), counts))
    again = expected_calibration_error(y[rows], proba[rows], **options)
    assert once == pytest.approx(again, abs=1e-12)
    assert 0.0 <= once <= 1.0


@pytest.mark.parametrize("weighted", [False, True])
def test_log_loss_is_scikit_learns(weighted):
    y, proba, weight = _random()
    weight = weight if weighted else None
    found = log_loss(y, proba, classes=range(4), sample_weight=weight)
    assert found == pytest.approx(reference.log_loss(y, proba, sample_weight=weight))
    rows = log_loss_per_row(y, proba, classes=range(4))
    slow = [-np.log(proba[i, y[i]]) for i in range(len(y))]
    np.testing.assert_allclose(rows, slow)
    assert np.average(rows, weights=weight) == pytest.approx(found)


def test_log_loss_follows_the_order_of_classes():
    proba = np.array([[0.9, 0.1], [0.2, 0.8]])
    expected = -(np.log(0.9) + np.log(0.8)) / 2
    assert log_loss(["b", "a"], proba, classes=["b", "a"]) == pytest.approx(expected)
    assert log_loss(["b", "a"], proba[:, ::-1], classes=["a", "b"]) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_probability_of_zero_costs_what_its_type_resolves(dtype):
    found = log_loss([1], np.array([[1, 0]], dtype=dtype), classes=[0, 1])
    assert found == pytest.approx(-np.log(np.finfo(dtype).eps))
    assert log_loss([1], [[0, 1]], classes=[0, 1]) == 0.0


@pytest.mark.parametrize("weighted", [False, True])
def test_brier_score_sums_over_classes(weighted):
    y, proba, weight = _random()
    weight = weight if weighted else None
    slow = [sum((p - (k == y[i])) ** 2 for k, p in enumerate(proba[i])) for i in range(len(y))]
    np.testing.assert_allclose(brier_score_per_row(y, proba, classes=range(4)), slow)
    found = brier_score(y, proba, classes=range(4), sample_weight=weight)
    assert found == pytest.approx(np.average(slow, weights=weight))


def test_brier_score_of_two_classes_is_twice_the_one_column_form():
    y, proba, _ = _random(n_classes=2)
    expected = 2 * reference.brier_score_loss(y, proba[:, 1])
    assert brier_score(y, proba, classes=[0, 1]) == pytest.approx(expected)
    assert brier_score([1], [[1, 0]], classes=[0, 1]) == 2.0


@pytest.mark.parametrize(
    "y, classes",
    [
        (np.array([True, False]), [0, 1]),
        (np.array([1.0, 0.0]), [0, 1]),
        (np.array(["y", "x"], dtype=object), np.array(["x", "y"])),
    ],
)
def test_labels_of_equal_value_and_other_type_are_the_same(y, classes):
    proba = [[0.25, 0.75], [0.75, 0.25]]
    assert log_loss(y, proba, classes=classes) == pytest.approx(-np.log(0.75))


GOOD = [[0.5, 0.5], [0.2, 0.8]]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"proba": [0.5, 0.5]}, "log_loss: proba must have the shape (n_samples, n_classes)"),
        ({"proba": np.empty((0, 2)), "y_true": []}, "with at least one row; got (0, 2)"),
        ({"proba": [[0.5, 0.5], [1.0, 2.0]]}, "row 1 is [1.0, 2.0]. Pass probabilities, not"),
        ({"proba": [[-0.5, 1.5], [1.0, 0.0]]}, "must be non-negative and sum to 1; row 0 is"),
        ({"proba": [[0.5, 0.5], [np.nan, 1.0]]}, "row 1 is [nan, 1.0]"),
        ({"classes": [0, 1, 2]}, "classes must name the 2 columns of proba; got 3 of them"),
        ({"y_true": [0, 1, 1]}, "y_true must have the shape (2,), one class per row of proba"),
        ({"y_true": [0, 7]}, "y_true has 7 in row 1, which is not among classes=[0, 1]"),
        ({"y_true": ["a", "b"]}, "y_true has 'a' in row 0, which is not among"),
        ({"y_true": [0, np.nan]}, "y_true has nan in row 1"),
        ({"sample_weight": [1]}, "sample_weight must have the shape (2,)"),
        ({"sample_weight": [1, -1]}, "got values between -1.0 and 1.0"),
        ({"sample_weight": [0, 0]}, "sample_weight must be finite, not negative, and not zero"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    call = {"y_true": [0, 1], "proba": GOOD, "classes": [0, 1]} | arguments
    with pytest.raises(ValueError, match=re.escape(message)):
        log_loss(call.pop("y_true"), call.pop("proba"), **call)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n_bins": 0}, "n_bins must be an integer of at least 1; got 0"),
        ({"n_bins": 2.5}, "n_bins must be an integer of at least 1; got 2.5"),
        ({"strategy": "uniform"}, "strategy must be 'width' or 'mass'; got 'uniform'"),
    ],
)
def test_bad_bins_are_named(options, message):
    for function in (expected_calibration_error, reliability_curve):
        with pytest.raises(ValueError, match=f"{function.__name__}: {re.escape(message)}"):
            function([0, 1], GOOD, **options)


def test_a_class_that_is_missing_from_y_must_be_named():
    with pytest.raises(ValueError, match="proba has 2 columns but y_true has 1 classes; pass"):
        expected_calibration_error([0, 0], GOOD)
    assert expected_calibration_error([0, 0], GOOD, classes=[0, 1]) > 0
