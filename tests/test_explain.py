"""Explanations by modality: closed forms, axioms, every head, views and errors."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from explain_heads import MANY, GameHead, table
from report_models import slow_shapley
from scipy.special import logit

from mmfuse import Blocks, Explanation, FusionClassifier, FusionRegressor, Presence, explain
from mmfuse.explanations import stability
from mmfuse.heads import EarlyFusion, LateFusion


def game(n=40, jump=False):
    rng = np.random.default_rng(3)
    X = {name: rng.normal(size=(n, 2)) for name in "abcd"}
    return FusionRegressor(GameHead(jump), cv=2, calibration=None).fit(X, rng.normal(size=n)), X


def test_shapley_of_a_hand_made_head_is_its_closed_form():
    model, X = game()
    scale = float(model.target_scale_[0])
    z = {n: t[:, 0].numpy() for n, t in model.scaler_(model._tensors(model.encode(X))).items()}
    found = explain(model, X).values[:, :, 0] / scale
    shared = z["a"] * z["b"] + 0.25  # half of the interaction each: symmetry
    np.testing.assert_allclose(found[:, 0], z["a"] + shared, atol=1e-6)
    np.testing.assert_allclose(found[:, 1], z["b"] + shared, atol=1e-6)
    np.testing.assert_allclose(found[:, 2], z["c"], atol=1e-6)
    np.testing.assert_allclose(found[:, 3], 0.0, atol=1e-12)  # the dummy


def test_two_modalities_that_say_the_same_get_the_same():
    model, X = game()
    blocks = model.encode(X)
    same = {**X, "b": np.array(X["a"])}
    mean, scale = (t.numpy() for t in model.scaler_.statistics("a"))
    other, other_scale = (t.numpy() for t in model.scaler_.statistics("b"))
    same["b"] = (X["a"] - mean) / scale * other_scale + other
    found = explain(model, same)
    np.testing.assert_allclose(found.values[:, 0], found.values[:, 1], atol=1e-6)
    assert np.abs(explain(model, blocks).values[:, 0] - explain(model, X).values[:, 1]).max() > 0.1


@pytest.mark.parametrize("output", ["log_odds", "probability"])
def test_shapley_is_the_mean_over_all_orders_of_the_calibrated_answer(output):
    X, y = table()
    model = FusionClassifier(LateFusion(C=1.0), random_state=0).fit(X, y)
    assert model.calibrator_ is not None
    blocks = model.encode(X)[:9]
    found = explain(model, blocks, output=output)
    for k in range(3):
        worth = []
        for mask in range(8):
            hidden = [n for i, n in enumerate("abc") if not mask >> i & 1]
            p = model.predict_proba(blocks.hide(hidden))[:, k]
            worth.append(logit(p) if output == "log_odds" else p)
        for row, one in enumerate(np.transpose(worth)):
            slow = slow_shapley(one, 3)
            np.testing.assert_allclose(found.values[row, :, k], slow, atol=1e-9)


def test_several_targets_are_the_outputs_of_a_regressor():
    X, y = table()
    model = FusionRegressor(EarlyFusion(C=1.0), random_state=0).fit(X, np.column_stack([y, -3 * y]))
    found = explain(model, X)
    assert found.outputs == (0, 1)
    np.testing.assert_allclose(found.prediction, model.predict(X), atol=1e-9)
    assert np.abs(found.gap).max() < 1e-9


def test_several_outputs_of_a_classifier_are_explained_one_by_one():
    X, y = table()
    Y = pd.DataFrame({"mood": y, "sleep": (y > 0).astype(int)})
    model = FusionClassifier(EarlyFusion(C=1.0), random_state=0).fit(X, Y)
    found = explain(model, X)
    assert list(found) == ["mood", "sleep"]
    alone = explain(model.output("sleep"), X)
    np.testing.assert_array_equal(found["sleep"].values, alone.values)


def test_expected_severity_of_ordered_classes():
    X, y = table()
    model = FusionClassifier(EarlyFusion(C=1.0), target="ordinal", random_state=0).fit(X, y * 2)
    found = explain(model, X, output="expected")
    np.testing.assert_allclose(found.prediction[:, 0], model.predict_expected(X), atol=1e-9)
    assert np.abs(found.gap).max() < 1e-9
    assert "expected class" in found[1].to_text()


def test_evidence_of_two_classes_is_the_shapley_value_of_an_additive_head():
    X, y = table(gaps=False)
    model = FusionClassifier(EarlyFusion(C=1.0), calibration="temperature", random_state=0)
    model.fit(X, y > 0)
    evidence, shapley = explain(model, X, method="evidence"), explain(model, X)
    assert np.abs(evidence.gap).max() < 1e-9
    np.testing.assert_allclose(evidence.prediction, shapley.prediction, atol=1e-9)
    # they differ by nothing but how the gap between prior and head is shared
    apart = evidence.values[:, :, 1] - shapley.values[:, :, 1]
    assert np.abs(apart).max() < np.abs(shapley.values).max() / 5


def test_chosen_classes_and_order_of_rows_change_nothing():
    X, y = table()
    model = FusionClassifier(EarlyFusion(C=1.0), random_state=0).fit(X, y)
    blocks, whole = model.encode(X), explain(model, X)
    one = explain(model, X, classes=2)
    np.testing.assert_allclose(one.values[:, :, 0], whole.values[:, :, 2], atol=1e-12)
    order = np.random.default_rng(0).permutation(MANY)
    back = explain(model, blocks[order])
    np.testing.assert_allclose(back.values, whole.values[order], atol=1e-12)
    alone = explain(model, blocks[5:6])
    np.testing.assert_allclose(alone.values[0], whole.values[5], atol=1e-12)
    assert explain(model, blocks[:0]).values.shape == (0, 3, 3)


def small() -> Explanation:
    X, y = table()
    names = np.array(["low", "mid & <b>", "high"])
    model = FusionClassifier(EarlyFusion(C=1.0), random_state=0).fit(X, names[y])
    blocks = model.encode(X)
    presence = np.array(blocks.presence)
    presence[4, 1] = Presence.FAILED
    return explain(model, Blocks({n: blocks[n] for n in blocks.names}, presence))


def test_views_of_a_row():
    found = small()
    row = found[4]
    text = row.to_text("low")
    assert text.splitlines()[0] == "Row 4: log odds (nats) of 'low', by shapley"
    assert re.search(r"b +failed", text)
    assert f"{found.prediction[4, found.outputs.index('low')]:.3f}" in text
    assert "mid & <b>" in found[np.int64(1)].to_text("mid & <b>")
    assert found[-1].index == MANY - 1 and len(list(found)) == MANY
    assert "<table>" in row._repr_html_() and "<b>" not in row._repr_html_()
    assert "60 rows x 3 modalities x 3 outputs" in found._repr_html_()
    frame = found.to_frame()
    assert len(frame) == MANY * 9
    assert frame.loc[(4, "low", "b"), "state"] == "failed"
    assert frame.loc[(7, "high", "a"), "value"] == found.values[7, 0, found.outputs.index("high")]


def test_the_waterfall_ends_at_the_answer():
    pytest.importorskip("matplotlib").use("Agg")
    found = small()
    display = found.plot(3, output="low")
    k = found.outputs.index("low")
    bars = display.ax_.patches
    ends = [bar.get_x() + bar.get_width() for bar in bars]
    assert ends[-1] == pytest.approx(found.prediction[3, k], abs=1e-6)
    assert bars[0].get_x() == pytest.approx(found.base[3, k])
    for bar in bars:
        assert (bar.get_hatch() is not None) == (bar.get_width() < 0)


def test_summary_has_intervals_and_counts():
    found = small()
    table_ = found.summary(random_state=0)
    one = table_.loc[("low", "a")]
    k = found.outputs.index("low")
    sizes = np.abs(found.values[:, 0, k])
    there = found.states[:, 0] == Presence.PRESENT
    assert one["mean_abs"] == pytest.approx(sizes.mean())
    assert one["mean_abs_present"] == pytest.approx(sizes[there].mean())
    assert one["n_present"] == there.sum()
    assert one["low"] < one["mean_abs"] < one["high"]
    se = sizes.std() / np.sqrt(MANY)
    assert (one["high"] - one["low"]) == pytest.approx(2 * 1.96 * se, rel=0.2)
    pairs = np.arange(MANY) // 30
    assert found.summary(groups=pairs, random_state=0).loc[("low", "a"), "low"] != one["low"]


CASES = [
    ({"level": "pixel"}, "level must be 'modality' or 'feature'; got 'pixel'"),
    ({"method": "gradients"}, "'evidence' for level='modality'; got 'gradients'"),
    ({"output": "margin"}, "'expected' for a classifier; got 'margin'"),
    ({"output": "expected"}, "was fitted with target='nominal'"),
    ({"classes": [7]}, "classes must be among 0, 1, 2; got 7"),
    ({"max_modalities": 2}, "3 modalities have 8 subsets, and max_modalities=2"),
    ({"baseline": "absent"}, "groups and baseline are for level='feature'"),
    ({"level": "feature", "baseline": "zero"}, "baseline must be 'mean' or 'absent'; got 'zero'"),
    ({"n_steps": 0}, "n_steps must be an integer of at least 1; got 0"),
    ({"tolerance": 0}, "tolerance must be above 0; got 0"),
    ({"method": "evidence", "output": "probability"}, "is about the log odds of classes"),
]


@pytest.fixture(scope="module")
def linear():
    X, y = table()
    return FusionClassifier(EarlyFusion(C=1.0), random_state=0).fit(X, y), X


@pytest.mark.parametrize("options, message", CASES)
def test_wrong_options_are_refused(linear, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        explain(*linear, **options)


def test_wrong_models_rows_and_outputs_are_refused(linear):
    with pytest.raises(TypeError, match="model must be a fitted FusionClassifier"):
        explain(object(), linear[1])
    found = explain(*linear)
    with pytest.raises(IndexError, match="row 60 is asked for and there are 60 rows"):
        found.row(60)
    with pytest.raises(TypeError, match="a row is an integer, got slice"):
        found[1:3]
    with pytest.raises(ValueError, match="output must be among 0, 1, 2; got 9"):
        found[0].to_text(9)
    with pytest.raises(ValueError, match="max_parts must be an integer of at least 1; got 0"):
        found[0].to_text(0, max_parts=0)
    with pytest.raises(ValueError, match="by must be 'part' or 'modality'; got 'row'"):
        found.summary(by="row")
    with pytest.raises(ValueError, match="there are 60 rows and groups has 2"):
        found.summary(groups=[1, 2])
    with pytest.raises(ValueError, match="at least two groups"):
        found.summary(groups=[1] * MANY)
    with pytest.raises(ValueError, match="there are no rows to summarise"):
        explain(linear[0], linear[0].encode(linear[1])[:0]).summary()
    with pytest.raises(ValueError, match="needs at least two models; got 1"):
        stability(linear[:1], linear[1])
    model, X = game()
    with pytest.raises(ValueError, match="'auto' or 'value' for a regressor; got 'log_odds'"):
        explain(model, X, output="log_odds")
    with pytest.raises(ValueError, match=re.escape("classes are of classifiers; got classes=1")):
        explain(model, X, classes=1)
