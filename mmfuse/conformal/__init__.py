"""Sets, intervals and abstention with guarantees, by availability pattern and stratum."""

from __future__ import annotations

from mmfuse.conformal.adapter import matrix_view
from mmfuse.conformal.coverage import coverage_by_pattern
from mmfuse.conformal.strata import Strata
from mmfuse.conformal.thresholds import (
    SOURCES,
    Conformal,
    check_coverage,
    check_min_rows,
    conformal_quantile,
    name_pattern,
    patterns_to_hide,
)

__all__ = [
    "Conformal",
    "SOURCES",
    "Strata",
    "check_coverage",
    "check_min_rows",
    "conformal_quantile",
    "coverage_by_pattern",
    "matrix_view",
    "name_pattern",
    "patterns_to_hide",
]
