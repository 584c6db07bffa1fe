"""16-bit WAV files, which libsndfile reads several times more slowly, in small pieces."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

__all__ = ["read_pcm16"]

_PCM, _EXTENSIBLE = 1, 0xFFFE
_PCM_SUBFORMAT = bytes.fromhex("0100000000001000800000aa00389b71")


def read_pcm16(file: BinaryIO, max_duration: float | None) -> tuple[np.ndarray, int] | None:
    """Return the sound of a plain 16-bit WAV file, or None for any other or doubtful file.

    Parameters
    ----------
    file : file open for reading, at its start
        Where None is returned it is there again.
    max_duration : float, optional
        Seconds from the start that are read.

    Returns
    -------
    wave : ndarray of shape (n_samples,) or (n_channels, n_samples), float32
        In -1..1, the same values that libsndfile gives.
    rate : int
        Hz.
    """
    place = _data_chunk(file)
    if place is None:
        file.seek(0)
        return None
    at, size, channels, rate = place
    if max_duration is not None:
        size = min(size, int(np.ceil(max_duration * rate)) * 2 * channels)
    file.seek(at)
    samples = np.frombuffer(file.read(size), dtype="<i2")
    wave = np.multiply(samples, np.float32(1 / 32768), dtype=np.float32)
    return (wave if channels == 1 else wave.reshape(-1, channels).T), rate


def _data_chunk(file: BinaryIO) -> tuple[int, int, int, int] | None:
    """Return where the samples begin, their bytes, channels and rate."""
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    end, at, layout = file.seek(0, 2), 12, b""
    while at + 8 <= end:
        file.seek(at)
        name, size = file.read(4), int.from_bytes(file.read(4), "little")
        if name == b"fmt ":
            layout = file.read(min(size, 40))
        elif name == b"data":
            channels, rate = _plain_layout(layout)
            whole = 0 < size <= end - at - 8
            fits = channels > 0 and rate > 0 and size % (2 * channels) == 0
            return (at + 8, size, channels, rate) if whole and fits else None
        at += 8 + size + size % 2
    return None


def _plain_layout(layout: bytes) -> tuple[int, int]:
    """Return channels and rate of a format chunk; no channels unless it is 16-bit PCM."""

    def number(start: int, stop: int) -> int:
        return int.from_bytes(layout[start:stop], "little")

    if len(layout) < 16:
        return 0, 0
    kind, channels, rate = number(0, 2), number(2, 4), number(4, 8)
    plain = kind == _PCM or (kind == _EXTENSIBLE and layout[24:40] == _PCM_SUBFORMAT)
    aligned = number(12, 14) == 2 * channels and number(14, 16) == 16
    return (channels, rate) if plain and aligned else (0, 0)
