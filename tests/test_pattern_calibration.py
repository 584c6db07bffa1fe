"""Corrections of the temperature for each pattern of availability."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

import mmfuse
from mmfuse import FusionClassifier
from mmfuse.calibration.by_pattern import HeldOut, PatternCalibration, _basis, _Case
from mmfuse.heads import EarlyFusion, LateFusion

FULL, LAME = (True, True), (True, False)


def world(
    n: int = 3000, *, factor: float = 1.0, lean: tuple = (0, 0, 0), seed: int = 0
) -> tuple[HeldOut, np.ndarray, np.ndarray]:
    """Right scores where both are there; times ``factor`` plus ``lean`` where one is missing."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 3)) * 1.5
    y = np.array([rng.choice(3, p=p) for p in softmax(logits, axis=1)])
    lame = rng.random(n) < 0.4
    scores = np.where(lame[:, None], logits * factor + np.array(lean), logits)
    present = np.where(lame[:, None], LAME, FULL)
    return HeldOut(scores, present), y, logits


def loss(scores: np.ndarray, y: np.ndarray) -> float:
    return float(-log_softmax(scores, axis=1)[np.arange(len(y)), y].mean())


def fitted(held: HeldOut, y: np.ndarray, **options) -> PatternCalibration:
    return PatternCalibration().fit_patterns(held, y, np.ones(len(y)), **options)


def test_an_overconfident_pattern_is_corrected_and_the_other_is_not() -> None:
    held, y, logits = world(factor=3.0)
    c = fitted(held, y)
    out = c.transform(held.scores, held.present)
    for pattern in (FULL, LAME):
        rows = (held.present == pattern).all(axis=1)
        assert loss(out[rows], y[rows]) < loss(logits[rows], y[rows]) + 0.005
        pooled = held.scores[rows] / c.temperature_
        assert loss(out[rows], y[rows]) < loss(pooled, y[rows]) - 0.01
    slope = dict(zip(map(tuple, c.patterns_.tolist()), c.scale_ / c.temperature_, strict=True))
    assert slope[FULL] == pytest.approx(1, abs=0.1) and slope[LAME] == pytest.approx(
        1 / 3, abs=0.05
    )
    np.testing.assert_allclose(
        c.slope(held.present), [slope[tuple(p)] for p in held.present.tolist()]
    )


def test_a_pattern_that_leans_to_a_class_is_set_upright() -> None:
    held, y, _ = world(lean=(1.5, 0, -1.5))
    c = fitted(held, y)
    shift = c.shift_[(c.patterns_ == LAME).all(axis=1)][0]
    slope = c.slope(np.array([LAME]))
    np.testing.assert_allclose(shift / slope, [-1.5, 0, 1.5], atol=0.3)


@pytest.mark.parametrize("n", [60, 400, 3000])
def test_scores_that_are_right_stay_as_they_are(n: int) -> None:
    changed = []
    for seed in range(12):
        held, y, _ = world(n, seed=seed)
        c = fitted(held, y)
        changed.append(np.isfinite(c.pull_))
        plain = loss(held.scores / c.temperature_, y)
        fresh, y_fresh, _ = world(3000, seed=seed + 100)
        plain = loss(fresh.scores / c.temperature_, y_fresh)
        assert loss(c.transform(fresh.scores, fresh.present), y_fresh) < plain + 0.01
    assert np.mean(changed) < 0.5


def test_hidden_modalities_teach_patterns_that_never_occurred() -> None:
    held, y, logits = world(factor=3.0)
    complete = np.ones_like(held.present)
    c = fitted(HeldOut(logits, complete, held.scores, held.present), y)
    lame = (held.present == LAME).all(axis=1)
    out = c.transform(held.scores[lame], held.present[lame])
    assert loss(out, y[lame]) < loss(held.scores[lame], y[lame]) - 0.2
    np.testing.assert_array_equal(  # own rows count before hidden ones
        fitted(held, y).scale_,
        fitted(HeldOut(held.scores, held.present, -logits, complete), y).scale_,
    )


