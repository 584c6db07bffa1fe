"""Densities around points that follow the errors of similar rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kstest
from sklearn.ensemble import ExtraTreesRegressor

from mmfuse import FusionRegressor, load
from mmfuse.datasets import load_photoz
from mmfuse.density import Density
from mmfuse.density.forest import DensityForest, forest_or_none
from mmfuse.heads import EarlyFusion, LateFusion
from mmfuse.metrics import cde_loss, crps, pit


def uneven(n: int, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A value seen by ``a``; ``b`` says how loud its noise is: 0.1 or 1.5."""
    rng = np.random.default_rng(seed)
    a, loud = rng.normal(size=(n, 1)), rng.integers(0, 2, n)
    y = a[:, 0] + np.where(loud, 1.5, 0.1) * rng.normal(size=n)
    return {"a": a, "b": np.c_[loud, rng.normal(size=n)].astype(float)}, y


def without_forest(model: FusionRegressor, X: object) -> Density:
    kept, model.density_forest_ = model.density_forest_, None
    found = model.predict_density(X)
    model.density_forest_ = kept
    return found


def test_densities_are_as_wide_as_errors_of_similar_rows() -> None:
    X, y = uneven(800)
    test, truth = uneven(800, seed=1)
    model = FusionRegressor(LateFusion(C=1.0), random_state=0).fit(X, y)
    density, normal = model.predict_density(test), without_forest(model, test)
    loud = test["b"][:, 0] == 1
    assert np.median(density.std()[loud]) == pytest.approx(1.5, rel=0.2)
    assert np.median(np.diff(density[~loud].interval(0.68))) < 0.8
    assert np.median(np.diff(normal[~loud].interval(0.68))) > 1.6
    assert crps(density, truth) < 0.87 * crps(normal, truth)
    assert cde_loss(density, truth) < cde_loss(normal, truth) - 0.15
    for part in (loud, ~loud):
        interval = density[part].interval(0.9)
        inside = (interval[:, 0] <= truth[part]) & (truth[part] <= interval[:, 1])
        assert 0.85 < inside.mean() < 0.99
    part = model.predict_density({k: v[:7] for k, v in test.items()})
    np.testing.assert_allclose(part.probabilities, density.probabilities[:7], atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_even_normal_errors_keep_a_normal_density(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.normal(size=400)
    X = {"a": y[:, None] + rng.normal(size=(400, 1)), "b": rng.normal(size=(400, 2))}
    model = FusionRegressor(LateFusion(C=1.0), random_state=0).fit(X, y)
    assert model.density_forest_ is None
    np.testing.assert_allclose(model.predict_density(X).mean(), model.predict(X), atol=1e-3)


def test_rows_that_do_not_differ_share_the_distribution_of_all() -> None:
    """Without features: half the distribution of the errors, half that of the target."""
    rng = np.random.default_rng(0)
    prediction = rng.normal(size=500)
    target = prediction + rng.exponential(size=500)
    forest = DensityForest().fit(np.zeros((500, 1)), prediction, target, np.ones(500), 0)
    edges = np.linspace(-8, 12, 2001)
    found = forest.density(np.zeros((1, 1)), np.array([1.0]), edges)
    for x in (0.5, 1.2, 2.0, 3.0):
        errors = (target - prediction <= x - 1.0).mean()
        expected = (errors + (target <= x).mean()) / 2
        assert found.cdf(x)[0] == pytest.approx(expected, abs=0.03)
    assert forest_or_none(
        np.zeros((90, 1)), prediction[:90], target[:90], np.ones(90), half=np.arange(90) < 45,
        complete=np.ones(90, bool), edges=edges, seed=0,
    ) is None  # too few rows  # fmt: skip


def test_weight_zero_is_no_row_and_a_constant_error_is_allowed() -> None:
    rng = np.random.default_rng(0)
    features, target = rng.normal(size=(300, 2)), rng.normal(size=300)
    wild = np.where(np.arange(300) < 20, 1e6, target)
    weight = (np.arange(300) >= 20).astype(float)
    forest = DensityForest().fit(features, np.zeros(300), wild, weight, 0)
    assert forest.target_knots_[-1] < 10
    exact = DensityForest().fit(features, target - 0.5, target, np.ones(300), 0)
    edges = np.linspace(-9, 9, 1801)
    density = exact.density(features[:5], target[:5] - 0.5, edges)
    assert np.isfinite(density.probabilities).all()
    assert (density.cdf(target[:5, None] + 0.01) - density.cdf(target[:5, None] - 0.01)).min() > 0.4


def test_photometric_redshifts_and_saving(tmp_path: Path) -> None:
    galaxies = load_photoz(n_rows=1500)
    train, test, truth = galaxies.X[:1000], galaxies.X[1000:], galaxies.y[1000:]
    trees = EarlyFusion(ExtraTreesRegressor(50, min_samples_leaf=2))
    model = FusionRegressor(trees, random_state=0).fit(train, galaxies.y[:1000])
    for rows, share, gain in (
        (test, 0.9, 0.5),
        (test.hide("red"), 1.0, -0.1),
        (test.hide("blue"), 1.0, -0.1),
    ):
        density, normal = model.predict_density(rows), without_forest(model, rows)
        assert crps(density, truth) < share * crps(normal, truth)
        assert cde_loss(density, truth) < cde_loss(normal, truth) - gain
        assert kstest(pit(density, truth), "uniform").statistic < 0.12
    wide = np.diff(model.predict_density(test.hide("blue")).interval(0.9))
    assert wide.mean() > 1.5 * np.diff(model.predict_density(test).interval(0.9)).mean()
    again = load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(
        again.predict_density(test).probabilities, model.predict_density(test).probabilities
    )
    nothing = model.predict_density(test[:2].hide(["red", "blue"]))
    middle = np.median(galaxies.y[:1000])
    assert nothing.cdf(middle)[0] == pytest.approx(0.5, abs=0.02)


def test_no_forest_for_robust_losses_without_calibration_or_for_several_targets() -> None:
    X, y = uneven(300)
    bare = FusionRegressor(LateFusion(C=1.0), calibration=None, random_state=0).fit(X, y)
    assert bare.density_forest_ is None
    robust = FusionRegressor(LateFusion(C=1.0), loss="absolute", random_state=0).fit(X, y)
    assert robust.density_forest_ is None  # wild targets are not to widen its densities
    both = FusionRegressor(LateFusion(C=1.0), random_state=0).fit(X, np.c_[y, y])
    assert both.density_forest_ is None
