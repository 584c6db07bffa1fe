"""Quantile regression: known quantiles, no crossing, the pool, densities, and errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from scipy.stats import kstest
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
)
from sklearn.linear_model import QuantileRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from mmfuse import FusionRegressor, load
from mmfuse.density.binning import step_quantile
from mmfuse.exceptions import UnsupportedObjectiveError
from mmfuse.heads import AutoFusion, ContextualFusion, EarlyFusion, LateFusion, TextCentricFusion
from mmfuse.heads.pool import PoolData, fit_pool
from mmfuse.heads.quantile_pool import QuantilePool
from mmfuse.metrics import crps, pit
from mmfuse.objectives import Pinball
from mmfuse.outputs.quantiles import at_levels, cdf_of_quantiles
from tests.head_list import FAST, FAST_TEXT

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
HEADS = {
    "late": LateFusion(C=1.0),
    "late-product": LateFusion(C=1.0, combine="product"),
    "late-mean": LateFusion(C=1.0, combine="mean"),
    "late-best": LateFusion(C=1.0, combine="best"),
    "early": EarlyFusion(C=1.0),
    "mlp": EarlyFusion("mlp", **FAST),
    "contextual": ContextualFusion(C=10.0),
    "text-centric": TextCentricFusion(**FAST_TEXT),
    "trees": EarlyFusion(HistGradientBoostingRegressor(max_iter=20, min_samples_leaf=10)),
    "auto": AutoFusion({"early": EarlyFusion(C=1.0), "late": LateFusion(C=1.0)}),
}


def two_noisy_views(n: int, seed: int = 0) -> tuple[dict, np.ndarray]:
    """A value seen by two modalities with independent noise of standard deviation 0.5."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n)
    a = np.c_[y + 0.5 * rng.normal(size=n), rng.normal(size=n)]
    return {"a": a, "b": y[:, None] + 0.5 * rng.normal(size=(n, 1))}, y


_LATE = LateFusion()


def quantile_model(head: object = _LATE, **options: object) -> FusionRegressor:
    return FusionRegressor(head, **{"output": "quantiles", "random_state": 0} | options)


def pinball(y: np.ndarray, quantiles: np.ndarray, levels: np.ndarray = LEVELS) -> float:
    late = y[:, None] - quantiles
    return float(np.maximum(levels * late, (levels - 1) * late).mean())


# -- the truth --------------------------------------------------------------------------------


def test_equals_quantile_regression_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 4)).astype(np.float32)
    y = X[:, 0] + (1 + 0.5 * X[:, 1]) * rng.standard_t(3, size=400)
    model = quantile_model(EarlyFusion(C=1e5), calibration=None).fit({"x": X}, y)
    found = model.predict_quantiles({"x": X})
    for j, level in enumerate(LEVELS):
        reference = QuantileRegressor(quantile=level, alpha=0.0).fit(X, y).predict(X)
        losses = [pinball(y, q[:, None], LEVELS[[j]]) for q in (reference, found[:, j])]
        assert losses[1] < losses[0] * (1 + 1e-3)
        assert np.abs(found[:, j] - reference).mean() < 0.08 * model.target_scale_[0]


