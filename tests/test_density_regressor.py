"""FusionRegressor's densities: over bins, around points, saved, and on real photometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from mmfuse import Density, FusionRegressor, ModalityTable, load
from mmfuse.encoders import NumericEncoder
from mmfuse.heads import EarlyFusion, LateFusion
from mmfuse.metrics import cde_loss, crps, nmad, pit
from tests.data import data_folder

HEADS = {
    "late": LateFusion(C=10.0),
    "early": EarlyFusion(C=10.0),
    "early-mlp": EarlyFusion("mlp", max_epochs=30, patience=5, hidden=(32,), learning_rate=0.01),
    "late-trees": LateFusion(HistGradientBoostingClassifier(max_iter=10, min_samples_leaf=10)),
}


def two_noisy_views(n: int = 200, seed: int = 0) -> tuple[ModalityTable, np.ndarray]:
    """A value seen by two modalities with independent noise of standard deviation 0.5."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n)
    a = np.c_[y + 0.5 * rng.normal(size=n), rng.normal(size=n)]
    return ModalityTable({"a": a, "b": y[:, None] + 0.5 * rng.normal(size=(n, 1))}), y


def binned(head: object = HEADS["late"], **options: object) -> FusionRegressor:
    options = {"output": "binned", "bins": 8, "cv": 2, "random_state": 0} | options
    return FusionRegressor(clone(head), **options)


def width(model: FusionRegressor, X: object) -> float:
    return float(np.diff(model.predict_interval(X), axis=1).mean())


# -- binned regression ------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
def test_every_head_predicts_densities(name: str) -> None:
    rows, bins = (2000, 20) if name in ("late", "early") else (400, 8)
    X, y = two_noisy_views(rows + 300)
    model = binned(HEADS[name], bins=bins).fit(X[:rows], y[:rows])
    test, truth = X[rows:], y[rows:]
    density = model.predict_density(test)
    assert density.probabilities.shape == (300, bins)
    prior = Density(model.bin_edges_, np.tile(model.prior_, (300, 1)))
    assert crps(density, truth) < 0.6 * crps(prior, truth)
    assert model.score(test, truth) > 0.6
    hidden = test.hide("b")
    assert width(model, hidden) > 1.1 * width(model, test)
    assert crps(model.predict_density(hidden), truth) < 0.8 * crps(prior, truth)


def test_the_point_is_a_summary_of_the_density() -> None:
    X, y = two_noisy_views()
    model = binned().fit(X, y)
    density = model.predict_density(X)
    for point in ("mean", "median", "mode"):
        model.set_params(point=point)
        np.testing.assert_array_equal(model.predict(X), getattr(density, point)())
    np.testing.assert_array_equal(model.predict_interval(X, 1), density.interval(1))
    plain = binned(calibration=None).fit(X, y)  # nothing held out: the density's own interval
    assert plain.conformal_ is None
    found = plain.predict_density(X).interval(0.5)
    np.testing.assert_array_equal(plain.predict_interval(X, 0.5), found)
    with pytest.warns(DataConversionWarning):
        assert binned().fit(X, y[:, None]).predict(X).shape == (200,)


def test_nothing_present_is_the_training_distribution() -> None:
    X, y = two_noisy_views()
    for model in (binned(), FusionRegressor(random_state=0)):
        model.fit(X, y)
        empty = model.predict_density(X[:3].hide(["a", "b"]))
        levels = [0.1, 0.5, 0.9]
        np.testing.assert_allclose(empty.quantile(levels)[1], np.quantile(y, levels), atol=0.2)
        assert model.predict(X[:3].hide(["a", "b"])) == pytest.approx(y.mean(), abs=0.02)


def test_integer_bins_cover_the_range_with_a_margin() -> None:
    X, y = two_noisy_views()
    edges = binned(bins=10).fit(X, y).bin_edges_
    margin = 0.01 * (y.max() - y.min())
    np.testing.assert_allclose(edges, np.linspace(y.min() - margin, y.max() + margin, 11))
    weight = (np.abs(y) < 1).astype(float)
    edges = binned(bins=10).fit(X, y, sample_weight=weight).bin_edges_
    assert -1.05 < edges[0] and edges[-1] < 1.05
    assert binned(bins=4).fit(X, np.full(200, 3.0)).predict(X) == pytest.approx(3.0, abs=0.2)


