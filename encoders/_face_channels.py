"""From a recording of a face to the channels that are summed up, and the names of the sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmfuse.encoders._face_statistics import statistic_names
from mmfuse.encoders._face_tables import Recording

__all__ = ["channels", "feature_names"]

_ACTIVE = {"OpenFace": 0.2, "LibreFace": 0.2, "py-feat": 0.5, "pictures": 0.5}


def channels(
    recording: Recording,
    signals: Sequence[str],
    rated: Sequence[str],
    activation: str | float,
) -> np.ndarray:
    """Return what each frame says, with NaN for signals that the recording lacks.

    Parameters
    ----------
    recording : Recording
        Its intensities are above the baseline, if there is one.
    signals : sequence of str
        Units and angles with a value.
    rated : sequence of str
        Units that are active or not.
    activation : "auto" or float
        Intensity from which a unit is active where the recording does not say; "auto" is the
        level of the tool that made it.

    Returns
    -------
    ndarray of shape (n_frames, 1 + n_signals + n_rated), float64
        Whether the frame is used, the signals, and activity (0, 1 or NaN).
    """
    unknown = np.full(len(recording.used), np.nan)
    least = _ACTIVE[recording.source] if activation == "auto" else float(activation)
    found = [recording.used.astype(np.float64)]
    found += [recording.signals.get(name, unknown) for name in signals]
    for unit in rated:
        intensity = recording.signals.get(unit, unknown)
        active = np.where(np.isnan(intensity), np.nan, intensity >= least)
        found.append(recording.flags.get(unit, active))
    return np.stack(found, axis=1)


def feature_names(
    signals: Sequence[str],
    rated: Sequence[str] | None,
    percentiles: Sequence[float],
    deltas: bool,
) -> list[str]:
    """Return the names of the features in order; without `rated`, of single pictures."""
    statistics = ["mean"] if rated is None else statistic_names(percentiles, deltas)
    names = [f"{signal}_{statistic}" for signal in signals for statistic in statistics]
    return names if rated is None else [*names, *(f"{unit}_rate" for unit in rated), "found_share"]
