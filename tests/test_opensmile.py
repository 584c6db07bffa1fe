"""OpenSmileEncoder against the package it wraps; skipped without it, for its licence is narrow."""

from __future__ import annotations

import numpy as np
import pytest
from data import data_folder

from mmfuse import FusionClassifier, ModalityTable, Presence, load
from mmfuse.encoders import OpenSmileEncoder
from mmfuse.encoders._waves import read_wave
from mmfuse.exceptions import EncodingError
from mmfuse.heads import EarlyFusion


def without_package(monkeypatch):
    import mmfuse.encoders.opensmile as module

    def refuse(package, *, extra, caller):
        raise ModuleNotFoundError(f"{caller} needs {package}: pip install 'mmfuse[{extra}]'")

    module._load.cache_clear()
    monkeypatch.setattr(module, "require", refuse)


def test_without_the_package(monkeypatch):
    without_package(monkeypatch)
    with pytest.raises(ModuleNotFoundError, match=r"OpenSmileEncoder .*mmfuse\[opensmile\]"):
        OpenSmileEncoder().fit([])


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"feature_set": "eGeMAPS"}, "feature_set must be one of 'eGeMAPSv02', 'GeMAPSv01b'"),
        ({"sample_rate": 0}, "sample_rate must be an integer of at least 1, got 0"),
        ({"max_duration": -1}, "max_duration must be"),
    ],
)
def test_bad_parameters(params, says):
    with pytest.raises(ValueError, match=f"OpenSmileEncoder: {says}"):
        OpenSmileEncoder(**params).fit([])


@pytest.fixture
def opensmile():
    return pytest.importorskip("opensmile", reason="needs the package opensmile, research licence")


@pytest.fixture
def files():
    return sorted((data_folder("fsdd") / "recordings").glob("[01]_*_[0-3].wav"))


def encoder(**params) -> OpenSmileEncoder:
    return OpenSmileEncoder(cache=False, **params).fit([])


def test_real_sounds_as_the_package_gives_them(opensmile, files):
    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02,
        feature_level=opensmile.FeatureLevel.Functionals,
    )
    values = encoder(sample_rate=8000).transform(files[:6])
    for file, row in zip(files, values, strict=False):
        np.testing.assert_allclose(row, smile.process_file(str(file)).to_numpy()[0], rtol=1e-5)
    names = encoder().get_feature_names_out()
    assert list(names) == [f"audio_{name}" for name in smile.feature_names]


def test_pitch_and_level_are_those_of_a_tone(opensmile):
    tone = np.sin(2 * np.pi * 220 * np.arange(16000) / 16000)
    names = list(encoder().get_feature_names_out())
    values = encoder().transform([0.5 * tone, 0.05 * tone, (0.5 * tone[::2], 8000)])
    pitch = values[:, names.index("audio_F0semitoneFrom27.5Hz_sma3nz_amean")]
    np.testing.assert_allclose(pitch, 36, atol=0.2)  # three octaves above 27.5 Hz
    level = values[:, names.index("audio_equivalentSoundLevel_dBp")]
    np.testing.assert_allclose(level[:2], [20 * np.log10(0.5 / np.sqrt(2)), -29.03], atol=0.2)


def test_what_it_refuses(opensmile):
    rng = np.random.default_rng(0)
    speech_like = rng.normal(size=8000) * 0.1
    column = [np.zeros(4000), speech_like, speech_like[:400], speech_like * 1000]
    with pytest.raises(EncodingError, match="row 2: the sound of 0.025 s is too short for eGeMAPS"):
        encoder().encode(column)
    with pytest.raises(EncodingError, match="row 0: samples must lie in -1..1, the largest is"):
        encoder().encode(column[3:])
    with pytest.warns(UserWarning, match="2 of 4 cells"):
        encoded = encoder(on_error="mark").encode(column)
    assert encoded.presence.tolist() == [Presence.EMPTY, 1, Presence.FAILED, Presence.FAILED]


def test_overshoot_does_not_wrap(opensmile):
    loud = np.sin(2 * np.pi * 220 * np.arange(16000) / 16000)
    a, b = encoder().transform([1.2 * loud, np.clip(1.2 * loud, -1, 1 - 2**-15)])
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["GeMAPSv01b", "emobase", "ComParE_2016"])
def test_other_sets(opensmile, files, name):
    one = encoder(feature_set=name)
    values = one.transform(files[:2])
    assert values.shape == (2, len(one.get_feature_names_out())) and np.isfinite(values).all()


def test_a_saved_model_hears_the_same(opensmile, files, tmp_path):
    files = [file for file in files if "jackson" in file.name or "nicolas" in file.name]
    y = np.array([file.name.split("_")[1] for file in files])
    X = ModalityTable.from_dict({"audio": files})
    audio = OpenSmileEncoder(cache=False)
    model = FusionClassifier(EarlyFusion(C=0.1), encoders={"audio": audio}, random_state=0)
    model.fit(X, y)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").predict_proba(X), model.predict_proba(X))
    assert model.score(X, y) > 0.9


def test_threads_do_not_change_a_value(opensmile, files):
    np.testing.assert_array_equal(
        encoder(n_jobs=4).transform(files[:8]), encoder(n_jobs=1).transform(files[:8])
    )
    assert read_wave(files[0], 16000).dtype == np.float32
