"""Fine-tuning for values, several columns of y, and through other joint heads."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from tuning import classifier, pictures, plan

from mmfuse import FusionRegressor
from mmfuse.heads import EarlyFusion


@pytest.fixture(scope="module", name="pictures")
def _pictures():
    return pictures()


@pytest.mark.parametrize(
    ("output", "more"),
    [("point", {}), ("point", {"loss": "huber"}), ("quantiles", {}), ("binned", {"bins": 9})],
)
def test_values(pictures, output, more):
    X, y = pictures
    tuned = classifier(cls=FusionRegressor, output=output, finetune=plan(epochs=5), **more)
    tuned.fit(X[:320], y[:320].astype(float))
    frozen = clone(tuned).set_params(finetune=None, encoders__image__trainable=False)
    frozen.fit(X[:320], y[:320].astype(float))
    assert tuned.score(X[320:], y[320:]) > frozen.score(X[320:], y[320:]) + 0.1
    assert tuned.predict_interval(X[:3]).shape == (3, 2)


def test_mixtures_and_several_values(pictures):
    X, y = pictures
    model = classifier(cls=FusionRegressor, output="mixture", finetune=plan(epochs=1))
    model.fit(X[:120], y[:120].astype(float))
    assert model.history_["finetune"]["parameters"]["image"]["trained"] > 0
    both = np.stack([y, y % 3], axis=1).astype(float)
    model = classifier(cls=FusionRegressor, finetune=plan(epochs=2)).fit(X[:120], both[:120])
    assert model.predict(X[:5]).shape == (5, 2)


def test_several_columns_train_one_encoder(pictures):
    X, y = pictures
    both = np.stack([y, y % 2], axis=1)
    model = classifier(target=["nominal", "ordinal"], finetune=plan(epochs=4))
    model.fit(X[:320], both[:320])
    assert model.outputs_[0].encoders_["image"] is model.encoders_["image"]
    frozen = clone(model).set_params(finetune=None, encoders__image__trainable=False)
    frozen.fit(X[:320], both[:320])
    assert model.score(X[320:], both[320:]) > frozen.score(X[320:], both[320:]) + 0.1
    for part in model.outputs_:
        assert part.history_["finetune"]["rows"]["held_out"] > 0


def test_another_joint_head(pictures):
    X, y = pictures
    network = EarlyFusion("mlp", hidden=(16,), max_epochs=5)
    model = classifier(finetune=plan(epochs=2, joint_head=network)).fit(X[:120], y[:120])
    assert model.history_["finetune"]["best_epoch"] > 0
    from sklearn.ensemble import ExtraTreesClassifier

    trees = EarlyFusion(ExtraTreesClassifier(5))
    with pytest.raises(ValueError, match=r"joint_head EarlyFusion .* without parameters"):
        classifier(finetune=plan(joint_head=trees)).fit(X[:120], y[:120])
    model = classifier(head=trees, finetune=plan(epochs=1)).fit(X[:120], y[:120])
    assert model.encoders_["image"].tuned_.tensors
