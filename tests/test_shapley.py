"""Shapley values against all orders and closed forms."""

from __future__ import annotations

import re

import numpy as np
import pytest
from report_models import slow_shapley

from mmfuse.report.shapley import shapley_values


@pytest.mark.parametrize("n_members", [1, 2, 3, 5])
def test_shapley_is_the_mean_over_all_orders_and_sums_to_the_gain(n_members):
    worth = np.random.default_rng(n_members).normal(size=2**n_members)
    shares = shapley_values(worth)
    np.testing.assert_allclose(shares, slow_shapley(worth, n_members), atol=1e-12)
    assert shares.sum() == pytest.approx(worth[-1] - worth[0], abs=1e-12)


def test_shapley_of_an_additive_game_is_each_members_own_worth():
    own = np.array([0.5, -1.0, 2.0, 0.25, 3.0])
    worth = {mask: sum(own[i] for i in range(5) if mask >> i & 1) for mask in range(32)}
    np.testing.assert_allclose(shapley_values(worth), own, atol=1e-12)


def test_shapley_shares_an_interaction_equally_and_gives_a_dummy_nothing():
    worth = [7.0 if mask & 0b011 == 0b011 else 0.0 for mask in range(8)]  # members 0 and 1 only
    np.testing.assert_allclose(shapley_values(worth), [3.5, 3.5, 0.0], atol=1e-12)
    glove = [float(mask in (0b101, 0b110, 0b111)) for mask in range(8)]  # 2 with 0 or with 1
    np.testing.assert_allclose(shapley_values(glove), [1 / 6, 1 / 6, 4 / 6], atol=1e-12)


def test_shapley_takes_many_games_at_once():
    worth = np.random.default_rng(0).normal(size=(16, 3))
    found = shapley_values(worth)
    assert found.shape == (4, 3)
    for game in range(3):
        np.testing.assert_allclose(found[:, game], shapley_values(worth[:, game]), atol=1e-12)


@pytest.mark.parametrize(
    "values, message",
    [
        ([1.0, 2.0, 3.0], "2**n_members of them; got an array of shape (3,)"),
        ([], "got an array of shape (0,)"),
        ({0: 0.0, 1: 1.0, 2: 1.0, 7: 2.0}, "of 4 keys, 3 is not there"),
    ],
)
def test_shapley_refuses_an_incomplete_game(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        shapley_values(values)
