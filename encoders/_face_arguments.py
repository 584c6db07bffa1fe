"""What the arguments of `ActionUnitEncoder` may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmfuse.encoders import _checks

__all__ = ["check_face_arguments"]


def check_face_arguments(encoder: Any) -> None:
    """Raise TypeError or ValueError for an argument that is not allowed."""
    _check_units(encoder.action_units)
    for name in ("angles", "deltas"):
        _checks.check_flag(encoder, name)
    _checks.check_number(encoder, "min_confidence")
    _checks.check_choice(encoder, "baseline", (None, "own", "given"))
    _checks.check_number(encoder, "baseline_percentile")
    if not 0 <= encoder.baseline_percentile <= 100:
        raise ValueError(
            "ActionUnitEncoder: baseline_percentile must lie in 0..100, got "
            f"{encoder.baseline_percentile!r}."
        )
    if encoder.activation != "auto":
        _checks.check_number(encoder, "activation")
    _checks.check_number(encoder, "frame_rate", above=0, or_none=True)
    _checks.check_percentiles(encoder, "percentiles")


def _check_units(units: Any) -> None:
    if isinstance(units, str) and units == "auto":
        return
    listed = isinstance(units, Sequence) and not isinstance(units, str) and len(units)
    named = listed and all(
        isinstance(unit, str) and len(unit) == 4 and unit[:2] == "AU" and unit[2:].isdecimal()
        for unit in units
    )
    if not named or len(set(units)) != len(units):
        raise ValueError(
            "ActionUnitEncoder: action_units must be 'auto' or a sequence of different names "
            f"such as ['AU06', 'AU12'], got {units!r}."
        )
