"""The modality report on what is had without a model, on parts, and on what is ignored."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from data import data_folder
from report_models import EvidenceClassifier, SumRegressor, report_case
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics import accuracy_score, log_loss, root_mean_squared_error

from mmfuse import Blocks, FusionClassifier, modality_report
from mmfuse.exceptions import ModalityNeglectWarning
from mmfuse.heads import EarlyFusion


def _quiet(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModalityNeglectWarning)
        return modality_report(*args, **{"n_bootstrap": 200, **options})


def test_the_majority_class_stands_in_the_table_whatever_the_prior_of_the_model(tmp_path):
    model, blocks, y = report_case(classes=("a", "b", "c"))
    rows = np.concatenate([np.flatnonzero(y == "c"), np.flatnonzero(y != "c")[:60]])
    blocks, y = blocks[rows], y[rows]  # the prior of the model is uniform
    report = _quiet(model, blocks, y)
    dummy = DummyClassifier(strategy="prior").fit(np.zeros((len(y), 1)), y)
    said = dummy.predict_proba(np.zeros((len(y), 1)))
    assert report.baseline["name"] == "majority class (c)"
    assert report.baseline["accuracy"] == accuracy_score(y, ["c"] * len(y))
    assert report.baseline["log_loss"] == pytest.approx(log_loss(y, said))
    assert report.baseline["ece"] == pytest.approx(0, abs=1e-12)
    change = report.subsets["log_loss"].iloc[-1] - report.baseline["log_loss"]
    assert report.baseline["log_loss_change"] == pytest.approx(change)
    assert report.baseline["log_loss_change_high"] < 0
    assert not any("majority" in note for note in report.warnings)
    lines = str(report).splitlines()
    heading = next(i for i, line in enumerate(lines) if line.startswith("Subset of modalities"))
    assert lines[heading + 1].startswith("  majority class (c)  ")
    assert report.to_dict()["baseline"]["name"] == "majority class (c)"
    assert "majority class (c)" in report._repr_html_()


def test_weights_count_for_the_baseline_and_values_have_their_mean():
    model, blocks, y = report_case()
    weight = np.where(y == "a", 5.0, 1.0)
    report = _quiet(model, blocks, y, sample_weight=weight)
    assert report.baseline["accuracy"] == pytest.approx(weight[y == "a"].sum() / weight.sum())
    values = np.random.default_rng(0).normal(3, 2, size=(50, 1))
    report = _quiet(SumRegressor(("image",)), Blocks({"image": values}), values[:, 0])
    mean = DummyRegressor().fit(values, values[:, 0]).predict(values)
    assert report.baseline["name"] == "mean of these rows"
    assert report.baseline["rmse"] == pytest.approx(root_mean_squared_error(values, mean))
    assert report.baseline["r2"] == pytest.approx(0, abs=1e-9)


def test_a_model_that_does_not_beat_the_majority_is_warned_of():
    model, blocks, y = report_case({"image": 0.0, "audio": 0.0})
    with pytest.warns(
        ModalityNeglectWarning, match=r"the model is worse than the majority class \("
    ):
        modality_report(model, blocks, y, n_bootstrap=200)
    model.scale = {"image": 0.0, "audio": 0.0}
    with pytest.warns(
        ModalityNeglectWarning, match="is not measurably better than the majority cl"
    ):
        modality_report(model, blocks, y, n_bootstrap=200)


def test_a_fusion_worse_than_a_part_of_two_is_warned_of():
    strengths = {"image": 1.0, "audio": 1.0, "noise": 0.0}
    model, blocks, y = report_case(strengths, n_rows=600)
    model.scale = {"noise": 1.6}
    with pytest.warns(
        ModalityNeglectWarning, match=r"worse than its part image \+ audio: log loss"
    ):
        report = modality_report(model, blocks, y, n_bootstrap=300)
    assert report.best_part == ("image", "audio") and report.part_change[1] > 0
    pair = log_loss(y, model.predict_proba(blocks.select(["image", "audio"])))
    assert report.part_change[0] == pytest.approx(report.subsets["log_loss"].iloc[-1] - pair)
    assert not report.fusion_worse and "among 6 parts" in " ".join(report.warnings)
    model.scale = None
    good = _quiet(EvidenceClassifier(("image", "audio")), *report_case(n_rows=600)[1:])
    assert not any("worse" in note for note in good.warnings)


def test_how_far_predictions_move_is_measured_where_the_modality_is_there():
    model, blocks, y = report_case({"image": 1.2, "audio": 0.8}, absent={"audio": 0.5})
    report = _quiet(model, blocks, y)
    full, without = (model.predict_proba(b) for b in (blocks, blocks.hide("audio")))
    there = blocks.present[:, 1]
    expected = np.abs(full - without)[there, 0].mean()
    assert report.modalities.loc["audio", "prediction_change"] == pytest.approx(expected)


def test_the_report_finds_what_weak_views_of_real_people_add():
    with np.load(data_folder("mosi") / "clean.npz", allow_pickle=False) as file:
        X = Blocks({name: file[name] for name in ("text", "audio", "video")})
        y, groups = file["label"], file["video_id"]
    train = np.isin(groups, np.unique(groups)[::2])
    model = FusionClassifier(EarlyFusion(), cv=3).fit(X[train], y[train], groups=groups[train])
    with pytest.warns(ModalityNeglectWarning, match="'(audio|video)' contributes nothing"):
        report = modality_report(model, X[~train], y[~train], groups=groups[~train])
    assert report.best_single == "text" and report.baseline["accuracy"] < 0.75
