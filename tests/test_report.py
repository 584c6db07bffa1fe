"""The modality report against closed forms and slow references."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import time
import warnings
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from report_models import EvidenceClassifier, SumRegressor, class_evidence
from sklearn import metrics as reference
from sklearn.exceptions import NotFittedError

import mmfuse
from mmfuse import Blocks, modality_report
from mmfuse._bootstrap import bootstrap_means, percentile_interval
from mmfuse._shapley import shapley_values
from mmfuse._subset_scores import RegressionTask
from mmfuse.exceptions import ModalityNeglectWarning
from mmfuse.metrics import expected_calibration_error
from mmfuse.presence import Presence

pytestmark = pytest.mark.filterwarnings("ignore::mmfuse.exceptions.ModalityNeglectWarning")

TWO = {"image": 1.2, "audio": 0.8}
THREE = {"image": 1.2, "audio": 0.8, "noise": 0.0}


def _case(strengths=TWO, n_rows=400, classes=("a", "b"), **options):
    blocks, codes = class_evidence(n_rows, strengths, n_classes=len(classes), **options)
    model = EvidenceClassifier(tuple(strengths), classes=classes)
    return model, blocks, np.asarray(classes)[codes]


# Shapley values


def _slow_shapley(worth, n_members):
    shares = np.zeros(n_members)
    orders = list(permutations(range(n_members)))
    for order in orders:
        mask = 0
        for member in order:
            shares[member] += worth[mask | 1 << member] - worth[mask]
            mask |= 1 << member
    return shares / len(orders)


@pytest.mark.parametrize("n_members", [1, 2, 3, 5])
def test_shapley_is_the_mean_over_all_orders_and_sums_to_the_gain(n_members):
    worth = np.random.default_rng(n_members).normal(size=2**n_members)
    shares = shapley_values(worth)
    np.testing.assert_allclose(shares, _slow_shapley(worth, n_members), atol=1e-12)
    assert shares.sum() == pytest.approx(worth[-1] - worth[0], abs=1e-12)


def test_shapley_of_an_additive_game_is_each_members_own_worth():
    own = np.array([0.5, -1.0, 2.0, 0.25, 3.0])
    worth = {mask: sum(own[i] for i in range(5) if mask >> i & 1) for mask in range(32)}
    np.testing.assert_allclose(shapley_values(worth), own, atol=1e-12)


def test_shapley_shares_an_interaction_equally_and_gives_a_dummy_nothing():
    worth = [7.0 if mask & 0b011 == 0b011 else 0.0 for mask in range(8)]  # members 0 and 1 only
    np.testing.assert_allclose(shapley_values(worth), [3.5, 3.5, 0.0], atol=1e-12)
    glove = [float(mask in (0b101, 0b110, 0b111)) for mask in range(8)]  # 2 with 0 or with 1
    np.testing.assert_allclose(shapley_values(glove), [1 / 6, 1 / 6, 4 / 6], atol=1e-12)


def test_shapley_takes_many_games_at_once():
    worth = np.random.default_rng(0).normal(size=(16, 3))
    found = shapley_values(worth)
    assert found.shape == (4, 3)
    for game in range(3):
        np.testing.assert_allclose(found[:, game], shapley_values(worth[:, game]), atol=1e-12)


@pytest.mark.parametrize(
    "values, message",
    [
        ([1.0, 2.0, 3.0], "2**n_members of them; got an array of shape (3,)"),
        ([], "got an array of shape (0,)"),
        ({0: 0.0, 1: 1.0, 2: 1.0, 7: 2.0}, "of 4 keys, 3 is not there"),
    ],
)
def test_shapley_refuses_an_incomplete_game(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        shapley_values(values)


# Bootstrap


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(0).normal(2.0, 3.0, size=(2000, 1))
    samples = bootstrap_means(values, n_bootstrap=4000, rng=np.random.default_rng(1))
    low, high = percentile_interval(samples[:, 0], 0.95)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_bootstrap_draws_the_same_rows_for_all_columns():
    values = np.random.default_rng(0).normal(size=(50, 1))
    both = np.column_stack([values, values + 1.0])
    samples = bootstrap_means(both, n_bootstrap=100, rng=np.random.default_rng(0))
    np.testing.assert_allclose(samples[:, 1] - samples[:, 0], 1.0)
    assert samples[:, 0].std() > 0.05


def test_whole_groups_are_drawn():
    groups = np.repeat([3, 1, 2, 0], [5, 20, 1, 10])
    values = groups[:, None].astype(float)
    weight = np.random.default_rng(0).random(36)
    found = bootstrap_means(
        values, n_bootstrap=200, rng=np.random.default_rng(5), weight=weight, groups=groups
    )
    draws = np.random.default_rng(5).integers(4, size=(200, 4))  # slow: list the drawn rows
    for replicate, drawn in enumerate(draws):
        rows = np.concatenate([np.flatnonzero(groups == group) for group in drawn])
        slow = np.average(values[rows, 0], weights=weight[rows])
        assert found[replicate, 0] == pytest.approx(slow)


def test_groups_of_one_row_are_rows():
    values = np.random.default_rng(0).normal(size=(40, 2))
    rows, groups = (
        bootstrap_means(values, n_bootstrap=9, rng=np.random.default_rng(3), groups=g)
        for g in (None, np.arange(40))
    )
    np.testing.assert_allclose(rows, groups)


def test_chunks_do_not_change_the_draws(monkeypatch):
    values = np.random.default_rng(0).normal(size=(30, 1))
    whole = bootstrap_means(values, n_bootstrap=20, rng=np.random.default_rng(0))
    monkeypatch.setattr("mmfuse._bootstrap._CHUNK", 65)
    parts = bootstrap_means(values, n_bootstrap=20, rng=np.random.default_rng(0))
    np.testing.assert_allclose(whole, parts)


def test_interval_of_replicates_that_do_not_exist_is_nan():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = percentile_interval(np.full((5, 2), np.nan), 0.9)
    assert np.isnan(low).all() and np.isnan(high).all()


# Tables


def test_each_subset_is_scored_as_if_only_it_had_been_given():
    model, blocks, y = _case(THREE, classes=("c", "a", "b"))
    report = modality_report(model, blocks, y, n_bootstrap=10)
    assert len(report.subsets) == 8
    for label, members in zip(report.subsets.index, report.members, strict=True):
        if members:
            proba = model.predict_proba(blocks.select(members))
            assert label == " + ".join(members)
        else:
            proba = np.tile(model.prior_, (len(y), 1))
            assert label == "nothing (prior)"
        order = np.argsort(model.classes_)  # scikit-learn wants sorted columns
        row = report.subsets.loc[label]
        assert row["log_loss"] == pytest.approx(reference.log_loss(y, proba[:, order]))
        right = reference.accuracy_score(y, model.classes_[proba.argmax(axis=1)])
        assert row["accuracy"] == pytest.approx(right)
        ece = expected_calibration_error(y, proba, classes=model.classes_)
        assert row["ece"] == pytest.approx(ece)
        assert row["n_modalities"] == len(members)
        assert row["n_rows"] == (len(y) if members else 0)
    assert report.to_frame() is not report.subsets


def test_modalities_follow_from_the_subsets():
    model, blocks, y = _case(THREE)
    report = modality_report(model, blocks, y, n_bootstrap=10)
    subsets, frame = report.subsets, report.modalities
    full = subsets.iloc[-1]
    without = {"image": "audio + noise", "audio": "image + noise", "noise": "image + audio"}
    for name, label in without.items():
        for metric in ("log_loss", "accuracy"):
            assert frame.loc[name, f"{metric}_alone"] == subsets.loc[name, metric]
            assert frame.loc[name, f"{metric}_without"] == subsets.loc[label, metric]
            change = subsets.loc[label, metric] - full[metric]
            assert frame.loc[name, f"{metric}_change"] == change
            assert frame.loc[name, f"{metric}_change_low"] <= change
            assert frame.loc[name, f"{metric}_change_high"] >= change
    worth = [subsets["log_loss"].iloc[0] - subsets["log_loss"].iloc[i] for i in range(8)]
    by_mask = [worth[i] for i in (0, 1, 2, 4, 3, 5, 6, 7)]  # rows are ordered by size
    shares = frame["shapley_log_loss"].to_numpy()
    np.testing.assert_allclose(shares, _slow_shapley(by_mask, 3), atol=1e-12)
    assert shares.sum() == pytest.approx(worth[7], abs=1e-12)
    assert frame["shapley_log_loss_percent"].sum() == pytest.approx(100.0)
    gained = full["accuracy"] - subsets["accuracy"].iloc[0]
    assert frame["shapley_accuracy"].sum() == pytest.approx(gained)


def test_interval_of_a_removal_is_that_of_a_loop_over_resampled_rows():
    model, blocks, y = _case(n_rows=150)
    report = modality_report(model, blocks, y, n_bootstrap=2000, confidence=0.8)
    proba = {m: model.predict_proba(blocks.select(m)) for m in (("image", "audio"), ("image",))}
    chosen = (y == "b").astype(int)
    rows = {m: -np.log(p[np.arange(150), chosen]) for m, p in proba.items()}
    difference = rows[("image",)] - rows[("image", "audio")]
    rng = np.random.default_rng(99)
    slow = [difference[rng.integers(150, size=150)].mean() for _ in range(2000)]
    frame = report.modalities
    ends = frame.loc["audio", ["log_loss_change_low", "log_loss_change_high"]]
    np.testing.assert_allclose(ends.astype(float), np.quantile(slow, [0.1, 0.9]), atol=0.008)


def test_grouped_intervals_are_wider_when_rows_repeat():
    model, blocks, y = _case(n_rows=60)
    rows = np.repeat(np.arange(60), 10)
    plain = modality_report(model, blocks[rows], y[rows])
    grouped = modality_report(model, blocks[rows], y[rows], groups=[f"p{i}" for i in rows])
    single = modality_report(model, blocks, y)
    width = [
        float(r.modalities.eval("log_loss_change_high - log_loss_change_low")["image"])
        for r in (plain, grouped, single)
    ]
    assert width[1] == pytest.approx(width[2], rel=1e-9)  # a group of copies is one row
    assert width[1] > 2.5 * width[0]
    assert (grouped.n_groups, plain.n_groups) == (60, None)


def test_weights_are_repeated_rows_and_zero_is_no_row():
    model, blocks, y = _case(n_rows=80)
    weight = np.random.default_rng(0).integers(0, 4, size=80)
    rows = np.repeat(np.arange(80), weight)
    one = modality_report(model, blocks, y, sample_weight=weight, n_bootstrap=10)
    two = modality_report(model, blocks[rows], y[rows], n_bootstrap=10)
    metrics = ["accuracy", "log_loss", "ece"]
    np.testing.assert_allclose(one.subsets[metrics], two.subsets[metrics])
    assert one.n_rows == int((weight > 0).sum())
    kept = np.flatnonzero(weight)
    three = modality_report(
        model, blocks[kept], y[kept], sample_weight=weight[kept], n_bootstrap=10
    )
    pd.testing.assert_frame_equal(one.modalities, three.modalities)


def test_raw_input_is_encoded_once():
    class Counting(EvidenceClassifier):
        calls = 0

        def encode(self, X):
            Counting.calls += not isinstance(X, Blocks)
            return super().encode(X)

    _, blocks, y = _case()
    raw = {name: blocks[name] for name in blocks.names}
    modality_report(Counting(), raw, y, n_bootstrap=5)
    assert Counting.calls == 1


def test_states_of_cells_are_counted_and_only_present_ones_inform():
    model, blocks, y = _case(n_rows=40)
    states = np.ones((40, 2), dtype=np.int8)
    states[:5, 1], states[5:12, 1], states[:3, 0] = Presence.FAILED, Presence.EMPTY, Presence.ABSENT
    blocks = Blocks({name: blocks[name] for name in blocks.names}, presence=states)
    report = modality_report(model, blocks, y, n_bootstrap=10)
    cells = report.modalities[["present", "absent", "failed", "empty"]]
    assert cells.loc["image"].tolist() == [37, 3, 0, 0]
    assert cells.loc["audio"].tolist() == [28, 0, 5, 7]
    assert report.subsets["n_rows"].tolist() == [0, 37, 28, 37]  # three rows have nothing


def test_a_modality_that_the_blocks_lack_is_absent_in_all_rows():
    model, blocks, y = _case()
    with pytest.warns(ModalityNeglectWarning, match="'audio' is present in none of the 400 rows"):
        report = modality_report(model, blocks.select("image"), y, n_bootstrap=10)
    assert report.modalities.loc["audio", "absent"] == 400
    assert report.modalities.loc["audio", "log_loss_change"] == 0.0
    assert not report.modalities.loc["audio", "contributes"]


def test_one_modality_is_compared_with_the_prior():
    model, blocks, y = _case({"image": 1.2})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = modality_report(model, blocks, y)
    row = report.modalities.loc["image"]
    assert row["log_loss_without"] == pytest.approx(np.log(2))
    assert row["shapley_log_loss"] == row["log_loss_change"]
    assert row["shapley_log_loss_percent"] == pytest.approx(100)
    assert report.fusion_change == (0.0, 0.0, 0.0) and not report.fusion_worse


def test_the_draws_come_from_random_state_alone():
    model, blocks, y = _case()
    before = np.random.get_state()[1].copy()
    one, two, other = (modality_report(model, blocks, y, random_state=s) for s in (0, 0, 1))
    pd.testing.assert_frame_equal(one.modalities, two.modalities)
    assert not one.modalities.equals(other.modalities)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


# Warnings


def test_a_useful_modality_is_not_warned_about():
    model, blocks, y = _case()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = modality_report(model, blocks, y)
    assert report.warnings == []
    assert report.modalities["contributes"].all()


def test_a_modality_that_the_model_ignores_is_named():
    model, blocks, y = _case(THREE)
    model.scale = {"noise": 0.0}
    expected = re.escape(
        "modality 'noise' contributes nothing: removing it changes log loss by 0.000 [0.000, "
        "0.000] (95% interval; present in 400 of 400 rows)."
    )
    with pytest.warns(ModalityNeglectWarning, match=f"^{expected}$") as caught:
        report = modality_report(model, blocks, y)
    assert caught[0].filename == __file__
    assert report.modalities["contributes"].tolist() == [True, True, False]
    assert report.modalities.loc["noise", "shapley_log_loss"] == pytest.approx(0, abs=1e-12)


def test_noise_that_the_model_believes_is_worse_than_nothing_and_than_a_single_modality():
    model, blocks, y = _case({"image": 1.2, "noise": 0.0}, n_rows=1000)
    model.scale = {"noise": 5.0}
    with pytest.warns(ModalityNeglectWarning) as caught:
        report = modality_report(model, blocks, y)
    texts = [str(one.message) for one in caught]
    assert texts == report.warnings
    assert re.search(r"'noise' contributes nothing: .* by -\d.*; the model is better", texts[0])
    assert re.search(
        r"the fusion is worse than its best single modality 'image': log loss \d\.\d{3} against "
        r"0\.\d{3}, a difference of \d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\] \(95% interval\)",
        texts[1],
    )
    assert report.fusion_worse and report.best_single == "image"
    value, low, high = report.fusion_change
    assert 0 < low < value < high
    assert value == pytest.approx(-report.modalities.loc["noise", "log_loss_change"])


def test_percentages_of_no_gain_do_not_exist():
    model, blocks, y = _case({"noise": 0.0})
    report = modality_report(model, blocks, y)
    assert report.modalities["shapley_log_loss"].sum() < 0
    assert report.modalities["shapley_log_loss_percent"].isna().all()
    assert "n/a" in report.to_text()


# Regression


@pytest.mark.parametrize("n_targets", [1, 2])
def test_regressors_are_scored_as_scikit_learn_does(n_targets):
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(200, n_targets)) for name in ("image", "audio", "noise")}
    blocks = Blocks(arrays)
    y = arrays["image"] * 2 + arrays["audio"] + rng.normal(size=(200, n_targets)) + 100
    y = y[:, 0] if n_targets == 1 else y
    weight = rng.random(200) + 0.1
    model = SumRegressor(blocks.names, prior=100.0)
    with pytest.warns(ModalityNeglectWarning, match="'noise' contributes nothing: .* RMSE by -"):
        report = modality_report(model, blocks, y, sample_weight=weight)
    assert report.task == "regression" and report.reliability is None
    options = {"sample_weight": weight}
    for label, members in zip(report.subsets.index, report.members, strict=True):
        hidden = [n for n in blocks.names if n not in members]
        predicted = model.predict(blocks.hide(hidden) if hidden else blocks)
        row = report.subsets.loc[label]
        assert row["r2"] == pytest.approx(reference.r2_score(y, predicted, **options))
        rmse = reference.root_mean_squared_error(y, predicted, **options)
        assert row["rmse"] == pytest.approx(rmse)
        mae = reference.mean_absolute_error(y, predicted, **options)
        assert row["mae"] == pytest.approx(mae)
    frame = report.modalities
    gain = report.subsets["rmse"].iloc[0] - report.subsets["rmse"].iloc[-1]
    assert frame["shapley_rmse"].sum() == pytest.approx(gain)
    assert frame["contributes"].tolist() == [True, True, False]
    assert (frame["rmse_change_low"] <= frame["rmse_change"]).all()
    assert (frame["r2_change"] <= frame["r2_change_high"]).all()


def test_r2_of_a_constant_target_does_not_exist():
    task = RegressionTask(np.full((5, 1), 3.7), np.ones(5))
    rmse, r2 = task.measure(np.array([4.0]), task.shared.mean(axis=0))
    assert rmse == 2.0 and np.isnan(r2)
    blocks = Blocks({"image": np.ones((5, 1))})
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        report = modality_report(SumRegressor(("image",)), blocks, np.full(5, 3.7))
    assert report.subsets["r2"].isna().all()
    assert report.to_dict()["subsets"][0]["r2"] is None


# The estimators of the library


def _split(n_rows=600):
    rng = np.random.default_rng(7)
    y = rng.integers(3, size=n_rows)
    image = np.eye(3)[y] * 1.5 + rng.normal(size=(n_rows, 3))
    audio = np.eye(3)[y] * 1.5 + rng.normal(size=(n_rows, 3))
    audio[rng.random(n_rows) < 0.4] = np.nan
    X = {"image": image, "audio": audio, "noise": rng.normal(size=(n_rows, 4))}
    train, test = slice(0, n_rows // 2), slice(n_rows // 2, None)
    tables = [{name: block[rows] for name, block in X.items()} for rows in (train, test)]
    return tables, [y[train], y[test]]


def test_the_classifier_is_warned_about_noise_and_not_about_a_sparse_modality():
    (train, test), (y_train, y_test) = _split()
    labels = np.array(["neutral", "happy", "sad"])
    model = mmfuse.FusionClassifier(random_state=0).fit(train, labels[y_train])
    with pytest.warns(ModalityNeglectWarning, match="'noise' contributes nothing") as caught:
        report = modality_report(model, test, labels[y_test])
    assert len(caught) == 1
    assert report.modalities["contributes"].to_dict() == {
        "image": True,
        "audio": True,
        "noise": False,
    }
    absent = int(np.isnan(test["audio"][:, 0]).sum())
    assert report.modalities.loc["audio", "absent"] == absent > 0
    full = report.subsets.iloc[-1]
    assert full["accuracy"] == pytest.approx(model.score(test, labels[y_test]))
    prior = reference.log_loss(labels[y_test], np.tile(model.prior_, (len(y_test), 1)))
    assert report.subsets["log_loss"].iloc[0] == pytest.approx(prior, rel=1e-5)
    alone = model.predict_proba({"audio": test["audio"]})
    expected = reference.log_loss(labels[y_test], alone)
    assert report.subsets.loc["audio", "log_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_regressor_is_reported_on_with_absent_rows():
    (train, test), _ = _split()
    targets = [
        X["image"].sum(axis=1) + np.nan_to_num(X["audio"]).sum(axis=1) for X in (train, test)
    ]
    model = mmfuse.FusionRegressor(random_state=0).fit(train, targets[0])
    report = modality_report(model, test, targets[1])
    assert report.subsets["r2"].iloc[-1] == pytest.approx(model.score(test, targets[1]))
    apart = float(np.sqrt(np.mean((targets[1] - np.mean(model.prior_)) ** 2)))
    assert report.subsets["rmse"].iloc[0] == pytest.approx(apart, rel=1e-5)
    shares = report.modalities["shapley_rmse_percent"]
    assert shares["image"] > 20 and shares["audio"] > 20 and abs(shares["noise"]) < 5


# Errors


def _call(model, blocks, y, **options):
    return modality_report(model, blocks, y, n_bootstrap=options.pop("n_bootstrap", 5), **options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"y": ["a"] * 9}, "modality_report: X has 10 rows and y has 9."),
        ({"y": "a"}, "X has 10 rows and y has no rows."),
        ({"y": ["a"] * 8 + ["z", "q"]}, "does not know: 'z', 'q', in 2 rows (8, 9). It knows 'a'"),
        ({"y": [*"abcdefghij"]}, "'c', 'd', 'e', 'f', 'g' and 3 more, in 8 rows (2, 3, 4, 5, 6, ."),
        ({"y": ["a"] * 9 + [None]}, "y is missing in row 9; leave these rows out"),
        ({"y": [["a", "b"]] * 10}, "y must hold one class per row for a classifier; got the shape"),
        ({"groups": [1] * 4}, "X has 10 rows and groups has 4."),
        ({"groups": [1] * 10}, "groups must hold at least two groups, since the bootstrap draws"),
        ({"groups": [1.0] * 9 + [np.nan]}, "groups is missing in row 9; give every row a group"),
        ({"groups": np.ones((10, 2))}, "groups must have one label per row; got the shape (10, 2)"),
        ({"sample_weight": [1] * 3}, "X has 10 rows and sample_weight has 3."),
        ({"sample_weight": [-1] * 10}, "sample_weight must be one finite, non-negative number"),
        ({"sample_weight": [0] * 10}, "not zero everywhere"),
        ({"n_bootstrap": 0}, "n_bootstrap must be an integer of at least 1; got 0"),
        ({"n_bootstrap": 1.5}, "n_bootstrap must be an integer of at least 1; got 1.5"),
        ({"confidence": 95}, "confidence must lie between 0 and 1; got 95"),
        ({"max_modalities": 1}, "2 modalities have 4 subsets to predict, and max_modalities=1."),
    ],
)
def test_bad_arguments_of_a_classifier_are_named(options, message):
    model, blocks, y = _case(n_rows=10)
    with pytest.raises(ValueError, match=re.escape(message)):
        _call(model, blocks, **({"y": y} | options))


@pytest.mark.parametrize(
    "y, message",
    [
        ([1.0, np.nan, 2.0], "y is missing in row 1"),
        ([[1.0, np.nan], [1, 1], [2, np.nan]], "y is missing in 2 rows (0, 2)"),
        ([1.0, np.inf, 2.0], "y must hold finite numbers in the shape (n_samples,) or"),
        (["a", "b", "c"], "y must hold numbers for a regressor (could not convert"),
        (np.ones((3, 2)), "predicts an array of shape (3, 1) and y has the shape (3, 2)"),
    ],
)
def test_bad_targets_of_a_regressor_are_named(y, message):
    class Column(SumRegressor):
        def predict(self, X):
            return super().predict(X)[:, None]

    blocks = Blocks({"image": [[1.0], [2.0], [3.0]]})
    with pytest.raises(ValueError, match=re.escape(message)):
        _call(Column(("image",)), blocks, y)


def test_no_rows_and_no_fit_are_named():
    model, blocks, y = _case(n_rows=10)
    with pytest.raises(ValueError, match="X has no rows; there is nothing to report on"):
        _call(model, blocks[:0], y[:0])

    class Unfitted(SumRegressor):
        modalities_ = property()

    with pytest.raises(NotFittedError, match="Unfitted instance is not fitted yet"):
        _call(Unfitted(), blocks, y)


# Output


@pytest.fixture(scope="module")
def report():
    model, blocks, y = _case(THREE, absent={"audio": 0.4})
    model.scale = {"noise": 0.0}
    with pytest.warns(ModalityNeglectWarning):
        return modality_report(model, blocks, y, n_bootstrap=100, groups=np.arange(400) // 4)


def test_the_text_says_what_matters(report):
    text = repr(report)
    assert text == report.to_text()
    assert "Classification, 400 rows in 100 groups, 3 modalities; 95% intervals" in text
    assert "- modality 'noise' contributes nothing" in text
    assert re.search(r"image \+ audio \+ noise +400 +0\.\d{3} +0\.\d{3} +0\.\d{3}", text)
    assert re.search(r"audio +2\d\d +1\d\d +0 +0\n", text)
    assert re.search(r"noise +0\.000 \[0\.000, 0\.000\]", text)
    assert max(map(len, text.splitlines())) <= 100


def test_many_modalities_do_not_flood_the_text():
    names = [f"modality {i}, of which the name is long" for i in range(6)]
    model, blocks, y = _case(dict.fromkeys(names, 0.8), n_rows=60)
    report = _call(model, blocks, y)
    text = report.to_text()
    assert "... and 41 more in .subsets" in text
    assert "all but modality 0, \u2026ame is long" in text
    assert len(report.subsets) == 64
    assert "... and 41" not in modality_report(*_case(n_rows=60), n_bootstrap=5).to_text()


def test_json_holds_all_numbers(report, tmp_path):
    report.save(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert content == report.to_dict()
    assert content["warnings"] == report.warnings
    assert content["subsets"][3]["modalities"] == ["noise"]
    assert content["subsets"][-1]["log_loss"] == report.subsets["log_loss"].iloc[-1]
    assert content["modalities"][2]["modality"] == "noise"
    assert content["modalities"][2]["contributes"] is False
    assert content["reliability"][0]["accuracy"] is None  # no row is that unsure of two classes
    assert sum(row["count"] for row in content["reliability"]) == 400


def test_text_file_and_unknown_file(report, tmp_path):
    report.save(str(tmp_path / "report.txt"))
    assert (tmp_path / "report.txt").read_text(encoding="utf-8") == report.to_text() + "\n"
    with pytest.raises(ValueError, match=r"path must end in \.html, \.json or \.txt; got 'a\.pdf'"):
        report.save("a.pdf")


def test_the_page_needs_nothing_else_and_is_the_same_each_time(report, tmp_path):
    for name in ("one.html", "two.html"):
        report.save(tmp_path / name)
    page = (tmp_path / "one.html").read_text(encoding="utf-8")
    assert page == (tmp_path / "two.html").read_text(encoding="utf-8")
    assert page.count("data:image/svg+xml;base64,") == 3
    assert not re.search(r"<script|https?://|<link|@import|url\(", page)
    assert "&#x27;noise&#x27; contributes nothing" in page
    assert page.index("contributes nothing") < page.index("<table>")
    assert f"{report.subsets['log_loss'].iloc[-1]:.3f}" in page
    assert "All subsets" not in page


def test_names_and_titles_are_escaped(tmp_path):
    name = "<b>image</b> & $x_1$"
    model, blocks, y = _case({name: 0.0, "audio": 1.0}, n_rows=60)
    report = _call(model, blocks, y)
    report.save(tmp_path / "report.html", title="<script>alert(1)</script>")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for text in (page, report._repr_html_()):
        assert "<b>image" not in text and "<script" not in text
        assert "&lt;b&gt;image&lt;/b&gt; &amp; $x_1$" in text


def test_all_subsets_are_in_the_page_even_where_the_plot_has_few(tmp_path):
    model, blocks, y = _case(dict.fromkeys("abcdef", 0.8), n_rows=60)
    report = _call(model, blocks, y)
    report.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    appendix = page[page.index("All subsets") :]
    assert appendix.count("<tr") == 65


def test_the_report_holds_numbers_only(report):
    again = pickle.loads(pickle.dumps(report))
    pd.testing.assert_frame_equal(again.modalities, report.modalities)
    assert again.to_text() == report.to_text()
    html = report._repr_html_()
    assert "contributes nothing" in html and "<img" not in html


def test_the_report_loads_no_encoder_no_head_and_no_matplotlib():
    code = (
        "import sys, mmfuse.report, mmfuse.plotting, mmfuse.metrics;"
        "bad = [m for m in sys.modules if m.startswith(('mmfuse.encoders', 'mmfuse.heads', "
        "'matplotlib', 'mmfuse.estimators'))];"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert mmfuse.ModalityReport is type(modality_report(*_case(n_rows=20), n_bootstrap=5))


def test_six_modalities_and_a_thousand_rows_are_quick():
    model, blocks, y = _case(dict.fromkeys("abcdef", 0.8), n_rows=1000, classes=(0, 1, 2))
    start = time.perf_counter()
    modality_report(model, blocks, y)
    assert time.perf_counter() - start < 5.0
