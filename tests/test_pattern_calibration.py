"""Corrections of the temperature for each pattern of availability."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

import mmfuse
from mmfuse import FusionClassifier
from mmfuse.calibration import TemperatureScaling
from mmfuse.calibration._affine import Case, shift_basis
from mmfuse.calibration._witnesses import fold_shares
from mmfuse.calibration.by_pattern import HeldOut, PatternCalibration
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
        pooled = held.scores[rows] / TemperatureScaling().fit(held.scores, y).temperature_
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


def test_without_a_modality_scores_are_no_sharper_than_its_rows_show() -> None:
    """Rows with a separating modality ask for sharp scores, the few others do not."""
    held, y, _ = world(300)
    both = held.present.all(axis=1)
    rows = np.concatenate([np.flatnonzero(both), np.flatnonzero(~both)[:19]])
    scores, present, y = held.scores[rows], held.present[rows], y[rows]
    scores[present.all(axis=1)] = 2.0 * np.eye(3)[y[present.all(axis=1)]]  # right and too timid
    c = fitted(HeldOut(scores, present), y)
    full, lame, other = c.slope(np.array([FULL, LAME, (False, True)]))
    assert full > 2 and lame < 1.3 and other <= 1
    assert TemperatureScaling().fit(scores, y).temperature_ < 0.6


def test_few_rows_are_enough_to_flatten_what_is_far_too_sharp() -> None:
    held, y, _ = world(300, factor=6.0)
    both = held.present.all(axis=1)
    rows = np.concatenate([np.flatnonzero(both), np.flatnonzero(~both)[:15]])
    own = fitted(HeldOut(held.scores[rows], held.present[rows]), y[rows])
    hidden = np.where(both[:, None], held.scores * 6.0, held.scores)
    gone = np.tile(LAME, (300, 1))
    taught = HeldOut(held.scores[both], held.present[both], hidden[both], gone[both])
    for c in (own, fitted(taught, y[both])):
        full, lame = c.slope(np.array([FULL, LAME]))
        assert full > 0.7 and lame < 0.6
        unseen = c.slope(np.array([(False, True)]))[0]
        assert unseen <= 1
    assert unseen < 0.6  # rows with a modality hidden speak for patterns of which there are none


def test_scores_that_cannot_be_compared_by_folds_get_the_temperature() -> None:
    held, y, _ = world(4, factor=4.0)
    c = fitted(held, y)
    assert c.plan_ == "temperature" and np.isinf(c.pull_)


@pytest.mark.parametrize("ordinal", [False, True])
@pytest.mark.parametrize("pull", [0.5, 30.0])
def test_newton_finds_the_optimum(ordinal: bool, pull: float) -> None:
    held, y, _ = world(200, factor=2.0, lean=(1, 0, 0))
    weight = np.random.default_rng(1).random(200) + 0.5
    case = Case(held.scores, y, weight, np.arange(200))
    basis = shift_basis(3, ordinal)
    pulls = np.append(2 * pull, np.full(len(basis), pull))
    found = case.correction(basis, pulls)

    def value(theta: np.ndarray) -> float:
        return float(weight @ case.loss(theta, basis) + pulls @ theta**2 / 2)

    assert value(found) == pytest.approx(minimize(value, found * 0, tol=1e-12).fun, rel=1e-8)
    assert len(found) == (2 if ordinal else 4)


def test_groups_stay_together() -> None:
    """Copies of a row in one group must not vouch for each other."""
    held, y, _ = world(60, seed=3)
    scores, present = np.repeat(held.scores, 20, axis=0), np.repeat(held.present, 20, axis=0)
    groups = np.repeat(np.arange(60), 20)
    blind = fitted(HeldOut(scores, present), np.repeat(y, 20))
    aware = fitted(HeldOut(scores, present), np.repeat(y, 20), groups=groups)
    assert blind.pull_ < aware.pull_


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_weights_are_repetitions_of_rows(factor: float) -> None:
    held, y, _ = world(150, factor=factor, seed=5)
    weight = np.random.default_rng(0).integers(1, 8, 150)
    often = np.repeat(np.arange(150), weight)
    one = PatternCalibration().fit_patterns(held, y, weight.astype(float))
    other = fitted(HeldOut(held.scores[often], held.present[often]), y[often])
    assert one.plan_ == other.plan_
    out = [c.transform(held.scores, held.present) for c in (one, other)]
    np.testing.assert_allclose(out[0], out[1], atol=1e-7)


def test_folds_deal_out_equal_rows_and_keep_groups_whole() -> None:
    together = np.repeat([0, 1, 2, 3, 4, 5], [1, 2, 12, 1, 1, 1])
    shares = fold_shares(together, np.ones(18), 5, whole=False)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert ((shares == 0) | (shares == 1))[together != 2].all()
    np.testing.assert_allclose(np.sort(shares[5])[:4], 2 / 12)  # two in each fold, and two more
    whole = fold_shares(together, np.ones(18), 5, whole=True)
    assert ((whole == 0) | (whole == 1)).all() and (whole[together == 2] == whole[5]).all()


def test_the_error_of_a_slope_knows_groups() -> None:
    held, y, _ = world(60, factor=2.0, seed=3)
    one = Case(held.scores, y, np.ones(60), np.arange(60))
    copies = Case(
        np.repeat(one.scores, 20, axis=0),
        np.repeat(y, 20),
        np.ones(1200),
        np.repeat(np.arange(60), 20),
    )
    d, error = one.slope(1e-6)
    again, honest = copies.slope(1e-6)
    assert again == pytest.approx(d, abs=1e-4)
    assert honest == pytest.approx(error, rel=0.4) and honest > 0.5 * error


def test_state_goes_through_json() -> None:
    held, y, _ = world(factor=3.0)
    for c in (fitted(held, y), fitted(*world(30)[:2])):
        again = PatternCalibration.from_state(json.loads(json.dumps(c.get_state())))
        for present in (held.present, None):
            np.testing.assert_array_equal(
                again.transform(held.scores, present), c.transform(held.scores, present)
            )
        assert again.pull_ == c.pull_ and again.plan_ == c.plan_
        unseen = np.array([(False, True)])
        assert again.slope(unseen) == c.slope(unseen)


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


def separable(n: int, seed: int, n_classes: int, gap: float) -> tuple[dict, np.ndarray]:
    """One block that separates the classes, and a weak one of two features; both have gaps."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    strong, weak = rng.normal(size=(n, 5)), rng.normal(size=(n, 2))
    strong[:, 0] += 12 * y
    weak[:, 0] += 0.8 * y
    lost = rng.random(n) < gap
    strong[lost] = np.nan
    weak[rng.random(n) < 0.15] = np.nan  # some rows have nothing
    return {"strong": strong, "weak": weak}, y


