"""A clinical sheet of weighted rows: a row of weight two is two rows of one person."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score
from test_clinical import part, study

import mmfuse as mf
from mmfuse import clinical_report
from mmfuse.conformal import coverage_by_pattern
from mmfuse.explanations import explain
from mmfuse.heads import EarlyFusion
from mmfuse.metrics import expected_calibration_error

OPTIONS = {"n_bootstrap": 40, "guards": False}
TRAIN, TEST = slice(0, 160), slice(160, None)


@pytest.fixture(scope="module", params=[2, 3])
def both(request):
    """The same rows with whole weights, and each of them as often as its weight."""
    X, y, frame, _ = study(classes=request.param)
    target = "ordinal" if request.param == 3 else "nominal"
    model = mf.FusionClassifier(EarlyFusion(C=1.0), target=target, random_state=0)
    model.fit(part(X, TRAIN), y[TRAIN])
    rows = part(X, TEST)
    weight = np.random.default_rng(1).integers(1, 4, 200)
    again = np.repeat(np.arange(200), weight)
    people, sex = np.arange(200), frame["sex"].to_numpy()[TEST]
    weighted = clinical_report(
        model, rows, y[TEST], sample_weight=5.0 * weight, groups=people, by={"sex": sex}, **OPTIONS
    )
    repeated = clinical_report(
        model, part(rows, again), y[TEST][again], groups=again, by={"sex": sex[again]}, **OPTIONS
    )
    return weighted, repeated, model, rows, y[TEST], weight


def test_weights_are_repetitions_in_every_part(both):
    weighted, repeated, *_, weight = both
    np.testing.assert_allclose(weighted.scores, repeated.scores, atol=1e-9)
    scale = len(weight) / weight.sum()
    np.testing.assert_allclose(weighted.confusion, repeated.confusion * scale)
    assert weighted.prevalence == pytest.approx(repeated.prevalence)
    assert weighted.calibration_error == pytest.approx(repeated.calibration_error)
    for event, curve in weighted.calibration.items():
        same = repeated.calibration[event]
        np.testing.assert_allclose(curve.summary, same.summary, rtol=1e-5, atol=1e-7)
    shares = ["sensitivity", "specificity", "ppv", "npv", "flagged"]
    np.testing.assert_allclose(weighted.points[shares], repeated.points[shares])
    np.testing.assert_allclose(
        weighted.decision.to_frame()["net_benefit"], repeated.decision.to_frame()["net_benefit"]
    )
    parts = weighted.subgroups.columns.drop(["column", "subgroup", "rows"])
    np.testing.assert_allclose(
        weighted.subgroups[parts].astype(float), repeated.subgroups[parts].astype(float), atol=1e-9
    )
    left, right = (one.patterns.set_index("pattern") for one in (weighted, repeated))
    parts = ["share", "accuracy", "low", "high", "confidence", "gap"]
    np.testing.assert_allclose(left[parts], right.loc[left.index, parts], atol=1e-9)
    np.testing.assert_allclose(weighted.modalities["share"], repeated.modalities["share"])
    left, right = (one.coverage.set_index("pattern") for one in (weighted, repeated))
    parts = ["covered", "size"]
    np.testing.assert_allclose(left[parts], right.loc[left.index, parts])
    left, right = (one.contributions.modalities for one in (weighted, repeated))
    numbers = left.select_dtypes(float).columns
    np.testing.assert_allclose(left[numbers], right.loc[left.index, numbers], atol=1e-9)
    parts = ["mean_abs", "low", "high", "mean_abs_present", "mean"]
    left, right = weighted.explanation, repeated.explanation
    np.testing.assert_allclose(left[parts], right.loc[left.index, parts], atol=1e-6)


def test_weights_change_the_numbers_and_counts_stay_counts(both):
    weighted, repeated, model, rows, y, weight = both
    plain = clinical_report(model, rows, y, **OPTIONS)
    assert plain.n_effective is None
    assert (weighted.scores["value"] != plain.scores["value"]).all()
    assert weighted.flow["rows"].tolist() == plain.flow["rows"].tolist()
    assert weighted.n_rows == 200 and weighted.event_rows == plain.event_rows
    assert weighted.n_effective == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    proba, said = model.predict_proba(rows), model.predict(rows)
    options = {"sample_weight": weight}
    assert weighted.scores.loc["accuracy", "value"] == pytest.approx(
        accuracy_score(y, said, **options)
    )
    if len(model.classes_) == 2:
        area = roc_auc_score(y, proba[:, 1], **options)
        assert weighted.scores.loc["AUC", "value"] == pytest.approx(area)
    assert weighted.calibration_error == pytest.approx(
        expected_calibration_error(y, proba, classes=model.classes_, **options)
    )
    bins = next(iter(weighted.calibration.values())).bins
    assert bins["rows"].sum() == 200
    assert any("worth about" in limit for limit in weighted.limits)
    assert f"{weighted.confusion.to_numpy()[0, 0]:.1f}" in weighted.to_html()


def test_equal_weights_change_nothing_but_wilson(both):
    *_, model, rows, y, _ = both
    one = clinical_report(model, rows, y, sample_weight=np.full(200, 7.0), **OPTIONS)
    plain = clinical_report(model, rows, y, **OPTIONS)
    pd.testing.assert_frame_equal(one.scores, plain.scores)
    for event, curve in one.calibration.items():
        pd.testing.assert_frame_equal(curve.smooth, plain.calibration[event].smooth)
        pd.testing.assert_series_equal(
            curve.bins["observed"], plain.calibration[event].bins["observed"]
        )
    np.testing.assert_allclose(one.coverage["low"], plain.coverage["low"])


def test_weights_of_rows_left_out_do_not_matter(both):
    *_, model, rows, y, weight = both
    reasons = np.full(200, None, dtype=object)
    reasons[:10] = "withdrew"
    given = weight.astype(float)
    given[:10] = np.nan
    one = clinical_report(model, rows, y, sample_weight=given, excluded=reasons, **OPTIONS)
    kept = clinical_report(
        model, part(rows, slice(10, None)), y[10:], sample_weight=weight[10:], **OPTIONS
    )
    pd.testing.assert_frame_equal(one.scores, kept.scores)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(7), r"sample_weight must have the shape \(200,\), .* got the shape \(7,\)"),
        (np.r_[1.0, 0.0, np.ones(198)], "must be finite and above 0; got 0.0 in row 1. Name rows"),
        (np.r_[np.ones(199), np.nan], "must be finite and above 0; got nan in row 199"),
    ],
)
def test_wrong_weights_are_refused(both, weight, message):
    *_, model, rows, y, _ = both
    with pytest.raises(ValueError, match=message):
        clinical_report(model, rows, y, sample_weight=weight, **OPTIONS)


def test_coverage_leaves_out_rows_of_weight_zero():
    X, y, _, _ = study()
    model = mf.FusionRegressor(EarlyFusion(C=1.0), random_state=0).fit(part(X, TRAIN), y[TRAIN])
    weight = np.r_[np.zeros(50), np.ones(150)]
    some = coverage_by_pattern(model, part(X, TEST), y[TEST], sample_weight=weight)
    fewer = coverage_by_pattern(model, part(X, slice(210, None)), y[210:])
    pd.testing.assert_frame_equal(some, fewer)
    heavy = coverage_by_pattern(model, part(X, TEST), y[TEST], sample_weight=1 + weight)
    assert (heavy["rows"] > some["rows"]).all() and np.isfinite(heavy["size"]).all()
    with pytest.raises(ValueError, match="coverage_by_pattern: sample_weight must have the shape"):
        coverage_by_pattern(model, part(X, TEST), y[TEST], sample_weight=[1.0])


def test_summaries_of_explanations_refuse_wrong_weights():
    X, y, _, _ = study()
    model = mf.FusionClassifier(EarlyFusion(C=1.0), random_state=0).fit(part(X, TRAIN), y[TRAIN])
    found = explain(model, part(X, TEST))
    with pytest.raises(ValueError, match="Explanation.summary: sample_weight must have the shape"):
        found.summary(sample_weight=[1.0, 2.0])
