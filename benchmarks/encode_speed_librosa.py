"""librosa's log-Mel pipeline, file by file; run by ``encode_speed.py --librosa PYTHON``.

    PYTHON benchmarks/encode_speed_librosa.py FILE...

Imports nothing of mmfuse. Prints wall and CPU seconds, after one file to warm up.
"""

from __future__ import annotations

import sys
import time

import librosa
import numpy as np


def features(file: str) -> np.ndarray:
    """The statistics that LogMelEncoder gives by default, with librosa's functions."""
    wave, rate = librosa.load(file, sr=16000)
    power = librosa.feature.melspectrogram(
        y=wave, sr=rate, n_fft=512, win_length=400, hop_length=160, n_mels=64, fmin=20, fmax=8000
    )
    track = librosa.power_to_db(power, ref=np.max)
    parts = []
    for one in (track, librosa.feature.delta(track, width=5)):
        parts += [one.mean(axis=1), one.std(axis=1), *np.percentile(one, (10, 50, 90), axis=1)]
    return np.concatenate(parts)


files = sys.argv[1:]
features(files[0])
wall, cpu = time.perf_counter(), time.process_time()
rows = [features(file) for file in files]
print(time.perf_counter() - wall, time.process_time() - cpu)
