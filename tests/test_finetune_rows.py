"""Which rows fine-tuning learns from, and which are kept for calibration."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from tuning import PictureEncoder, classifier, digits, pictures, plan

import mmfuse
from mmfuse import FusionClassifier, ModalityTable
from mmfuse.finetune import run
from mmfuse.finetune.split import RowSplit
from mmfuse.heads import EarlyFusion, LateFusion
from mmfuse.metrics import log_loss


@pytest.fixture(scope="module", name="pictures")
def _pictures():
    return pictures()


def _watch(monkeypatch):
    """Rows of the split, and what calibration was given."""
    seen = {}
    tune, calibrator = run.tune, mmfuse.estimators.classifier.make_pattern_calibrator

    def spy_tune(*args, **kwargs):
        seen["tuned"] = tune(*args, **kwargs)
        return seen["tuned"]

    def spy_calibrator(kind, held, *args, **kwargs):
        seen["scored"] = np.flatnonzero(np.isfinite(held.scores).all(axis=1))
        return calibrator(kind, held, *args, **kwargs)

    monkeypatch.setattr(run, "tune", spy_tune)
    monkeypatch.setattr(mmfuse.estimators.classifier, "make_pattern_calibrator", spy_calibrator)
    return seen


@pytest.mark.parametrize("head", [EarlyFusion(C=1.0), LateFusion(C=1.0)])
@pytest.mark.parametrize("cv", [3, [(np.arange(100), np.arange(100, 200))]])
def test_calibration_sees_rows_that_no_encoder_saw(monkeypatch, head, cv):
    X, y, groups = digits(200)
    seen = _watch(monkeypatch)
    classifier(head=head, cv=cv, finetune=plan(epochs=1)).fit(X, y)
    rows = seen["tuned"].rows
    wanted = rows.held if cv == 3 else np.intersect1d(rows.held, np.arange(100, 200))
    np.testing.assert_array_equal(seen["scored"], wanted)
    assert not set(wanted) & {*rows.train, *rows.stop}


def test_groups_stay_on_one_side(monkeypatch):
    X, y, speakers = digits(200)
    seen = _watch(monkeypatch)
    classifier(finetune=plan(epochs=1)).fit(X, y, groups=speakers)
    rows = seen["tuned"].rows
    parts = [set(speakers[part]) for part in (rows.train, rows.stop, rows.held)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 4
    np.testing.assert_array_equal(seen["scored"], rows.held)  # one speaker, one fold


def test_held_out_rows_do_not_reach_the_encoder(monkeypatch):
    X, y, _ = digits(200)
    order = np.random.default_rng(0).permutation(200)
    rows = RowSplit(order[:150], order[:0], order[150:])
    monkeypatch.setattr(run, "split_rows", lambda *args, **kwargs: rows)
    digests = []
    for part in (None, rows.held, rows.train):
        target = y.copy()
        if part is not None:
            target[part] = np.roll(target[part], 1)
        model = classifier(finetune=plan(epochs=1, validation=0)).fit(X, target)
        digests.append(model.encoders_["image"].tuned_.digest())
    assert digests[0] == digests[1] != digests[2]


def test_noise_is_not_learned_with_confidence(pictures):
    X, _ = pictures
    y = np.random.default_rng(0).integers(0, 4, 480)
    rule = plan(epochs=15, validation=0, encoder_lr=2e-2)
    model = classifier(PictureEncoder(width=64, trainable=True), finetune=rule)
    model.fit(X[:160], y[:160])
    assert model.history_["finetune"]["train_loss"][-1] < 0.4  # the encoder knows its rows by heart
    loss = log_loss(y[160:], model.predict_proba(X[160:]), classes=np.arange(4))
    assert loss < np.log(4) + 0.1
    blocks = model.encode(X)  # what calibration on the rows that were trained on would give
    naive = FusionClassifier(EarlyFusion(C=1.0), random_state=0).fit(blocks[:160], y[:160])
    other = log_loss(y[160:], naive.predict_proba(blocks[160:]), classes=np.arange(4))
    assert other > loss + 0.1


def test_rows_with_gaps():
    X, y, _ = digits(240, gaps=0.4)
    rule = plan(epochs=2, validation=0)
    model = classifier(finetune=rule).fit(X[:200], y[:200])
    tuned = model.encoders_["image"].tuned_
    assert np.isfinite(model.predict_proba(X)).all()
    hidden = X.hide("image")
    alone = model.predict_proba(X.select("sound"))
    np.testing.assert_allclose(model.predict_proba(hidden), alone, atol=1e-9)
    # pictures that are absent are nothing to learn from
    shown = X["image"].copy()
    shown[X.presence[:, 0] == 0] = 77
    changed = ModalityTable({"image": shown, "sound": X["sound"]}, presence=X.presence)
    again = classifier(finetune=rule).fit(changed[:200], y[:200])
    assert again.encoders_["image"].tuned_.digest() == tuned.digest()


def test_weightless_rows_do_not_count():
    X, y, _ = digits(200)
    weight = np.ones(200)
    weight[::4] = 0
    target = y.copy()
    target[::4] = (target[::4] + 3) % 10
    rule = plan(epochs=1, validation=0)
    one = classifier(finetune=rule, class_weight=None)
    rows = RowSplit(np.arange(150), np.arange(0), np.arange(150, 200))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "split_rows", lambda *args, **kwargs: rows)
        digests = [
            clone(one).fit(X, t, sample_weight=weight).encoders_["image"].tuned_.digest()
            for t in (y, target)
        ]
    assert digests[0] == digests[1]
