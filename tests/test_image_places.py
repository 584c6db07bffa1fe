"""ImageEncoder: tokens, maps and regions of interest, against timm and Pillow by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data import data_folder
from PIL import Image

import mmfuse
from mmfuse import FusionClassifier, Presence
from mmfuse.encoders import ImageEncoder
from mmfuse.encoders._backbones import make_transform
from mmfuse.encoders._keys import content_key
from mmfuse.encoders._places import arrange, split_places
from mmfuse.exceptions import EncodingError
from mmfuse.heads import TextCentricFusion

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
SMALL = {"weights": None, "image_size": 64, "device": "cpu", "cache": False}


def tiny(**params) -> ImageEncoder:
    return ImageEncoder(**{**SMALL, **params}).fit([])


def by_hand(encoder: ImageEncoder, picture: Image.Image | np.ndarray) -> torch.Tensor:
    """What timm's own model gives for one picture before its pooling."""
    model = encoder.module().model
    with torch.inference_mode():
        return model.forward_features(encoder.preprocess(picture)[None])[0]


# Tokens and maps.


def test_a_map_of_the_packaged_weights():
    """The same numbers as the model called by hand, channel by channel and row by row."""
    picture = sorted((data_folder("open_pictures") / "images").glob("*.jpg"))[0]
    encoder = tiny(weights="auto", image_size=96, features="map")
    values = encoder.transform([picture])
    assert encoder.feature_shape_ == (1280, 3, 3) and encoder.n_features_out_ == 11520
    expected = by_hand(encoder, picture)
    np.testing.assert_allclose(encoder.unflatten(values)[0], expected, atol=1e-5)
    pooled = tiny(weights="auto", image_size=96, pooling="avg").transform([picture])
    np.testing.assert_allclose(encoder.unflatten(values).mean(axis=(2, 3)), pooled, atol=1e-5)
    names = encoder.get_feature_names_out()
    assert names[3 * 3 * 7 + 3 * 2 + 1] == "image_r2c1_0007"
    np.testing.assert_allclose(values[0, 3 * 3 * 7 + 3 * 2 + 1], expected[7, 2, 1], atol=1e-5)


def test_tokens_of_a_convolutional_net_are_its_places():
    places = tiny(backbone="resnet10t", features="map").fit([])
    tokens = tiny(backbone="resnet10t", features="tokens").fit([])
    assert tokens.feature_shape_ == (4, 512) and tokens.place_names_ == (
        "r0c0",
        "r0c1",
        "r1c0",
        "r1c1",
    )
    one, other = places.transform([RGB]), tokens.transform([RGB])
    spread = places.unflatten(one)[0].reshape(512, 4).T
    np.testing.assert_array_equal(tokens.unflatten(other)[0], spread)
    frame = dict(zip(tokens.get_feature_names_out(), other[0], strict=True))
    for name, value in zip(places.get_feature_names_out(), one[0], strict=True):
        assert frame[name] == value


@pytest.mark.parametrize(
    ("backbone", "prefix"), [("vit_tiny_patch16_224", 1), ("deit_tiny_distilled_patch16_224", 2)]
)
def test_tokens_of_a_transformer(backbone, prefix):
    encoder = tiny(backbone=backbone, features="tokens", image_size=(64, 32))
    assert encoder.feature_shape_ == (prefix + 8, 192)
    assert encoder.place_names_[:prefix] == tuple(f"prefix{i}" for i in range(prefix))
    assert encoder.place_names_[prefix:][2] == "r1c0"  # four rows of two
    values = encoder.unflatten(encoder.transform([RGB]))[0]
    expected = by_hand(encoder, RGB)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    as_map = tiny(backbone=backbone, features="map", image_size=(64, 32))
    assert as_map.feature_shape_ == (192, 4, 2)
    np.testing.assert_allclose(
        as_map.unflatten(as_map.transform([RGB]))[0, :, 3, 1], expected[-1], atol=1e-5
    )


