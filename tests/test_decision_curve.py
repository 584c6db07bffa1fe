"""Decision curves against dcurves, closed forms and loops; the picture shows the numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from graded_sample import PROBA, Y
from hypothesis import given, settings
from hypothesis import strategies as st

import mmfuse
from mmfuse import Blocks, FusionClassifier, decision_curve
from mmfuse.heads import EarlyFusion
from mmfuse.plotting import DecisionCurveDisplay

CLASSES = [0, 1, 2]
CUTS = [0.0, 0.1, 0.255, 0.333, 0.5, 0.705]

# made with dcurves 1.1.7, dca(outcome, modelnames, thresholds, prevalence), event -> prevalence
DCURVES = {
    ("1", None): (
        [0.26666666666666666, 0.1925925925925926, 0.09642058165548098, 0.07518740629685158]
        + [0.0, 0.06666666666666667],
        [0.26666666666666666, 0.18518518518518517, 0.015659955257270652, -0.09945027486256874]
        + [-0.46666666666666673, -1.485875706214689],
    ),
    ("1", 0.15): (
        [0.15, 0.06414141414141414, -0.02744432580841974, -0.03216914270137658]
        + [-0.06960227272727272, 0.0375],
        [0.15, 0.05555555555555555, -0.14093959731543623, -0.27436281859070466]
        + [-0.7, -1.8813559322033893],
    ),
    (">= 1", None): (
        [0.45, 0.3907407407407407, 0.2621923937360179, 0.1753623188405797]
        + [0.14999999999999997, 0.1601694915254237],
        [0.45, 0.3888888888888889, 0.261744966442953, 0.17541229385307344]
        + [-0.10000000000000003, -0.8644067796610169],
    ),
    (">= 1", 0.15): (
        [0.15, 0.05841750841750841, -0.12004609856958853, -0.23403601229688187]
        + [-0.25303030303030305, 0.005110426296866991],
        [0.15, 0.05555555555555555, -0.14093959731543623, -0.27436281859070466]
        + [-0.7, -1.8813559322033893],
    ),
}


@pytest.mark.parametrize(("event", "prevalence"), DCURVES)
def test_net_benefit_is_that_of_dcurves(event: str, prevalence) -> None:
    curve = decision_curve(
        *(Y, PROBA),
        classes=CLASSES,
        events=[1 if event == "1" else event],
        thresholds=CUTS,
        prevalence=prevalence,
        n_bootstrap=0,
    )
    model, everyone = DCURVES[event, prevalence]
    assert curve.events == (event,)
    np.testing.assert_allclose(curve.net_benefit[0], model, rtol=0, atol=1e-9)
    np.testing.assert_allclose(curve.treat_all[0], everyone, rtol=0, atol=1e-9)
    odds = np.array(CUTS[1:]) / (1 - np.array(CUTS[1:]))
    spared = (np.array(model[1:]) - everyone[1:]) / odds  # its net_intervention_avoided
    np.testing.assert_allclose(curve.interventions_avoided[0, 1:], spared, atol=1e-9)
    assert np.isnan(curve.interventions_avoided[0, 0])


def plain(y, proba, classes, **options):
    return decision_curve(y, proba, classes=classes, **{"n_bootstrap": 0, **options})


def test_closed_forms() -> None:
    curve = plain(Y, PROBA, CLASSES)
    share = np.bincount(Y) / 60
    assert (curve.treat_none == 0).all()
    np.testing.assert_allclose(curve.treat_all[:, 0], share)  # at threshold 0
    np.testing.assert_allclose(curve.net_benefit[:, 0], share)
    np.testing.assert_allclose(curve.prevalence, share)
    at_share = plain(Y, PROBA, CLASSES, thresholds=share)
    np.testing.assert_allclose(np.diag(at_share.treat_all), 0, atol=1e-12)
    perfect = plain(Y, np.eye(3)[Y], CLASSES)
    np.testing.assert_allclose(perfect.net_benefit, np.tile(share[:, None], (1, 100)))
    assert (curve.net_benefit <= share[:, None] + 1e-12).all()
    none = plain(Y, np.tile([1.0, 0.0, 0.0], (60, 1)), CLASSES, events=[2], thresholds=[0.2])
    assert none.net_benefit[0, 0] == 0.0  # a model that flags none is treat-none


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), t=st.floats(0, 0.99))
def test_net_benefit_is_that_of_a_loop(seed: int, t: float) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    proba, weight = rng.dirichlet(np.ones(4), size=n), rng.random(n) + 0.01
    y = rng.integers(0, 4, n)
    options = {"thresholds": t, "sample_weight": weight}
    curve = plain(y, proba, [0, 1, 2, 3], events="at_least", **options)
    for e, lowest in enumerate((1, 2, 3)):
        risk = np.minimum(proba[:, lowest:].sum(axis=1), 1)
        hits = sum(w for w, r, c in zip(weight, risk, y, strict=True) if r >= t and c >= lowest)
        alarms = sum(w for w, r, c in zip(weight, risk, y, strict=True) if r >= t and c < lowest)
        slow = (hits - alarms * t / (1 - t)) / weight.sum()
        assert curve.net_benefit[e, 0] == pytest.approx(slow, abs=1e-12)
        best = max(curve.treat_all[e, 0], 0)
        assert curve.advantage[e, 0] == pytest.approx(slow - best, abs=1e-12)
    assert (curve.net_benefit <= curve.prevalence[:, None] + 1e-12).all()


def test_events_in_every_form() -> None:
    grades = np.array(["mild", "moderate", "severe"])
    y = grades[Y]
    assert plain(y, PROBA, grades).events == ("mild", "moderate", "severe")
    assert plain(y, PROBA, grades, events="at_least").events == (">= moderate", ">= severe")
    named = plain(y, PROBA, grades, events={"any": ["moderate", "severe"], "worst": "severe"})
    assert named.events == ("any", "worst")
    text = plain(y, PROBA, grades, events=[">= moderate", "severe"])
    np.testing.assert_array_equal(named.net_benefit, text.net_benefit)
    two = np.stack([PROBA[:, 0], 1 - PROBA[:, 0]], axis=1)
    assert plain(Y > 0, two, [False, True]).events == ("True",)
    lone = plain(y, PROBA, grades, events=">= severe")
    np.testing.assert_array_equal(lone.net_benefit, text.net_benefit[1:])


def test_bands_are_those_of_resampled_groups() -> None:
    groups, weight = np.arange(60) // 4, np.random.default_rng(0).random(60)
    options = {"events": [">= 1"], "thresholds": [0.2, 0.5], "sample_weight": weight}
    curve = decision_curve(
        *(Y, PROBA),
        classes=CLASSES,
        groups=groups,
        n_bootstrap=200,
        confidence=0.9,
        random_state=3,
        **options,
    )
    assert curve.n_units == 15 and curve.n_rows == 60 and curve.confidence == 0.9
    seed = np.random.RandomState(3).randint(np.iinfo(np.int32).max)
    draws = np.random.default_rng(seed).integers(15, size=(200, 15))
    slow = []
    for drawn in draws:
        rows = np.concatenate([np.flatnonzero(groups == g) for g in drawn])
        part = {**options, "sample_weight": weight[rows]}
        slow.append(plain(Y[rows], PROBA[rows], CLASSES, **part))
    ends = np.quantile([one.net_benefit for one in slow], [0.05, 0.95], axis=0)
    np.testing.assert_allclose([curve.low, curve.high], ends)
    ends = np.quantile([one.advantage for one in slow], [0.05, 0.95], axis=0)
    np.testing.assert_allclose([curve.advantage_low, curve.advantage_high], ends)


def test_the_frame_has_a_row_an_event_and_threshold() -> None:
    curve = decision_curve(Y, PROBA, classes=CLASSES, n_bootstrap=20, random_state=0)
    frame = curve.to_frame()
    assert len(frame) == 300
    assert not frame.drop(columns="interventions_avoided").isna().any(axis=None)
    part = frame[(frame["event"] == "2") & (frame["threshold"] == 0.3)].iloc[0]
    assert part["net_benefit"] == curve.net_benefit[2, 30]
    assert part["low"] <= part["net_benefit"] <= part["high"]
    assert plain(Y, PROBA, CLASSES).to_frame()["low"].isna().all()


def test_it_is_a_public_name() -> None:
    assert mmfuse.decision_curve is decision_curve
    assert isinstance(plain(Y, PROBA, CLASSES), mmfuse.DecisionCurve)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"events": ["7"]}, "there is no event '7'; name a class of [0, 1, 2], '>= ' and a class"),
        ({"events": [">= 7"]}, "there is no event '>= 7'"),
        ({"events": [">= 0"]}, "the event '>= 0' must hold some of the classes and not all; it"),
        ({"events": {"none": []}}, "the event 'none' must hold some of the classes"),
        ({"events": {"a": [9]}}, "events names 9, which is not among [0, 1, 2]"),
        ({"events": []}, "events is empty; name at least one event"),
        ({"thresholds": [0.5, 1.0]}, "probabilities from 0 to below 1; got 1.0"),
        ({"thresholds": [np.nan]}, "probabilities from 0 to below 1; got nan"),
        ({"thresholds": []}, "thresholds must have the shape (T,); got (0,)"),
        ({"prevalence": 0.1}, "prevalence is one number and there are 3 events; pass a mapping"),
        ({"prevalence": {"x": 0.1}}, "prevalence names 'x', which is not among the events '0'"),
        ({"prevalence": {"1": 10}}, "prevalence must lie between 0 and 1; got 10 for '1'"),
        ({"n_bootstrap": -1}, "n_bootstrap must be an integer of at least 1; got -1"),
        ({"confidence": 95}, "confidence must lie between 0 and 1; got 95"),
        ({"groups": [1]}, "groups must have the shape (60,)"),
        ({"classes": [0, 1]}, "classes must name the 3 columns of proba"),
    ],
)
def test_bad_arguments_are_named(options, message: str) -> None:
    with pytest.raises(ValueError, match=f"decision_curve: .*{re.escape(message)}"):
        decision_curve(Y, PROBA, **{"classes": CLASSES, **options})


def test_a_prevalence_needs_cases() -> None:
    with pytest.raises(ValueError, match="rows with and without the event '2'; none of them"):
        plain([0, 1], PROBA[:2], CLASSES, prevalence=0.1, events=[2])


# -- the picture -------------------------------------------------------------------------------


@pytest.fixture
def pyplot():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.close("all")
    yield pyplot
    pyplot.close("all")


def test_lines_are_the_numbers(pyplot) -> None:
    options = {"classes": CLASSES, "events": "at_least", "n_bootstrap": 30, "random_state": 0}
    display = DecisionCurveDisplay.from_predictions(Y, PROBA, name="all", **options)
    curve = decision_curve(Y, PROBA, **options)
    assert len(display.axes_) == 2 and display.ax_ is display.axes_[0]
    assert display.figure_ is display.ax_.figure
    for e, ax in enumerate(display.axes_):
        np.testing.assert_array_equal(display.lines_[e].get_ydata(), curve.net_benefit[e])
        named = {line.get_label(): line for line in ax.lines}
        np.testing.assert_array_equal(named["act on all"].get_ydata(), curve.treat_all[e])
        assert set(named["act on none"].get_ydata()) == {0.0}
        assert [text.get_text() for text in ax.get_legend().get_texts()] == list(named)
        assert {line.get_linestyle() for line in ax.lines} == {"-", "--", ":"}  # told in grey
        low, high = ax.get_ylim()
        assert low < 0 < curve.high[e].max() < high
        band = ax.collections[0].get_paths()[0].vertices[:, 1]
        assert band.min() == pytest.approx(curve.low[e].min())
    assert display.axes_[0].get_title(loc="left") == "≥ 1 (prevalence 0.45)"


def test_a_second_model_gets_a_mark_of_its_own(pyplot) -> None:
    options = {"classes": CLASSES, "events": [2], "n_bootstrap": 0}
    first = DecisionCurveDisplay.from_predictions(Y, PROBA, name="a", **options)
    flat = np.tile([0.5, 0.3, 0.2], (60, 1))
    second = DecisionCurveDisplay.from_predictions(Y, flat, name="b", ax=first.ax_, **options)
    labels = [text.get_text() for text in second.ax_.get_legend().get_texts()]
    assert labels == ["act on none", "act on all", "a", "b"]
    assert first.lines_[0].get_marker() != second.lines_[0].get_marker()
    assert not second.ax_.collections  # no band without a bootstrap


def test_from_estimator_predicts(pyplot) -> None:
    X = Blocks({"a": np.log(PROBA[:, :2] + 0.01), "b": np.log(PROBA[:, 2:] + 0.01)})
    model = FusionClassifier(EarlyFusion(), target="ordinal", cv=3, random_state=0).fit(X, Y)
    display = DecisionCurveDisplay.from_estimator(model, X, Y, events="at_least", n_bootstrap=0)
    expected = plain(Y, model.predict_proba(X), CLASSES, events="at_least")
    np.testing.assert_array_equal(display.curve.net_benefit, expected.net_benefit)
    assert display.lines_[0].get_label() == "FusionClassifier"
    drawn = display.curve.plot(name="again")
    assert drawn.lines_[0].get_label() == "again"
    with pytest.raises(ValueError, match="must hold 2 axes, one an event .* got 1"):
        display.plot(display.ax_)
    both = FusionClassifier(EarlyFusion(), cv=3, random_state=0).fit(X, np.stack([Y, Y], 1))
    with pytest.raises(TypeError, match=r"draws one output, and this FusionClassifier has 2"):
        DecisionCurveDisplay.from_estimator(both, X, Y)
    with pytest.raises(TypeError, match="needs a classifier with predict_proba; got object"):
        DecisionCurveDisplay.from_estimator(object(), X, Y)
