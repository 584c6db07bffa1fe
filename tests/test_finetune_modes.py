"""What is trained: all weights, the last layers, adapters; and in what steps."""

from __future__ import annotations

import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from data import data_folder
from torch import nn
from tuning import PictureEncoder, classifier, digits, plan

import mmfuse
from mmfuse import FineTuning, FusionClassifier
from mmfuse.encoders import ImageEncoder, SentenceEncoder
from mmfuse.encoders._tuned import copy_module
from mmfuse.finetune.modes import (
    last_parameters,
    lora_targets,
    merge_adapters,
    prepare,
    trained,
    training_mode,
)
from mmfuse.heads import EarlyFusion

LORA = {"rank": 4, "alpha": 8.0, "targets": None}


def image(backbone: str, **params) -> ImageEncoder:
    options = {"weights": None, "image_size": 32, "device": "cpu", "cache": False, **params}
    return ImageEncoder(backbone, **options)


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    """A sentence encoder with random weights over the words of real reviews."""
    library = pytest.importorskip("sentence_transformers")
    from transformers import BertConfig, BertModel, BertTokenizerFast

    reviews = pd.read_csv(data_folder("clothing_reviews") / "reviews.csv.gz")
    words = reviews["Review Text"].str.lower().str.findall(r"[a-z]+").explode().value_counts()
    folder = tmp_path_factory.mktemp("bert")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *words.index[:800]]))
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=805, intermediate_size=64, max_position_embeddings=64, **size)
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    model = library.SentenceTransformer(str(folder / "bert"), device="cpu")  # adds mean pooling
    model.max_seq_length = 48
    model.save(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="module")
def reviews():
    frame = pd.read_csv(data_folder("clothing_reviews") / "reviews.csv.gz")
    kinds = frame["Department Name"].isin(["Dresses", "Bottoms"])
    frame = frame[kinds].dropna(subset=["Review Text"]).iloc[:300]
    return {"text": frame["Review Text"].tolist()}, frame["Department Name"].to_numpy()


@pytest.mark.parametrize(
    ("backbone", "last"),
    [
        ("test_vit", ("model.blocks.5.", "model.norm.")),
        ("test_efficientnet", ("model.blocks.4.", "model.conv_head.", "model.bn2.")),
        ("test_resnet", ("model.layer4.",)),
        ("resnet18", ("model.layer4.1.",)),
    ],
)
def test_the_last_layers_of_timm_networks(backbone, last):
    module = image(backbone, image_size=None).module()
    names = [n for n, _ in module.named_parameters()]
    assert last_parameters(module) == [n for n in names if n.startswith(last)]


def test_the_last_layers_of_others(tiny_bert):
    module = SentenceEncoder(tiny_bert, device="cpu").module()
    found = last_parameters(module)
    assert all(re.search(r"encoder\.layer\.1\.|pooler", name) for name in found)
    assert len(found) == 18
    flat = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.LayerNorm(3))
    assert last_parameters(flat) == ["3.weight", "3.bias"]

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Parameter(torch.ones(2, 2))
            self.stem = nn.Linear(2, 2)
            self.body = nn.Linear(2, 2)

    assert last_parameters(Bare()) == ["proj", "body.weight", "body.bias"]


def test_the_head_of_a_network_alone_changes():
    X, y, _ = digits(120)
    encoder = image("test_vit", trainable="head")
    model = classifier(encoder, finetune=FineTuning(epochs=1, validation=0)).fit(X, y)
    tuned = model.encoders_["image"].tuned_
    assert {n.split(".")[1] for n in tuned.tensors} == {"blocks", "norm"}
    assert all(".blocks.5." in n for n in tuned.tensors if ".blocks." in n)
    module = copy_module(encoder.module())
    prepare(module, "head", owner="x", **LORA)
    training_mode(module, "head")
    assert not module.model.blocks[4].attn.qkv.training
    assert module.model.blocks[5].attn.qkv.training


def test_batch_normalisation_keeps_its_statistics():
    module = copy_module(image("test_resnet").module())
    prepare(module, True, owner="x", **LORA)
    training_mode(module, True)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in norms)
    assert norms[0].weight.requires_grad


