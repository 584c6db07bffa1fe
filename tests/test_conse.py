"""ConSE: the paper's formula by hand, what it sees in real pictures, and saving."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from data import data_folder

import mmfuse
from mmfuse import FusionClassifier
from mmfuse.encoders import ConSEEncoder, ImageEncoder, SentenceEncoder
from mmfuse.encoders._modules import clear_modules
from mmfuse.exceptions import WeightsNotFoundError
from mmfuse.heads import LogitBiasFusion

RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, (40, 50 + i, 3), dtype=np.uint8) for i in range(4)]
SOURCES = ["lynx", "wolf", "star", "chair", "car"] * 200  # names for 1000 classes, few texts
PLAIN = {"device": "cpu", "cache": False}
SMALL = {"image_size": 32, "source_names": SOURCES, **PLAIN}


def softmax(logits: np.ndarray) -> np.ndarray:
    high = np.exp(logits - logits.max(axis=1, keepdims=True))
    return high / high.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n_top", [1, 10, 1000])
def test_the_formula_by_hand(n_top):
    logits = ImageEncoder(pooling="logits", image_size=32, **PLAIN).fit_transform(PICTURES)
    words = SentenceEncoder(**PLAIN).fit_transform(SOURCES)
    classes = SentenceEncoder(**PLAIN).fit_transform(["a cat", "a planet"])
    proba = softmax(logits.astype(float))
    expected = []
    for row in proba:
        top = np.argsort(-row)[:n_top]
        vector = (row[top, None] * words[top]).sum(axis=0) / row[top].sum()
        expected.append(vector / np.linalg.norm(vector))
    vectors = ConSEEncoder(n_top=n_top, **SMALL).fit_transform(PICTURES)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    encoder = ConSEEncoder({1: "planet", 0: "cat"}, templates="a {}", n_top=n_top, scale=7, **SMALL)
    values = encoder.fit_transform(PICTURES)
    np.testing.assert_allclose(values, 7 * np.array(expected) @ classes.T, atol=1e-4)
    assert list(encoder.get_feature_names_out()) == ["image_cat", "image_planet"]


def test_real_pictures_of_classes_that_were_never_named():
    """106 pictures by kind; the chance is a third."""
    folder = data_folder("research_only_imagenet_samples")
    with open(folder / "images.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kinds = {
        "dog": {"Chihuahua", "kuvasz", "basset", "dalmatian", "giant schnauzer"},
        "vehicle": {"trolleybus", "jeep", "cab", "freight car", "space shuttle"},
        "monkey or ape": {"squirrel monkey", "proboscis monkey", "gorilla", "marmoset"},
    }
    of = {name: kind for kind, names in kinds.items() for name in names}
    chosen = [row for row in rows if row["class_name"] in of]
    files = [folder / "images" / row["image"] for row in chosen]
    y = np.array([of[row["class_name"]] for row in chosen])
    encoder = ConSEEncoder(sorted(kinds), device="cpu").fit(files)
    predicted = np.array(sorted(kinds))[encoder.transform(files).argmax(axis=1)]
    assert len(y) == 14 and (predicted == y).mean() > 0.9
    vectors = ConSEEncoder(device="cpu").fit_transform(files)  # the names are in the cache now
    captions = SentenceEncoder(device="cpu").fit_transform(["a city bus in the street"])
    assert chosen[int((vectors @ captions.T).argmax())]["class_name"] == "trolleybus"


def test_the_pictures_are_decoded_once_for_all_class_names(tmp_path, monkeypatch):
    options = {**SMALL, "cache": tmp_path}
    ConSEEncoder(["cat", "dog"], **options).fit_transform(PICTURES)
    monkeypatch.setattr(ImageEncoder, "preprocess", None)
    assert ConSEEncoder(["cat", "dog", "tree"], **options).fit_transform(PICTURES).shape == (4, 3)


def test_a_fitted_estimator_is_saved_and_loaded(tmp_path):
    y = np.array(["cat", "dog"] * 6)
    X = {"prior": np.stack([RNG.integers(0, 60, (30, 30, 3)) for _ in y]).astype(np.uint8)}
    X["prior"][y == "cat"] += 150
    X["image"] = X["prior"]
    encoders = {
        "prior": ConSEEncoder(["cat", "dog"], **SMALL),
        "image": ImageEncoder(image_size=32, **PLAIN),
    }
    head = LogitBiasFusion("prior", uncertainty="entropy")
    model = FusionClassifier(head, encoders=encoders, random_state=0).fit(X, y)
    assert model.score(X, y) == 1
    loaded = mmfuse.load(model.save(tmp_path / "saved"))
    np.testing.assert_allclose(loaded.predict_proba(X), model.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"class_names": ["b", "a"]}, "a list must be sorted.*'a' comes late"),
        ({"templates": 3}, "templates must be a text"),
        ({"templates": "no place"}, r"templates must be a text with \{\} in place"),
        ({"n_top": 0}, "n_top must be an integer of at least 1, got 0"),
        ({"scale": -1}, "scale must be a finite number above 0, got -1"),
        ({"source_names": ["a"]}, "source_names must name the 1000 classes of .*, got 1"),
    ],
)
def test_bad_parameters(params, says):
    with pytest.raises((TypeError, ValueError), match=f"ConSEEncoder: .*{says}"):
        ConSEEncoder(**{**SMALL, **params}).fit([])


def test_weights_that_are_not_here(monkeypatch):
    with pytest.raises(WeightsNotFoundError, match="'no/such' was sought"):
        ConSEEncoder(sentence_model="no/such", **SMALL).fit([])
    clear_modules()
    encoder = ConSEEncoder(backbone="resnet18", **SMALL).fit([])
    with pytest.raises(WeightsNotFoundError, match="weights of 'resnet18' were sought"):
        encoder.transform(PICTURES)


def test_module_of_the_words_takes_the_classifiers_logits():
    encoder = ConSEEncoder(["cat", "dog"], **SMALL).fit([])
    hidden = torch.full((1, 1000), -torch.inf)
    hidden[0, 1] = 0  # a wolf, for sure
    assert encoder.last()(hidden).argmax() == 1