def test_rare_and_unknown_patterns_keep_the_temperature() -> None:
    held, y, _ = world(factor=3.0)
    lame = np.flatnonzero((held.present == LAME).all(axis=1))[:19]
    rows = np.concatenate([np.flatnonzero(held.present.all(axis=1)), lame])
    c = fitted(HeldOut(held.scores[rows], held.present[rows]), y[rows])
    np.testing.assert_allclose(
        c.transform(held.scores[lame], held.present[lame]), held.scores[lame] / c.temperature_
    )
    np.testing.assert_allclose(c.transform(held.scores), held.scores / c.temperature_)


@pytest.mark.parametrize("ordinal", [False, True])
@pytest.mark.parametrize("pull", [0.5, 30.0])
def test_newton_finds_the_optimum(ordinal: bool, pull: float) -> None:
    held, y, _ = world(200, factor=2.0, lean=(1, 0, 0))
    weight = np.random.default_rng(1).random(200) + 0.5
    case = _Case(np.array(LAME), np.arange(200), held.scores, y, weight)
    basis = _basis(3, ordinal)
    found = case.correction(basis, pull)
    value = minimize(lambda t: case._value(t, basis, pull), found * 0, tol=1e-12).fun
    assert case._value(found, basis, pull) == pytest.approx(value, rel=1e-8)
    assert len(found) == (2 if ordinal else 4)


def test_groups_stay_together() -> None:
    """Copies of a row in one group must not vouch for each other."""
    held, y, _ = world(60, seed=3)
    scores, present = np.repeat(held.scores, 20, axis=0), np.repeat(held.present, 20, axis=0)
    groups = np.repeat(np.arange(60), 20)
    blind = fitted(HeldOut(scores, present), np.repeat(y, 20))
    aware = fitted(HeldOut(scores, present), np.repeat(y, 20), groups=groups)
    assert blind.pull_ < aware.pull_


def test_state_goes_through_json() -> None:
    held, y, _ = world(factor=3.0)
    for c in (fitted(held, y), fitted(*world(30)[:2])):
        again = PatternCalibration.from_state(json.loads(json.dumps(c.get_state())))
        for present in (held.present, None):
            np.testing.assert_array_equal(
                again.transform(held.scores, present), c.transform(held.scores, present)
            )
        assert again.pull_ == c.pull_


def table(n: int, seed: int) -> tuple[dict, np.ndarray]:
    """b is missing more often in class 1, and the head is fitted with next to no penalty."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    a = rng.normal(y[:, None] * 0.8, 1, (n, 12))
    b = rng.normal(y[:, None] * 0.8, 1, (n, 12))
    b[rng.random(n) < np.where(y == 1, 0.6, 0.2)] = np.nan
    return {"a": a, "b": b}, y


@pytest.mark.parametrize("head", [EarlyFusion(C=100.0, modality_dropout=0), LateFusion(C=100.0)])
def test_classifier_fits_saves_and_explains_patterns(head, tmp_path) -> None:
    X, y = table(400, 0)
    model = FusionClassifier(head, random_state=0).fit(X, y)
    pooled = FusionClassifier(head, calibration="temperature", random_state=0).fit(X, y)
    assert isinstance(model.calibrator_, PatternCalibration)
    assert not isinstance(pooled.calibrator_, PatternCalibration)
    X_new, y_new = table(4000, 1)
    losses = [-m.predict_log_proba(X_new)[np.arange(4000), y_new].mean() for m in (model, pooled)]
    assert losses[0] < losses[1] + 0.005
    again = mmfuse.load(model.save(tmp_path / "model"))
    np.testing.assert_allclose(again.predict_proba(X_new), model.predict_proba(X_new), atol=1e-12)
    evidence = np.log(model.prior_) + model.evidence(X_new).sum(axis=1)
    np.testing.assert_allclose(
        log_softmax(evidence, axis=1), model.predict_log_proba(X_new), atol=1e-9
    )
