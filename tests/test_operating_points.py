"""Operating points against scikit-learn, loops, and the equation that Wilson solved."""

from __future__ import annotations

import re

import numpy as np
import pytest
from graded_sample import PROBA, Y
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_score, recall_score

from mmfuse.metrics import choose_threshold, operating_points
from mmfuse.metrics.thresholds import wilson_interval

CLASSES = [0, 1, 2]
RATES = ["sensitivity", "specificity", "ppv", "npv"]


@pytest.mark.parametrize("weighted", [False, True])
def test_rates_are_scikit_learns(weighted: bool) -> None:
    weight = np.random.default_rng(0).random(60) if weighted else None
    options = {"events": [">= 1", 2], "thresholds": [0.15, 0.4], "sample_weight": weight}
    table = operating_points(Y, PROBA, classes=CLASSES, n_bootstrap=20, random_state=0, **options)
    assert table["event"].tolist() == [">= 1"] * 2 + ["2"] * 2
    assert table["target"].eq("given").all()
    for _, row in table.iterrows():
        risk = PROBA[:, 1] + PROBA[:, 2] if row["event"] == ">= 1" else PROBA[:, 2]
        true = Y >= 1 if row["event"] == ">= 1" else Y == 2
        flag = risk >= row["threshold"]
        score = {"sample_weight": weight, "zero_division": np.nan}
        assert row["sensitivity"] == pytest.approx(recall_score(true, flag, **score))
        assert row["specificity"] == pytest.approx(recall_score(~true, ~flag, **score))
        assert row["ppv"] == pytest.approx(precision_score(true, flag, **score))
        assert row["npv"] == pytest.approx(precision_score(~true, ~flag, **score))
        assert row["flagged"] == pytest.approx(np.average(flag, weights=weight))
        total = row[["tp", "fp", "fn", "tn"]].sum()
        assert total == pytest.approx(60 if weight is None else weight.sum())
        for rate in RATES:
            assert 0 <= row[f"{rate}_low"] <= row[rate] <= row[f"{rate}_high"] <= 1


def test_intervals_are_wilsons() -> None:
    # the exact ends solve (p - share)**2 = z**2 p (1 - p) / n
    low, high = wilson_interval([0, 7, 10], 10, confidence=0.9)
    z, share = 1.6448536269514722, np.array([0.0, 0.7, 1.0])
    for end in (low, high):
        np.testing.assert_allclose((end - share) ** 2, z**2 * end * (1 - end) / 10, atol=1e-12)
    assert low[0] == 0.0 and high[2] == 1.0
    assert np.isnan(wilson_interval(0, 0)).all()
    table = operating_points(Y, PROBA, classes=CLASSES, events=[2], thresholds=0.3)
    row = table.iloc[0]
    expected = wilson_interval(row["tp"], row["tp"] + row["fp"])
    assert (row["ppv_low"], row["ppv_high"]) == pytest.approx(expected)


def test_wilson_covers_as_it_says() -> None:
    hits = np.random.default_rng(0).binomial(25, 0.85, size=4000)
    low, high = wilson_interval(hits, 25)
    assert 0.93 < np.mean((low <= 0.85) & (0.85 <= high)) < 0.97


def test_groups_are_resampled() -> None:
    rows = np.repeat(np.arange(60), 8)
    options = {"classes": CLASSES, "events": [">= 1"], "thresholds": 0.4, "random_state": 0}
    grouped = operating_points(Y[rows], PROBA[rows], groups=rows, n_bootstrap=400, **options)
    wilson = operating_points(Y[rows], PROBA[rows], **options)
    alone = operating_points(Y, PROBA, **options)  # eight copies are one witness
    for rate in RATES:
        wide = (grouped[f"{rate}_high"] - grouped[f"{rate}_low"]).item()
        assert wide == pytest.approx((alone[f"{rate}_high"] - alone[f"{rate}_low"]).item(), rel=0.3)
        assert wide > 2 * (wilson[f"{rate}_high"] - wilson[f"{rate}_low"]).item()
        assert grouped[rate].item() == wilson[rate].item()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), level=st.floats(0.01, 1.0), ties=st.booleans())
def test_the_chosen_threshold_reaches_the_level_and_the_next_does_not(seed, level, ties) -> None:
    rng = np.random.default_rng(seed)
    risk = rng.random(30)
    risk = np.round(risk, 1) if ties else risk
    proba = np.stack([1 - risk, risk], axis=1)
    y = rng.integers(0, 2, 30)
    y[:2] = [0, 1]
    options = {"classes": [0, 1], "event": 1, "sample_weight": rng.integers(1, 4, 30)}
    weight = options["sample_weight"]

    def reached(t: float, side: int) -> float:
        hit = risk >= t if side else risk < t
        return np.average(hit[y == side], weights=weight[y == side])

    every = np.append(np.unique(risk), np.nextafter(risk.max(), np.inf))
    t = choose_threshold(y, proba, sensitivity=level, **options)
    assert t in every and reached(t, 1) >= level - 1e-9
    assert all(reached(u, 1) < level for u in every[every > t])
    t = choose_threshold(y, proba, specificity=level, **options)
    assert t in every and reached(t, 0) >= level - 1e-9
    assert all(reached(u, 0) < level for u in every[every < t])


def test_levels_in_a_table() -> None:
    levels = [0.8, 0.95]
    table = operating_points(Y, PROBA, classes=CLASSES, events="at_least", sensitivity=levels)
    assert len(table) == 4 and (table["sensitivity"].to_numpy() >= [*levels, *levels]).all()
    assert table["target"].tolist()[:2] == ["sensitivity >= 0.8", "sensitivity >= 0.95"]
    one = choose_threshold(Y, PROBA, classes=CLASSES, event=">= 2", sensitivity=0.8)
    assert table["threshold"].iloc[2] == one
    nobody = operating_points(Y, PROBA, classes=CLASSES, events=[2], thresholds=0.99).iloc[0]
    assert np.isnan(nobody["ppv"]) and np.isnan(nobody["ppv_low"]) and nobody["specificity"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"thresholds": None},
            "one of thresholds, sensitivity, specificity; got none",
        ),
        ({"sensitivity": 0.9}, "got thresholds and sensitivity"),
        ({"thresholds": None, "sensitivity": 90}, "sensitivity must lie above 0 and be at most 1"),
        ({"thresholds": [1.5]}, "probabilities from 0 to below 1; got 1.5"),
        ({"interval": "exact"}, "interval must be 'auto', 'wilson' or 'bootstrap'; got 'exact'"),
        ({"interval": "wilson", "groups": np.arange(60)}, "with groups or sample_weight use inter"),
        ({"events": ["x"]}, "there is no event 'x'"),
        ({"n_bootstrap": 0}, "n_bootstrap must be an integer of at least 1; got 0"),
    ],
)
def test_bad_arguments_are_named(options, message: str) -> None:
    call = {"classes": CLASSES, "thresholds": [0.5], **options}
    with pytest.raises(ValueError, match=f"operating_points: .*{re.escape(message)}"):
        operating_points(Y, PROBA, **call)


def test_a_level_needs_rows_and_one_event() -> None:
    with pytest.raises(ValueError, match="no row with the event '2' has weight"):
        choose_threshold([0, 1], PROBA[:2], classes=CLASSES, event=2, sensitivity=0.5)
    with pytest.raises(ValueError, match="one event and one level at a time"):
        choose_threshold(Y, PROBA, classes=CLASSES, event=2, sensitivity=[0.5, 0.6])
