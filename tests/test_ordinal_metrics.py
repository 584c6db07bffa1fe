"""Scores of ordered classes, against scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from mmfuse.metrics import brier_score, quadratic_kappa, ranked_probability_score

CLASSES = ["none", "mild", "severe"]


def drawn(n: int = 40, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = np.array(CLASSES)[rng.integers(0, 3, n)]
    return y, rng.dirichlet([1, 1, 1], n), rng.random(n)


def test_ranked_probability_score_by_hand() -> None:
    proba = [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]
    first = 0.2**2 + (0.5 - 1) ** 2  # true class "mild": cumulative truth 0, 1
    second = 1.0 + 1.0  # true class "severe", all on "none"
    found = ranked_probability_score(["mild", "severe"], proba, classes=CLASSES)
    assert found == pytest.approx((first + second) / 2)
    weighted = ranked_probability_score(
        ["mild", "severe"], proba, classes=CLASSES, sample_weight=[3, 1]
    )
    assert weighted == pytest.approx((3 * first + second) / 4)


def test_two_classes_are_half_of_brier() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(50)
    y, proba = rng.integers(0, 2, 50), np.stack([1 - p, p], axis=1)
    options = {"classes": [0, 1], "sample_weight": rng.random(50)}
    expected = brier_score(y, proba, **options) / 2
    assert ranked_probability_score(y, proba, **options) == pytest.approx(expected)


def test_a_neighbour_costs_less_than_the_far_end() -> None:
    near, far = [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]
    costs = [ranked_probability_score(["none"], p, classes=CLASSES) for p in (near, far)]
    assert costs == [1.0, 2.0]


def test_ranked_probability_score_is_proper() -> None:
    """The truth of a grid of distributions is its own best answer."""
    grid = np.random.default_rng(0).dirichlet([1, 1, 1], 60)
    outcome = np.eye(3).cumsum(axis=1)[:, :2]  # cumulative truth of every class
    cost = np.array(
        [[p @ np.square(np.cumsum(q)[:2] - outcome).sum(axis=1) for q in grid] for p in grid]
    )
    assert (np.argmin(cost, axis=1) == np.arange(60)).all()
    scored = [
        ranked_probability_score(
            CLASSES, np.tile(grid[5], (3, 1)), classes=CLASSES, sample_weight=p
        )
        for p in grid
    ]
    np.testing.assert_allclose(scored, cost[:, 5])


@pytest.mark.parametrize("seed", range(3))
def test_kappa_is_that_of_scikit_learn(seed: int) -> None:
    y, proba, weight = drawn(seed=seed)
    found = np.array(CLASSES)[proba.argmax(axis=1)]
    for w in (None, weight):
        expected = cohen_kappa_score(y, found, labels=CLASSES, weights="quadratic", sample_weight=w)
        assert quadratic_kappa(y, found, classes=CLASSES, sample_weight=w) == pytest.approx(
            expected
        )
    assert quadratic_kappa(y, y, classes=CLASSES) == 1.0
    assert np.isnan(quadratic_kappa(y[:1], y[:1], classes=CLASSES))


@pytest.mark.parametrize(
    ("score", "arguments", "message"),
    [
        (
            quadratic_kappa,
            (["none"], ["none", "mild"]),
            r"must have one shape .* \(1,\) and \(2,\)",
        ),
        (quadratic_kappa, ([], []), "at least one row"),
        (quadratic_kappa, (["none"], ["worst"]), "y_pred has 'worst' in row 0, which is not among"),
        (ranked_probability_score, (["none"], [[0.5, 0.1, 0.1]]), "non-negative and sum to 1"),
        (ranked_probability_score, (["worst"], [[0.5, 0.5, 0.0]]), "y_true has 'worst' in row 0"),
        (ranked_probability_score, (["none"], [[0.5, 0.5]]), "classes must name the 2 columns"),
    ],
)
def test_errors_say_what_came(score, arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(*arguments, classes=CLASSES)
