"""librosa's log-Mel pipeline, file by file; run by ``encode_speed.py --librosa PYTHON``.

    PYTHON benchmarks/encode_speed_librosa.py OUT.npy FILE...

Imports nothing of mmfuse. Prints wall and CPU seconds, after one file to warm up, and saves the
features, which are those of LogMelEncoder.
"""

from __future__ import annotations

import sys
import time

import librosa
import numpy as np


def features(file: str) -> np.ndarray:
    """What LogMelEncoder gives by default, with librosa's functions."""
    wave, rate = librosa.load(file, sr=16000)
    power = librosa.feature.melspectrogram(
        y=wave,
        sr=rate,
        n_fft=512,
        win_length=400,
        hop_length=160,
        pad_mode="reflect",
        n_mels=64,
        fmin=20,
        fmax=8000,
        htk=True,
        norm=None,
    )
    track = librosa.power_to_db(power, ref=np.max, top_db=80)
    slope = librosa.feature.delta(track, width=5, mode="nearest")
    return np.concatenate([*statistics(track), *changes(track), *statistics(slope)])


def statistics(track: np.ndarray) -> list[np.ndarray]:
    return [track.mean(axis=1), track.std(axis=1), *np.percentile(track, (10, 50, 90), axis=1)]


def changes(track: np.ndarray, n_scales: int = 6) -> list[np.ndarray]:
    """Mean absolute difference between neighbouring stretches of 1, 2, 4, ... frames."""
    found = []
    for _ in range(n_scales):
        found.append(np.abs(np.diff(track, axis=1)).mean(axis=1))
        track = track[:, : track.shape[1] // 2 * 2].reshape(len(track), -1, 2).mean(axis=2)
    return found


out, *files = sys.argv[1:]
features(files[0])
wall, cpu = time.perf_counter(), time.process_time()
rows = [features(file) for file in files]
print(time.perf_counter() - wall, time.process_time() - cpu)
np.save(out, np.stack(rows))