def test_channels_that_come_last():
    """As Swin gives them: (n, rows, columns, channels)."""
    model = torch.nn.Identity()
    model.num_features = 5
    features = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    parts = split_places(features, model, square=False)
    assert parts.grid == (3, 4) and parts.prefix.shape == (2, 0, 5)
    values, layout = arrange(parts, features="map", grid=None, most=False)
    assert layout.shape == (5, 3, 4) and layout.places[5] == "r1c1"
    torch.testing.assert_close(values, features.permute(0, 3, 1, 2))
    first = split_places(features.permute(0, 3, 1, 2), model, square=False)
    torch.testing.assert_close(first.places, parts.places)


@pytest.mark.parametrize(("pooling", "of"), [("auto", np.mean), ("avg", np.mean), ("max", np.max)])
def test_a_coarse_grid(pooling, of):
    fine = tiny(backbone="resnet10t", features="map", image_size=128)
    whole = fine.unflatten(fine.transform([RGB]))[0]  # (512, 4, 4)
    coarse = tiny(
        backbone="resnet10t", features="map", image_size=128, grid=(2, 1), pooling=pooling
    )
    assert coarse.feature_shape_ == (512, 2, 1)
    expected = np.stack([of(whole[:, :2], axis=(1, 2)), of(whole[:, 2:], axis=(1, 2))], axis=1)
    np.testing.assert_allclose(
        coarse.unflatten(coarse.transform([RGB]))[0, :, :, 0], expected, atol=1e-5
    )


def test_a_grid_keeps_the_prefix_tokens():
    encoder = tiny(backbone="vit_tiny_patch16_224", features="tokens", grid=2)
    assert encoder.place_names_ == ("prefix0", "r0c0", "r0c1", "r1c0", "r1c1")
    tokens = by_hand(encoder, RGB)
    values = encoder.unflatten(encoder.transform([RGB]))[0]
    np.testing.assert_allclose(values[0], tokens[0], atol=1e-5)
    corner = tokens[1:].reshape(4, 4, -1)[2:, :2].mean(dim=(0, 1))
    np.testing.assert_allclose(values[3], corner, atol=1e-5)


def test_tokens_without_a_known_grid():
    mixer = {"backbone": "mixer_s16_224", "image_size": None}
    assert tiny(**mixer, features="map").feature_shape_ == (512, 14, 14)  # square as the picture
    parts = split_places(torch.zeros(1, 6, 4), torch.nn.Identity(), square=True)
    layout = arrange(parts, features="tokens", grid=None, most=False)[1]
    assert layout.shape == (6, 4) and layout.places[5] == "place5"
    with pytest.raises(ValueError, match="gives 6 tokens and does not say how they lie"):
        arrange(parts, features="map", grid=None, most=False)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"features": "patches"}, "features must be one of 'pooled', 'tokens', 'map'"),
        ({"grid": 2}, "grid=2 needs features='tokens' or"),
        ({"features": "map", "grid": 0}, "grid must be a positive integer, a pair"),
        ({"features": "map", "grid": (1, 2, 3)}, "grid must be a positive integer, a pair"),
        ({"features": "map", "grid": 9}, r"grid must be at most .*2 rows and 2 columns"),
        ({"features": "map", "pooling": "avg"}, "pooling must be one of 'auto' with .* got 'avg'"),
        ({"features": "map", "grid": 1, "pooling": "logits"}, "pooling must be one of 'auto', 'av"),
        ({"region_margin": -0.1}, "region_margin must be at least 0"),
        ({"region_margin": "wide"}, "region_margin must be a finite number"),
        ({"region_fit": "pad"}, "region_fit must be one of 'context', 'warp', 'crop'"),
    ],
)
def test_bad_parameters(params, says):
    with pytest.raises((ValueError, TypeError), match=f"ImageEncoder: {says}"):
        tiny(**params)


def test_unflatten_wants_the_block():
    with pytest.raises(ValueError, match=r"values must have shape \(n, 1280\), got \(2, 3\)"):
        tiny().unflatten(np.zeros((2, 3)))


