"""The bootstrap against the normal interval and loops."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from mmfuse import Density
from mmfuse.metrics import (
    brier_decomposition,
    brier_score,
    classwise_calibration_error,
    crps,
    expected_calibration_error,
    log_loss,
    log_loss_per_row,
    quadratic_kappa,
    ranked_probability_score,
)
from mmfuse.metrics.resampling import bootstrap, bootstrap_means, percentile_interval


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
    monkeypatch.setattr("mmfuse.metrics.resampling._CHUNK", 65)
    parts = bootstrap_means(values, n_bootstrap=20, rng=np.random.default_rng(0))
    np.testing.assert_allclose(whole, parts)


def test_interval_of_replicates_that_do_not_exist_is_nan():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = percentile_interval(np.full((5, 2), np.nan), 0.9)
    assert np.isnan(low).all() and np.isnan(high).all()


# -- of any score ------------------------------------------------------------------------------


def graded(n: int = 60, seed: int = 0):
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet([2, 1, 1], size=n)
    y = np.array([rng.choice(3, p=row) for row in proba])
    return y, proba, rng.random(n)


@pytest.mark.parametrize("weighted", [False, True])
def test_any_score_is_resampled_as_its_mean_is(weighted: bool) -> None:
    y, proba, weight = graded(400)
    given = weight if weighted else None
    options = {"classes": [0, 1, 2], "sample_weight": given}
    found = bootstrap(log_loss, y, proba, n_bootstrap=400, random_state=0, **options)
    assert found.value == pytest.approx(log_loss(y, proba, **options))
    rows = log_loss_per_row(y, proba, classes=[0, 1, 2])[:, None]
    rng = np.random.default_rng(1)
    means = bootstrap_means(rows, n_bootstrap=4000, rng=rng, weight=given)
    low, high = percentile_interval(means[:, 0], 0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)
    assert found.samples.shape == (400,) and found.n_units == 400


def test_groups_are_drawn_whole_and_make_the_interval_wider() -> None:
    y, proba, _ = graded(40)
    rows = np.repeat(np.arange(40), 10)  # ten copies of every row tell no more than one
    options = {"classes": [0, 1, 2], "n_bootstrap": 300, "random_state": 0}
    once = bootstrap(brier_score, y, proba, **options)
    copied = bootstrap(brier_score, y[rows], proba[rows], groups=rows.astype(str), **options)
    naive = bootstrap(brier_score, y[rows], proba[rows], **options)
    np.testing.assert_allclose(copied.samples, once.samples)
    assert copied.n_units == 40 and naive.n_units == 400
    assert naive.high - naive.low < 0.5 * (copied.high - copied.low)


def test_every_metric_takes_it() -> None:
    y, proba, weight = graded()
    options = {"n_bootstrap": 5, "random_state": 0, "sample_weight": weight}
    options["groups"] = np.arange(60) // 3
    for metric in (log_loss, brier_score, ranked_probability_score, expected_calibration_error):
        found = bootstrap(metric, y.tolist(), proba, classes=[0, 1, 2], **options)
        assert found.low <= found.high and len(np.unique(found.samples)) > 1
        again = bootstrap(metric, y.tolist(), proba, classes=[0, 1, 2], **options)
        np.testing.assert_array_equal(found.samples, again.samples)
    kappa = bootstrap(quadratic_kappa, y, proba.argmax(axis=1), classes=[0, 1, 2], **options)
    assert kappa.low < kappa.high
    parts = bootstrap(brier_decomposition, y, proba, classes=[0, 1, 2], **options)
    assert parts.value.shape == parts.low.shape == (4,) and parts.samples.shape == (5, 4)
    by_class = {"classes": [0, 1, 2], "average": False}
    assert bootstrap(classwise_calibration_error, y, proba, **by_class, **options).high.shape == (
        3,
    )


def test_frames_and_densities_are_resampled_by_row() -> None:
    values = pd.Series(np.arange(20.0), index=list("abcdefghijklmnopqrst"))
    found = bootstrap(lambda s: s.to_numpy().mean(), values, n_bootstrap=20, random_state=0)
    assert found.value == 9.5 and found.low < 9.5 < found.high
    density = Density(np.linspace(0, 1, 5), np.full((20, 4), 0.25))
    found = bootstrap(crps, density, np.linspace(0, 1, 20), n_bootstrap=20, random_state=0)
    assert found.low < found.value < found.high


def test_the_basic_interval_mirrors_the_percentiles() -> None:
    y, proba, _ = graded()
    options = {"classes": [0, 1, 2], "n_bootstrap": 50, "random_state": 0}
    plain = bootstrap(expected_calibration_error, y, proba, **options)
    basic = bootstrap(expected_calibration_error, y, proba, method="basic", **options)
    assert basic.low == pytest.approx(2 * plain.value - plain.high)
    assert basic.high == pytest.approx(2 * plain.value - plain.low)


def test_scores_that_do_not_exist_are_counted_aloud() -> None:
    def ratio(y):
        return 1.0 if 1 in y else np.nan

    y = np.array([1] + [0] * 9)
    with pytest.warns(UserWarning, match=r"does not exist in \d+ of 50 resamples"):
        found = bootstrap(ratio, y, n_bootstrap=50, random_state=0)
    assert found.low == found.high == 1.0
    assert 0 < np.isnan(found.samples).sum() < 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": [0] * 60}, "groups must hold at least two groups.* all 60 rows are in 0"),
        ({"groups": [0]}, r"groups must have the shape \(60,\), one label per row; got \(1,\)"),
        ({"groups": [None] + [1] * 59}, "groups is missing in row 0; give every row a group"),
        ({"n_bootstrap": 0}, "n_bootstrap must be an integer of at least 1; got 0"),
        ({"confidence": 95}, "confidence must lie between 0 and 1; got 95"),
        ({"method": "bca"}, "method must be 'percentile' or 'basic'; got 'bca'"),
        ({"sample_weight": [1]}, r"bootstrap: sample_weight must have the shape \(60,\)"),
        ({"metric": 3}, "metric must be a function of the arrays that follow it"),
        ({"classes": None}, "expected_calibration_error refuses resample 1: .*pass classes"),
    ],
)
def test_bad_arguments_are_named(change, message: str) -> None:
    y = np.array([0, 1] + [2] * 58)  # a resample soon lacks a class
    options = {"metric": expected_calibration_error, "random_state": 3, "n_bootstrap": 5, **change}
    with pytest.raises(ValueError, match=message):
        bootstrap(options.pop("metric"), y, graded()[1], **{"classes": [0, 1, 2], **options})


def test_arrays_of_two_lengths_are_named() -> None:
    for arrays, shown in ([([1, 2], [1]), "2, 1"], [(), "none"], [([],), "no rows|0"]):
        with pytest.raises(ValueError, match=f"must have one length.* got ({shown})"):
            bootstrap(log_loss, *arrays)
