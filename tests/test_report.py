"""The modality report against closed forms and slow references."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd
import pytest
from report_models import (
    THREE,
    EvidenceClassifier,
    SumRegressor,
    report_case,
    slow_shapley,
)
from sklearn import metrics as reference

import mmfuse
from mmfuse import Blocks, modality_report
from mmfuse.exceptions import ModalityNeglectWarning
from mmfuse.metrics import expected_calibration_error
from mmfuse.presence import Presence
from mmfuse.report.subsets import RegressionTask

pytestmark = pytest.mark.filterwarnings("ignore::mmfuse.exceptions.ModalityNeglectWarning")


def test_each_subset_is_scored_as_if_only_it_had_been_given():
    model, blocks, y = report_case(THREE, classes=("c", "a", "b"))
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
    model, blocks, y = report_case(THREE)
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
    np.testing.assert_allclose(shares, slow_shapley(by_mask, 3), atol=1e-12)
    assert shares.sum() == pytest.approx(worth[7], abs=1e-12)
    assert frame["shapley_log_loss_percent"].sum() == pytest.approx(100.0)
    gained = full["accuracy"] - subsets["accuracy"].iloc[0]
    assert frame["shapley_accuracy"].sum() == pytest.approx(gained)


def test_interval_of_a_removal_is_that_of_a_loop_over_resampled_rows():
    model, blocks, y = report_case(n_rows=150)
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
    model, blocks, y = report_case(n_rows=60)
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
    model, blocks, y = report_case(n_rows=80)
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

    _, blocks, y = report_case()
    raw = {name: blocks[name] for name in blocks.names}
    modality_report(Counting(), raw, y, n_bootstrap=5)
    assert Counting.calls == 1


def test_states_of_cells_are_counted_and_only_present_ones_inform():
    model, blocks, y = report_case(n_rows=40)
    states = np.ones((40, 2), dtype=np.int8)
    states[:5, 1], states[5:12, 1], states[:3, 0] = Presence.FAILED, Presence.EMPTY, Presence.ABSENT
    blocks = Blocks({name: blocks[name] for name in blocks.names}, presence=states)
    report = modality_report(model, blocks, y, n_bootstrap=10)
    cells = report.modalities[["present", "absent", "failed", "empty"]]
    assert cells.loc["image"].tolist() == [37, 3, 0, 0]
    assert cells.loc["audio"].tolist() == [28, 0, 5, 7]
    assert report.subsets["n_rows"].tolist() == [0, 37, 28, 37]  # three rows have nothing


def test_a_modality_that_the_blocks_lack_is_absent_in_all_rows():
    model, blocks, y = report_case()
    with pytest.warns(ModalityNeglectWarning, match="'audio' is present in none of the 400 rows"):
        report = modality_report(model, blocks.select("image"), y, n_bootstrap=10)
    assert report.modalities.loc["audio", "absent"] == 400
    assert report.modalities.loc["audio", "log_loss_change"] == 0.0
    assert not report.modalities.loc["audio", "contributes"]


def test_one_modality_is_compared_with_the_prior():
    model, blocks, y = report_case({"image": 1.2})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = modality_report(model, blocks, y)
    row = report.modalities.loc["image"]
    assert row["log_loss_without"] == pytest.approx(np.log(2))
    assert row["shapley_log_loss"] == row["log_loss_change"]
    assert row["shapley_log_loss_percent"] == pytest.approx(100)
    assert report.fusion_change == (0.0, 0.0, 0.0) and not report.fusion_worse


def test_the_draws_come_from_random_state_alone():
    model, blocks, y = report_case()
    before = np.random.get_state()[1].copy()
    one, two, other = (modality_report(model, blocks, y, random_state=s) for s in (0, 0, 1))
    pd.testing.assert_frame_equal(one.modalities, two.modalities)
    assert not one.modalities.equals(other.modalities)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_a_useful_modality_is_not_warned_about():
    model, blocks, y = report_case()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = modality_report(model, blocks, y)
    assert report.warnings == []
    assert report.modalities["contributes"].all()


def test_a_modality_that_the_model_ignores_is_named():
    model, blocks, y = report_case(THREE)
    model.scale = {"noise": 0.0}
    expected = re.escape(
        "modality 'noise' contributes nothing: removing it changes log loss by 0.000 [0.000, "
        "0.000] (95% interval; present in 400 of 400 rows); predictions stay as they are without "
        "it, so the model ignores it."
    )
    with pytest.warns(ModalityNeglectWarning, match=f"^{expected}$") as caught:
        report = modality_report(model, blocks, y)
    assert caught[0].filename == __file__
    assert report.modalities["contributes"].tolist() == [True, True, False]
    assert report.modalities.loc["noise", "shapley_log_loss"] == pytest.approx(0, abs=1e-12)


def test_a_modality_that_repeats_another_is_told_from_one_that_is_ignored():
    _, blocks, y = report_case({"image": 1.2})

    class Either(EvidenceClassifier):
        """Reads the first block that is there."""

        def predict_proba(self, X):
            blocks = self.encode(X)
            spare = ["copy"] if blocks.present[:, 0].any() else []
            return super().predict_proba(blocks.hide(spare) if spare else blocks)

    twins = Blocks({"image": blocks["image"], "copy": blocks["image"]})
    report = modality_report(Either(("image", "copy")), twins, y, n_bootstrap=20)
    assert len(report.warnings) == 2
    for note in report.warnings:
        assert note.endswith("; the others repeat what it says, as its Shapley share is 50%.")


def test_noise_that_the_model_believes_is_worse_than_nothing_and_than_a_single_modality():
    model, blocks, y = report_case({"image": 1.2, "noise": 0.0}, n_rows=1000)
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
    model, blocks, y = report_case({"noise": 0.0})
    report = modality_report(model, blocks, y)
    assert report.modalities["shapley_log_loss"].sum() < 0
    assert report.modalities["shapley_log_loss_percent"].isna().all()
    assert "n/a" in report.to_text()


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