@pytest.mark.parametrize("head", [EarlyFusion(C=10.0), LateFusion(C=10.0)])
def test_quantiles_of_a_spread_that_grows(head) -> None:
    """y = x + s(x) e with s linear in |x|, which is a feature: the true quantiles are linear."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 2, size=4000)
    y = 3 * x + (0.5 + x) * rng.normal(size=4000)
    model = quantile_model(head).fit({"x": x[:, None]}, y)
    grid = np.linspace(0.1, 1.9, 10)
    truth = 3 * grid[:, None] + (0.5 + grid[:, None]) * ndtri(LEVELS)
    found = model.predict_quantiles({"x": grid[:, None]})
    np.testing.assert_allclose(found, truth, atol=0.25)
    others = model.predict_quantiles({"x": grid[:, None]}, [0.01, 0.4, 0.99])
    truth = 3 * grid[:, None] + (0.5 + grid[:, None]) * ndtri([0.01, 0.4, 0.99])
    np.testing.assert_allclose(others, truth, atol=0.45)
    fresh = rng.uniform(0, 2, size=2000)
    value = 3 * fresh + (0.5 + fresh) * rng.normal(size=2000)
    density = model.predict_density({"x": fresh[:, None]})
    assert kstest(pit(density, value), "uniform").statistic < 0.04


@pytest.mark.parametrize("name", HEADS)
def test_every_head_has_honest_quantiles_with_and_without_gaps(name: str) -> None:
    X, y = two_noisy_views(700)
    gone = np.random.default_rng(1).random(400) < 0.2
    a = X["a"].copy()
    a[:400][gone] = np.nan
    train = {"a": a[:400], "b": X["b"][:400]}
    model = quantile_model(HEADS[name]).fit(train, y[:400])
    test, truth = {n: block[400:] for n, block in X.items()}, y[400:]
    prior = pinball(truth, np.tile(model.prior_, (300, 1)))
    for table in (test, {"b": test["b"]}):
        found = model.predict_quantiles(table)
        assert (np.diff(found, axis=1) >= 0).all()
        assert pinball(truth, found) < 0.72 * prior
        ends = model.predict_interval(table)
        assert ((ends[:, 0] < truth) & (truth < ends[:, 1])).mean() == pytest.approx(0.9, abs=0.08)
    if name in ("late", "early"):
        widths = [np.diff(model.predict_interval(t)).mean() for t in (test, {"b": test["b"]})]
        assert widths[1] > 1.1 * widths[0]
    nothing = {"a": np.full((2, 2), np.nan), "b": np.full((2, 1), np.nan)}
    np.testing.assert_array_equal(model.predict_quantiles(nothing)[1], model.prior_)
    np.testing.assert_allclose(model.prior_, np.quantile(y[:400], LEVELS), atol=0.05)


def test_median_interval_and_density_agree() -> None:
    X, y = two_noisy_views(300)
    model = quantile_model(LateFusion(C=1.0)).fit(X, y)
    found = model.predict_quantiles(X)
    np.testing.assert_array_equal(model.predict(X), found[:, 2])
    ends = model.predict_interval(X, 0.9)  # quantiles, moved by the same on both sides
    np.testing.assert_allclose(found[:, 0] - ends[:, 0], ends[:, 1] - found[:, 4], atol=1e-9)
    np.testing.assert_allclose(ends, found[:, [0, 4]], atol=0.1)
    density = model.predict_density(X)
    cell = np.diff(density.edges).max()
    np.testing.assert_allclose(density.quantile(LEVELS), found, atol=cell)
    fine = model.predict_density(X, grid=np.linspace(-6, 6, 4001))
    np.testing.assert_allclose(fine.quantile(LEVELS), found, atol=12 / 4000)
    np.testing.assert_allclose(crps(fine, y), crps(density, y), rtol=0.01)
    normal = model.predict_quantiles(X, [0.3])[:, 0]
    assert ((found[:, 1] <= normal) & (normal <= found[:, 2])).all()


def test_shifts_make_held_out_coverage_nominal() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=160)
    X = {"x": np.c_[y + rng.normal(size=160), rng.normal(size=(160, 40))]}
    fresh = rng.normal(size=2000)
    test = {"x": np.c_[fresh + rng.normal(size=2000), rng.normal(size=(2000, 40))]}
    misses = {}
    for kind in ("auto", None):
        model = quantile_model(EarlyFusion(C=10.0), calibration=kind).fit(X, y)
        below = (fresh[:, None] < model.predict_quantiles(test)).mean(axis=0)
        misses[kind] = np.abs(below - LEVELS).max()
    assert misses["auto"] < 0.1 < misses[None]  # too little regularisation: far too narrow


def test_one_level_is_that_quantile() -> None:
    X, y = two_noisy_views(500)
    model = quantile_model(quantiles=(0.9,)).fit(X, y)
    assert (y < model.predict(X)).mean() == pytest.approx(0.9, abs=0.04)
    assert model.predict_quantiles(X).shape == (500, 1)
    for call in (model.predict_density, model.predict_interval):
        with pytest.raises(ValueError, match="one quantile, which says nothing about other levels"):
            call(X)


# -- never crossing ---------------------------------------------------------------------------


increasing = st.lists(st.floats(0.01, 0.99), min_size=2, max_size=6, unique=True).map(sorted)
apart = increasing.filter(lambda levels: min(np.diff(levels)) >= 1e-6)


@settings(max_examples=60, deadline=None)
@example(known=[0.01, 0.010001], wanted=[0.5, 0.75], seed=0, repeat=False)
@given(known=apart, wanted=increasing, seed=st.integers(0, 99), repeat=st.booleans())
def test_interpolation_never_crosses(known, wanted, seed: int, repeat: bool) -> None:
    known, wanted = np.array(known), np.array(wanted)
    rng = np.random.default_rng(seed)
    quantiles = np.sort(rng.normal(size=(5, len(known))), axis=1)
    if repeat:
        quantiles[:, 1] = quantiles[:, 0]
    found = at_levels(quantiles, known, wanted)
    assert (np.diff(found, axis=1) >= -1e-12).all()
    np.testing.assert_allclose(at_levels(quantiles, known, known), quantiles, atol=1e-9)
    points = np.linspace(-4, 4, 201)
    level = cdf_of_quantiles(quantiles, known, points, 1e-9)
    assert (np.diff(level, axis=1) >= 0).all() and level.min() >= 0 and level.max() <= 1
    for row in range(5):
        if not repeat and np.diff(quantiles[row]).min() > 1e-3:
            back = cdf_of_quantiles(quantiles[row : row + 1], known, found[row], 1e-9)[0]
            np.testing.assert_allclose(back, wanted, atol=1e-6)


def test_crossing_scores_are_put_in_order() -> None:
    """Far from the training rows lines of different slopes must cross."""
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 2, size=300)
    y = x * rng.normal(size=300)
    model = quantile_model(EarlyFusion(C=10.0)).fit({"x": x[:, None]}, y)
    far = {"x": np.array([[-30.0], [0.0], [40.0]])}
    _, scores = model._output(far)
    assert (np.diff(scores[0]) < 0).any()
    assert (np.diff(model.predict_quantiles(far), axis=1) >= 0).all()


def test_quantiles_of_weighted_rows() -> None:
    y, weight = np.array([3.0, 1.0, 2.0, 9.0]), np.array([1.0, 2.0, 1.0, 0.0])
    for level in (0.1, 0.5, 0.6, 0.75, 0.9):
        twice = step_quantile(np.array([1.0, 1.0, 2.0, 3.0]), np.ones(4), [level])
        np.testing.assert_array_equal(step_quantile(y, weight, [level]), twice)
    np.testing.assert_array_equal(step_quantile(y, weight, [0.5, 0.75]), [1.5, 2.5])


# -- the pool ---------------------------------------------------------------------------------


def expert_data(n: int, *, copies: bool) -> PoolData:
    """Exact posterior quantiles of a standard normal value under noise of one half."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=n)
    views = y[:, None] + 0.5 * rng.normal(size=(n, 2))
    if copies:
        views[:, 1] = views[:, 0]
    expert = views[..., None] / 1.25 + np.sqrt(0.2) * ndtri(LEVELS)
    return PoolData(
        torch.as_tensor(expert),
        torch.ones(n, 2, dtype=torch.bool),
        torch.as_tensor(y[:, None]),
        torch.ones(n, dtype=torch.float64),
    )


