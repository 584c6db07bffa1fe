"""Severity of depression and post-traumatic stress: totals of questionnaires as ordered bands."""

from __future__ import annotations

from mmfuse.severity.bands import (
    PCL,
    PHQ8,
    SeverityScale,
    combined_risk,
    expected_severity,
    pcl_bands,
    phq8_bands,
    probability_at_least,
    severity_table,
    shift_bands,
)

__all__ = [
    "PCL",
    "PHQ8",
    "SeverityScale",
    "combined_risk",
    "expected_severity",
    "pcl_bands",
    "phq8_bands",
    "probability_at_least",
    "severity_table",
    "shift_bands",
]
