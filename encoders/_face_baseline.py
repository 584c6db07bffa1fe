"""A face at rest: what is subtracted from the intensities of a recording."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mmfuse.encoders._face_tables import Recording
from mmfuse.exceptions import SampleError

__all__ = ["at_rest", "low_level", "subtract"]


def low_level(recording: Recording, units: Iterable[str], percentile: float) -> dict[str, float]:
    """Return a percentile of each unit over the frames of the recording itself."""
    return {
        unit: float(np.percentile(known, percentile))
        for unit in units
        if len(known := _known(recording, unit))
    }


def at_rest(rest: Recording, recording: Recording, units: Iterable[str]) -> dict[str, float]:
    """Return the mean of each unit in a recording of the same person at rest.

    Raises
    ------
    SampleError
        If it is of another tool, or no frame has a face.
    """
    if rest.source != recording.source:
        raise SampleError(
            f"its baseline is a recording of {rest.source}, and the recording is of "
            f"{recording.source}; take both from one tool"
        )
    if not rest.used.any():
        raise SampleError("its baseline has no frame with a face; give another one")
    return {unit: float(known.mean()) for unit in units if len(known := _known(rest, unit))}


def subtract(recording: Recording, units: Iterable[str], levels: dict[str, float]) -> None:
    """Subtract, in place; a unit that has no level is not known any more."""
    for unit in units:
        if unit in recording.signals:
            recording.signals[unit] = recording.signals[unit] - levels.get(unit, np.nan)


def _known(recording: Recording, unit: str) -> np.ndarray:
    series = recording.signals.get(unit, np.empty(0))
    return series[np.isfinite(series)]
