"""The bootstrap against the normal interval and loops."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from mmfuse.resampling import bootstrap_means, percentile_interval


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(0).normal(2.0, 3.0, size=(2000, 1))
    samples = bootstrap_means(values, n_bootstrap=4000, rng=np.random.default_rng(1))
    low, high = percentile_interval(samples[:, 0], 0.95)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_bootstrap_draws_the_same_rows_for_all_columns():
    values = np.random.default_rng(0).normal(size=(50, 1))
    both = np.column_stack([values, values + 1.0])
    samples = bootstrap_means(both, n_bootstrap=100, rng=np.random.default_rng(0))
    np.testing.assert_allclose(samples[:, 1] - samples[:, 0], 1.0)
    assert samples[:, 0].std() > 0.05


def test_whole_groups_are_drawn():
    groups = np.repeat([3, 1, 2, 0], [5, 20, 1, 10])
    values = groups[:, None].astype(float)
    weight = np.random.default_rng(0).random(36)
    found = bootstrap_means(
        values, n_bootstrap=200, rng=np.random.default_rng(5), weight=weight, groups=groups
    )
    draws = np.random.default_rng(5).integers(4, size=(200, 4))  # slow: list the drawn rows
    for replicate, drawn in enumerate(draws):
        rows = np.concatenate([np.flatnonzero(groups == group) for group in drawn])
        slow = np.average(values[rows, 0], weights=weight[rows])
        assert found[replicate, 0] == pytest.approx(slow)


def test_groups_of_one_row_are_rows():
    values = np.random.default_rng(0).normal(size=(40, 2))
    rows, groups = (
        bootstrap_means(values, n_bootstrap=9, rng=np.random.default_rng(3), groups=g)
        for g in (None, np.arange(40))
    )
    np.testing.assert_allclose(rows, groups)


def test_chunks_do_not_change_the_draws(monkeypatch):
    values = np.random.default_rng(0).normal(size=(30, 1))
    whole = bootstrap_means(values, n_bootstrap=20, rng=np.random.default_rng(0))
    monkeypatch.setattr("mmfuse.resampling._CHUNK", 65)
    parts = bootstrap_means(values, n_bootstrap=20, rng=np.random.default_rng(0))
    np.testing.assert_allclose(whole, parts)


def test_interval_of_replicates_that_do_not_exist_is_nan():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = percentile_interval(np.full((5, 2), np.nan), 0.9)
    assert np.isnan(low).all() and np.isnan(high).all()
