"""Calibration errors and the parts of the Brier score, against other packages and loops."""

from __future__ import annotations

import numpy as np
import pytest
from graded_sample import PROBA, SHARP, Y
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import foldnorm
from sklearn.metrics import brier_score_loss

from mmfuse.metrics import (
    brier_decomposition,
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
)
from mmfuse.metrics.calibration import _folded_mean

CLASSES = [0, 1, 2]


def calibrated(n: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.ones(3), size=n)
    return (rng.random((n, 1)) > proba.cumsum(axis=1)).sum(axis=1).clip(max=2), proba


@pytest.mark.parametrize(
    ("proba", "options", "expected"),
    [
        (PROBA, {"n_bins": 7}, 0.10333333333333329),  # netcal 1.4.0, ECE(7)
        (PROBA, {"n_bins": 11}, 0.12933333333333333),
        # uncertainty-calibration 0.1.4: plugin_ce and unbiased_l2_ce of the same bins
        (PROBA, {"n_bins": 7, "norm": "l2"}, 0.11281487116818929),
        (SHARP, {"n_bins": 4, "norm": "l2", "debias": True}, 0.19861524484990975),
        (PROBA, {"n_bins": 7, "norm": "l2", "debias": True}, 0.0),
    ],
)
def test_error_is_that_of_other_packages(proba, options, expected: float) -> None:
    assert expected_calibration_error(Y, proba, **options) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("proba", "bins", "drawn"), [(PROBA, 7, 0.077926), (SHARP, 4, 0.205392)])
def test_closed_form_of_the_debiased_error_is_that_of_many_draws(proba, bins, drawn) -> None:
    """normal_debiased_ce of uncertainty-calibration 0.1.4 with 400000 draws."""
    found = expected_calibration_error(Y, proba, n_bins=bins, debias=True)
    assert found == pytest.approx(drawn, abs=2e-4)


def test_other_packages_agree_now() -> None:
    netcal = pytest.importorskip("netcal.metrics")
    for bins in (5, 15):
        assert expected_calibration_error(Y, SHARP, n_bins=bins) == pytest.approx(
            netcal.ECE(bins).measure(SHARP, Y)
        )


def test_mean_of_a_folded_normal_is_scipys() -> None:
    mean, scale = np.array([0.0, 0.1, 0.5, 0.2]), np.array([0.3, 0.3, 0.1, 0.0])
    expected = [foldnorm.mean(m / s, scale=s) for m, s in zip(mean[:3], scale[:3], strict=True)]
    np.testing.assert_allclose(_folded_mean(mean, scale), [*expected, 0.2], rtol=1e-12)


@pytest.mark.parametrize(("norm", "left"), [("l1", 0.7), ("l2", 0.55)])
def test_debiasing_takes_off_what_chance_adds(norm: str, left: float) -> None:
    """A calibrated model has no error; the plain estimate of few rows says otherwise."""
    options = {"n_bins": 10, "norm": norm, "strategy": "mass", "classes": CLASSES}
    sets = [calibrated(100, seed) for seed in range(40)]
    plain = np.mean([expected_calibration_error(*one, **options) for one in sets])
    mended = np.mean([expected_calibration_error(*one, debias=True, **options) for one in sets])
    assert plain > 0.08 and mended < left * plain
    y, proba = calibrated(20_000)
    sharp = proba**3 / (proba**3).sum(axis=1, keepdims=True)
    true = expected_calibration_error(y, sharp, **options)  # many rows: both are right
    assert expected_calibration_error(y, sharp, debias=True, **options) == pytest.approx(
        true, abs=3e-3
    )


def test_a_single_row_in_a_bin_is_taken_as_it_is() -> None:
    for norm in ("l1", "l2"):
        found = [
            expected_calibration_error([1], [[0.7, 0.3]], classes=[0, 1], norm=norm, debias=debias)
            for debias in (False, True)
        ]
        assert found == pytest.approx([0.7, 0.7])


@pytest.mark.parametrize("strategy", ["width", "mass"])
def test_classwise_error_is_that_of_a_loop(strategy: str) -> None:
    weight = np.random.default_rng(0).random(60)
    options = {"classes": CLASSES, "n_bins": 5, "strategy": strategy, "sample_weight": weight}
    found = classwise_calibration_error(Y, PROBA, average=False, **options)
    for k in CLASSES:
        column = PROBA[:, k]
        if strategy == "width":
            bins = [np.flatnonzero((column > b / 5) & (column <= (b + 1) / 5)) for b in range(5)]
            bins[0] = np.flatnonzero(column <= 0.2)
            rows = [b for b in bins if len(b)]
            slow = sum(abs(weight[b] @ (column[b] - (Y[b] == k))) for b in rows) / weight.sum()
            assert found[k] == pytest.approx(slow)
    assert classwise_calibration_error(Y, PROBA, **options) == pytest.approx(found.mean())
    assert (found > 0).all()