def test_a_state_from_before_there_were_shapes():
    encoder = ImageEncoder(**SMALL).set_state({"n_features_out": 1280})
    assert encoder.feature_shape_ == (1280,)
    assert encoder.get_feature_names_out()[-1] == "image_1279"


# Regions.


def test_a_region_is_the_picture_cut_by_hand(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    box = (10, 5, 40, 35)
    encoder = tiny()
    transform = make_transform(encoder.backbone, (64, 64), None, whole=True)
    expected = transform(Image.fromarray(RGB).crop(box))
    resized = Image.fromarray(RGB).crop(box).resize((64, 64), Image.Resampling.BICUBIC)
    plain = np.asarray(resized, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(expected, plain, atol=1e-6)
    cells = [
        (RGB, box),
        [str(path), list(box)],
        (path, np.array(box)),
        {"image": path, "box": torch.tensor(box)},
        {"image": Image.fromarray(RGB), "box": box},
        {"bytes": path.read_bytes(), "box": box},
        {"path": str(path), "box": box, "label": "cat"},
        {"image": RGB, "box": (10.0, 5.2, 39.7, 34.9)},  # every pixel that it touches
    ]
    for cell in cells:
        torch.testing.assert_close(encoder.preprocess(cell), expected)
    values = encoder.transform([*cells, RGB])
    assert np.abs(values[:-1] - values[0]).max() < 1e-5
    assert np.abs(values[-1] - values[0]).max() > 1e-3


def test_how_a_region_gets_its_shape():
    picture = Image.fromarray(RGB)
    tall = (30, 0, 40, 40)
    shapes = {
        "context": picture.crop((15, 0, 55, 40)),  # grown to a square
        "warp": picture.crop(tall),
    }
    for fit, region in shapes.items():
        transform = make_transform("tf_efficientnet_lite0", (64, 64), None, whole=True)
        torch.testing.assert_close(tiny(region_fit=fit).preprocess((RGB, tall)), transform(region))
    cropped = tiny(region_fit="crop").preprocess((RGB, tall))
    torch.testing.assert_close(cropped, tiny().preprocess(picture.crop(tall)))
    near = tiny().preprocess((RGB, (50, 0, 60, 40)))  # moved inwards at the border
    torch.testing.assert_close(near, transform(picture.crop((20, 0, 60, 40))))


def test_a_margin_adds_context_within_the_picture():
    transform = make_transform("tf_efficientnet_lite0", (64, 64), None, whole=True)
    encoder = tiny(region_margin=0.5, region_fit="warp")
    picture = Image.fromarray(RGB)
    for box, wider in (((20, 10, 30, 20), (15, 5, 35, 25)), ((0, 30, 10, 40), (0, 25, 15, 40))):
        torch.testing.assert_close(encoder.preprocess((RGB, box)), transform(picture.crop(wider)))


def test_the_box_is_in_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    Image.fromarray(RGB).save(path, exif=exif)
    box = (0, 30, 40, 60)  # the upright picture is 40 wide and 60 high
    upright = np.ascontiguousarray(np.rot90(RGB, -1))
    torch.testing.assert_close(tiny().preprocess((path, box)), tiny().preprocess((upright, box)))


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ((RGB, (10, 5, 10, 20)), r"the box \(10, 5, 10, 20\) is empty; box must be \(left"),
        ((RGB, (30, 5, 10, 20)), "is empty"),
        ((RGB, (10, 5, 70, 20)), r"outside of the picture of 60 x 40 .* by up to 10; clip"),
        ((RGB, (-3.5, 5, 20, 20)), "outside .* by up to 3.5"),
        ((RGB, (100, 100, 120, 120)), "outside"),
        ((RGB, (0.1, 0.2, 0.5, 0.9)), "seems to be in shares of the picture; give pixels"),
        ((RGB, (1, 2, 3)), "box must be four finite numbers"),
        ((RGB, (1, 2, float("nan"), 9)), "box must be four finite numbers"),
        ((RGB, (1, 2, True, 9)), "box must be four finite numbers"),
        ({"image": RGB, "box": None}, "got None; where no object was found, .*Presence.EMPTY"),
        ({"image": RGB}, "a region needs 'image' and 'box'"),
        ({"image": None, "box": (0, 0, 9, 9)}, "got an object of type NoneType"),
        ((RGB, (0, 0, 9, 9), 1), r"must be \(picture, box\) .* got 3 items"),
    ],
)
def test_what_is_no_region(cell, says):
    with pytest.raises(EncodingError, match=f"cars, row 1: .*{says}"):
        tiny().encode([RGB, cell], name="cars")


