"""A sheet in types that JSON can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from mmfuse.clinical.sheet import ClinicalReport

__all__ = ["sheet_dict"]

_NAMED = ("modalities", "scores", "confusion", "card")
_TABLES = ("flow", "patterns", "points", "subgroups", "coverage")
_VALUES = (
    "task",
    "classes",
    "n_rows",
    "n_groups",
    "n_effective",
    "event_rows",
    "n_bootstrap",
    "confidence",
    "min_rows",
    "prevalence",
    "calibration_error",
    "coverage_level",
    "by",
    "suppressed",
    "findings",
    "limits",
)


def sheet_dict(report: ClinicalReport) -> dict[str, Any]:
    """All numbers of the sheet."""
    content: dict[str, Any] = {name: getattr(report, name) for name in _VALUES}
    for name in _NAMED:
        content[name] = getattr(report, name).reset_index()
    for name in _TABLES:
        content[name] = getattr(report, name)
    content["calibration"] = {
        event: {
            "bins": curve.bins,
            "smooth": curve.smooth,
            "summary": curve.summary.reset_index(),
        }
        for event, curve in report.calibration.items()
    }
    content["decision_curve"] = report.decision.to_frame()
    if report.explanation is not None:
        content["explanation"] = report.explanation.reset_index()
    if report.contributions is not None:
        content["contributions"] = report.contributions.to_dict()
    return _plain(content)


def _plain(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        value = value.to_dict("records")
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
