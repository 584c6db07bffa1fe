"""Contributions of pixels, mel frames and bands."""

from __future__ import annotations

import re

import numpy as np
import pytest
from explain_heads import table
from sklearn.tree import DecisionTreeClassifier

from mmfuse import FusionClassifier, FusionRegressor
from mmfuse.encoders import ImageEncoder, LogMelEncoder, MultiBandEncoder
from mmfuse.explanations import explain_bands, explain_inputs
from mmfuse.heads import EarlyFusion

N = 12
BANDS = ("g", "r", "i")


def cutouts():
    """A blob whose brightness in r, and in no other band, is the target; i is noise alone."""
    rng = np.random.default_rng(0)
    y = rng.uniform(1, 2, size=30)
    at = np.arange(16) - 7.5
    blob = np.exp(-0.5 * (at[:, None] ** 2 + at**2) / 4)
    cells = rng.normal(0, 0.05, size=(30, 3, 16, 16))
    cells[:, 0] += blob
    cells[:, 1] += 10 ** (0.8 * y)[:, None, None] * blob
    return list(cells.astype(np.float32)), y


def band_model():
    cells, y = cutouts()
    encoder = MultiBandEncoder(
        {"bands": list(BANDS), "pixel_scale": 0.2}, cache=False, device="cpu", n_jobs=1
    )
    X = {"sky": cells, "spec": 0.3 * np.random.default_rng(1).normal(size=(30, 2))}
    encoders = {"sky": encoder}
    return FusionRegressor(EarlyFusion(C=1.0), encoders=encoders, random_state=0).fit(X, y), X


def test_bands_share_the_worth_of_a_cutout_exactly():
    model, X = band_model()
    X = {name: column[:6] for name, column in X.items()}
    cells = [np.array(cell) for cell in X["sky"]]
    cells[1] = None
    cells[2][2] = np.nan
    X["sky"] = cells
    found = explain_bands(model, X, "sky")
    assert found.names == BANDS and found.method == "shapley" and found.axes == ("band",)
    assert np.abs(found.gap).max() < 1e-5
    assert found.values[1] is None and (found.values[2][2] == 0).all()
    np.testing.assert_allclose(found.prediction[:, 0], model.predict(X), atol=1e-6)
    hidden = model.predict({"spec": X["spec"]})
    there = [0, 2, 3, 4, 5]
    np.testing.assert_allclose(found.base[there, 0], hidden[there], atol=1e-6)
    sizes = np.mean([np.abs(found.values[i][:, 0]) for i in there], axis=0)
    assert sizes.argmax() == 1
    assert "6 rows of 'sky', band x 1 outputs" in repr(found)


def pictures():
    pytest.importorskip("captum")
    pytest.importorskip("timm")
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    images = rng.integers(0, 60, size=(N, 32, 32, 3)).astype(np.uint8)
    images[y == 1, 8:16, 8:16] += 180
    encoder = ImageEncoder(
        "resnet10t", weights=None, image_size=32, crop_pct=1.0, cache=False, device="cpu", n_jobs=1
    )
    X = {"face": list(images), "b": rng.normal(size=(N, 2))}
    model = FusionClassifier(EarlyFusion(C=0.01), encoders={"face": encoder}, random_state=0)
    return model.fit(X, y), X


def test_pixels_add_up_through_encoder_and_head():
    model, X = pictures()
    few = {"face": [X["face"][1], None], "b": X["b"][1:3]}
    found = explain_inputs(model, few, "face", classes=1)
    assert found.values[0].shape == (3, 32, 32, 1) and found.axes == ("channel", "row", "column")
    assert found.values[1] is None
    change = found.prediction[0] - found.base[0]
    assert np.abs(found.gap[0]) < 0.02 * np.abs(change) + 1e-6
    np.testing.assert_allclose(found.prediction[0], model.decision_function(few)[:1], atol=1e-5)
    np.testing.assert_array_equal(found.values[0][found.inputs[0] == 0], 0.0)


@pytest.mark.parametrize("output", ["sequence", "statistics"])
def test_mel_frames_add_up_and_lie_where_the_tone_is(output):
    pytest.importorskip("captum")
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    t = np.arange(4000) / 8000
    waves = [
        (rng.normal(0, 0.01, 4000) + (np.sin(2 * np.pi * 2000 * t) * (t > 0.25) * label)).astype(
            np.float32
        )
        for label in y
    ]
    X = {"voice": [{"array": w, "sampling_rate": 8000} for w in waves]}
    encoder = LogMelEncoder(
        sample_rate=8000, n_mels=16, output=output, cache=False, device="cpu", n_jobs=1
    )
    model = FusionClassifier(EarlyFusion(C=0.01), encoders={"voice": encoder}, random_state=0)
    model.fit(X, y)
    found = explain_inputs(model, {"voice": X["voice"][1:2]}, "voice", classes=1)
    assert found.axes == ("mel", "frame") and found.values[0].shape[0] == 16
    change = float(found.prediction[0, 0] - found.base[0, 0])
    assert abs(found.gap[0, 0]) < 0.02 * abs(change)
    if output == "sequence":
        np.testing.assert_allclose(found.gap, 0.0, atol=1e-3 * abs(change))  # it is linear
    assert np.isfinite(found.values[0]).all() and np.abs(found.values[0]).max() > 0


def test_what_has_no_inputs_is_refused():
    model, X = band_model()
    with pytest.raises(ValueError, match="measures features that may be missing; use explain_band"):
        explain_inputs(model, X, "sky")
    with pytest.raises(ValueError, match="the model has no modality 'ear'; it knows sky, spec"):
        explain_bands(model, X, "ear")
    with pytest.raises(ValueError, match=re.escape("use explain(level='feature')")):
        explain_bands(model, X, "spec")
    with pytest.raises(ValueError, match="X has no raw column 'sky'; pass the table, not Blocks"):
        explain_bands(model, model.encode(X), "sky")
    numbers, y = table()
    several = FusionClassifier(EarlyFusion(C=1.0)).fit(numbers, np.column_stack([y, y > 0]))
    with pytest.raises(ValueError, match=re.escape("pass model.output(t), one at a time")):
        explain_inputs(several, numbers, "a")


def test_pictures_have_no_bands_and_trees_no_gradient():
    model, X = pictures()
    with pytest.raises(ValueError, match="is encoded by ImageEncoder, which has no bands"):
        explain_bands(model, X, "face")
    trees = FusionClassifier(EarlyFusion(DecisionTreeClassifier()), encoders=model.encoders, cv=2)
    trees.fit(X, np.arange(N) % 2)
    with pytest.raises(ValueError, match="has no gradient, for the head holds scikit-learn"):
        explain_inputs(trees, X, "face")
