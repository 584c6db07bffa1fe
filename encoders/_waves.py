"""Any kind of sound to one channel of floats at one sampling rate."""

from __future__ import annotations

import io
from collections.abc import Mapping
from math import ceil, gcd, isfinite
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from scipy.signal import resample_poly

from mmfuse._require import require
from mmfuse.encoders._containers import whole_file
from mmfuse.encoders._riff import read_pcm16
from mmfuse.exceptions import SampleError
from mmfuse.table.cells import is_tensor, to_numpy

__all__ = ["read_wave"]


def read_wave(sample: Any, rate: int, max_duration: float | None = None) -> np.ndarray | None:
    """Return a sound as one channel at `rate`, or None for no samples or digital silence.

    Parameters
    ----------
    sample : str, Path, bytes, ndarray, Tensor, (array, rate) or dict
        A file or its bytes; an array of shape (n_samples,) or (n_channels, n_samples), at `rate`
        or at the rate that comes with it; ``{"array": ..., "sampling_rate": ...}`` or
        ``{"bytes": ..., "path": ...}``. Arrays of whole numbers are taken as PCM.
    rate : int
        Hz.
    max_duration : float, optional
        Seconds from the start that are kept.

    Returns
    -------
    ndarray of shape (n_samples,), float32, or None

    Raises
    ------
    SampleError
        If the file is missing, truncated or not a sound, or a sample is NaN or infinite.
    """
    wave, own_rate = _decode(sample, rate, max_duration)
    if max_duration is not None:
        wave = wave[..., : ceil(max_duration * own_rate)]
    if wave.ndim == 2:
        wave = wave.mean(axis=0)
    wave = wave.astype(np.float32, copy=False)
    low, high = (float(wave.min()), float(wave.max())) if wave.size else (0.0, 0.0)
    if not (isfinite(low) and isfinite(high)):  # NaN passes through both
        raise SampleError("the sound has NaN or infinite samples")
    if low == high == 0:
        return None
    if own_rate != rate:
        common = gcd(own_rate, rate)
        wave = resample_poly(wave, rate // common, own_rate // common)
        return wave if wave.any() else None
    return wave


def _decode(sample: Any, rate: int, max_duration: float | None) -> tuple[np.ndarray, int]:
    """Return a wave (n_samples,) or (n_channels, n_samples) and its rate.

    A wave of one axis and type float32 is never the caller's own array.
    """
    if isinstance(sample, Mapping):
        if sample.get("array") is not None:
            return _from_array(sample["array"]), _checked_rate(sample.get("sampling_rate", rate))
        sample = sample.get("bytes") if sample.get("bytes") is not None else sample.get("path")
    if isinstance(sample, (bytes, bytearray, memoryview)):
        return _from_open(io.BytesIO(sample), None, max_duration)
    if isinstance(sample, (str, Path)):
        try:
            with open(sample, "rb") as file:
                return _from_open(file, str(sample), max_duration)
        except FileNotFoundError:
            raise SampleError("no such file") from None
        except OSError as exc:
            raise SampleError(exc.strerror or str(exc)) from exc
    pair = isinstance(sample, tuple) and len(sample) == 2
    if pair and (isinstance(sample[0], (np.ndarray, list)) or is_tensor(sample[0])):
        return _from_array(sample[0]), _checked_rate(sample[1])
    return _from_array(sample), rate


def _from_open(
    file: BinaryIO, name: str | None, max_duration: float | None
) -> tuple[np.ndarray, int]:
    """Read a sound from an open file, by its name where there is one: libsndfile reads a named
    file faster than it calls back for bytes."""
    plain = read_pcm16(file, max_duration)
    if plain is not None:
        return plain
    sound = whole_file(file)
    return _from_file(sound if name is None or sound is not file else name, max_duration)


def _from_file(file: str | BinaryIO, max_duration: float | None) -> tuple[np.ndarray, int]:
    soundfile = require("soundfile", extra="audio", caller="LogMelEncoder")
    try:
        with soundfile.SoundFile(file) as sound:
            rate, total = sound.samplerate, sound.frames
            wanted = total if max_duration is None else min(total, ceil(max_duration * rate))
            wave = sound.read(wanted, dtype="float32")
    except soundfile.LibsndfileError as exc:
        raise SampleError(f"cannot read the sound: {exc.error_string}") from None
    if len(wave) < wanted:
        raise SampleError(f"the file is truncated: {len(wave)} of {wanted} frames can be read")
    return wave.T, rate


def _from_array(sample: Any) -> np.ndarray:
    if is_tensor(sample):
        sample = to_numpy(sample)
    elif isinstance(sample, (list, tuple)):
        try:
            sample = np.asarray(sample)
        except ValueError:
            raise SampleError("a list of samples must hold numbers only") from None
    if not isinstance(sample, np.ndarray) or sample.dtype.kind not in "iuf":
        kind = sample.dtype if isinstance(sample, np.ndarray) else type(sample).__name__
        raise SampleError(
            "expected a path, bytes, an array of samples, (array, rate) or "
            f"{{'array', 'sampling_rate'}}, got {kind}"
        )
    if sample.ndim not in (1, 2):
        raise SampleError(
            f"an array of samples must have shape (n_samples,) or (n_channels, n_samples), "
            f"got {sample.shape}"
        )
    if sample.ndim == 2 and sample.shape[0] > sample.shape[1] > 0:
        raise SampleError(
            f"an array of two axes is (n_channels, n_samples), got {sample.shape}; transpose it"
        )
    if sample.dtype.kind == "f":
        return sample.astype(np.float32, order="C") if sample.ndim == 1 else sample
    limits = np.iinfo(sample.dtype)
    middle = 0 if limits.min else (limits.max + 1) / 2
    return (sample.astype(np.float64) - middle) / (limits.max - middle + 1)


def _checked_rate(rate: Any) -> int:
    whole = isinstance(rate, (int, np.integer)) or (isinstance(rate, float) and rate.is_integer())
    if not whole or rate <= 0:
        raise SampleError(f"a sampling rate must be a positive integer, got {rate!r}")
    return int(rate)