@pytest.mark.parametrize(
    ("backbone", "count", "pattern"),
    [("test_vit", 6, r"attn\.qkv$"), ("test_efficientnet", 15, r"conv")],
)
def test_adapters_find_their_layers(backbone, count, pattern):
    pytest.importorskip("peft")
    module = copy_module(image(backbone).module())
    targets = lora_targets(module)
    assert len(targets) == count
    assert all(re.search(pattern, name) for name in targets)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    prepare(module, "lora", owner="x", **LORA)
    assert len(trained(module)) == 2 * count
    assert all("lora_" in name for name in trained(module))
    for parameter in trained(module).values():
        parameter.data.normal_(generator=torch.Generator().manual_seed(1), std=0.1)
    pictures = torch.rand(2, 3, 32, 32)
    module.eval()
    adapted = module(pictures)
    merge_adapters(module)
    torch.testing.assert_close(module(pictures), adapted, atol=1e-4, rtol=1e-4)
    assert set(module.state_dict()) == set(before)
    changed = {n for n, t in module.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {f"{name}.weight" for name in targets}
    delta = (module.state_dict()[f"{targets[0]}.weight"] - before[f"{targets[0]}.weight"]).flatten(
        1
    )
    assert torch.linalg.matrix_rank(delta, rtol=1e-4) <= 4


def test_attention_of_torch_and_named_layers(monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)  # as in training
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert lora_targets(block) == ["self_attn"]
    assert lora_targets(block, ["linear1"]) == ["linear1"]
    prepare(block, "lora", owner="x", **LORA)
    block.train()(torch.rand(2, 3, 8)).sum().backward()
    assert all(p.grad is not None for p in trained(block).values())
    weight = block.self_attn.base_layer.in_proj_weight.clone()
    for parameter in trained(block).values():
        parameter.data.normal_(generator=torch.Generator().manual_seed(1), std=0.1)
    tokens = torch.rand(2, 3, 8)
    adapted = block.eval()(tokens)
    merge_adapters(block)
    assert isinstance(block.self_attn, nn.MultiheadAttention)
    assert not torch.equal(block.self_attn.in_proj_weight, weight)
    torch.testing.assert_close(block(tokens), adapted, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match=r"no attention, linear or convolution layer named 'fc9'"):
        prepare(nn.Linear(2, 2), "lora", owner="x", rank=2, alpha=2.0, targets=["fc9"])
    with pytest.raises(ValueError, match=r"use trainable=True or 'head'\.$"):
        prepare(nn.LSTM(2, 2), "lora", owner="x", **LORA)


def test_adapters_in_a_model(tmp_path):
    pytest.importorskip("peft")
    X, y, _ = digits(120)
    encoder = image("test_vit", trainable="lora")
    rule = FineTuning(epochs=1, validation=0, lora_rank=2)
    model = classifier(encoder, finetune=rule).fit(X, y)
    tuned = model.encoders_["image"].tuned_
    assert sorted(tuned.tensors) == [f"model.blocks.{i}.attn.qkv.weight" for i in range(6)]
    facts = model.history_["finetune"]["parameters"]["image"]
    assert facts["trained"] == 6 * 2 * (64 + 192)
    assert facts["all"] == sum(p.numel() for p in encoder.module().parameters())
    loaded = mmfuse.load(model.save(tmp_path / "model"), device="cpu")  # merged: no peft needed
    np.testing.assert_allclose(loaded.predict_proba(X), model.predict_proba(X), atol=1e-6)


def test_without_peft(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    X, y, _ = digits(60)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mmfuse\[lora\]'"):
        classifier(PictureEncoder(trainable="lora")).fit(X, y)


@pytest.mark.parametrize("trainable", [True, "head", "lora"])
def test_text(tiny_bert, reviews, trainable, tmp_path):
    X, y = reviews
    train = {"text": X["text"][:220]}
    encoder = SentenceEncoder(tiny_bert, trainable=trainable, device="cpu", cache=False)
    rate = 1e-2 if trainable == "lora" else 2e-3  # adapters start at zero
    rule = FineTuning(epochs=6, encoder_lr=rate, validation=0)
    model = FusionClassifier(
        EarlyFusion(C=1.0), encoders={"text": encoder}, finetune=rule, random_state=0
    )
    model.fit(train, y[:220])
    losses = model.history_["finetune"]["train_loss"]
    assert losses[-1] < losses[0]
    tuned = model.encoders_["text"].tuned_
    layers = {True: r".", "head": r"layer\.1\.|pooler", "lora": r"query|key|value"}
    assert all(re.search(layers[trainable], name) for name in tuned.tensors)
    loaded = mmfuse.load(model.save(tmp_path / "model"), device="cpu")
    test = {"text": X["text"][220:]}
    np.testing.assert_allclose(loaded.predict_proba(test), model.predict_proba(test), atol=1e-6)


def _tensors(**params):
    X, y, _ = digits(120, gaps=0.3)
    rule = plan(epochs=2, validation=0, encoder_lr=1e-3, **params)
    weight = np.random.default_rng(0).uniform(0.2, 2, 120)
    model = classifier(finetune=rule).fit(X, y, sample_weight=weight)
    return model.encoders_["image"].tuned_.tensors, model


def test_accumulated_gradients_are_those_of_the_larger_batch():
    whole, model = _tensors(batch_size=16)
    parts, other = _tensors(batch_size=4, accumulate=4)
    apart, _ = _tensors(batch_size=4)
    start = PictureEncoder().module().state_dict()
    for name, tensor in whole.items():
        moved = (tensor - start[name]).norm()
        assert (tensor - parts[name]).norm() < 1e-3 * moved
        assert (tensor - apart[name]).norm() > 0.1 * moved
    losses = [m.history_["finetune"]["train_loss"] for m in (model, other)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_rates_are_separate():
    still, _ = _tensors(head_lr=1e-12)
    start = PictureEncoder().module().state_dict()
    assert all((still[name] - start[name]).abs().max() > 1e-4 for name in still)
    X, y, _ = digits(120)
    model = classifier(finetune=plan(epochs=1, validation=0, encoder_lr=1e-12)).fit(X, y)
    tuned = vars(model.encoders_["image"]).get("tuned_")
    for name, tensor in (tuned.tensors if tuned else {}).items():
        assert (tensor - start[name]).abs().max() < 1e-9


def test_modality_dropout_hides_pictures():
    """With pictures hidden more often, fewer reach the network."""
    seen = {}
    for rate in (0.0, 0.8):
        rows: list[int] = []

        class Counting(PictureEncoder):
            def collate(self, items, rows=rows):
                rows.append(len(items))
                return super().collate(items)

        X, y, _ = digits(120)
        rule = plan(epochs=1, validation=0, modality_dropout=rate)
        classifier(Counting(trainable=True), finetune=rule).fit(X, y)
        seen[rate] = sum(rows)
    assert seen[0.0] - seen[0.8] > 30