def test_two_classes_err_alike_and_a_perfect_model_does_not() -> None:
    two = np.stack([1 - PROBA[:, 1], PROBA[:, 1]], axis=1)
    options = {"classes": [0, 1], "strategy": "mass"}
    first, second = classwise_calibration_error(
        (Y == 1).astype(int), two, average=False, n_bins=6, **options
    )
    assert first == pytest.approx(second, abs=0.02)  # bins are closed on one side
    assert classwise_calibration_error(Y, np.eye(3)[Y], classes=CLASSES) == 0.0


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    strategy=st.sampled_from(["isotonic", "width", "mass"]),
    n_bins=st.integers(1, 20),
    digits=st.integers(1, 6),
)
def test_parts_add_up_to_the_brier_score(seed, strategy, n_bins, digits) -> None:
    rng = np.random.default_rng(seed)
    proba = np.round(rng.dirichlet(np.ones(3), size=30), digits)
    proba[:, 0] = 1 - proba[:, 1:].sum(axis=1)
    proba = np.clip(proba, 0, 1)
    y, weight = rng.integers(0, 3, 30), rng.random(30)
    options = {"classes": CLASSES, "sample_weight": weight}
    parts = brier_decomposition(y, proba, strategy=strategy, n_bins=n_bins, **options)
    assert parts.brier == pytest.approx(brier_score(y, proba, **options), abs=1e-12)
    assert parts.reliability >= 0 and parts.resolution >= -1e-12
    share = np.bincount(y, weights=weight, minlength=3) / weight.sum()
    assert parts.uncertainty == pytest.approx(share @ (1 - share))


def test_known_parts() -> None:
    assert brier_score(Y, PROBA, classes=CLASSES) == pytest.approx(0.471416666)  # probmetrics 1.3.0
    flat = np.tile(np.bincount(Y) / 60, (60, 1))
    for strategy in ("isotonic", "width", "mass"):
        parts = brier_decomposition(Y, flat, classes=CLASSES, strategy=strategy)
        np.testing.assert_allclose(parts[:2], 0, atol=1e-12)
        perfect = brier_decomposition(Y, np.eye(3)[Y], classes=CLASSES, strategy=strategy)
        assert perfect.brier == pytest.approx(0)
        assert perfect.resolution == pytest.approx(perfect.uncertainty)


def test_isotonic_reliability_is_what_the_best_monotone_map_gains() -> None:
    from sklearn.isotonic import isotonic_regression

    p, y = PROBA[:, 2], (Y == 2).astype(float)
    two = np.stack([1 - p, p], axis=1)
    parts = brier_decomposition(y.astype(int), two, classes=[0, 1])
    values, place = np.unique(p, return_inverse=True)
    size = np.bincount(place)
    best = isotonic_regression(np.bincount(place, weights=y) / size, sample_weight=size)[place]
    gain = brier_score_loss(y, p) - np.mean((best - y) ** 2)
    assert parts.reliability == pytest.approx(2 * gain)
    assert parts.within_bin == 0.0


@pytest.mark.parametrize(
    ("score", "options", "message"),
    [
        (expected_calibration_error, {"norm": "max"}, "norm must be 'l1' or 'l2'; got 'max'"),
        (classwise_calibration_error, {"n_bins": 0}, "n_bins must be an integer of at least 1"),
        (classwise_calibration_error, {"strategy": "x"}, "strategy must be 'width' or 'mass'"),
        (brier_decomposition, {"strategy": "x"}, "must be 'isotonic', 'width' or 'mass'; got 'x'"),
        (brier_decomposition, {"strategy": "mass", "n_bins": True}, "n_bins must be an integer"),
        (brier_decomposition, {"classes": [0, 1]}, "classes must name the 3 columns of proba"),
    ],
)
def test_errors_say_what_came(score, options, message: str) -> None:
    with pytest.raises(ValueError, match=f"{score.__name__}: .*{message}"):
        score(Y, PROBA, **{"classes": CLASSES, **options})
