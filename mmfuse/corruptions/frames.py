"""Corruptions of tables with a row for each frame: floats (n_frames, n_features) in time order."""

from __future__ import annotations

import numpy as np

from mmfuse.corruptions.registry import register_corruption

__all__ = ["desynchronised", "dropped_frames"]


@register_corruption(
    "dropped_frames", kind="frames", levels=(0.1, 0.25, 0.5, 0.75, 0.9), unit="share of frames"
)
def dropped_frames(frames, level, rng):
    """Leave frames out; at least one stays."""
    draws = rng.random(len(frames))
    kept = draws >= level
    if len(frames) and not kept.any():
        kept[draws.argmax()] = True
    return frames[kept]


@register_corruption(
    "desynchronised", kind="frames", levels=(0.1, 0.2, 0.3, 0.4, 0.5), unit="share of the length"
)
def desynchronised(frames, level, rng):
    """Shift the frames in time, earlier or later, and hold the first or last where they end.

    What counts without regard to time, such as the mean over a window, hardly notices; what is
    aligned with another stream does.
    """
    by = int(round(level * len(frames))) * (1 if rng.random() < 0.5 else -1)
    return frames[np.clip(np.arange(len(frames)) - by, 0, max(len(frames) - 1, 0))]
