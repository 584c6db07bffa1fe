"""What cannot be tuned, and how that is said."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from sklearn.base import clone
from tuning import PictureEncoder, SoundEncoder, classifier, digits, pictures, plan

import mmfuse
from mmfuse import FusionClassifier
from mmfuse.encoders import ImageEncoder
from mmfuse.exceptions import EncodingError


@pytest.fixture(scope="module", name="pictures")
def _pictures():
    return pictures()


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
