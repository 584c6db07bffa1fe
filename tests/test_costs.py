"""Decisions by cost, against a search over all decisions and closed forms."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from graded_sample import PROBA, Y
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, mean_absolute_error, mean_squared_error

from mmfuse.metrics.costs import decide, decision_costs, expected_cost, linear_cost, quadratic_cost

GRADES = ["mild", "moderate", "severe"]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n_decisions=st.integers(2, 5))
def test_no_decision_costs_less(seed: int, n_decisions: int) -> None:
    rng = np.random.default_rng(seed)
    proba, cost = rng.dirichlet(np.ones(3), 12), rng.normal(size=(3, n_decisions))
    names = [f"d{j}" for j in range(n_decisions)]
    taken = decide(proba, cost, decisions=names)
    costs = decision_costs(proba, cost)
    slow = [[sum(p[k] * cost[k, j] for k in range(3)) for j in range(n_decisions)] for p in proba]
    np.testing.assert_allclose(costs, slow)
    chosen = [costs[i, names.index(name)] for i, name in enumerate(taken)]
    np.testing.assert_allclose(chosen, costs.min(axis=1))


def test_known_rules_are_special_cases() -> None:
    options = {"classes": GRADES}
    likeliest = np.array(GRADES)[PROBA.argmax(axis=1)]
    np.testing.assert_array_equal(decide(PROBA, 1 - np.eye(3), **options), likeliest)
    median = (PROBA.cumsum(axis=1) < 0.5 - 1e-9).sum(axis=1)
    np.testing.assert_array_equal(decide(PROBA, linear_cost(3)), median)
    mean = PROBA @ np.arange(3)
    np.testing.assert_array_equal(decide(PROBA, quadratic_cost(3)), np.round(mean))
    t = 0.2  # acting from t on: a false alarm costs t, a miss 1 - t
    two = np.stack([1 - PROBA[:, 2], PROBA[:, 2]], axis=1)
    acted = decide(two, [[0, t], [1 - t, 0]])
    np.testing.assert_array_equal(acted, PROBA[:, 2] > t)


def test_costs_of_decisions_are_errors_by_name() -> None:
    guess = PROBA.argmax(axis=1)
    weight = np.random.default_rng(0).random(60)
    options = {"classes": [0, 1, 2], "sample_weight": weight}
    score = {"sample_weight": weight}
    assert expected_cost(Y, guess, 1 - np.eye(3), **options) == pytest.approx(
        1 - accuracy_score(Y, guess, **score)
    )
    assert expected_cost(Y, guess, linear_cost(3), **options) == pytest.approx(
        mean_absolute_error(Y, guess, **score)
    )
    assert expected_cost(Y, guess, quadratic_cost(3), **options) == pytest.approx(
        mean_squared_error(Y, guess, **score)
    )


def test_cost_of_the_example_of_the_expected_cost_package() -> None:
    """expected-cost 1.0: targets, decisions and costs of the docstring of average_cost."""
    cost = [[0, 1, 0.5], [1, 0, 0.5]]
    options = {"classes": [0, 1], "decisions": [0, 1, 2]}
    found = expected_cost([0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 2, 2], cost, **options)
    assert found == pytest.approx(0.16666, abs=1e-5)
    half = expected_cost([0, 1, 0, 0, 1, 0], [2] * 6, cost, normalize=True, **options)
    assert half == pytest.approx(0.5 / (1 / 3))  # always 0 costs 2 / 6
    assert np.isnan(expected_cost([0], [0], [[0, 1], [1, 0]], classes=[0, 1], normalize=True))


def test_deciding_by_cost_costs_less_than_taking_the_likeliest() -> None:
    rng = np.random.default_rng(0)
    proba = rng.dirichlet([1, 1, 1], 4000)
    y = (rng.random((4000, 1)) > proba.cumsum(axis=1)).sum(axis=1).clip(max=2)
    for cost in (linear_cost(3, under=4.0), quadratic_cost(3)):
        by_cost = decide(proba, cost)
        paid = expected_cost(y, by_cost, cost, classes=[0, 1, 2])
        assert paid < expected_cost(y, proba.argmax(axis=1), cost, classes=[0, 1, 2]) - 0.02
        assert paid == pytest.approx(decision_costs(proba, cost).min(axis=1).mean(), abs=0.06)
        assert expected_cost(y, by_cost, cost, classes=[0, 1, 2], normalize=True) < 1


def test_ready_made_costs() -> None:
    assert linear_cost(3).tolist() == [[0, 1, 2], [1, 0, 1], [2, 1, 0]]
    assert quadratic_cost(3, under=2, over=0.5).tolist() == [[0, 0.5, 2], [2, 0, 0.5], [8, 2, 0]]


def test_a_frame_brings_its_names_in_any_order() -> None:
    cost = pd.DataFrame([[0, 1], [2, 1], [10, 1]], index=GRADES, columns=["home", "refer"])
    expected = decide(PROBA, cost.to_numpy(), decisions=["home", "refer"])
    for frame in (cost, cost.iloc[::-1]):
        np.testing.assert_array_equal(decide(PROBA, frame, classes=GRADES), expected)
    assert expected_cost(["mild", "severe"], ["refer", "home"], cost, classes=GRADES) == 5.5


def test_ties_go_to_the_first_however_rounding_falls() -> None:
    proba = np.array([[0.1 + 0.2, 0.3, 0.4], [0.3, 0.1 + 0.2, 0.4]])
    assert decide(proba, [[1, 0], [0, 1], [0, 0]], decisions=["a", "b"]).tolist() == [
        "a",
        "a",
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decide([0.5], np.eye(2)), "decide: proba must have the shape"),
        (lambda: decide(PROBA, np.eye(2)), "cost must have a row for each of the 3 classes"),
        (lambda: decide(PROBA, [[0, 1], [1, 0], [2, 2]]), "name its columns in decisions"),
        (
            lambda: decide(PROBA, np.full((3, 3), np.nan)),
            "it is nan in [0, 0]",
        ),
        (
            lambda: decide(PROBA, np.eye(3), decisions=["a"]),
            "decisions must name the 3 columns of cost; got 1",
        ),
        (
            lambda: decide(PROBA, pd.DataFrame(np.eye(3)), classes=GRADES),
            "the index of cost must hold the classes ['mild', 'moderate', 'severe']; it holds [0,",
        ),
        (lambda: decision_costs(PROBA, np.eye(3), classes=[1]), "classes must name the 3 columns"),
        (
            lambda: expected_cost([0], [7], np.eye(3), classes=[0, 1, 2]),
            "decided has 7 in row 0, which is not among the decisions [0, 1, 2]",
        ),
        (
            lambda: expected_cost([9], [0], np.eye(3), classes=[0, 1, 2]),
            "y_true has 9 in row 0, which is not among",
        ),
        (
            lambda: expected_cost([0], [0, 1], np.eye(3), classes=[0, 1, 2]),
            "decided must have the shape (1,), one decision per row; got (2,)",
        ),
        (lambda: expected_cost([], [], np.eye(3), classes=[0, 1, 2]), "with at least one row"),
        (lambda: linear_cost(1), "n_classes must be an integer of at least 2; got 1"),
        (lambda: quadratic_cost(3, under=-1), "under must be finite and not negative; got -1"),
    ],
)
def test_errors_say_what_came(call, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
