"""A sheet as plain text."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

from mmfuse.clinical import tables

if TYPE_CHECKING:
    import pandas as pd

    from mmfuse.clinical.sheet import ClinicalReport

__all__ = ["headline", "sheet_text"]

_WIDTH = 100


def headline(report: ClinicalReport) -> str:
    """What was evaluated, in a sentence."""
    units = "" if report.n_groups is None else f" in {report.n_groups} groups"
    kind = {"binary": "two classes", "nominal": "classes", "ordinal": "ordered classes"}
    drawn = "rows" if report.n_groups is None else "groups"
    return (
        f"{report.n_rows} rows{units}, {kind[report.task]}: "
        f"{', '.join(map(str, report.classes))}. Brackets hold {100 * report.confidence:.4g}% "
        f"intervals from {report.n_bootstrap} bootstrap draws of {drawn}."
    )


def sheet_text(report: ClinicalReport) -> str:
    """All sections but pictures and the card."""
    parts = ["Clinical sheet", *wrap(headline(report), _WIDTH)]
    parts += _notes("Findings of the guards", report.findings)
    sections = {
        "Participants' flow": tables.flow_cells(report),
        "Who has what": tables.pattern_cells(report),
        "Discrimination": tables.score_cells(report),
        "Calibration": tables.calibration_cells(report),
        "At thresholds of acting": tables.point_cells(report),
        "Subgroups": tables.subgroup_cells(report),
        f"Prediction sets, {report.coverage_level:g} asked": tables.coverage_cells(report),
        "What each modality gives": tables.contribution_cells(report),
    }
    for title, frame in sections.items():
        if len(frame):
            parts += ["", title, *_lines(frame)]
    parts += _notes("Limits", report.limits)
    left = int((report.card["open"] != "").sum()) if len(report.card) else 0
    parts += [
        "",
        f"Model card: {left} of {len(report.card)} items are open for the authors (.card).",
    ]
    return "\n".join(parts)


def _lines(frame: pd.DataFrame) -> list[str]:
    text = frame.rename_axis(None).to_string().splitlines()
    return [f"  {line}".rstrip() for line in text]


def _notes(title: str, notes: list[str]) -> list[str]:
    if not notes:
        return []
    lines = ["", title]
    for note in notes:
        lines += wrap(note, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
    return lines