def test_given_edges_with_empty_and_unequal_bins() -> None:
    X, y = two_noisy_views()
    edges = np.r_[-9.0, -8.0, np.linspace(-4, 4, 9), 9.0]
    model = binned(bins=edges, head=HEADS["late"]).fit(X, y)
    density = model.predict_density(X)
    np.testing.assert_array_equal(density.edges, edges)
    counts = np.histogram(y, edges)[0]
    np.testing.assert_allclose(model.prior_, counts / 200)
    assert (counts == 0).sum() >= 3
    assert density.probabilities[:, counts == 0].sum(axis=1).max() < 0.02
    assert model.score(X, y) > 0.6


def test_a_singleton_bin_does_not_cut_the_folds() -> None:
    X, y = two_noisy_views(60)
    y = np.append(y[:-1], 9.0)
    model = binned(HEADS["early"], cv=5, bins=12).fit(X, y)
    assert model.cv == 5 and model.temperature_ is not None
    given = binned(HEADS["early"], cv=[(np.arange(30), np.arange(30, 60))]).fit(X, y)
    assert len(given.cv) == 1


def test_temperature_is_fitted_and_may_be_left_out() -> None:
    X, y = two_noisy_views(600)
    noise = np.random.default_rng(0).normal(size=(600, 20))
    X = ModalityTable({"a": np.c_[X["a"], noise], "b": X["b"]})
    certain = EarlyFusion(C=100.0)  # too little regularisation for so many columns of noise
    models = [
        binned(certain, bins=20, calibration=kind).fit(X[:300], y[:300]) for kind in ("auto", None)
    ]
    assert models[0].temperature_ > 1.2 and models[1].temperature_ is None
    losses = [crps(m.predict_density(X[300:]), y[300:]) for m in models]
    assert losses[0] < losses[1]


def test_intervals_cover_what_they_say_with_enough_rows_or_the_pit_map() -> None:
    X, y = two_noisy_views(4000)
    test, truth = X[2000:], y[2000:]
    shares, losses = {}, {}
    for rows, kind in ((2000, "auto"), (300, "auto"), (300, "pit")):
        model = binned(HEADS["early"], calibration=kind, bins=20).fit(X[:rows], y[:rows])
        inside = model.predict_density(test).interval()
        shares[rows, kind] = ((inside[:, 0] < truth) & (truth < inside[:, 1])).mean()
        losses[rows, kind] = crps(model.predict_density(test), truth)
    assert shares[2000, "auto"] == pytest.approx(0.9, abs=0.07)
    assert abs(shares[300, "pit"] - 0.9) < min(0.06, abs(shares[300, "auto"] - 0.9))
    assert losses[2000, "auto"] < losses[300, "pit"] < losses[300, "auto"]
    np.testing.assert_allclose(
        model.predict_density(X[:1].hide(["a", "b"])).probabilities[0], model.prior_
    )


def test_regressor_with_bins_in_a_grid_search() -> None:
    X, y = two_noisy_views(60)
    grid = {"bins": [4, 6], "point": ["mean", "mode"]}
    assert GridSearchCV(binned(EarlyFusion(C=0.1)), grid, cv=2).fit(X, y).best_score_ > 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "bins"}, "output must be 'point', .* 'quantiles' or 'mixture'; got 'bins'"),
        ({"point": "max"}, "point must be 'mean', 'median' or 'mode'; got 'max'"),
        ({"bins": 1}, "bins must be at least 2"),
        ({"bins": "auto"}, "bins must be an integer or a sequence of edges; got 'auto'"),
        ({"bins": [0.0, 1.0]}, "at least two bins"),
        ({"bins": [0.0, 2.0, 1.0]}, "strictly increasing"),
        ({"bins": [-1.0, 0.0, 1.0]}, "The bins reach from -1 to 1, and .* of 40 targets lie out"),
        ({"calibration": "platt"}, "calibration must be 'auto', 'pit' or None for output='binned'"),
        ({"calibration": "pit", "output": "point"}, "calibration must be 'auto' or None for out"),
    ],
)
def test_bad_parameters(options: dict, message: str) -> None:
    X, y = two_noisy_views(40)
    with pytest.raises(ValueError, match=message):
        binned(**options).fit(X, y)


def test_bad_calls() -> None:
    X, y = two_noisy_views(60)
    with pytest.raises(ValueError, match="needs a single target; y has 2 columns"):
        binned().fit(X, np.c_[y, y])
    with pytest.raises(ValueError, match="bins of its own; grid is for the other outputs"):
        binned().fit(X, y).predict_density(X, grid=[0.0, 1.0])
    with pytest.raises(ValueError, match="it predicts several values per row"):
        FusionRegressor(random_state=0).fit(X, np.c_[y, y]).predict_density(X)
    with pytest.raises(ValueError, match="fit with calibration='auto'"):
        FusionRegressor(calibration=None, random_state=0).fit(X, y).predict_interval(X)
    with pytest.raises(NotFittedError):
        binned().predict_density(X)


