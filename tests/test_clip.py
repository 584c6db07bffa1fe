"""CLIP encoders: the same numbers as open_clip by hand, places of weights, and what is missing."""

from __future__ import annotations

import logging
import shutil
import socket
import sys
import time

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from tiny_clip import CONFIG, TINY, write_tiny_clip

import mmfuse
from mmfuse import FusionClassifier
from mmfuse.cache import list_caches
from mmfuse.encoders import CLIPImageEncoder, CLIPTextEncoder, CLIPZeroShotEncoder, _clip
from mmfuse.encoders._modules import clear_modules
from mmfuse.exceptions import SavedModelError, WeightsNotFoundError
from mmfuse.heads import LogitBiasFusion

RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, (40 + 9 * i, 70, 3), dtype=np.uint8) for i in range(5)]
TEXTS = ["a photo of a cat", "two dogs, in the snow", "word " * 60]
NAMES = ["cat", "dog", "space shuttle"]
PLAIN = {"device": "cpu", "cache": False}


@pytest.fixture(scope="module")
def by_hand():
    """open_clip's own model, transform and tokenizer from the folder."""
    handlers = list(logging.root.handlers)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{TINY}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{TINY}")
    logging.root.handlers[:] = handlers
    return model.eval(), transform, tokenizer


def image_vectors(by_hand, pictures=PICTURES, **options) -> np.ndarray:
    model, transform, _ = by_hand
    batch = torch.stack([transform(Image.fromarray(picture)) for picture in pictures])
    with torch.no_grad():
        return model.encode_image(batch, **options).numpy()


def text_vectors(by_hand, texts, **options) -> np.ndarray:
    model, _, tokenizer = by_hand
    with torch.no_grad():
        return model.encode_text(tokenizer(texts), **options).numpy()


# The same as by hand.


@pytest.mark.parametrize("normalize", [True, False])
def test_images_as_by_hand(by_hand, normalize):
    values = CLIPImageEncoder(TINY, normalize=normalize, **PLAIN).fit_transform(PICTURES)
    expected = image_vectors(by_hand, normalize=normalize)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    assert np.allclose(np.linalg.norm(values, axis=1), 1, atol=1e-5) == normalize


@pytest.mark.parametrize("normalize", [True, False])
def test_texts_as_by_hand(by_hand, normalize):
    for batch_size in (1, 32):
        encoder = CLIPTextEncoder(TINY, normalize=normalize, batch_size=batch_size, **PLAIN)
        values = encoder.fit_transform(TEXTS)
        np.testing.assert_allclose(
            values, text_vectors(by_hand, TEXTS, normalize=normalize), atol=1e-5
        )


def test_a_list_of_texts_is_the_mean_of_its_vectors():
    parts = CLIPTextEncoder(TINY, **PLAIN).fit_transform(TEXTS)
    mean = parts.mean(axis=0)
    together = CLIPTextEncoder(TINY, batch_size=2, **PLAIN).fit_transform([TEXTS])
    np.testing.assert_allclose(together[0], mean / np.linalg.norm(mean), atol=1e-5)


def zero_shot_by_hand(by_hand, templates) -> np.ndarray:
    classes = []
    for name in NAMES:
        texts = [template.replace("{}", name) for template in templates]
        mean = text_vectors(by_hand, texts, normalize=True).mean(axis=0)
        classes.append(mean / np.linalg.norm(mean))
    scale = by_hand[0].logit_scale.exp().item()
    return scale * image_vectors(by_hand, normalize=True) @ np.array(classes).T


def test_zero_shot_logits_as_by_hand(by_hand):
    simple = [make("{}") for make in open_clip.SIMPLE_IMAGENET_TEMPLATES]
    assert len(simple) == 7
    for given, templates in {
        "simple": simple,
        "a photo of a {}.": ["a photo of a {}."],
        ("{}", "art of the {}."): ["{}", "art of the {}."],
    }.items():
        encoder = CLIPZeroShotEncoder(NAMES, templates=given, model=TINY, **PLAIN)
        values = encoder.fit_transform(PICTURES)
        np.testing.assert_allclose(values, zero_shot_by_hand(by_hand, templates), atol=1e-4)
    assert list(encoder.get_feature_names_out()) == [f"image_{name}" for name in NAMES]
    halved = encoder.set_params(scale=by_hand[0].logit_scale.exp().item() / 2)
    np.testing.assert_allclose(halved.fit_transform(PICTURES), values / 2, atol=1e-4)
    norms = np.linalg.norm(encoder.class_weights(), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-6)