def fitted_pool(data: PoolData) -> QuantilePool:
    pool = QuantilePool(2, len(LEVELS))
    pool.learn(Pinball(LEVELS))
    fit_pool(pool, data, 0.2)
    return pool


def test_pool_of_independent_experts_is_bayes_rule_and_of_copies_is_one() -> None:
    for copies, width in ((False, np.sqrt(1 / 9)), (True, np.sqrt(0.2))):
        data = expert_data(3000, copies=copies)
        pool = fitted_pool(data)
        with torch.no_grad():
            out = pool(data.expert, data.presence).numpy()
        found = (out[:, 4] - out[:, 0]) / (ndtri(0.95) - ndtri(0.05))
        assert found.mean() == pytest.approx(width, rel=0.06)
        level = ndtr((data.target.numpy() - out[:, [2]]) / width)
        assert kstest(level[:, 0], "uniform").statistic < 0.04


def test_pool_with_one_expert_is_that_expert() -> None:
    data = expert_data(100, copies=False)
    pool = fitted_pool(data)
    one = data.presence.clone()
    one[:, 1] = False
    torch.testing.assert_close(pool(data.expert, one).detach(), data.expert[:, 0])
    none = torch.zeros_like(one)
    torch.testing.assert_close(pool(data.expert, none)[3].detach(), pool.prior)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(1, 6))
