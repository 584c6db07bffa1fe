"""Corruptions of sounds: (wave of shape (n_channels, n_samples) between -1 and 1, rate in Hz)."""

from __future__ import annotations

import numpy as np

from mmfuse.corruptions.registry import register_corruption

__all__ = ["clipping", "dropped_segments", "white_noise"]

_SEGMENT = 0.02  # seconds, a packet of a telephone line


@register_corruption("white_noise", kind="audio", levels=(30, 20, 10, 0, -10), unit="dB SNR")
def white_noise(sound, level, rng):
    """Add white noise at a signal-to-noise ratio over the whole sound."""
    wave, rate = sound
    power = float(np.mean(np.square(wave, dtype=np.float64)))
    noise = rng.standard_normal(wave.shape) * np.sqrt(power * 10 ** (-level / 10))
    return (wave + noise).astype(np.float32), rate


@register_corruption(
    "clipping", kind="audio", levels=(0.01, 0.05, 0.1, 0.25, 0.5), unit="share of samples clipped"
)
def clipping(sound, level, rng):
    """Cut the wave off at the level that this share of its samples exceeds."""
    wave, rate = sound
    limit = float(np.quantile(np.abs(wave), 1 - level)) if wave.size else 0.0
    return (np.clip(wave, -limit, limit) if limit > 0 else wave.copy()), rate


@register_corruption(
    "dropped_segments",
    kind="audio",
    levels=(0.1, 0.25, 0.5, 0.75, 0.9),
    unit="share of 20 ms parts",
)
def dropped_segments(sound, level, rng):
    """Silence parts of 20 ms, as lost packets do."""
    wave, rate = sound
    step = max(1, int(rate * _SEGMENT))
    lost = rng.random(-(-wave.shape[-1] // step)) < level
    return np.where(np.repeat(lost, step)[: wave.shape[-1]], np.float32(0), wave), rate