def test_all_eighty_templates_and_the_librarys_own_classifier(by_hand):
    encoder = CLIPZeroShotEncoder(NAMES, templates="openai", model=TINY, **PLAIN)
    model, _, tokenizer = by_hand
    expected = open_clip.build_zero_shot_classifier(
        model, tokenizer, NAMES, open_clip.OPENAI_IMAGENET_TEMPLATES
    )
    np.testing.assert_allclose(encoder.fit([]).class_weights(), expected.T.numpy(), atol=1e-5)


def test_a_bias_that_the_model_has_is_added(tmp_path):
    folder = write_tiny_clip(tmp_path / "biased", init_logit_bias=-3.0)
    values = {}
    for model in (folder, TINY):  # the same seed, so the same towers
        values[model] = CLIPZeroShotEncoder(NAMES, model=model, **PLAIN).fit_transform(PICTURES)
    np.testing.assert_allclose(values[folder], values[TINY] - 3, atol=1e-4)


def test_labels_decide_the_order():
    given = {2: "cat", 0: "space shuttle", 1: "dog"}
    values = CLIPZeroShotEncoder(given, model=TINY, **PLAIN).fit_transform(PICTURES)
    expected = CLIPZeroShotEncoder(NAMES, model=TINY, **PLAIN).fit_transform(PICTURES)
    np.testing.assert_allclose(values, expected[:, [2, 1, 0]], atol=1e-5)


# The cache and the shared model.


def test_class_vectors_are_computed_once_and_kept(tmp_path, monkeypatch):
    clear_modules()
    options = {"model": TINY, "device": "cpu", "cache": tmp_path}
    expected = CLIPZeroShotEncoder(NAMES, **options).fit_transform(PICTURES)
    kept = {file.config["class"].rpartition(".")[2]: file.rows for file in list_caches(tmp_path)}
    assert kept == {"CLIPImageEncoder": len(PICTURES), "CLIPZeroShotEncoder": 1}
    clear_modules()
    monkeypatch.setattr(_clip, "load_model", None)
    monkeypatch.setattr("mmfuse.encoders.clip.load_model", None)  # all comes from the disk
    again = CLIPZeroShotEncoder(NAMES, **options).fit_transform(PICTURES)
    np.testing.assert_array_equal(again, expected)
    with pytest.raises(TypeError):
        CLIPZeroShotEncoder([*NAMES, "tree"], **options).fit_transform(PICTURES)


def test_other_class_names_do_not_encode_the_pictures_again(tmp_path, monkeypatch):
    options = {"model": TINY, "device": "cpu", "cache": tmp_path}
    CLIPImageEncoder(TINY, device="cpu", cache=tmp_path).fit_transform(PICTURES)
    monkeypatch.setattr(CLIPImageEncoder, "preprocess", None)
    assert CLIPZeroShotEncoder(NAMES[:2], **options).fit_transform(PICTURES).shape == (5, 2)


def test_the_model_is_shared_between_its_encoders():
    clear_modules()
    image, text = CLIPImageEncoder(TINY, **PLAIN), CLIPTextEncoder(TINY, **PLAIN)
    assert image.clip() is text.clip()
    assert image.module().clip.visual is text.clip().visual  # each holds its tower, no copy
    assert image.weights_hash() == text.weights_hash()
    assert CLIPImageEncoder(TINY, weights=None, **PLAIN).clip() is not text.clip()


# Places of weights.


