"""Fine-tuning: better than frozen, honest about rows, and kept wherever a model goes."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest
import torch
from sklearn.base import clone
from tuning import PictureEncoder, SoundEncoder, digits, plan

import mmfuse
from mmfuse import FineTuning, FusionClassifier, FusionRegressor, ModalityTable
from mmfuse.encoders import ImageEncoder
from mmfuse.exceptions import EncodingError
from mmfuse.finetune import run
from mmfuse.finetune.split import RowSplit
from mmfuse.heads import EarlyFusion, LateFusion
from mmfuse.metrics import log_loss


def classifier(encoder=None, head=None, cls=FusionClassifier, **params):
    encoders = {"image": PictureEncoder(trainable=True) if encoder is None else encoder}
    options = {"finetune": plan(), "random_state": 0, **params}
    return cls(EarlyFusion(C=1.0) if head is None else head, encoders=encoders, **options)


@pytest.fixture(scope="module")
def pictures():
    table, y, _ = digits(480)
    return table.select("image"), y


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


def _watch(monkeypatch):
    """Rows of the split, and what calibration was given."""
    seen = {}
    tune, calibrator = run.tune, mmfuse.estimators.make_calibrator

    def spy_tune(*args, **kwargs):
        seen["tuned"] = tune(*args, **kwargs)
        return seen["tuned"]

    def spy_calibrator(kind, scores, y, weight):
        seen["scored"] = np.flatnonzero(np.isfinite(scores).all(axis=1))
        return calibrator(kind, scores, y, weight)

    monkeypatch.setattr(run, "tune", spy_tune)
    monkeypatch.setattr(mmfuse.estimators, "make_calibrator", spy_calibrator)
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
    rows = RowSplit(order[:140], order[140:160], order[160:])
    monkeypatch.setattr(run, "split_rows", lambda *args, **kwargs: rows)
    digests = []
    for part in (None, rows.held, rows.train):
        target = y.copy()
        if part is not None:
            target[part] = (target[part] + 1) % 10
        model = classifier(finetune=plan(epochs=1, validation=0)).fit(X, target)
        digests.append(model.encoders_["image"].tuned_.digest())
    assert digests[0] == digests[1] != digests[2]


def test_noise_is_not_learned_with_confidence(pictures):
    X, _ = pictures
    y = np.random.default_rng(0).integers(0, 4, 480)
    rule = plan(epochs=12, validation=0, encoder_lr=1e-2)
    model = classifier(PictureEncoder(width=64, trainable=True), finetune=rule)
    model.fit(X[:240], y[:240])
    assert model.history_["finetune"]["train_loss"][-1] < 0.3  # the encoder knows its rows by heart
    loss = log_loss(y[240:], model.predict_proba(X[240:]), classes=np.arange(4))
    assert loss < np.log(4) + 0.1
    blocks = model.encode(X)  # what calibration on the rows that were trained on would give
    naive = FusionClassifier(EarlyFusion(C=1.0), random_state=0).fit(blocks[:240], y[:240])
    other = log_loss(y[240:], naive.predict_proba(blocks[240:]), classes=np.arange(4))
    assert other > loss + 0.5


def test_rows_with_gaps(monkeypatch):
    X, y, _ = digits(240, gaps=0.4)
    model = classifier(finetune=plan(epochs=4)).fit(X[:200], y[:200])
    tuned = model.encoders_["image"].tuned_
    assert np.isfinite(model.predict_proba(X)).all()
    hidden = X.hide("image")
    alone = model.predict_proba({"sound": X["sound"]})
    np.testing.assert_allclose(model.predict_proba(hidden), alone, atol=1e-9)
    # pictures that are absent are nothing to learn from
    shown = X["image"].copy()
    shown[X.presence[:, 0] == 0] = 77
    changed = ModalityTable({"image": shown, "sound": X["sound"]}, presence=X.presence)
    again = classifier(finetune=plan(epochs=4)).fit(changed[:200], y[:200])
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


def test_no_better_epoch_leaves_the_encoder(pictures):
    X, y = pictures
    with pytest.warns(UserWarning, match="no epoch of fine-tuning lowered the loss"):
        model = classifier(finetune=plan(encoder_lr=5.0, patience=1)).fit(X[:120], y[:120])
    assert not hasattr(model.encoders_["image"], "tuned_")


def test_parameters_nest():
    model = classifier()
    assert model.get_params()["finetune__epochs"] == 3
    model.set_params(finetune__epochs=9, encoders__image__trainable="head")
    assert model.finetune.epochs == 9
    assert clone(model).finetune.epochs == 9
    assert model.encoders["image"].trainable == "head"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"epochs": 0}, "epochs must be an integer of at least 1; got 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer of at least 1; got 2.5"),
        ({"accumulate": True}, "accumulate must be an integer"),
        ({"patience": None}, "patience must be an integer of at least 1; got None"),
        ({"encoder_lr": "fast"}, "encoder_lr must be 'auto' or a number above 0; got 'fast'"),
        ({"encoder_lr": 0}, "encoder_lr must be 'auto' or a number above 0"),
        ({"head_lr": -1.0}, "head_lr must be a number above 0; got -1.0"),
        ({"weight_decay": float("nan")}, "weight_decay must be a number of at least 0"),
        ({"warmup": 1.5}, "warmup must be a number from 0 to 1; got 1.5"),
        ({"modality_dropout": 1}, "modality_dropout must be a number of at least 0 and below 1"),
        ({"validation": 0.5}, "validation must be a number from 0 to 0.4; got 0.5"),
        ({"held_out": 0}, "held_out must be a number above 0, at most 0.4; got 0"),
        ({"amp": "fp8"}, "amp must be one of 'auto', 'bfloat16', 'float16', False; got 'fp8'"),
        ({"amp": True}, "amp must be one of"),
        ({"amp": "float16"}, "amp='float16' needs a GPU"),
        ({"checkpoint": 3}, "checkpoint must be a folder or None; got 3"),
        ({"checkpoint_every": 0}, "checkpoint_every must be an integer of at least 1 or None"),
        ({"lora_rank": 0}, "lora_rank must be an integer of at least 1"),
        ({"lora_targets": "qkv"}, "lora_targets must be a list of names of layers or None"),
        ({"joint_head": "linear"}, "joint_head must be a head from mmfuse.heads or None"),
        ({"random_state": -1}, "random_state must be an integer of at least 0 or None"),
    ],
)
def test_wrong_parameters(pictures, params, message):
    X, y = pictures
    with pytest.raises(ValueError, match="FineTuning: " + re.escape(message)):
        classifier(finetune=plan(**params)).fit(X[:60], y[:60])


def test_what_cannot_be_tuned(pictures, tmp_path):
    X, y = pictures
    with pytest.raises(ValueError, match="finetune is given, and no encoder is trainable"):
        classifier(PictureEncoder()).fit(X, y)
    with pytest.raises(ValueError, match=r"finetune must be mmfuse.FineTuning\(...\) or None"):
        classifier(finetune={"epochs": 3}).fit(X, y)
    with pytest.raises(ValueError, match="trainable must be one of True, False, 'head', 'lora'"):
        classifier(PictureEncoder(trainable="last")).fit(X, y)
    with pytest.raises(ValueError, match="X is Blocks, which are encoded already"):
        classifier().fit(mmfuse.Blocks({"image": np.ones((40, 3))}), y[:40])
    with pytest.raises(ValueError, match="at least 10 rows.*got 8"):
        classifier().fit(X[:8], np.arange(8) % 2)
    with pytest.raises(ValueError, match="at least 3 groups.*got 2"):
        classifier().fit(X[:60], y[:60], groups=np.arange(60) % 2)
    with pytest.raises(ValueError, match="set random_state to an integer"):
        rule = plan(checkpoint=tmp_path)
        classifier(finetune=rule, random_state=None).fit(X[:60], y[:60])
    sounds = {"audio": [np.random.default_rng(i).normal(size=900) for i in range(60)]}
    model = FusionClassifier(encoders={"audio": SoundEncoder(trainable=True)}, random_state=0)
    with pytest.raises(ValueError, match=r"SoundEncoder of modality 'audio': trainable=True, but"):
        model.fit(sounds, y[:60])
    with pytest.raises(FloatingPointError, match="lower encoder_lr in FineTuning"):
        broken = plan(encoder_lr=1e30, max_norm=1e30, warmup=0)
        classifier(_Exponential(trainable=True), finetune=broken).fit(X[:60], y[:60])


class _Exponential(PictureEncoder):
    """Goes to infinity."""

    def _build_module(self):
        class Exponential(torch.nn.Module):
            def forward(self, x):
                return x.exp()

        return torch.nn.Sequential(super()._build_module(), Exponential())


def test_a_modality_encoder_does_not_train():
    table, _, _ = digits(40)
    with pytest.raises(ValueError, match="ModalityEncoder: 'image' is trainable"):
        mmfuse.ModalityEncoder({"image": PictureEncoder(trainable=True)}).fit(table)


def test_a_file_that_goes_while_training(tmp_path, pictures):
    from mmfuse.finetune.rows import Samples
    from mmfuse.table import ModalityTable

    path = tmp_path / "a.png"
    path.write_bytes(b"no picture")
    encoder = ImageEncoder("test_vit", weights=None, trainable=True)
    samples = Samples(ModalityTable({"image": [path, path]}), {"image": encoder}, ("image",))
    with pytest.raises(EncodingError, match=r"image, row 1 \(.*a.png\).*leave its file as it is"):
        list(samples.batches([(np.array([1]), np.ones((1, 1), bool))]))
