"""``mmfuse report --clinical``: outcomes with gaps, columns of subgroups, one sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmfuse.cli import manifest as reading

__all__ = ["make_sheet"]


def make_sheet(
    fitted: Any,
    frame: pd.DataFrame,
    X: Any,
    manifest: Path,
    *,
    target: str,
    group: str | None,
    by: list[str],
    overlap: str,
) -> Any:
    """The clinical sheet of a manifest; rows with an empty target count as lacking the outcome."""
    from mmfuse.clinical import clinical_report

    reading.check_columns(frame, [target], manifest, "--target")
    reading.check_columns(frame, by, manifest, "--by")
    classes = np.asarray(getattr(fitted, "classes_", []))
    y = frame[target].to_numpy(dtype=object)
    known = ~pd.isna(y)
    if classes.dtype.kind in "OUS":
        y[known] = [str(cell) for cell in y[known]]
    elif known.any():
        y[known] = reading.read_target(frame[known], target, manifest, option="--target")
    groups = group and reading.read_target(frame, group, manifest, option="--group", words=True)
    columns = {name: _numbers(frame[name]) for name in by}
    return clinical_report(fitted, X, y, by=columns, groups=groups, overlap=overlap)


def _numbers(column: pd.Series) -> pd.Series:
    """Numbers, if all cells that are filled are."""
    numbers = pd.to_numeric(column, errors="coerce")
    return numbers if numbers.notna().sum() == column.notna().sum() else column