def test_a_copy_elsewhere_and_a_named_file(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(TINY, copy)
    expected = CLIPImageEncoder(TINY, **PLAIN).fit(PICTURES)
    for model, weights in (
        (str(copy), "auto"),
        (f"local-dir:{copy}", "auto"),
        (copy, copy / "open_clip_model.safetensors"),
    ):
        encoder = CLIPImageEncoder(model, weights=weights, **PLAIN).fit(PICTURES)
        assert encoder.cache_config() == expected.cache_config()
        np.testing.assert_array_equal(encoder.transform(PICTURES), expected.transform(PICTURES))
    torch.save({"state_dict": expected.clip().state_dict()}, tmp_path / "checkpoint.pt")
    other = CLIPImageEncoder(copy, weights=tmp_path / "checkpoint.pt", **PLAIN).fit(PICTURES)
    np.testing.assert_array_equal(other.transform(PICTURES), expected.transform(PICTURES))
    assert other.weights_hash() != expected.weights_hash()


@pytest.fixture
def a_known_model(monkeypatch):
    """The tiny architecture under a name and a tag, as if open_clip came with it."""
    from open_clip import factory, pretrained

    monkeypatch.setitem(factory._MODEL_CONFIGS, "ViT-tiny", CONFIG["model_cfg"])
    facts = {
        "hf_hub": "someone/tiny/",
        "mean": (0.1, 0.4, 0.6),
        "std": (0.5, 0.2, 0.3),
        "interpolation": "bilinear",
        "resize_mode": "squash",
        "quick_gelu": False,
    }
    quick = {**facts, "quick_gelu": True}
    monkeypatch.setitem(pretrained._PRETRAINED, "ViT-tiny", {"web": facts, "quick": quick})


def test_a_tag_takes_weights_from_the_hubs_cache(a_known_model, monkeypatch):
    file = str(TINY / "open_clip_model.safetensors")
    asked = []

    def cached(repository, name):
        asked.append((repository, name))
        return file if name == "open_clip_model.safetensors" else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    expected = CLIPImageEncoder(TINY, **PLAIN).fit_transform(PICTURES)
    values = CLIPImageEncoder("ViT-tiny", weights="web", **PLAIN).fit_transform(PICTURES)
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert set(asked) == {("someone/tiny", "open_clip_model.safetensors")}
    texts = CLIPTextEncoder("ViT-tiny", weights="web", **PLAIN).fit_transform(TEXTS)
    np.testing.assert_allclose(texts, CLIPTextEncoder(TINY, **PLAIN).fit_transform(TEXTS))
    # weights that were trained with QuickGELU get it, as open_clip does when forced
    quick = CLIPImageEncoder("ViT-tiny", weights="quick", **PLAIN).fit_transform(PICTURES)
    model, _, transform = open_clip.create_model_and_transforms(
        f"local-dir:{TINY}", force_quick_gelu=True
    )
    expected = image_vectors((model.eval(), transform, None), normalize=True)
    np.testing.assert_allclose(quick, expected, atol=1e-5)
    assert np.abs(quick - values).max() > 1e-3


def test_random_weights_follow_the_seed(tmp_path):
    folder = write_tiny_clip(tmp_path / "bare", weights=False)
    one, same, other = (
        CLIPImageEncoder(folder, weights=None, random_state=seed, **PLAIN).fit_transform(PICTURES)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


def test_loading_leaves_logging_alone(monkeypatch, capsys):
    clear_modules()
    monkeypatch.setattr(logging.root, "handlers", [])
    CLIPZeroShotEncoder(NAMES, model=TINY, **PLAIN).fit_transform(PICTURES)
    assert not logging.root.handlers and not logging.root.filters
    assert capsys.readouterr().err == ""


# What is missing or wrong.


def test_weights_that_are_not_here_name_the_tag_and_the_cure():
    for encoder in (CLIPImageEncoder(), CLIPTextEncoder(), CLIPZeroShotEncoder(["a", "b"])):
        who = type(encoder).__name__
        says = (
            rf"{who}: the weights 'laion2b_s34b_b79k' of ViT-B-32 \(open_clip_model.safetensors or "
            r".* of laion/CLIP-ViT-B-32-laion2B-s34B-b79K\) were sought in .*HF_HUB_OFFLINE is set"
            r".*Fetch them .*open_clip.create_model\('ViT-B-32', 'laion2b_s34b_b79k'\)"
        )
        encoder.fit([])  # the description comes with open_clip
        with pytest.raises(WeightsNotFoundError, match=says):
            encoder.transform(["a" if encoder.modality == "text" else PICTURES[0]])


def test_a_hub_that_does_not_answer_is_not_asked_again_and_again(monkeypatch, caplog):
    def unreachable(*args, **kwargs):
        asked.append(args[0])
        raise OSError("no network here")

    asked: list[str] = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, unreachable)
    encoder = CLIPTextEncoder("ViT-L-14", weights="openai", **PLAIN).fit([])
    start = time.perf_counter()
    with pytest.raises(WeightsNotFoundError, match="'openai' of ViT-L-14 .*no network here"):
        encoder.transform(["a"])
    assert time.perf_counter() - start < 5
    assert len(asked) <= 2 and "Retrying" not in caplog.text


def test_a_repository_that_is_not_here():
    with pytest.raises(WeightsNotFoundError, match=r"'hf-hub:a/b' \(open_clip_config.json of a/b"):
        CLIPImageEncoder("hf-hub:a/b", **PLAIN).fit([])


def test_a_tokenizer_that_is_not_here(tmp_path):
    text = {**CONFIG["model_cfg"]["text_cfg"], "hf_tokenizer_name": "someone/tokenizer"}
    folder = write_tiny_clip(tmp_path / "foreign", text_cfg=text)
    encoder = CLIPTextEncoder(folder, **PLAIN).fit([])
    with pytest.raises((WeightsNotFoundError, ValueError), match="tokenizer"):
        encoder.transform(TEXTS)


def test_folders_without_their_files(tmp_path):
    with pytest.raises(WeightsNotFoundError, match=r"has no open_clip_config.json.*hf download"):
        CLIPImageEncoder(tmp_path, **PLAIN).fit([])
    bare = write_tiny_clip(tmp_path / "bare", weights=False)
    with pytest.raises(WeightsNotFoundError, match="has open_clip_config.json but no weights"):
        CLIPImageEncoder(bare, **PLAIN).fit([]).transform(PICTURES)
    for name in ("a.pt", "b.pt"):
        (bare / name).touch()
    with pytest.raises(ValueError, match=r"weights must name one of the files .*\(a.pt, b.pt\)"):
        CLIPImageEncoder(bare, **PLAIN).fit([]).transform(PICTURES)
    with pytest.raises(ValueError, match="a.pt does not hold the weights of"):
        CLIPImageEncoder(bare, weights=bare / "a.pt", **PLAIN).fit([]).transform(PICTURES)
    (bare / "open_clip_config.json").write_text('{"vision": 1}')
    with pytest.raises(ValueError, match="is not a description of a CLIP model.*'embed_dim'"):
        CLIPImageEncoder(bare, **PLAIN).fit([])


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"model": "ViT-B32"}, "model must be a name that open_clip knows.*did you mean ViT-B-32"),
        ({"model": 3}, "model must be a name or a folder, got 3"),
        ({"model": "ViT-L-14"}, r"weights of ViT-L-14 must be .*openai.*got 'auto'"),
        ({"weights": "nothing"}, r"weights of ViT-B-32 must be .*laion2b_s34b_b79k.*got 'nothing'"),
        ({"weights": "gone.pt"}, "there is no weight file gone.pt"),
        ({"weights": 5}, "weights must be 'auto', a tag, a file .* or None, got 5"),
        ({"model": TINY, "weights": "openai"}, "weights must be 'auto', a file or None where"),
        ({"normalize": 1}, "normalize must be True or False, got 1"),
        ({"random_state": -1}, "random_state must be an integer of at least 0"),
    ],
)
def test_bad_parameters(params, says):
    for kind in (CLIPImageEncoder, CLIPTextEncoder):
        with pytest.raises((TypeError, ValueError, WeightsNotFoundError), match=says):
            kind(**params).fit([])


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"class_names": "cat"}, "class_names must be a list of names or a dict"),
        ({"class_names": ["cat"]}, "two different names or more, got 1"),
        ({"class_names": ["cat", "cat"]}, "two different names or more, got 'cat' twice"),
        ({"class_names": ["cat", 3]}, "a name must be a text with characters, got 3"),
        ({"class_names": ["dog", "cat"]}, "a list must be sorted.*'cat' comes late.*label: name"),
        ({"class_names": {1: "a", "x": "b"}}, r"whose labels can be sorted, got \[1, 'x'\]"),
        ({"templates": "a photo"}, r"templates must be a text with \{\} .*got 'a photo'"),
        ({"templates": []}, "templates must hold one text at least"),
        ({"templates": 3}, "templates must be 'simple', 'openai', a text"),
        ({"scale": 0}, "scale must be a finite number above 0 or None"),
    ],
)
def test_bad_parameters_of_zero_shot(params, says):
    encoder = CLIPZeroShotEncoder(**{"class_names": NAMES, "model": TINY, **params})
    with pytest.raises((TypeError, ValueError), match=f"CLIPZeroShotEncoder: .*{says}"):
        encoder.fit([])


