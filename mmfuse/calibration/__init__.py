"""Calibration of scores, fitted on scores of rows that the head did not see."""

from __future__ import annotations

from mmfuse.calibration.by_pattern import HeldOut, PatternCalibration, make_pattern_calibrator
from mmfuse.calibration.temperature import (
    Calibrator,
    TemperatureScaling,
    check_calibration,
    make_calibrator,
)

__all__ = [
    "Calibrator",
    "HeldOut",
    "PatternCalibration",
    "TemperatureScaling",
    "check_calibration",
    "make_calibrator",
    "make_pattern_calibrator",
]
