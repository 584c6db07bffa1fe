"""AutoFusion: what it chooses, and that it chooses on training rows alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import cross_val_predict

from mmfuse import FusionClassifier, FusionRegressor, load
from mmfuse.heads import AutoFusion, EarlyFusion, LateFusion, LogitBiasFusion
from tests.data import data_folder
from tests.samples import two_views

LINEAR = {"early": EarlyFusion(C=1.0), "late": LateFusion(C=1.0)}


def log_loss(model, X, y) -> float:
    p = model.predict_log_proba(X)
    return -p[np.arange(len(y)), np.searchsorted(model.classes_, y)].mean()


def test_one_candidate_is_that_head() -> None:
    X, y = two_views(absent=0.2)
    auto = FusionClassifier(
        AutoFusion({"late": LateFusion(C=1.0)}), calibration=None, random_state=0
    ).fit(X, y)
    plain = FusionClassifier(LateFusion(C=1.0), calibration="temperature", random_state=0)
    plain.fit(X, y)  # the pool has one temperature too
    np.testing.assert_allclose(auto.predict_proba(X), plain.predict_proba(X), atol=1e-6)


def test_trees_are_chosen_where_only_trees_can_see() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 2)), rng.normal(size=(300, 2))
    y = ((a[:, 0] > 0) ^ (b[:, 0] > 0)).astype(int)  # neither modality alone says anything
    head = AutoFusion({**LINEAR, "trees": EarlyFusion(ExtraTreesClassifier(100))})
    model = FusionClassifier(head, random_state=0).fit({"a": a[:200], "b": b[:200]}, y[:200])
    assert model.head_report_.loc["trees", "weight_complete"] == 1
    assert model.score({"a": a[200:], "b": b[200:]}, y[200:]) > 0.8


def test_a_head_that_only_helps_without_gaps_is_used_only_there() -> None:
    """Early trees see the joint pattern; the dummy is better than they are when half is missing."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 2)), rng.normal(size=(300, 2))
    y = ((a[:, 0] > 0) ^ (b[:, 0] > 0)).astype(int)
    trees = EarlyFusion(ExtraTreesClassifier(100), modality_dropout=0.0)
    head = AutoFusion({"trees": trees, "prior": LateFusion(DummyClassifier())}, absence=0.5)
    report = FusionClassifier(head, random_state=0).fit({"a": a, "b": b}, y).head_report_
    assert report.loc["trees", "weight_complete"] > 0.8
    assert report.loc["prior", "weight_incomplete"] > 0.5
    assert report.loc["prior", "loss_incomplete"] < report.loc["trees", "loss_incomplete"]


def test_useless_candidates_are_dropped_and_the_rest_survives_saving(tmp_path) -> None:
    X, y = two_views()
    head = AutoFusion({**LINEAR, "dummy": EarlyFusion(DummyClassifier())})
    model = FusionClassifier(head, random_state=0).fit(X, y)
    assert set(model.head_report_.index) == {"early", "late", "dummy"}
    assert "dummy" not in model.fusion_head_.candidates
    assert set(model.head.candidates) == {"early", "late", "dummy"}  # the argument is untouched
    again = load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    pd.testing.assert_frame_equal(again.head_report_, model.head_report_)


def test_losses_are_out_of_fold() -> None:
    """Forests remember labels that mean nothing; their reported loss must not look good."""
    rng = np.random.default_rng(0)
    X, y = {"a": rng.normal(size=(120, 5)), "b": rng.normal(size=(120, 5))}, np.arange(120) % 2
    head = AutoFusion({"trees": EarlyFusion(ExtraTreesClassifier(50))})
    report = FusionClassifier(head, random_state=0).fit(X, y).head_report_
    assert (report["loss_complete"] > 0.66).all()


def test_regression_and_too_few_rows() -> None:
    rng = np.random.default_rng(0)
    X = {"a": rng.normal(size=(150, 3)), "b": rng.normal(size=(150, 2))}
    y = X["a"][:, 0] - 2 * X["b"][:, 1]
    model = FusionRegressor(AutoFusion(LINEAR), random_state=0).fit(X, y)
    assert model.score(X, y) > 0.95
    tiny = FusionClassifier(AutoFusion(LINEAR)).fit({"a": [[0.0], [1.0]]}, [0, 1])
    assert tiny.predict({"a": [[0.0], [1.0]]}).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (AutoFusion({}), "candidates must hold at least one head"),
        (AutoFusion({"late": "late"}), "candidate 'late' must be a head from mmfuse.heads"),
        (
            AutoFusion({"bias": LogitBiasFusion("a")}),
            "'bias' reads the logits of a prior",
        ),
        (AutoFusion(absence=0.0), r"absence must be in \(0, 1\)"),
        (AutoFusion({"late": LateFusion(C=-1)}), "C must be 'cv' or a positive number"),
    ],
)
def test_bad_parameters(head: AutoFusion, message: str) -> None:
    X, y = two_views(30)
    with pytest.raises(ValueError, match=message):
        FusionClassifier(head).fit(X, y)


def test_no_report_without_auto() -> None:
    X, y = two_views(30)
    model = FusionClassifier(LateFusion(C=1.0)).fit(X, y)
    assert not hasattr(model, "head_report_")


@pytest.mark.slow
def test_home_tasks() -> None:
    """Trees win on these real recordings (log loss .23 against .45 for linear heads)."""
    frame = pd.read_csv(next(data_folder("htad_audio_motion").glob("*.csv"))).sample(
        450, random_state=0
    )
    X = {
        "audio": frame.filter(like="v1_").to_numpy(np.float32),
        "motion": frame.filter(like="v2_").to_numpy(np.float32),
    }
    y = frame["class"].to_numpy()
    trees = LateFusion(ExtraTreesClassifier(100, min_samples_leaf=2))
    head = AutoFusion({"late-linear": LateFusion(), "late-trees": trees})
    train = np.arange(450) % 3 > 0
    rows = {k: v[train] for k, v in X.items()}
    held = {k: v[~train] for k, v in X.items()}
    auto = FusionClassifier(head, random_state=0).fit(rows, y[train])
    linear = FusionClassifier(LateFusion(), random_state=0).fit(rows, y[train])
    assert auto.head_report_.loc["late-trees", "weight_complete"] > 0.5
    assert log_loss(auto, held, y[~train]) < log_loss(linear, held, y[~train]) - 0.02


def test_inside_cross_validation() -> None:
    X, y = two_views(90, absent=0.2)
    model = FusionClassifier(AutoFusion(LINEAR), random_state=0)
    assert cross_val_predict(model, X, y, cv=2, method="predict_proba").shape == (90, 3)
