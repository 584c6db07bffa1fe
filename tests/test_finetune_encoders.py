"""Every encoder that can be trained is trained: CLIP's towers, networks over bands, LoGoNet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from encoder_list import ENCODERS
from tiny_clip import TINY
from torch import nn

import mmfuse
from mmfuse import FineTuning, FusionClassifier
from mmfuse.encoders import (
    CLIPImageEncoder,
    CLIPTextEncoder,
    LidarCameraEncoder,
    MultiBandEncoder,
)
from mmfuse.encoders._modules import clear_modules
from mmfuse.encoders._tuned import copy_module
from mmfuse.finetune.modes import last_parameters, merge_adapters, prepare, trained, training_mode
from mmfuse.finetune.rows import _size
from mmfuse.heads import EarlyFusion
from mmfuse.metrics import log_loss

PLAIN = {"device": "cpu", "cache": False}
LORA = {"rank": 4, "alpha": 8.0, "targets": None}
BANDS = {
    "blue": {"bands": ["g"], "pixel_scale": 1.0, "noise": 1.0},
    "red": {"bands": ["i"], "pixel_scale": 2.0, "noise": 1.0},
}


def stripes():
    """Pictures of noise over one faint pattern, or over its negative."""
    rng = np.random.default_rng(0)
    y = np.arange(300) % 2
    pattern = np.tile(rng.choice([-1, 1], (8, 8, 1)), (4, 4, 1))
    noise = 60 * rng.normal(size=(300, 32, 32, 3))
    values = 128 + 5 * pattern * (2 * y - 1)[:, None, None, None] + noise
    return np.clip(values, 0, 255).astype(np.uint8), y


def sentences():
    """A word among others says the class."""
    rng = np.random.default_rng(0)
    others, kinds = (
        "the a of tree house river stone light book road".split(),
        (
            ["cat", "dog", "horse"],
            ["car", "train", "ship"],
        ),
    )
    y = np.arange(240) % 2
    texts = []
    for k in y:
        words = [*rng.choice(others, 7), rng.choice(kinds[k])]
        texts.append(" ".join(rng.permutation(words)))
    return texts, y


def cutouts():
    """Noise of one instrument with a faint texture or without; the other may be absent."""
    rng = np.random.default_rng(0)
    y = np.arange(220) % 2
    texture = (-1.0) ** np.indices((12, 12)).sum(axis=0)
    cells = []
    for i, k in enumerate(y):
        blue = rng.normal(size=(1, 12, 12)) + 0.5 * k * texture
        cells.append({"blue": blue, "red": rng.normal(size=(1, 6, 6))})
        if i % 6 == 0:
            del cells[-1]["red" if i % 12 else "blue"]
    return cells, y


def objects():
    """Points along one diagonal of a box or along the other."""
    rng = np.random.default_rng(0)
    y = np.arange(150) % 2
    cells = []
    for k in y:
        at, angle = rng.uniform(-2, 2, 2), rng.uniform(-3, 3)
        along = rng.uniform(-1, 1, 40)
        across = 0.9 * (2 * k - 1) * along + 0.4 * rng.normal(size=40)
        cos, sin = np.cos(angle), np.sin(angle)
        x, up = 1.8 * along, rng.uniform(-0.7, 0.7, 40)
        points = [10 + at[0] + cos * x - sin * across, at[1] + sin * x + cos * across, up, 0 * x]
        cells.append(
            {"points": np.stack(points, axis=1), "box": (10 + at[0], at[1], 0, 4, 2, 1.6, angle)}
        )
    return cells, y


def _bands(**params):
    return MultiBandEncoder(BANDS, features="cnn", **params, **PLAIN)


def _logonet(**params):
    options = {"features": "logonet", "sensors": "lidar", "n_cells": 3, "width": 8}
    return LidarCameraEncoder(**{**options, **params}, **PLAIN)


CASES = {  # encoder, samples, training rows, epochs, rate, whether frozen random weights do worse
    "clip image": (lambda **p: CLIPImageEncoder(TINY, **p, **PLAIN), stripes, 160, 4, 1e-3, True),
    "clip text": (lambda **p: CLIPTextEncoder(TINY, **p, **PLAIN), sentences, 140, 2, 3e-3, True),
    "bands": (_bands, cutouts, 140, 3, 1e-3, False),
    "logonet": (_logonet, objects, 80, 2, 1e-3, True),
}


@pytest.mark.parametrize("name", CASES)
def test_trained_with_a_head(name, tmp_path):
    make, samples, n, epochs, rate, better = CASES[name]
    cells, y = samples()
    losses = []
    rule = FineTuning(epochs=epochs, encoder_lr=rate, joint_head=EarlyFusion(C=0.01), validation=0)
    for trainable in (False, True):
        model = FusionClassifier(
            EarlyFusion(C=1.0),
            encoders={"x": make(trainable=trainable)},
            finetune=rule if trainable else None,
            random_state=0,
            cv=3,
        )
        model.fit({"x": cells[:n]}, y[:n])
        proba = model.predict_proba({"x": cells[n:]})
        losses.append(log_loss(y[n:], proba, classes=[0, 1]))
    report = model.history_["finetune"]
    assert report["train_loss"][-1] < 0.8 * report["train_loss"][0]
    if better:  # a random network over two bands is hard to beat on 140 rows
        assert losses[1] < 0.8 * losses[0], losses
    facts = report["parameters"]["x"]
    assert facts["trained"] == facts["all"]
    loaded = mmfuse.load(model.save(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(loaded.predict_proba({"x": cells[n:]}), proba, atol=1e-6)
    fresh = make().fit(cells)  # the shared module has learned nothing
    assert not np.allclose(
        fresh.transform(cells[:4]), model.encoders_["x"].transform(cells[:4]), equal_nan=True
    )


@pytest.mark.parametrize("name", ["clip image", "clip text", "bands-cnn", "logonet"])
@pytest.mark.parametrize("mode", [True, "head", "lora"])
def test_gradients_reach_what_is_trained(name, mode, monkeypatch):
    if mode == "lora":
        pytest.importorskip("peft")
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)  # as in training
    case = ENCODERS[name]
    cells = case.samples()
    encoder = case.encoder.set_params(cache=False).fit(cells)
    module = copy_module(encoder.module())
    prepare(module, mode, owner="x", **LORA)
    training_mode(module, mode)
    batch = encoder.collate([encoder.preprocess(cell) for cell in cells])
    for amp in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
            out = module(batch).float()
        module.zero_grad(set_to_none=True)
        torch.nan_to_num(out).square().sum().backward()
        learned = trained(module)
        assert all(torch.isfinite(p.grad).all() for p in learned.values())
        assert not any("backbone" in n or "token_embedding" in n for n in learned) or mode is True
        assert not any("picture.backbone" in n for n in learned)
        if mode == "lora":  # the second factor starts at zero
            learned = {n: p for n, p in learned.items() if "lora_B" in n}
        assert any(p.grad.abs().sum() > 0 for p in learned.values())


def test_a_tower_is_trained_without_the_other():
    clear_modules()
    image = CLIPImageEncoder(TINY, **PLAIN).module()
    text = CLIPTextEncoder(TINY, **PLAIN).module()
    names = [{n for n, _ in tower.named_parameters()} for tower in (image, text)]
    assert all(n.startswith("clip.visual.") for n in names[0])
    assert not any("visual" in n or "logit_scale" in n for n in names[1])
    whole = dict(CLIPImageEncoder(TINY, **PLAIN).clip().named_parameters())
    assert {n.removeprefix("clip.") for n in names[0] | names[1]} == set(whole) - {"logit_scale"}
    assert dict(image.named_parameters())["clip.visual.proj"] is whole["visual.proj"]  # no copy
    assert "clip.text_projection" in last_parameters(text)
    assert "clip.token_embedding.weight" not in last_parameters(text)


def test_every_instrument_has_a_last_block():
    pytest.importorskip("timm")
    options = {"features": "test_resnet", "weights": None, "image_size": 32, **PLAIN}
    cells, _ = cutouts()
    module = MultiBandEncoder(BANDS, trainable="head", **options).fit(cells).module()
    found = last_parameters(module)
    for part in ("parts.0.", "parts.1."):
        assert any(n.startswith(part) for n in found)
    assert all(".layer4." in n for n in found)
    prepare(module := copy_module(module), "head", owner="x", **LORA)
    training_mode(module, "head")
    assert module.parts[0].network.training  # turns cutouts
    assert not module.parts[0].network.network.model.layer1.training


def test_adapters_of_convolutions_see_the_same_pixels():
    pytest.importorskip("peft")
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="replicate"), nn.Conv2d(4, 4, 3, dilation=2)
    )
    prepare(module, "lora", owner="x", **LORA)
    for parameter in trained(module).values():
        parameter.data.normal_(std=0.3)
    pictures = torch.rand(2, 2, 8, 8)
    adapted = module(pictures)
    merge_adapters(module)
    torch.testing.assert_close(module(pictures), adapted, atol=1e-5, rtol=1e-4)


def test_the_size_of_decoded_samples():
    picture = torch.zeros(3, 10, 10)
    assert _size(picture) == 1200
    assert _size({"picture": picture, "box": torch.zeros(7)}) == 64 + 1200 + 28
    assert _size(["a text"]) > 1000


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (
            MultiBandEncoder(BANDS, trainable=True),
            "trainable must be False with features='photometry', .* got True; use features='cnn'",
        ),
        (
            MultiBandEncoder(BANDS, features="cnn", trainable="lora"),
            "trainable must be True or False with features='cnn', .* got 'lora'; .* timm model",
        ),
        (
            LidarCameraEncoder(weights=None, trainable="head"),
            "trainable must be False with features='statistics', .* use features='logonet'",
        ),
        (
            LidarCameraEncoder(features="logonet", weights=None, trainable="head"),
            "trainable must be True or False .* without a checkpoint, .* got 'head'; name trained",
        ),
    ],
)
def test_what_has_nothing_to_train_says_so(encoder, message):
    with pytest.raises(ValueError, match=f"{type(encoder).__name__}: {message}"):
        encoder.fit([{"points": np.ones((3, 4)), "box": (1, 1, 1, 1, 1, 1, 1)}])