@parametrize_with_checks(
    [FusionRegressor(EarlyFusion(C=1.0), output="binned", bins=5, random_state=0)]
)
def test_scikit_learn_contract_with_bins(estimator, check) -> None:
    check(estimator)


# -- densities of a point model ---------------------------------------------------------------


def test_late_fusion_widens_honestly_when_modalities_are_missing() -> None:
    X, y = two_noisy_views(1500)
    model = FusionRegressor(random_state=0).fit(X[:1000], y[:1000])
    full, half = X[1000:], X[1000:].hide("a")
    np.testing.assert_allclose(model.predict_density(full).mean(), model.predict(full), atol=1e-3)
    assert width(model, half) > 1.2 * width(model, full)
    for table in (full, half):
        inside = model.predict_interval(table)
        share = ((inside[:, 0] < y[1000:]) & (y[1000:] < inside[:, 1])).mean()
        assert share == pytest.approx(0.9, abs=0.05)
        assert kstest(pit(model.predict_density(table), y[1000:]), "uniform").statistic < 0.1
    part = model.predict_density(full[:7]).probabilities
    np.testing.assert_allclose(part, model.predict_density(full).probabilities[:7], atol=1e-12)


def test_other_heads_use_one_spread() -> None:
    X, y = two_noisy_views()
    model = FusionRegressor(EarlyFusion(), random_state=0).fit(X, y)
    std = model.predict_density(X.hide("a")).std()
    np.testing.assert_allclose(std, model.residual_std_[0], rtol=0.02)
    grid = np.linspace(-10, 10, 11)
    np.testing.assert_array_equal(model.predict_density(X, grid=grid).edges, grid)


def test_point_densities_of_a_two_valued_target() -> None:
    X, y = two_noisy_views()
    model = FusionRegressor(random_state=0).fit(X, (y > 0).astype(float))
    density = model.predict_density(X[:2].hide(["a", "b"]))
    middle = density.cdf([0.2, 0.8])
    np.testing.assert_allclose(middle, (y <= 0).mean(), atol=0.02)


# -- saving -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*HEADS, "point", "pit"])
def test_densities_come_back_from_disk(name: str, tmp_path: Path) -> None:
    X, y = two_noisy_views(100)
    model = FusionRegressor(random_state=0)
    if name != "point":
        calibration = "pit" if name == "pit" else "auto"
        model = binned(HEADS.get(name, HEADS["late"]), bins=8, calibration=calibration)
    model.fit(X, y)
    assert name != "pit" or model.pit_map_.shape[0] == 2
    again = load(model.save(tmp_path / "model"))
    for table in (X, X.hide("b"), X[:2].hide(["a", "b"])):
        before, after = model.predict_density(table), again.predict_density(table)
        np.testing.assert_array_equal(before.probabilities, after.probabilities)
        np.testing.assert_array_equal(before.edges, after.edges)
        np.testing.assert_array_equal(model.predict(table), again.predict(table))
    assert again.temperature_ == model.temperature_
    assert repr(again.get_params()) == repr(model.get_params())


# -- real photometry --------------------------------------------------------------------------


def test_photometric_redshifts() -> None:
    """Simulated sky survey: three blue and three red magnitudes, each as one modality."""
    frame = pd.read_csv(data_folder("photoz_dc2") / "photometry.csv.gz")
    frame = frame.replace(99.0, np.nan)
    blue, red = (frame[[f"mag_{band}_lsst" for band in bands]] for bands in ("ugr", "izy"))
    X, z = ModalityTable({"blue": blue, "red": red}), frame["redshift"].to_numpy()
    encoders = {"blue": NumericEncoder(), "red": NumericEncoder()}
    model = binned(encoders=encoders, bins=30).fit(X[:1500], z[:1500])
    test, truth = X[4000:], z[4000:]
    density = model.predict_density(test)
    prior = Density(model.bin_edges_, np.tile(model.prior_, (1000, 1)))
    assert crps(density, truth) < 0.6 * crps(prior, truth)
    assert cde_loss(density, truth) < cde_loss(prior, truth) - 1.0
    assert nmad(truth, density.mean()) < 0.13
    for missing in ("blue", "red"):
        assert width(model, test.hide(missing)) > 1.12 * width(model, test)
        assert crps(model.predict_density(test.hide(missing)), truth) < 0.9 * crps(prior, truth)
    inside = density.interval(0.9)
    assert ((inside[:, 0] < truth) & (truth < inside[:, 1])).mean() == pytest.approx(0.9, abs=0.05)
