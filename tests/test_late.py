"""Late fusion as a whole: parameters, saving, evidence, and what it brings on real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

from mmfuse import FusionClassifier, FusionRegressor, ModalityTable, load
from mmfuse.estimators import _base
from mmfuse.exceptions import UnsupportedObjectiveError
from mmfuse.heads import AutoFusion, ContextualFusion, EarlyFusion, HeadOutput, LateFusion
from mmfuse.heads.calibrators import CALIBRATORS
from mmfuse.heads.combine import COMBINATIONS
from tests.data import data_folder
from tests.samples import two_views

CALIBRATE, COMBINE = list(CALIBRATORS["classification"]), list(COMBINATIONS["classification"])
ADDITIVE = {
    "log-pool": LateFusion(C=1.0),
    "product": LateFusion(C=1.0, combine="product", calibrate="isotonic"),
    "best": LateFusion(C=1.0, combine="best"),
    "stack": LateFusion(C=1.0, combine="stack"),
    "early-linear": EarlyFusion(C=1.0),
    "contextual": ContextualFusion(C=1.0, alpha=0.1),
}


def skewed(n: int = 90, *, absent: float = 0.3):
    """Two views of classes of unequal frequency."""
    X, y = two_views(n, absent=absent)
    rows = (y != 2) | (np.arange(n) % 3 == 0)
    return X[rows], y[rows]


# -- parameters --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            LateFusion(calibrate="platt"),
            "LateFusion: calibrate must be one of 'temperature', 'vector', 'sigmoid', 'isotonic', "
            "None; got 'platt'",
        ),
        (LateFusion(calibrate=["sigmoid"]), r"calibrate must be one of .*; got \['sigmoid'\]"),
        (
            LateFusion(combine="median"),
            "LateFusion: combine must be one of 'log-pool', 'stack', 'product', 'mean', 'vote', "
            "'best'; got 'median'",
        ),
        (LateFusion(combine=None), "combine must be one of .*; got None"),
    ],
)
def test_unknown_names_are_refused(head: LateFusion, message: str) -> None:
    X, y = two_views(30)
    for estimator in (FusionClassifier(head), FusionRegressor(head)):
        with pytest.raises(ValueError, match=message):
            estimator.fit(X, y)


@pytest.mark.parametrize(
    ("combine", "output", "message"),
    [
        ("vote", "point", "no form for regression; use one of 'log-pool', 'stack', 'product', "),
        ("vote", "quantiles", "no form for quantiles; use one of 'log-pool', 'product', 'mean', "),
        ("stack", "quantiles", "no form for quantiles; use one of 'log-pool', 'product', 'mean', "),
    ],
)
def test_rules_that_a_task_does_not_have(combine: str, output: str, message: str) -> None:
    X, y = two_views(30)
    head = LateFusion(C=1.0, combine=combine)
    with pytest.raises(UnsupportedObjectiveError, match=f"LateFusion: combine='{combine}' has "):
        FusionRegressor(head, output=output).fit(X, y)
    both = AutoFusion({"early": EarlyFusion(C=1.0), "late": head})
    skipped = FusionRegressor(both, output=output).fit(X, y * 1.0).history_["skipped"]
    assert message in skipped["late"]


def test_bins_can_be_voted_on() -> None:
    X, y = two_views(30)
    binned = FusionRegressor(LateFusion(C=1.0, combine="vote"), output="binned", bins=3)
    assert np.isfinite(binned.fit(X, y * 1.0).predict(X)).all()


# -- saving ------------------------------------------------------------------------------------


@pytest.mark.parametrize("combine", COMBINE)
@pytest.mark.parametrize("calibrate", CALIBRATE)
def test_every_form_comes_back_equal(calibrate, combine: str, tmp_path: Path) -> None:
    X, y = two_views(45, absent=0.2)
    head = LateFusion(C=1.0, calibrate=calibrate, combine=combine)
    model = FusionClassifier(head, cv=2, random_state=0).fit(X, y)
    again = load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert again.history_ == model.history_
    assert again.head.combine == combine and again.head.calibrate == calibrate


@pytest.mark.parametrize("combine", COMBINATIONS["regression"])
def test_every_form_for_values_comes_back_equal(combine: str, tmp_path: Path) -> None:
    X, y = two_views(45, absent=0.2)
    head = LateFusion(C=1.0, calibrate="isotonic", combine=combine)
    model = FusionRegressor(head, cv=2, random_state=0).fit(X, y * 3.0)
    again = load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    np.testing.assert_array_equal(again.predict_interval(X), model.predict_interval(X))
    assert np.isfinite(model.predict_interval(X)).all()


def test_history_says_what_was_learned() -> None:
    X, y = two_views(60)
    kinds = {"temperature": float, "vector": dict, "sigmoid": dict, "isotonic": dict}
    for calibrate, kind in kinds.items():
        model = FusionClassifier(LateFusion(C=1.0, calibrate=calibrate), random_state=0).fit(X, y)
        learned = model.history_["pool"]
        assert set(learned) == {"weight", "independence", "calibration"}
        assert isinstance(learned["calibration"]["a"], kind)


# -- one modality, other bases, few rows -----------------------------------------------------------


@pytest.mark.parametrize("combine", ["log-pool", "product", "mean", "best"])
@pytest.mark.parametrize("calibrate", ["vector", "sigmoid", "isotonic"])
def test_one_modality_gives_its_own_calibrated_answer(combine: str, calibrate: str) -> None:
    X, y = two_views(absent=0.2)
    head = LateFusion(C=1.0, combine=combine, calibrate=calibrate)
    both = FusionClassifier(head, calibration=None, random_state=0).fit(X, y)
    only_b = {"b": X["b"][X.presence[:, 1] == 1]}
    alone = head.calibrate and both.predict_proba(only_b)
    direct = FusionClassifier(
        LateFusion(C=1.0, combine="best", calibrate=calibrate), calibration=None, random_state=0
    ).fit(X, y)
    np.testing.assert_allclose(alone, direct.predict_proba(only_b), atol=1e-9)


@pytest.mark.parametrize("combine", COMBINE)
def test_any_base(combine: str) -> None:
    X, y = two_views(60, absent=0.2)
    mlp = EarlyFusion("mlp", hidden=(8,), max_epochs=20, learning_rate=0.03)
    for base in (LogisticRegression(), mlp, EarlyFusion(C=1.0)):
        head = LateFusion(base, calibrate="sigmoid", combine=combine)
        assert FusionClassifier(head, cv=2, random_state=0).fit(X, y).score(X, y) > 0.5
    if combine in COMBINATIONS["regression"]:
        head = LateFusion(Ridge(), combine=combine)
        assert FusionRegressor(head, cv=2, random_state=0).fit(X, y * 1.0).score(X, y) > 0.3


@pytest.mark.parametrize("combine", COMBINE)
@pytest.mark.parametrize("calibrate", CALIBRATE)
def test_nothing_can_be_held_out(calibrate, combine: str) -> None:
    """One row of each class: no fold, so nothing is learned and every rule still answers."""
    X, y = two_views(3)
    head = LateFusion(C=1.0, calibrate=calibrate, combine=combine)
    model = FusionClassifier(head, random_state=0).fit(X, y)
    assert np.isfinite(model.predict_proba(X)).all()
    assert model.score(X, y) == 1


def test_weights_are_repetitions_of_rows() -> None:
    X, y = two_views(60)
    weight = 1 + np.arange(60) % 2
    rows = np.repeat(np.arange(60), weight)
    fold = np.arange(60) % 3
    for combine, calibrate in [("stack", "vector"), ("vote", "sigmoid"), ("best", "isotonic")]:
        head = LateFusion(C=1.0, combine=combine, calibrate=calibrate)
        found = []
        for take, w in ((np.arange(60), weight), (rows, None)):
            folds = [
                (np.flatnonzero(fold[take] != f), np.flatnonzero(fold[take] == f)) for f in range(3)
            ]
            model = FusionClassifier(head, cv=folds, random_state=0)
            found.append(model.fit(X[take], y[take], sample_weight=w).predict_proba(X))
        np.testing.assert_allclose(found[0], found[1], atol=1e-6)


# -- evidence ----------------------------------------------------------------------------------


@pytest.mark.parametrize("calibration", ["auto", None])
@pytest.mark.parametrize("name", ADDITIVE)
def test_prior_and_evidence_are_the_answer(name: str, calibration) -> None:
    X, y = skewed()
    model = FusionClassifier(ADDITIVE[name], calibration=calibration, random_state=0).fit(X, y)
    table = X[:40].hide(["a", "b"], [3])
    evidence = model.evidence(table)
    assert evidence.shape == (40, 2, 3) and evidence.dtype == np.float64
    assert (evidence[table.presence != 1] == 0).all()
    np.testing.assert_allclose(evidence.sum(axis=2), 0, atol=1e-9)
    total = log_softmax(np.log(model.prior_) + evidence.sum(axis=1), axis=1)
    np.testing.assert_allclose(total, model.predict_log_proba(table), atol=1e-6)


def test_evidence_comes_in_the_order_of_modalities_and_classes() -> None:
    X, y = two_views(90)
    labels = np.array(["z", "m", "a"])[y]
    model = FusionClassifier(LateFusion(C=1.0), random_state=0).fit(X, labels)
    first = model.evidence(X)
    swapped = model.evidence({"b": X["b"], "a": X["a"]})
    np.testing.assert_allclose(swapped, first, atol=1e-9)
    assert model.modalities_ == ("a", "b") and list(model.classes_) == ["a", "m", "z"]
    of_truth = first[np.arange(90), :, np.searchsorted(model.classes_, labels)]
    assert (of_truth.mean(axis=0) > 0.2).all()  # both speak for the true class


def test_evidence_of_a_modality_that_says_nothing_is_small() -> None:
    X, y = two_views(240)
    noise = np.random.default_rng(0).normal(size=(240, 3))
    model = FusionClassifier(LateFusion(), random_state=0).fit({"a": X["a"], "noise": noise}, y)
    size = np.abs(model.evidence({"a": X["a"], "noise": noise})).mean(axis=(0, 2))
    assert size[1] < 0.2 * size[0]


def test_evidence_is_made_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = two_views(60, absent=0.2)
    model = FusionClassifier(LateFusion(C=1.0), random_state=0).fit(X, y)
    whole = model.evidence(X)
    monkeypatch.setattr(_base, "PREDICT_ROWS", 7)
    np.testing.assert_allclose(model.evidence(X), whole, atol=1e-12)
    assert model.evidence(model.encode(X)[:0]).shape == (0, 2, 3)


def test_evidence_of_other_heads_is_refused() -> None:
    X, y = two_views(45)
    for combine in ("mean", "vote"):
        model = FusionClassifier(LateFusion(C=1.0, combine=combine), random_state=0).fit(X, y)
        message = (
            r"FusionClassifier: there is no evidence to show, for the answer of LateFusion\(.*\) "
            "is not a sum over modalities; use a head whose answer is: LateFusion with combine="
        )
        with pytest.raises(ValueError, match=message):
            model.evidence(X)


def test_evidence_of_another_shape_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that of one latent score for all classes: it is no sum for a class."""
    X, y = two_views(45)
    model = FusionClassifier(LateFusion(C=1.0), random_state=0).fit(X, y)
    latent = HeadOutput(torch.zeros(45, 3), {"evidence": torch.zeros(45, 2, 1)})
    monkeypatch.setattr(model.head_, "forward", lambda blocks, presence: latent)
    with pytest.raises(ValueError, match="there is no evidence to show"):
        model.evidence(X)


# -- real data ---------------------------------------------------------------------------------


def activities() -> tuple[ModalityTable, np.ndarray]:
    """Sound and motion of seven household activities."""
    frame = pd.read_csv(data_folder("htad_audio_motion") / "htad.csv")
    parts = {
        name: frame[[c for c in frame if c.startswith(prefix)]].to_numpy(float)
        for name, prefix in (("audio", "v1_"), ("motion", "v2_"))
    }
    return ModalityTable(parts), frame["class"].to_numpy()


def test_fusion_beats_the_best_modality_on_activities() -> None:
    """Fact sheet 3(g)4: fused log loss is below the best modality's, on held-out rows."""
    X, y = activities()
    train, test = next(StratifiedKFold(5, shuffle=True, random_state=0).split(y, y))
    found = {}
    for combine in ("best", "mean", "product", "log-pool"):
        head = LateFusion(C=0.01, combine=combine, calibrate="isotonic")
        model = FusionClassifier(head, cv=3, random_state=0).fit(X[train], y[train])
        found[combine] = log_loss(y[test], model.predict_proba(X[test]))
    best = found.pop("best")
    assert max(found.values()) < best - 0.1
    assert found["log-pool"] < found["mean"]
