"""Conformal thresholds, sets and intervals: exact on small cases, honest on draws."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from mmfuse import Blocks, FusionClassifier, FusionRegressor, load
from mmfuse.conformal import Conformal, Strata, conformal_quantile, patterns_to_hide
from mmfuse.conformal.adapter import matrix_view
from mmfuse.conformal.coverage import coverage_by_pattern
from mmfuse.conformal.sets import class_scores
from mmfuse.heads import EarlyFusion, LateFusion


def graded(n: int, *, absent: float = 0.3, seed: int = 0) -> tuple[Blocks, np.ndarray, np.ndarray]:
    """Two modalities of unequal worth, four grades and the severity behind them."""
    rng = np.random.default_rng(seed)
    severity = rng.normal(size=n)
    a = severity[:, None] + 0.6 * rng.normal(size=(n, 1))
    b = np.hstack([severity[:, None] + 1.2 * rng.normal(size=(n, 1)), rng.normal(size=(n, 2))])
    a[rng.random(n) < absent], b[rng.random(n) < absent] = np.nan, np.nan
    return Blocks({"a": a, "b": b}), np.digitize(severity, [-0.8, 0.0, 0.8]), severity


@cache
def trained(target: str = "nominal") -> FusionClassifier:
    X, y, _ = graded(300)
    return FusionClassifier(LateFusion(C=1.0), target=target, random_state=0).fit(X, y)


def fitted(target: str = "nominal") -> FusionClassifier:
    """A fitted model that a test may change."""
    return copy.deepcopy(trained(target))


@cache
def trained_regressor() -> FusionRegressor:
    X, _, value = graded(300)
    return FusionRegressor(LateFusion(C=1.0), random_state=0).fit(X, value)


def usual(table: pd.DataFrame, model: object, coverage: float) -> bool:
    """Whether the coverage of patterns is what that many calibration and test rows leave open."""
    known = model.conformal_table(coverage).set_index("pattern")["rows"]
    table = table.set_index("pattern").drop(index=["nothing", "all"])
    open_ = coverage * (1 - coverage) * (1 / known[table.index] + 1 / table["rows"])
    return bool((np.abs(table["covered"] - coverage) < 3.5 * np.sqrt(open_)).all())


def store(scores: np.ndarray, pattern: np.ndarray, **options: object) -> Conformal:
    n = len(scores)
    made = Conformal(
        "held-out",
        scores[:, None],
        pattern.astype(bool),
        np.zeros(n, bool),
        np.ones(n),
        np.arange(n),
        False,
        np.full(n, -1),
    )
    return replace(made, **options)


# -- thresholds -------------------------------------------------------------------------------


def test_quantile_counts_the_new_row() -> None:
    scores = np.array([3.0, 1.0, 2.0, 4.0])
    assert conformal_quantile(scores, 0.8) == 4.0  # ceil(5 * 0.8) = 4th
    assert conformal_quantile(scores, 0.6) == 3.0
    assert conformal_quantile(scores, 0.61) == 4.0
    assert conformal_quantile(scores, 0.81) == np.inf
    assert conformal_quantile(np.empty(0), 0.5) == np.inf
    assert conformal_quantile(np.ones(19), 0.95) == 1.0  # 0.95 * 20 is 19, whatever rounding says


def test_quantile_with_weights() -> None:
    scores, mass = np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, 1.0])
    assert conformal_quantile(scores, 1 / 3, mass) == 1.0  # 2 of 4 + 2
    assert conformal_quantile(scores, 0.5, mass) == 2.0
    assert conformal_quantile(scores, 0.67, mass) == np.inf
    assert conformal_quantile(scores, 0.67, mass, own=1.0) == 3.0
    assert conformal_quantile(scores, 0.4, 10 * mass) == conformal_quantile(scores, 0.4, mass)


def test_every_pattern_has_its_own_quantile() -> None:
    pattern = np.repeat([[1, 1], [1, 0]], 40, axis=0)
    scores = np.concatenate([np.arange(40.0), 100 + np.arange(40.0)])
    kept = store(scores, pattern)
    found, source = kept.thresholds(scores, 0.9, pattern[[0, 79]].astype(bool), np.full(2, -1))
    assert found.tolist() == [36.0, 136.0]  # the ceil(41 * 0.9) = 37th of 40
    assert source.tolist() == ["own", "own"]


def test_rare_patterns_fall_back_in_the_documented_order() -> None:
    full, a, b, none = [1, 1], [1, 0], [0, 1], [0, 0]
    pattern = np.array([full] * 40 + [a] * 40 + [b] * 5 + [b] * 35 + [none] * 40)
    hidden = np.repeat([False, True], [85, 75])
    scores = np.concatenate([np.arange(85.0), 200 + np.arange(75.0)])
    kept = store(scores, pattern, hidden=hidden)

    def ask(part: Conformal, which: list[int]) -> tuple[float, str]:
        s = part.values[:, 0]
        found, source = part.thresholds(s, 0.9, np.array([which], bool), np.array([-1]))
        return float(found[0]), str(source[0])

    assert ask(kept, full) == (36.0, "own")
    assert ask(kept, b) == (231.0, "hidden")  # 37th of 5 own and 35 hidden
    assert ask(kept, none) == (271.0, "hidden")
    few = np.flatnonzero((pattern != full).any(axis=1) | (np.arange(160) < 3))
    part = replace(kept, **{k: v[few] for k, v in kept.arrays().items()})
    at_most = scores[few][(part.pattern.any(axis=1))]
    assert ask(part, full) == (conformal_quantile(at_most, 0.9), "pooled")
    only = replace(kept, **{k: v[:40] for k, v in kept.arrays().items()})
    assert ask(only, a) == (36.0, "largest")
    assert ask(replace(only, min_rows=100), a) == (36.0, "all")
    ten = replace(kept, **{k: v[:5] for k, v in kept.arrays().items()})
    assert ask(ten, full) == (np.inf, "all")  # 5 rows say nothing about 90 %


def test_rows_must_be_enough_for_the_coverage() -> None:
    pattern = np.repeat([[1, 1], [1, 0]], [40, 400], axis=0)
    scores = np.arange(440.0)
    kept = store(scores, pattern)
    for coverage, source in ((0.9, "own"), (0.99, "pooled")):  # 0.99 asks for 99 rows
        assert kept.thresholds(scores, coverage, pattern[:1] == 1, np.array([-1]))[1] == source


def test_strata_cross_patterns_and_rare_ones_are_the_larger_of_both() -> None:
    pattern = np.repeat([[1], [1], [1]], [50, 50, 10], axis=0)
    stratum = np.repeat([0, 1, 2], [50, 50, 10])
    scores = np.concatenate([np.arange(50.0), 100 + np.arange(50.0), np.zeros(10)])
    kept = store(scores, pattern, stratum=stratum, strata=("f", "m", "x"), by="sex")
    codes = kept.codes(Strata.read(pd.Series(["f", "m", "x", "q"], name="sex"), 4, "t"), 4, "t")
    assert codes.tolist() == [0, 1, 2, -2]
    found, source = kept.thresholds(scores, 0.9, np.ones((4, 1), bool), codes)
    pooled = conformal_quantile(scores, 0.9)
    assert found.tolist() == [45.0, 145.0, pooled, 145.0]
    assert source.tolist() == ["own", "own", "own", "either"]


def test_groups_count_once() -> None:
    """Forty single rows beside one group of 400 bad ones: the group is one of 41."""
    scores = np.concatenate([np.arange(40.0), np.full(400, 99.0)])
    unit = np.concatenate([np.arange(40), np.full(400, 40)])
    pattern = np.ones((440, 1))
    rows = np.ones((1, 1), bool), np.array([-1])
    kept = store(scores, pattern, unit=unit, grouped=True)
    assert kept.thresholds(scores, 0.9, *rows)[0] == 37.0  # the ceil(42 * 0.9) = 38th
    assert store(scores, pattern).thresholds(scores, 0.9, *rows)[0] == 99.0


def test_patterns_beyond_six_modalities_are_not_all_listed() -> None:
    assert len(list(patterns_to_hide(np.ones((3, 6), bool)))) == 63
    assert len(list(patterns_to_hide(np.ones((3, 8), bool)))) == 17  # single, all but one, none


# -- scores of classes ------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    proba = np.array([[0.2, 0.5, 0.1, 0.2]])
    np.testing.assert_allclose(class_scores(proba, "lac"), [[0.8, 0.5, 0.9, 0.8]])
    np.testing.assert_allclose(class_scores(proba, "aps"), [[0.7, 0.5, 1.0, 0.9]])
    np.testing.assert_allclose(class_scores(proba, "raps"), [[0.7, 0.5, 1.2, 1.0]])
    np.testing.assert_allclose(class_scores(proba, "lac", ordinal=True), [[0.8, 0.5, 0.8, 0.8]])
    np.testing.assert_allclose(class_scores(proba, "aps", ordinal=True), [[0.7, 0.5, 0.8, 1.0]])


@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_sets_of_ordered_classes_have_no_hole(method: str) -> None:
    proba = np.random.default_rng(0).dirichlet(np.full(6, 0.5), size=400)
    for limit in (0.5, 0.8, 0.95, 1.1):
        inside = class_scores(proba, method, ordinal=True) <= limit
        assert (
            np.abs(np.diff(np.pad(inside, ((0, 0), (1, 1))).astype(int))).sum(axis=1) <= 2
        ).all()
    plain = class_scores(proba, "lac") <= 0.8
    assert (np.abs(np.diff(np.pad(plain, ((0, 0), (1, 1))).astype(int))).sum(axis=1) > 2).any()


# -- coverage ---------------------------------------------------------------------------------


def within(hits: int, rows: int, share: float = 0.9, above: float = 0.0) -> bool:
    """Whether a count is in the 99.9 % binomial range of ``share``, or up to ``above`` more."""
    low, high = binom.ppf(0.0005, rows, share), binom.ppf(0.9995, rows, share + above)
    return bool(low <= hits <= high)


def test_coverage_over_draws_is_nominal_for_patterns_and_groups() -> None:
    """Exchangeable scores: one new row for every draw, so that hits are independent."""
    rng = np.random.default_rng(0)
    draws, n = 1500, 60
    hits = np.zeros(3, int)
    for _ in range(draws):
        pattern = np.repeat([[1, 1], [1, 0]], n, axis=0)
        scores = rng.normal(loc=2.0 * (1 - pattern[:, 1]))
        kept, new = store(scores, pattern), rng.normal(loc=[0.0, 2.0])
        found, _ = kept.thresholds(scores, 0.9, np.array([[1, 1], [1, 0]], bool), np.full(2, -1))
        hits[:2] += new <= found
        size = rng.integers(1, 9, 40)  # rows of a patient share most of their error
        unit = np.repeat(np.arange(40), size)
        scores = rng.normal(size=40)[unit] + 0.3 * rng.normal(size=len(unit)) + 0.1 * size[unit]
        kept = store(scores, np.ones((len(unit), 1)), unit=unit, grouped=True)
        found, _ = kept.thresholds(scores, 0.9, np.ones((1, 1), bool), np.array([-1]))
        new = rng.normal() + 0.3 * rng.normal() + 0.1 * rng.integers(1, 9)
        hits[2] += new <= found[0]
    assert all(within(h, draws, above=1 / (n + 1)) for h in hits[:2])
    assert within(hits[2], draws, above=1 / 41)


@pytest.mark.parametrize("target", ["nominal", "ordinal"])
@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_sets_cover_in_every_pattern(target: str, method: str) -> None:
    model = fitted(target)
    X, y, _ = graded(6000, seed=1)
    model.conformalize(X[:3000], y[:3000])
    table = coverage_by_pattern(model, X[3000:], y[3000:], method=method)
    assert table["pattern"].tolist() == ["a + b", "a", "b", "nothing", "all"]
    if method == "lac":  # sums of probabilities tie at one where little is known
        assert usual(table, model, 0.9)
    table = table.set_index("pattern")
    assert (table.loc[["a + b", "a", "b"], "covered"] > 0.85).all()
    assert table.loc["a + b", "size"] < table.loc["b", "size"] < 4
    sets = model.predict_set(X[3000:], method=method)
    if target == "ordinal":
        assert (np.abs(np.diff(np.pad(sets, ((0, 0), (1, 1))).astype(int))).sum(axis=1) == 2).all()


@pytest.mark.parametrize("head", [LateFusion(C=1.0), EarlyFusion(C=1.0)])
def test_out_of_fold_scores_calibrate_fit_by_itself(head: object) -> None:
    X, y, _ = graded(600)
    model = FusionClassifier(head, random_state=0).fit(X, y)
    assert model.conformal_.origin == "out-of-fold"
    X, y, _ = graded(3000, seed=2)
    covered = coverage_by_pattern(model, X, y).set_index("pattern")["covered"]
    assert covered["all"] == pytest.approx(0.9, abs=0.03)
    assert (covered[["a + b", "a", "b"]] > 0.84).all()


def test_hiding_calibrates_patterns_that_never_occurred() -> None:
    X, y, value = graded(3000, absent=0.0)
    model = FusionClassifier(LateFusion(C=1.0), random_state=0).fit(X[:300], y[:300])
    regressor = FusionRegressor(LateFusion(C=1.0), random_state=0).fit(X[:300], value[:300])
    test, truth = X[1500:].hide("a"), y[1500:]
    for _ in range(2):  # from the folds, then from held-out rows
        table = coverage_by_pattern(model, test, truth, allow_empty=True).set_index("pattern")
        assert table.loc["b", "covered"] == pytest.approx(0.9, abs=0.045)
        sources = model.conformal_table().set_index("pattern")["source"]
        assert sources.to_dict() == {"a + b": "own", "a": "hidden", "b": "hidden"} | {
            "nothing": "hidden"
        }
        table = coverage_by_pattern(regressor, test, value[1500:]).set_index("pattern")
        assert table.loc["b", "covered"] == pytest.approx(0.9, abs=0.045)
        model.conformalize(X[300:1500], y[300:1500])
        regressor.conformalize(X[300:1500], value[300:1500])


def test_strata_are_covered_each_and_not_only_together() -> None:
    model = fitted()
    X, _, severity = graded(8000, absent=0.2, seed=3)
    site = np.where(np.arange(8000) % 2, "north", "south")
    noisy = severity + np.where(site == "north", 1.2, 0.0) * np.random.default_rng(0).normal(
        size=8000
    )
    y = np.digitize(noisy, [-0.8, 0.0, 0.8])
    by = pd.Series(site, name="site")
    first, last = slice(None, 4000), slice(4000, None)
    model.conformalize(X[first], y[first], by=by[first])
    each = coverage_by_pattern(model, X[last], y[last], by=by[last])
    assert {"north", "south", "all"} == set(each["site"])
    kept = each[(each["pattern"] != "nothing") & (each["rows"] > 300)]
    assert len(kept) >= 5 and kept["covered"].between(0.86, 0.94).all()
    sets = model.predict_set(X[last], by=None)
    hit = sets[np.arange(4000), y[last]]
    assert hit[site[last] == "north"].mean() < 0.87 < 0.92 < hit[site[last] == "south"].mean()
    with pytest.warns(UserWarning, match="2 rows belong to strata without calibration rows"):
        model.predict_set(X[:2], by=pd.Series(["east", "east"], name="site"))


def test_no_empty_set_unless_allowed() -> None:
    X, y, _ = graded(1500, absent=0.0, seed=4)
    y = (y > 1).astype(int)
    model = FusionClassifier(LateFusion(C=1.0), random_state=0).fit(X[:400], y[:400])
    loose = model.predict_set(X[400:], 0.5, allow_empty=True)
    sure = model.predict_set(X[400:], 0.5)
    assert (loose.sum(axis=1) == 0).any() and (sure.sum(axis=1) >= 1).all()
    changed = (loose != sure).any(axis=1)
    np.testing.assert_array_equal(sure[changed].argmax(axis=1), model.predict(X[400:])[changed])
    wide = model.predict_set(X[400:], 0.95)
    assert (wide >= sure).all()


def test_several_outputs_have_a_set_each(tmp_path: Path) -> None:
    X, y, value = graded(500)
    Y = pd.DataFrame({"grade": y, "ill": np.where(value > 0, "yes", "no")})
    model = FusionClassifier(LateFusion(C=1.0), random_state=0).fit(X[:250], Y[:250])
    sets = model.predict_set(X)
    assert [s.shape for s in sets] == [(500, 4), (500, 2)]
    np.testing.assert_array_equal(sets[1], model.output("ill").predict_set(X))
    model.conformalize(X[250:], Y[250:])
    assert [c.origin for c in model.conformal_] == ["held-out", "held-out"]
    again = load(model.save(tmp_path / "model"))
    for one, other in zip(model.predict_set(X), again.predict_set(X), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="y must have 2 columns, as in fit; got 3"):
        model.conformalize(X[250:], np.zeros((250, 3)))
    with pytest.raises(ValueError, match="takes a model of one output"):
        coverage_by_pattern(model, X, Y)


# -- intervals --------------------------------------------------------------------------------

OUTPUTS = {
    "point": FusionRegressor(LateFusion(C=1.0), random_state=0),
    "quantiles": FusionRegressor(EarlyFusion(C=1.0), output="quantiles", random_state=0),
    "binned": FusionRegressor(EarlyFusion(C=1.0), output="binned", bins=12, random_state=0),
    "mixture": FusionRegressor(
        EarlyFusion(C=1.0), output="mixture", n_components=2, random_state=0
    ),
}


@pytest.mark.parametrize("output", OUTPUTS)
def test_intervals_cover_in_every_pattern(output: str, tmp_path: Path) -> None:
    X, _, y = graded(4300)
    model = clone(OUTPUTS[output]).fit(X[:300], y[:300])
    covered = coverage_by_pattern(model, X[2300:], y[2300:]).set_index("pattern")["covered"]
    assert covered["all"] == pytest.approx(0.9, abs=0.05)
    model.conformalize(X[300:2300], y[300:2300])
    for coverage in (0.6, 0.9):
        table = coverage_by_pattern(model, X[2300:], y[2300:], coverage)
        assert usual(table, model, coverage)
        table = table.set_index("pattern")
        assert table.loc["a + b", "size"] < table.loc["b", "size"] < table.loc["nothing", "size"]
    again = load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict_interval(X), model.predict_interval(X))
    assert repr(again.conformal_table()) == repr(model.conformal_table())


def test_point_interval_by_hand() -> None:
    X, _, y = graded(500, absent=0.0)
    model = FusionRegressor(LateFusion(C=1.0), random_state=0).fit(X[:300], y[:300])
    model.conformalize(X[300:], y[300:])
    error = np.sort(np.abs(y[300:] - model.predict(X[300:])))[180]  # the ceil(201 * 0.9) = 181st
    ends = model.predict_interval(X[:5])
    np.testing.assert_allclose(ends[:, 1] - ends[:, 0], 2 * error)
    np.testing.assert_allclose(ends.mean(axis=1), model.predict(X[:5]))


def test_intervals_of_several_targets() -> None:
    X, _, y = graded(600)
    Y = np.c_[y, 10 * y + 3]
    model = FusionRegressor(LateFusion(C=1.0), random_state=0).fit(X[:300], Y[:300])
    model.conformalize(X[300:], Y[300:])
    ends = model.predict_interval(X[:7])
    assert ends.shape == (7, 2, 2)
    np.testing.assert_allclose(10 * ends[:, 0] + 3, ends[:, 1], rtol=1e-3)


def test_a_value_beyond_the_grid_makes_the_interval_infinite_where_it_must() -> None:
    X, _, y = graded(400, absent=0.0)
    model = clone(OUTPUTS["binned"]).fit(X[:200], y[:200])
    far = y[200:].copy()
    far[:40] = 1e3  # a fifth of the values
    ends = model.conformalize(X[200:], far).predict_interval(X[:3])
    assert np.isinf(ends).all()
    assert np.isfinite(model.predict_interval(X[:3], 0.7)).all()


# -- the estimator's contract -----------------------------------------------------------------


def test_saved_sets_come_back_and_a_clone_has_none(tmp_path: Path) -> None:
    model = fitted()
    X, y, _ = graded(400, seed=5)
    by = pd.Series(np.arange(400) % 2, name="sex")
    again = load(model.save(tmp_path / "first"))
    np.testing.assert_array_equal(again.predict_set(X), model.predict_set(X))
    model.conformalize(X, y, by=by, groups=np.arange(400) // 2, min_rows=20)
    again = load(model.save(tmp_path / "second"))
    np.testing.assert_array_equal(again.predict_set(X, by=by), model.predict_set(X, by=by))
    assert repr(again.conformal_table()) == repr(model.conformal_table())
    assert again.conformal_.by == "sex" and again.conformal_.grouped
    assert not hasattr(clone(model), "conformal_")
    refitted = model.fit(X, y)
    assert refitted.conformal_.origin == "out-of-fold" and refitted.conformal_.strata == ()


def test_weights_of_zero_do_not_calibrate() -> None:
    model = fitted()
    X, y, _ = graded(400, seed=6)
    weight = (np.arange(400) < 300).astype(float)
    some = model.conformalize(X, y, weight).conformal_table()
    fewer = model.conformalize(X[:300], y[:300]).conformal_table()
    pd.testing.assert_frame_equal(some, fewer)


def test_the_matrix_view_answers_as_the_model() -> None:
    model = fitted()
    X, _, value = graded(50, seed=7)
    regressor = trained_regressor()
    view = matrix_view(model)
    matrix = view.to_matrix(X)
    assert matrix.shape == (50, 4)
    np.testing.assert_allclose(view.predict_proba(matrix), model.predict_proba(X), atol=1e-12)
    np.testing.assert_allclose(matrix_view(regressor).predict(matrix), regressor.predict(X))
    with pytest.raises(ValueError, match=r"X must have the shape \(n, 4\)"):
        view.predict(matrix[:, :2])
    with pytest.raises(ValueError, match="wraps a model that is fitted"):
        view.fit(matrix, value)
    Y = np.c_[np.arange(50) % 2, np.arange(50) % 3]
    with pytest.raises(ValueError, match="matrix_view takes a model of one output"):
        matrix_view(FusionClassifier(LateFusion(C=1.0)).fit(X, Y))


def test_mapie_gives_the_same_sets_and_intervals() -> None:
    mapie = pytest.importorskip("mapie.classification")
    regression = pytest.importorskip("mapie.regression")
    model = fitted()
    X, y, value = graded(600, seed=8)
    first, last = X[:300], X[300:]
    view = matrix_view(model)
    theirs = mapie.SplitConformalClassifier(
        view, confidence_level=0.9, prefit=True, conformity_score="lac"
    ).conformalize(view.to_matrix(first), y[:300])
    model.conformalize(first, y[:300], min_rows=10**6)  # one threshold for all patterns
    np.testing.assert_array_equal(
        theirs.predict_set(view.to_matrix(last))[1][:, :, 0],
        model.predict_set(last, allow_empty=True),
    )
    regressor = copy.deepcopy(trained_regressor())
    view = matrix_view(regressor)
    theirs = regression.SplitConformalRegressor(view, confidence_level=0.9, prefit=True)
    theirs.conformalize(view.to_matrix(first), value[:300])
    regressor.conformalize(first, value[:300], min_rows=10**6)
    np.testing.assert_allclose(
        theirs.predict_interval(view.to_matrix(last))[1][:, :, 0],
        regressor.predict_interval(last),
        atol=1e-9,
    )


def test_bad_calls() -> None:
    model = fitted()
    X, y, value = graded(100, seed=9)
    with pytest.raises(NotFittedError):
        FusionClassifier().predict_set(X)
    for coverage in (0, 1, 1.5, "most", True):
        with pytest.raises(ValueError, match="predict_set: coverage must be between 0 and 1; got"):
            model.predict_set(X, coverage)
    with pytest.raises(ValueError, match="method must be 'lac', 'aps' or 'raps'; got 'best'"):
        model.predict_set(X, method="best")
    with pytest.raises(ValueError, match=r"by is given, .* was not calibrated by strata"):
        model.predict_set(X, by=y)
    with pytest.raises(ValueError, match="min_rows must be an integer of at least 1; got 0"):
        model.conformalize(X, y, min_rows=0)
    with pytest.raises(ValueError, match="y has 9 in row 3, which the model does not know"):
        model.conformalize(X, np.where(np.arange(100) == 3, 9, y))
    with pytest.raises(ValueError, match=r"y must have the shape \(100,\)"):
        model.conformalize(X, y[:50])
    with pytest.raises(ValueError, match="X has 100 rows and by has 3; give one value per row"):
        model.conformalize(X, y, by=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"by has no value in 1 of 100 rows \(first in row 0\)"):
        model.conformalize(X, y, by=[None, *["a"] * 99])
    with pytest.raises(ValueError, match="by must have one value per row, or be a DataFrame"):
        model.conformalize(X, y, by=np.zeros((100, 2)))
    model.conformalize(X, y, by=pd.Series(y, name="site"))
    with pytest.raises(ValueError, match="by is the column 'sex', .* calibrated by 'site'"):
        model.predict_set(X, by=pd.Series(y, name="sex"))
    bare = FusionClassifier(LateFusion(C=1.0), calibration=None).fit(X, y)
    with pytest.raises(ValueError, match=r"nothing was held out in fit \(calibration=None"):
        bare.predict_set(X)
    assert bare.conformalize(X, y, overlap="ignore").predict_set(X).shape == (100, 4)
    regressor = copy.deepcopy(trained_regressor())
    with pytest.raises(ValueError, match="predict_interval: coverage must be between 0 and 1"):
        regressor.predict_interval(X, 0)
    with pytest.raises(ValueError, match="by needs rows to calibrate on and a coverage below 1"):
        regressor.predict_interval(X, 1, by=y)
    with pytest.raises(ValueError, match="y has 2 columns; give those of fit"):
        regressor.conformalize(X, np.c_[value, value])
    plain = FusionRegressor(LateFusion(C=1.0), calibration=None).fit(X, value)
    with pytest.raises(ValueError, match="conformal_table: nothing was held out in fit"):
        plain.conformal_table()
    single = FusionRegressor(EarlyFusion(C=1.0), output="quantiles", quantiles=[0.5]).fit(X, value)
    with pytest.raises(ValueError, match="one quantile, which says nothing about other levels"):
        single.conformalize(X, value)
