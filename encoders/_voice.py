"""Where in a sound there is a voice, by its energy or by a speech detector."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.signal import resample_poly

__all__ = ["energy_parts", "keep_parts", "silero_parts"]

Parts = list[tuple[int, int]]

_FRAME, _HOP = 0.025, 0.010  # seconds
_DEEPEST = 80.0  # dB below the loudest frame; what is quieter counts as this
_CONTRAST = 10.0  # dB that the loudest frame must rise above the background
_ABOVE = 0.25  # share of that rise which a frame with a voice has
_SHORTEST = 0.05  # seconds; shorter bursts are clicks
_MARGIN = 0.1  # seconds kept on either side
_SPEECH, _STILL_SPEECH = 0.5, 0.35  # probabilities at which speech begins and ends
_SPEECH_RATE, _CHUNK = 16000, 512  # Hz, samples


def energy_parts(wave: np.ndarray, rate: int) -> Parts:
    """Return the parts of a sound that stand out from its own background.

    Frames of 25 ms count whose level is above the background, the tenth percentile of all levels,
    by a quarter of the distance from there to the loudest frame, and by at least 2.5 dB. Bursts
    under 50 ms are left out; 100 ms are kept on either side. A threshold relative to background
    and peak is that of Rabiner and Sambur (1975, Bell System Technical Journal 54), here without
    their second look at zero crossings and without their silent first 100 ms.

    Parameters
    ----------
    wave : ndarray of shape (n_samples,)
    rate : int
        Hz.

    Returns
    -------
    list of (start, stop)
        Samples. Empty where no frame is 10 dB above the background, as in hum and noise.
    """
    size, hop = max(1, round(_FRAME * rate)), max(1, round(_HOP * rate))
    total = np.concatenate([[0.0], np.cumsum(np.square(wave, dtype=np.float64))])
    starts = np.arange(0, max(1, len(wave) - size + 1), hop)
    power = total[np.minimum(starts + size, len(wave))] - total[starts]
    loudest = power.max()
    if loudest <= 0:
        return []
    level = 10 * np.log10(np.maximum(power / loudest, 10 ** (-_DEEPEST / 10)))
    background = np.percentile(level, 10)
    if background > -_CONTRAST:
        return []
    found = _runs(level > (1 - _ABOVE) * background)
    least = round(_SHORTEST / _HOP)
    parts = [(a * hop, (b - 1) * hop + size) for a, b in found if b - a >= least]
    return _widened(parts, round(_MARGIN * rate), len(wave))


def silero_parts(
    wave: np.ndarray, rate: int, probability: Callable[[np.ndarray], np.ndarray]
) -> Parts:
    """Return the parts of a sound that a detector takes for speech.

    Speech begins at a probability of 0.5 and ends below 0.35. Less than 50 ms are left out; 100 ms
    are kept on either side.

    Parameters
    ----------
    wave : ndarray of shape (n_samples,)
    rate : int
        Hz.
    probability : callable
        From samples at 16 kHz to one probability for every 512 of them.
    """
    common = np.gcd(rate, _SPEECH_RATE)
    heard = wave
    if rate != _SPEECH_RATE:
        heard = resample_poly(wave, _SPEECH_RATE // common, rate // common)
    speech = probability(heard.astype(np.float32))
    sure = speech >= _SPEECH
    found = [(a, b) for a, b in _runs(speech >= _STILL_SPEECH) if sure[a:b].any()]
    found = [(a + int(sure[a:b].argmax()), b) for a, b in found]
    chunk = _CHUNK / _SPEECH_RATE
    parts = [
        (round(a * chunk * rate), min(round(b * chunk * rate), len(wave)))
        for a, b in found
        if (b - a) * chunk >= _SHORTEST
    ]
    return _widened(parts, round(_MARGIN * rate), len(wave))


def keep_parts(wave: np.ndarray, parts: Parts, *, cut_pauses: bool) -> np.ndarray | None:
    """Return a sound from its first part to its last, without what lies between if `cut_pauses`.

    None where there are no parts.
    """
    if not parts:
        return None
    if not cut_pauses:
        return wave[parts[0][0] : parts[-1][1]]
    return np.concatenate([wave[start:stop] for start, stop in parts])


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Return start and stop of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _widened(parts: Parts, margin: int, end: int) -> Parts:
    """Add a margin on either side and join what then touches."""
    wide: Parts = []
    for start, stop in parts:
        start, stop = max(0, start - margin), min(end, stop + margin)
        if wide and start <= wide[-1][1]:
            wide[-1] = (wide[-1][0], stop)
        else:
            wide.append((start, stop))
    return wide
