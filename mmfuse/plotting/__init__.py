"""Displays: objects that keep numbers and draw them with matplotlib."""

from __future__ import annotations

from mmfuse.plotting.ablation import AblationDisplay
from mmfuse.plotting.coverage import CoverageDisplay
from mmfuse.plotting.decisions import DecisionCurveDisplay
from mmfuse.plotting.degradation import DegradationDisplay
from mmfuse.plotting.modality_report import ModalityReportDisplay
from mmfuse.plotting.reliability import ReliabilityDisplay

__all__ = [
    "AblationDisplay",
    "CoverageDisplay",
    "DecisionCurveDisplay",
    "DegradationDisplay",
    "ModalityReportDisplay",
    "ReliabilityDisplay",
]
