"""Spoken digits paired with handwritten ones."""

from __future__ import annotations

import csv
import wave
from functools import cache
from numbers import Integral
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from mmfuse._require import require
from mmfuse.table import ModalityTable

__all__ = ["export_av_digits", "load_av_digits"]

_FILE = Path(__file__).parent / "data" / "av_digits.npz"
_RATE = 8000
_DESCR = """\
Spoken and handwritten digits
=============================

960 rows, 10 classes (0 to 9), two modalities that share only the label:

image   a handwritten digit from MNIST, 28 x 28, uint8, white on black
audio   a spoken digit from the Free Spoken Digit Dataset, 8 kHz mono, 0.14 to 1.31 seconds

There are 96 rows per digit and 240 per speaker (george, jackson, lucas, nicolas). Each of the 320
recordings appears in three rows, each time with another picture; no picture appears twice. Split by
speaker (`groups`), or at least by `recording`: in a random split the same recording would be on
both sides. Every run of 40 rows holds each digit of each speaker once, so the first 40, 80, ...
rows are balanced too.

Licences: the images are CC BY-SA 3.0 (LeCun, Cortes, Burges), the recordings CC BY-SA 4.0 (Zohar
Jackson and contributors); see LICENSE-MNIST.txt and LICENSE-FSDD.txt beside the data file.
"""


@cache
def _read() -> dict[str, np.ndarray]:
    with np.load(_FILE, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _check_rows(n_rows: int | None, caller: str) -> int:
    total = len(_read()["labels"])
    if n_rows is None:
        return total
    if isinstance(n_rows, bool) or not isinstance(n_rows, Integral) or not 1 <= n_rows <= total:
        raise ValueError(f"{caller}: n_rows must be an integer from 1 to {total}, got {n_rows!r}.")
    return int(n_rows)


def _ids(n: int) -> np.ndarray:
    return np.array([f"av{row:04d}" for row in range(n)], dtype=object)


def _waveform(row: int) -> np.ndarray:
    data = _read()
    number = data["recording"][row]
    start, stop = data["offsets"][number : number + 2]
    return data["waveforms"][start:stop]  # int16


def load_av_digits(n_rows: int | None = None) -> Bunch:
    """Load 960 spoken digits paired with handwritten digits.

    The data come with the package. Every recording appears in three rows, so split by speaker.

    Parameters
    ----------
    n_rows : int, default=None
        How many rows, from the first on; all 960 by default. A multiple of 40 holds every digit of
        every speaker equally often.

    Returns
    -------
    Bunch
        ``X`` : ModalityTable with the modalities ``image`` (28 x 28 uint8) and ``audio``
        (dictionaries with ``array``, float32 between -1 and 1, and ``sampling_rate``, 8000);
        ``y`` : ndarray of shape (n_rows,), int64, the digits;
        ``groups`` : ndarray of shape (n_rows,), the speakers;
        ``recording`` : ndarray of shape (n_rows,), int64, the number of the recording;
        ``target_names``, ``DESCR``.

    Examples
    --------
    >>> from mmfuse.datasets import load_av_digits
    >>> digits = load_av_digits(n_rows=80)
    >>> digits.X.modalities
    ('image', 'audio')
    >>> digits.X.shape, digits.y[:5].tolist(), sorted(set(digits.groups))[0]
    ((80, 2), [4, 3, 4, 9, 4], 'george')
    """
    n = _check_rows(n_rows, "load_av_digits")
    data = _read()
    audio = np.empty(n, dtype=object)
    for row in range(n):
        samples = _waveform(row).astype(np.float32) / 32768
        audio[row] = {"array": samples, "sampling_rate": _RATE}
    return Bunch(
        X=ModalityTable({"image": data["images"][:n].copy(), "audio": audio}, ids=_ids(n)),
        y=data["labels"][:n].copy(),
        groups=data["speakers"][:n].astype(object),
        recording=data["recording"][:n].astype(np.int64),
        target_names=[str(digit) for digit in range(10)],
        DESCR=_DESCR,
    )


def export_av_digits(folder: str | Path, n_rows: int | None = None) -> Path:
    """Write the data set as files: PNG pictures, WAV recordings, and a manifest.

    Parameters
    ----------
    folder : str or Path
        Made if it is not there.
    n_rows : int, default=None
        How many rows, from the first on; all 960 by default.

    Returns
    -------
    Path
        ``manifest.csv`` with the columns ``id``, ``photo_path``, ``wav_path``, ``label`` and
        ``speaker``; paths are relative to it.
    """
    n = _check_rows(n_rows, "export_av_digits")
    image_module = require("PIL.Image", extra="image", caller="export_av_digits")
    folder = Path(folder)
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    (folder / "wavs").mkdir(exist_ok=True)
    data = _read()
    lines = []
    for row, name in enumerate(_ids(n)):
        label, speaker = int(data["labels"][row]), str(data["speakers"][row])
        photo = f"photos/{name}.png"
        wav = f"wavs/{label}_{speaker}_{data['takes'][row]}.wav"
        image_module.fromarray(data["images"][row]).save(folder / photo)
        if not (folder / wav).exists():
            _write_wav(folder / wav, _waveform(row))
        lines.append((name, photo, wav, label, speaker))
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "photo_path", "wav_path", "label", "speaker"))
        writer.writerows(lines)
    return manifest


def _write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE)
        file.writeframes(samples.astype("<i2").tobytes())