def test_a_box_of_whole_pixels_may_pass_the_border_by_one():
    exact, rounded = tiny().transform([(RGB, (20, 0, 60, 40)), (RGB, (20, -0.4, 61, 40.5))])
    np.testing.assert_allclose(rounded, exact, atol=1e-5)


def test_an_error_in_a_region_names_the_file(tmp_path):
    gone = tmp_path / "gone.png"
    for cell in ((gone, (0, 0, 5, 5)), {"image": str(gone), "box": (0, 0, 5, 5)}):
        with pytest.raises(EncodingError, match=r"image, row 0 \(.*gone.png\): no such file"):
            tiny().transform([cell])
    encoded = tiny().encode([(RGB, (0, 0, 9, 9)), Presence.EMPTY, None])
    assert encoded.presence.tolist() == [1, Presence.EMPTY, Presence.ABSENT]


def test_the_key_of_a_region(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    box, other = (0, 0, 20, 20), (0, 0, 21, 20)
    assert content_key((path, box)) == content_key({"image": str(path), "box": box})
    keys = {
        content_key(cell)
        for cell in (
            path,
            (path, box),
            (path, other),
            {"image": RGB, "box": box},
            {"bytes": b"data", "box": box},
            {"bytes": b"data", "box": other},
            {"bytes": b"data"},
        )
    }
    assert len(keys) == 7
    before = content_key({"image": str(path), "box": box})
    Image.fromarray(RGB[::-1]).save(path)
    assert content_key({"image": str(path), "box": box}) != before  # content, not the name


def test_the_cache_knows_boxes_and_margins(tmp_path):
    cells = [(RGB, (0, 0, 20, 20)), (RGB, (20, 0, 40, 20)), RGB]
    expected = tiny().transform(cells)
    for _ in range(2):
        np.testing.assert_array_equal(tiny(cache=tmp_path).transform(cells), expected)
    wider = tiny(cache=tmp_path, region_margin=0.3).transform(cells)
    assert np.abs(wider[:2] - expected[:2]).max() > 1e-3
    np.testing.assert_allclose(wider[2], expected[2], atol=1e-5)


# In a model.


def test_regions_in_a_model_that_is_saved(tmp_path):
    """Left halves are bright, right halves are dark; a head that has a layer for each token."""
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 90, (24, 32, 64, 3), dtype=np.uint8)
    pictures[:, :, :32] += 150
    left = np.arange(24) % 2
    boxes = [(0, 0, 32, 32) if side else (32, 0, 64, 32) for side in left]
    cells = list(zip(pictures, boxes, strict=True))
    encoder = ImageEncoder("resnet10t", **{**SMALL, "image_size": 64}, features="tokens")
    head = TextCentricFusion(n_chunks=4, projection=8, hidden=8, n_members=2, max_epochs=5)
    X = {"object": cells, "size": rng.normal(size=(24, 2))}
    model = FusionClassifier(head, encoders={"object": encoder}, cv=2, random_state=0)
    model.fit(X, left)
    assert model.head_.main.anchor_stream.widths == [512] * 4  # each token has a projector
    model.save(tmp_path / "model")
    again = mmfuse.load(tmp_path / "model")
    assert again.encoders_["object"].feature_shape_ == (4, 512)
    assert again.encoders_["object"].place_names_ == ("r0c0", "r0c1", "r1c0", "r1c1")
    np.testing.assert_allclose(again.predict_proba(X), model.predict_proba(X), atol=1e-6)
