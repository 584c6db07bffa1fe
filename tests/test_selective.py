"""Abstention under risk control, and the plot of coverage."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from mmfuse import FusionClassifier, load
from mmfuse.conformal.risk_control import clopper_pearson, controlled_threshold
from mmfuse.heads import LateFusion
from mmfuse.plotting import CoverageDisplay
from tests.test_conformal import graded, trained_regressor


@cache
def trained() -> FusionClassifier:
    X, y, _ = graded(400)
    return FusionClassifier(LateFusion(C=1.0), random_state=0).fit(X, (y > 1) * 1)


def fitted() -> FusionClassifier:
    return copy.deepcopy(trained())


def two_grades(n: int, seed: int) -> tuple:
    X, y, _ = graded(n, seed=seed)
    return X, (y > 1) * 1


# -- thresholds -------------------------------------------------------------------------------


def test_bounds_of_a_share() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert clopper_pearson(5, 5)[1] == 1.0
    for errors, rows in ((0, 29), (3, 80), (20, 50)):
        _, high = clopper_pearson(errors, rows, 0.95, upper_only=True)
        assert binom.cdf(errors, rows, high) == pytest.approx(0.05)
        low, high = clopper_pearson(errors, rows, 0.9)
        assert binom.cdf(errors, rows, high) == pytest.approx(0.05)
        assert errors == 0 or binom.sf(errors - 1, rows, low) == pytest.approx(0.05)


def test_threshold_by_hand() -> None:
    """A hundred sure rows that are right, a hundred unsure ones that are wrong."""
    sure = np.repeat([0.95, 0.6], 100)
    wrong = np.repeat([False, True], 100)
    options = {"risk": 0.1, "confidence": 0.95, "n_classes": 2}
    for test in ("fixed-sequence", "bonferroni"):
        found = controlled_threshold(sure, wrong, test=test, **options)
        assert 0.6 < found <= 0.95
    everything = controlled_threshold(sure, np.zeros(200, bool), **options)
    assert everything == 0.0
    assert controlled_threshold(sure, ~wrong, **options) == np.inf
    few = controlled_threshold(sure[:28], wrong[:28], **options)  # 0.9 ** 28 is above 5 %
    assert few == np.inf
    assert controlled_threshold(sure[:29], wrong[:29], **options) == 0.0
    assert controlled_threshold(sure[:0], wrong[:0], **options) == np.inf


@pytest.mark.parametrize("test", ["fixed-sequence", "bonferroni"])
def test_the_risk_is_kept_as_often_as_promised(test: str) -> None:
    """The chance of an error is one less the confidence, so the risk of a threshold is known."""
    rng, broken, answers, draws = np.random.default_rng(0), 0, [], 400
    for _ in range(draws):
        sure = rng.uniform(0.5, 1.0, size=300)
        wrong = rng.random(300) < 1 - sure
        limit = controlled_threshold(sure, wrong, risk=0.15, confidence=0.9, n_classes=2, test=test)
        if np.isfinite(limit):
            limit = max(limit, 0.5)
            broken += (1 - limit) / 2 > 0.15
            answers.append(2 * (1 - limit))
    assert broken <= binom.ppf(0.9995, draws, 0.1)
    assert len(answers) > 100 and np.mean(answers) > 0.2
    if test == "fixed-sequence":
        assert broken > 0  # it goes to the edge: with no error allowed at all nothing would break


# -- the estimator ----------------------------------------------------------------------------


def test_answers_keep_the_risk_in_every_pattern(tmp_path: Path) -> None:
    model = fitted()
    X, y = two_grades(7000, seed=1)
    model.control_risk(X[:2500], y[:2500], risk=0.15)
    table = model.risk_table()
    assert table["pattern"].tolist() == ["a + b", "a", "b", "nothing"]
    assert (table["high"][np.isfinite(table["threshold"])] <= 0.15).all()
    found = model.risk_table(X[2500:], y[2500:]).set_index("pattern")
    assert found.loc["a + b", "answered"] > 0.5
    assert (found.loc[["a + b", "a"], "low"] <= 0.15).all()
    assert found.loc["nothing", "answered"] == 0.0  # half of these answers would be wrong
    assert found.loc["all", "rows"] == 4500
    answers = model.predict_or_abstain(X[2500:])
    kept = model.answered(X[2500:])
    assert answers.dtype == object and not kept.all()
    assert [a is None for a in answers] == (~kept).tolist()
    np.testing.assert_array_equal(answers[kept].astype(int), model.predict(X[2500:])[kept])
    assert (model.predict_or_abstain(X[2500:], marker="ask")[~kept] == "ask").all()
    again = load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.answered(X), model.answered(X))
    pd.testing.assert_frame_equal(again.risk_table(), table)
    assert model.fit(X[:100], y[:100]).risk_control_ is None


def test_rare_patterns_share_a_threshold_and_unknown_ones_get_no_answer() -> None:
    model = fitted()
    X, y = two_grades(900, seed=2)
    seen = np.flatnonzero(X.present.any(axis=1))
    seen = seen[X.present[seen, 0]]  # no row without a
    model.control_risk(X[seen], y[seen], risk=0.25, min_rows=300)
    assert model.risk_table()["pattern"].tolist() == ["a + b", "other patterns"]
    assert model.answered(X[seen]).any() and not model.answered(X[seen].hide("a")).any()
    pooled = model.control_risk(X[seen], y[seen], risk=0.25, by_pattern=False).risk_table()
    assert pooled["pattern"].tolist() == ["all"] and pooled["rows"].tolist() == [len(seen)]


def test_one_row_of_each_group_counts() -> None:
    model = fitted()
    X, y = two_grades(900, seed=3)
    groups = np.arange(900) // 3
    table = model.control_risk(X, y, groups, random_state=0).risk_table()
    assert table["rows"].sum() == 300
    again = model.control_risk(X, y, groups, random_state=0).risk_table()
    pd.testing.assert_frame_equal(table, again)


def test_bad_calls() -> None:
    model = fitted()
    X, y = two_grades(60, seed=4)
    with pytest.raises(ValueError, match="answered: no threshold was chosen; call control_risk"):
        model.answered(X)
    with pytest.raises(ValueError, match="risk must be between 0 and 1; got 0"):
        model.control_risk(X, y, risk=0)
    with pytest.raises(ValueError, match="confidence must be between 0 and 1; got 'high'"):
        model.control_risk(X, y, confidence="high")
    with pytest.raises(ValueError, match="test must be 'fixed-sequence' or 'bonferroni'; got 'a'"):
        model.control_risk(X, y, test="a")
    with pytest.raises(ValueError, match="min_rows must be an integer of at least 1; got 2.5"):
        model.control_risk(X, y, min_rows=2.5)
    model.control_risk(X, y)
    with pytest.raises(ValueError, match="marker 1 is one of the classes"):
        model.predict_or_abstain(X, marker=1)
    several = FusionClassifier(LateFusion(C=1.0)).fit(X, np.c_[y, y])
    with pytest.raises(AttributeError, match="control_risk"):
        several.control_risk(X, y)


# -- the plot ---------------------------------------------------------------------------------


def test_the_display_draws_a_line_for_every_pattern() -> None:
    X, y = two_grades(500, seed=5)
    drawn = CoverageDisplay.from_estimator(fitted(), X, y, coverage=0.8, allow_empty=True)
    labels = [text.get_text() for text in drawn.axes_[0].get_yticklabels()]
    assert [label.split("  ")[0] for label in labels] == ["a + b", "a", "b", "nothing", "all"]
    assert len(drawn.axes_[1].patches) == 5
    assert drawn.axes_[0].get_lines()[0].get_xdata()[0] == 0.8
    widths = [bar.get_width() for bar in drawn.axes_[1].patches]
    np.testing.assert_allclose(widths, drawn.table["size"])
    X, _, value = graded(200, seed=6)
    axes = drawn.figure_.subplots(1, 2)
    again = CoverageDisplay.from_estimator(trained_regressor(), X, value, axes=axes)
    assert again.axes_[1].get_xlabel() == "median width, in the unit of y"
    wide = drawn.table.assign(size=np.inf)
    assert "infinite" in CoverageDisplay(wide, 0.8).plot().axes_[1].texts[0].get_text()
    with pytest.raises(ValueError, match="axes must hold two axes; got 1"):
        drawn.plot(axes[:1])
    matplotlib.pyplot.close("all")
