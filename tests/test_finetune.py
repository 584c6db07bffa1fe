"""Fine-tuning: better than frozen, and kept wherever a model goes."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from tuning import PictureEncoder, classifier, pictures, plan

import mmfuse
from mmfuse import FineTuning
from mmfuse.encoders import ImageEncoder
from mmfuse.metrics import log_loss


@pytest.fixture(scope="module", name="pictures")
def _pictures():
    return pictures()


@pytest.fixture(scope="module")
def fitted(pictures):
    X, y = pictures
    return classifier(finetune=plan(epochs=6)).fit(X[:320], y[:320])


def test_better_than_frozen(pictures, fitted):
    X, y = pictures
    frozen = classifier(PictureEncoder(), finetune=None).fit(X[:320], y[:320])
    assert fitted.score(X[320:], y[320:]) > frozen.score(X[320:], y[320:]) + 0.1
    losses = [
        log_loss(y[320:], model.predict_proba(X[320:]), classes=np.arange(10))
        for model in (fitted, frozen)
    ]
    assert losses[0] < losses[1] - 0.2


def test_a_timm_network_learns(pictures):
    X, y = pictures
    size = {"weights": None, "image_size": 32, "crop_pct": 1.0, "device": "cpu", "cache": False}
    scores = []
    for trainable in (False, True):
        encoder = ImageEncoder("test_efficientnet", trainable=trainable, **size)
        rule = FineTuning(epochs=3, encoder_lr=3e-4) if trainable else None
        model = classifier(encoder, finetune=rule).fit(X[:240], y[:240])
        scores.append(model.score(X[320:], y[320:]))
    assert scores[1] > scores[0] + 0.05
    tuned = model.encoders_["image"].tuned_
    assert not any("running" in name for name in tuned.tensors)  # statistics are kept
    assert any("bn" in name for name in tuned.tensors)


def test_what_is_reported(fitted):
    report = fitted.history_["finetune"]
    total = 196 * 16 + 16 + 2 * (16 * 16 + 16)
    assert report["parameters"] == {"image": {"trained": total, "all": total}}
    assert report["rows"] == {"train": 230, "validation": 26, "held_out": 64}
    assert len(report["train_loss"]) == report["epochs"] == 6
    assert len(report["validation_loss"]) == 7
    assert report["best_epoch"] == int(np.argmin(report["validation_loss"]))


def test_the_shared_module_and_other_encoders_stay(pictures, fitted):
    X, _ = pictures
    fresh = PictureEncoder().fit(X["image"])
    own = fitted.encoders_["image"]
    assert own.module() is not fresh.module()
    before = fresh.transform(X["image"][:4])
    assert not np.allclose(own.transform(X["image"][:4]), before, atol=1e-3)
    again = PictureEncoder().fit(X["image"]).transform(X["image"][:4])
    np.testing.assert_array_equal(again, before)
    assert not own.module().training


def test_the_cache_knows_tuned_from_frozen(pictures, fitted, tmp_path):
    X, _ = pictures
    own = copy.deepcopy(fitted.encoders_["image"]).set_params(cache=tmp_path)
    frozen = PictureEncoder(cache=tmp_path).fit(X["image"])
    assert own.weights_hash() != frozen.weights_hash()
    assert own.cache_config() != frozen.cache_config()
    trainable = PictureEncoder(cache=tmp_path, trainable=True).fit(X["image"])
    assert trainable.cache_config() == frozen.cache_config()  # not trained yet
    values = [e.transform(X["image"][:4]) for e in (frozen, own, frozen, own)]
    np.testing.assert_array_equal(values[0], values[2])
    np.testing.assert_array_equal(values[1], values[3])
    assert not np.allclose(values[0], values[1], atol=1e-3)


def test_clone_pickle_and_copy(pictures, fitted):
    X, _ = pictures
    expected = fitted.predict_proba(X[:20])
    for same in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        np.testing.assert_allclose(same.predict_proba(X[:20]), expected, atol=1e-6)
    assert b"Linear" not in pickle.dumps(fitted.encoders_["image"])  # tensors, not the module
    assert not hasattr(clone(fitted.encoders_["image"]), "tuned_")
    assert not hasattr(fitted.encoders["image"], "tuned_")  # what was passed in


def test_save_and_load(pictures, tmp_path):
    X, y = pictures
    encoder = ImageEncoder(
        "test_resnet", weights=None, image_size=32, trainable="head", device="cpu", cache=False
    )
    rule = FineTuning(epochs=1, encoder_lr=1e-3, checkpoint=tmp_path / "run", random_state=3)
    rule.set_params(validation=0)
    model = classifier(encoder, finetune=rule).fit(X[:100], y[:100])
    folder = model.save(tmp_path / "model")
    assert (folder / "encoder-0.safetensors").is_file()
    assert not list(folder.glob("*.pkl"))
    loaded = mmfuse.load(folder, device="cpu")
    np.testing.assert_allclose(loaded.predict_proba(X[:9]), model.predict_proba(X[:9]), atol=1e-6)
    assert loaded.encoders_["image"].weights_hash() == model.encoders_["image"].weights_hash()
    assert loaded.get_params()["finetune__encoder_lr"] == 1e-3
    assert loaded.encoders_["image"].tuned_.report["trainable"] == "head"
    again = loaded.save(tmp_path / "again")
    np.testing.assert_allclose(
        mmfuse.load(again).predict_proba(X[:9]), model.predict_proba(X[:9]), atol=1e-6
    )
    (folder / "encoder-0.safetensors").write_bytes(b"else")
    with pytest.raises(mmfuse.exceptions.SavedModelError, match=r"encoder-0.safetensors.*altered"):
        mmfuse.load(folder)


def test_the_same_seed_gives_the_same_model(pictures):
    X, y = pictures
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    encoder = PictureEncoder(trainable=True, dropout=0.2)
    one, two = (classifier(encoder, finetune=plan(epochs=2)).fit(X[:120], y[:120]) for _ in "ab")
    np.testing.assert_array_equal(one.predict_proba(X[:50]), two.predict_proba(X[:50]))
    other = classifier(encoder, finetune=plan(epochs=2, random_state=7)).fit(X[:120], y[:120])
    assert not np.allclose(one.predict_proba(X[:50]), other.predict_proba(X[:50]))
    assert torch.equal(state[0], torch.random.get_rng_state())
    assert (state[1] == np.random.get_state()[1]).all()


def test_bfloat16_and_a_bar(pictures, capsys):
    X, y = pictures
    model = classifier(finetune=plan(epochs=1, amp="bfloat16"), verbose=1).fit(X[:120], y[:120])
    assert model.history_["finetune"]["amp"] == "bfloat16"
    assert "fine-tuning, epoch 1 of at most 1" in capsys.readouterr().err
    plain = classifier(finetune=plan(epochs=1)).fit(X[:120], y[:120])
    assert capsys.readouterr().err == ""
    one, two = (m.encoders_["image"].tuned_.tensors["0.weight"] for m in (model, plain))
    assert not torch.equal(one, two)
    torch.testing.assert_close(one, two, atol=2e-2, rtol=0)