def test_without_the_library(monkeypatch):
    clear_modules()
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ModuleNotFoundError, match=r"CLIPImageEncoder needs .*mmfuse\[clip\]"):
        CLIPImageEncoder().fit([])


# In an estimator.


def test_a_fitted_estimator_is_saved_and_loaded(tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(TINY, copy)
    y = np.array(["cat", "dog"] * 6)
    files = []
    for i, label in enumerate(y):
        grey = np.full((30, 30, 3), 60 if label == "cat" else 200, np.uint8)
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(grey ^ RNG.integers(0, 32, grey.shape, dtype=np.uint8)).save(files[-1])
    notes = [f"it is a {label}" for label in y]
    X = {"prior": files, "image": files, "note": notes}
    encoders = {
        "prior": CLIPZeroShotEncoder({"cat": "a cat", "dog": "a dog"}, model=copy, **PLAIN),
        "image": CLIPImageEncoder(copy, **PLAIN),
        "note": CLIPTextEncoder(copy, **PLAIN),
    }
    head = LogitBiasFusion("prior", uncertainty="entropy")
    model = FusionClassifier(head, encoders=encoders, random_state=0).fit(X, y)
    assert model.score(X, y) == 1
    loaded = mmfuse.load(model.save(tmp_path / "saved"))
    np.testing.assert_allclose(loaded.predict_proba(X), model.predict_proba(X), atol=1e-6)
    assert loaded.encoders_["prior"].class_names == {"cat": "a cat", "dog": "a dog"}
    write_tiny_clip(copy, seed=9)
    with pytest.raises(SavedModelError, match="weights of CLIPZeroShotEncoder on this machine"):
        mmfuse.load(tmp_path / "saved").predict_proba(X)