@pytest.mark.parametrize(("n_classes", "target"), [(2, "nominal"), (3, "nominal"), (3, "ordinal")])
def test_rows_without_the_separating_modality_are_not_overconfident(n_classes, target) -> None:
    excess, largest = [], []
    for seed in range(6):
        X, y = separable(60, seed, n_classes, gap=(0.1, 0.3, 0.2)[seed % 3])
        new, truth = separable(1500, seed + 100, n_classes, gap=0.3)
        model = FusionClassifier(LateFusion(), target=target, random_state=0).fit(X, y)
        alone = FusionClassifier(LateFusion(), target=target, random_state=0)
        alone.fit({"weak": X["weak"]}, y)
        weak = {"weak": new["weak"][np.isfinite(new["weak"]).all(axis=1)]}
        mine, theirs = model.predict_log_proba(weak), alone.predict_log_proba(weak)
        largest.append([np.abs(p[:, -1] - p[:, 0]).max() for p in (mine, theirs)])
        calibrated = loss(model.predict_log_proba(new), truth)
        model.calibrator_ = None
        excess.append(calibrated / loss(model.predict_log_proba(new), truth) - 1)
    ratio = np.array(largest)[:, 0] / np.array(largest)[:, 1]
    assert np.mean(excess) < 0.005 and np.median(ratio) < 1.15 and ratio.max() < 1.6
