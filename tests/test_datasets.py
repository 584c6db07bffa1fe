"""The embedded data sets: balance, pairing, the exported files, and what their sources say."""

from __future__ import annotations

import csv
import wave

import numpy as np
import pandas as pd
import pytest
from data import data_folder
from PIL import Image

from mmfuse.datasets import export_av_digits, load_av_digits, load_photoz
from mmfuse.datasets.av_digits import _FILE
from mmfuse.presence import Presence


@pytest.fixture(scope="module")
def digits():
    return load_av_digits()


def test_rows_are_balanced_and_complete(digits):
    assert len(digits.X) == len(digits.y) == len(digits.groups) == 960
    assert digits.X.modalities == ("image", "audio")
    assert (np.asarray(digits.X.presence) == Presence.PRESENT).all()
    assert np.bincount(digits.y).tolist() == [96] * 10
    speakers, counts = np.unique(digits.groups, return_counts=True)
    assert speakers.tolist() == ["george", "jackson", "lucas", "nicolas"]
    assert counts.tolist() == [240] * 4
    assert digits.y.dtype == np.int64
    assert digits.target_names == list("0123456789")
    for word in ("CC BY-SA 3.0", "CC BY-SA 4.0", "0.14 to 1.31"):
        assert word in digits.DESCR


def test_every_recording_three_times_every_picture_once(digits):
    assert np.bincount(digits.recording).tolist() == [3] * 320
    with np.load(_FILE, allow_pickle=False) as file:
        assert len(np.unique(file["picture"])) == 960
        seconds = np.diff(file["offsets"]) / 8000
    assert (round(seconds.min(), 2), round(seconds.max(), 2)) == (0.14, 1.31)
    pictures = digits.X["image"].reshape(960, -1)
    assert len(np.unique(pictures, axis=0)) == 960
    assert len(np.unique(digits.recording[:320])) == 320


@pytest.mark.parametrize("n_rows", [40, 80])
def test_first_rows_hold_every_digit_of_every_speaker(n_rows):
    part = load_av_digits(n_rows=n_rows)
    pairs = [f"{label}{speaker}" for label, speaker in zip(part.y, part.groups, strict=True)]
    assert set(np.unique(pairs, return_counts=True)[1]) == {n_rows // 40}


def test_cells(digits):
    images = digits.X["image"]
    assert images.shape == (960, 28, 28)
    assert images.dtype == np.uint8
    cell = digits.X["audio"][0]
    assert cell["sampling_rate"] == 8000
    assert cell["array"].dtype == np.float32
    assert cell["array"].ndim == 1
    assert max(np.abs(one["array"]).max() for one in digits.X["audio"]) <= 1


def test_loading_twice_gives_independent_copies():
    first, second = load_av_digits(5), load_av_digits(5)
    first.y[:] = -1
    assert second.y.min() >= 0


@pytest.mark.parametrize("bad", [0, 961, 1.5, True, "ten"])
def test_bad_number_of_rows(bad, tmp_path):
    with pytest.raises(ValueError, match="n_rows must be an integer from 1 to 960, got"):
        load_av_digits(bad)
    with pytest.raises(ValueError, match="export_av_digits: n_rows"):
        export_av_digits(tmp_path, bad)


def test_export_writes_what_load_gives(tmp_path):
    manifest = export_av_digits(tmp_path / "digits", n_rows=45)
    digits = load_av_digits(45)
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "photo_path", "wav_path", "label", "speaker"]
    assert [row["id"] for row in rows] == list(digits.X.ids)
    assert [int(row["label"]) for row in rows] == digits.y.tolist()
    assert [row["speaker"] for row in rows] == digits.groups.tolist()
    for number, row in enumerate(rows):
        picture = np.asarray(Image.open(manifest.parent / row["photo_path"]))
        np.testing.assert_array_equal(picture, digits.X["image"][number])
        with wave.open(str(manifest.parent / row["wav_path"])) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
            assert file.getframerate() == 8000
        np.testing.assert_array_equal(samples / 32768, digits.X["audio"][number]["array"])


def test_data_are_those_of_their_sources(digits):
    with np.load(_FILE, allow_pickle=False) as file:
        picture, takes = file["picture"], file["takes"]
    with np.load(data_folder("av_digits") / "mnist_images.npz") as source:
        np.testing.assert_array_equal(source["image"][picture], digits.X["image"])
        np.testing.assert_array_equal(source["label"][picture], digits.y)
    for row in range(0, 960, 97):
        name = f"{digits.y[row]}_{digits.groups[row]}_{takes[row]}.wav"
        with wave.open(str(data_folder("fsdd") / "recordings" / name)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        np.testing.assert_array_equal(samples / 32768, digits.X["audio"][row]["array"])


def test_licences_lie_beside_the_data():
    texts = {path.name: path.read_text() for path in _FILE.parent.glob("LICENSE-*.txt")}
    assert "CC BY-SA 3.0" in texts["LICENSE-MNIST.txt"]
    assert "CC BY-SA 4.0" in texts["LICENSE-FSDD.txt"]
    assert _FILE.stat().st_size < 8_000_000
    assert texts["LICENSE-PHOTOZ.txt"].count("MIT License") == 1
    assert (_FILE.parent / "photoz.npz").stat().st_size < 150_000


def test_photoz_rows_and_columns():
    galaxies = load_photoz()
    assert galaxies.X.modalities == ("blue", "red")
    assert galaxies.X["blue"].shape == galaxies.X["red"].shape == (3000, 6)
    assert galaxies.X["blue"].dtype == np.float32
    assert galaxies.y.shape == (3000,)
    assert (round(galaxies.y.min(), 2), round(galaxies.y.max(), 2)) == (0.04, 2.98)
    for words in ("0.04 to 2.98", "SIMULATED", "MIT", "one row of fourteen"):
        assert words in galaxies.DESCR
    gone = np.isnan(galaxies.X["blue"])
    assert gone.any(axis=0).tolist() == [True, False, False, True, False, False]
    np.testing.assert_array_equal(gone[:, 0], gone[:, 3])
    assert round(1 / gone[:, 0].mean()) == 14
    assert not np.isnan(galaxies.X["red"]).any()
    first = load_photoz(7)
    first.y[:] = -1
    np.testing.assert_array_equal(load_photoz(7).X["red"], galaxies.X["red"][:7])
    assert load_photoz(7).y.min() > 0


@pytest.mark.parametrize("bad", [0, 3001, 1.5, True, "ten"])
def test_photoz_bad_number_of_rows(bad):
    with pytest.raises(ValueError, match="load_photoz: n_rows must be an integer from 1 to 3000"):
        load_photoz(bad)


def test_photoz_is_that_of_its_source():
    folder = data_folder("photoz_dc2")
    source = pd.read_csv(folder / "photometry.csv.gz").iloc[:3000]
    galaxies = load_photoz()
    np.testing.assert_allclose(galaxies.y, source["redshift"], atol=5.1e-5)
    for group, names in galaxies.feature_names.items():
        for j, name in enumerate(names):
            kind, band = name.split("_")
            expected = source[f"mag_{band}_lsst" if kind == "mag" else f"mag_err_{band}_lsst"]
            seen = (source[f"mag_{band}_lsst"] < 99).to_numpy()
            atol = 6e-4 if kind == "mag" else 6e-5
            np.testing.assert_allclose(
                galaxies.X[group][seen, j], expected[seen], atol=atol, rtol=1e-6
            )
            assert np.isnan(galaxies.X[group][~seen, j]).all()