def test_pool_never_crosses(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    pool = QuantilePool(3, count)
    pool.learn(Pinball(np.sort(rng.uniform(0.02, 0.98, count))))
    expert = torch.as_tensor(rng.normal(size=(20, 3, count)) * 10.0 ** rng.integers(-3, 3))
    out = pool(expert, torch.as_tensor(rng.random((20, 3)) < 0.6)).detach().numpy()
    assert np.isfinite(out).all() and (np.diff(out, axis=1) >= 0).all()


# -- estimators, choice, saving, errors -------------------------------------------------------


def test_estimators_are_cloned_once_per_level_or_refused() -> None:
    X, y = two_noisy_views(150)
    fitted = quantile_model(EarlyFusion(HEADS["trees"].model)).fit(X, y).head_.estimators
    assert [(e.loss, e.quantile) for e in fitted.values()] == [("quantile", q) for q in LEVELS]
    plain = quantile_model(EarlyFusion(QuantileRegressor(alpha=0.01))).fit(X, y)
    assert plain.score(X, y) > 0.7
    old = quantile_model(EarlyFusion(GradientBoostingRegressor(n_estimators=5))).fit(X, y)
    assert [e.alpha for e in old.head_.estimators.values()] == list(LEVELS)
    with pytest.raises(
        UnsupportedObjectiveError,
        match="ExtraTreesRegressor has no option for output='quantiles'; .* needs one of",
    ):
        quantile_model(EarlyFusion(ExtraTreesRegressor())).fit(X, y)


def test_auto_fusion_skips_what_cannot_learn_quantiles_and_blends_the_rest() -> None:
    X, y = two_noisy_views(200)
    able = {"early": EarlyFusion(C=1.0), "late": LateFusion(C=1.0)}
    head = AutoFusion({**able, "trees": EarlyFusion(ExtraTreesRegressor(5))})
    model = quantile_model(head).fit(X, y)
    assert set(model.head_report_.index) == {"early", "late"}
    assert "has no option for output='quantiles'" in model.history_["skipped"]["trees"]
    assert (np.diff(model.predict_quantiles(X), axis=1) >= 0).all()
    with pytest.raises(UnsupportedObjectiveError, match="no candidate can learn output='quantiles"):
        quantile_model(AutoFusion({"trees": EarlyFusion(ExtraTreesRegressor(5))})).fit(X, y)


@pytest.mark.parametrize("name", HEADS)
def test_quantiles_come_back_from_disk(name: str, tmp_path: Path) -> None:
    X, y = two_noisy_views(120)
    model = quantile_model(HEADS[name], quantiles=(0.1, 0.5, 0.9)).fit(X, y)
    model.set_params(quantiles=(0.2, 0.3))  # not fitted: changes nothing
    again = load(model.save(tmp_path / "model"))
    for table in (X, {"b": X["b"]}):
        np.testing.assert_array_equal(
            again.predict_quantiles(table), model.predict_quantiles(table)
        )
        np.testing.assert_array_equal(
            again.predict_density(table).probabilities, model.predict_density(table).probabilities
        )
    assert again.predict_quantiles(X).shape == (120, 3)
    assert repr(again.get_params()) == repr(model.get_params())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantiles": (0.5, 0.1)}, r"increasing levels between 0 and 1, .* got \(0.5, 0.1\)"),
        ({"quantiles": (0.1, 0.1 + 1e-9)}, "a millionth apart, such as"),
        ({"quantiles": (0.0, 0.5)}, "quantiles must be increasing levels"),
        ({"quantiles": ()}, "quantiles must be increasing levels"),
        ({"quantiles": "median"}, "quantiles must be increasing levels"),
        ({"calibration": "pit"}, "calibration must be 'auto' or None for output='quantiles'"),
    ],
)
def test_bad_parameters(options: dict, message: str) -> None:
    X, y = two_noisy_views(40)
    with pytest.raises(ValueError, match=message):
        quantile_model(**options).fit(X, y)


def test_bad_calls() -> None:
    X, y = two_noisy_views(60)
    model = quantile_model(LateFusion(C=1.0)).fit(X, y)
    with pytest.raises(ValueError, match="levels must be numbers between 0 and 1; got"):
        model.predict_quantiles(X, [0.0, 0.5])
    with pytest.raises(ValueError, match="coverage must be between 0 and 1; got 1"):
        model.predict_interval(X, 1)
    with pytest.raises(ValueError, match="needs a single target; y has 2 columns"):
        quantile_model().fit(X, np.c_[y, y])


def test_levels_of_another_output_are_read_off_its_density() -> None:
    X, y = two_noisy_views(200)
    model = FusionRegressor(LateFusion(C=1.0), random_state=0).fit(X, y)
    np.testing.assert_array_equal(
        model.predict_quantiles(X, [0.2, 0.7]), model.predict_density(X).quantile([0.2, 0.7])
    )
    assert model.predict_quantiles(X).shape == (200, 5)


@parametrize_with_checks(
    [
        quantile_model(EarlyFusion(C=1.0), quantiles=(0.1, 0.5, 0.9)),
        quantile_model(LateFusion(C=1.0), quantiles=(0.25, 0.5, 0.75)),
    ]
)
def test_scikit_learn_contract(estimator, check) -> None:
    check(estimator)
