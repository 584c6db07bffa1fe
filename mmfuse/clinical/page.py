"""A sheet as one page of HTML that loads nothing and prints in black and white."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

from mmfuse._require import require
from mmfuse.clinical import tables
from mmfuse.clinical.figures import sheet_figures
from mmfuse.clinical.text import headline
from mmfuse.clinical.words import ALTERNATIVES, EXPLANATION, WORDS

if TYPE_CHECKING:
    from mmfuse.clinical.sheet import ClinicalReport

__all__ = ["sheet_fragment", "sheet_page"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #111; background: #fff;
  max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.22rem 0.6rem; text-align: right; border-bottom: 1px solid #bbb;
  vertical-align: top; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; min-width: 8rem; }
thead th { border-bottom: 2px solid #333; vertical-align: bottom; }
tbody th { font-weight: normal; }
.interval { white-space: nowrap; }
.wide { overflow-x: auto; margin: 0.8rem 0; }
.card td { text-align: left; } .card th { text-align: left; white-space: nowrap; }
.open { border-left: 4px double #111; padding-left: 0.5rem; font-style: italic; }
.findings { border: 2px solid #111; padding: 0.4rem 1rem; margin: 1rem 0; }
.fine { border: 1px solid #999; padding: 0.4rem 1rem; margin: 1rem 0; }
.flow { display: flex; flex-direction: column; gap: 0.35rem; max-width: 46rem; }
.flow div { border: 1px solid #333; padding: 0.25rem 0.7rem; width: 24rem; max-width: 100%;
  box-sizing: border-box; }
.flow .excluded { border-style: dashed; margin-left: 3rem; }
.flow .of { border-width: 0 0 0 3px; margin-left: 3rem; }
.flow .analysed { border-width: 2px; font-weight: bold; }
.note { font-size: 0.87rem; }
img { max-width: 100%; height: auto; margin: 0.6rem 0; }
@media print {
  @page { size: A4; margin: 14mm 13mm; }
  body { font-size: 9.5pt; margin: 0; padding: 0; max-width: none; }
  .wide { overflow: visible; } table { font-size: 7.6pt; }
  th, td { padding: 0.12rem 0.3rem; } th:first-child, td:first-child { min-width: 5rem; }
  img, tr, .wide, .findings, .flow div { break-inside: avoid; }
  h2, section > p { break-after: avoid; } p, li { break-inside: avoid; }
}
"""


def sheet_page(report: ClinicalReport, title: str) -> str:
    """The whole page."""
    heading = escape(title)
    pictures = _pictures(report)
    body = [f"<h1>{heading}</h1>", f"<p>{escape(headline(report))}</p>", _findings(report)]
    body += _section("flow", _flow(report))
    body += _section(
        "patterns", _table(tables.modality_cells(report)), _table(tables.pattern_cells(report))
    )
    body += _section("discrimination", _table(tables.score_cells(report)), _confusion(report))
    body += _section(
        "calibration",
        pictures["calibration"],
        _table(tables.calibration_cells(report)),
        _note(f"Calibration error (ECE) of the predicted class: {report.calibration_error:.3f}."),
    )
    body += _section("decision", pictures["decision"], _table(tables.point_cells(report)))
    body += _section("subgroups", *_subgroups(report, pictures))
    body += _section("coverage", *_coverage(report, pictures))
    body += _section("contributions", *_contributions(report, pictures))
    body += _section("limits", _items(report.limits))
    body += _section("card", _card(report))
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{heading}</title><style>{_STYLE}</style></head><body>",
            *body,
            "</body></html>",
        ]
    )


def sheet_fragment(report: ClinicalReport) -> str:
    """The main tables for a notebook; no pictures."""
    parts = [
        f"<p><b>Clinical sheet.</b> {escape(headline(report))}</p>",
        _findings(report),
        _table(tables.flow_cells(report)),
        _table(tables.score_cells(report)),
        _table(tables.calibration_cells(report)),
    ]
    if len(report.subgroups):
        parts.append(_table(tables.subgroup_cells(report)))
    parts.append(_items(report.limits))
    return "<div>" + "\n".join(parts) + "</div>"


def _section(name: str, *parts: str) -> list[str]:
    title, words = WORDS[name]
    return [f'<section id="{name}"><h2>{title}</h2>', f"<p>{words}</p>", *parts, "</section>"]


def _findings(report: ClinicalReport) -> str:
    if not report.findings:
        said = "The guards found nothing." if report.guarded else "The guards were not run."
        return f'<p class="fine">{said}</p>'
    return f'<div class="findings"><b>Findings of the guards</b>{_items(report.findings)}</div>'


def _flow(report: ClinicalReport) -> str:
    kinds = {"given": "given", "excluded": "excluded", "analysed": "analysed", "of these": "of"}
    boxes = []
    for line in report.flow.itertuples():
        groups = "" if report.n_groups is None else f", {line.groups} groups"
        text = escape(f"{line.step}: {line.rows} rows{groups}")
        boxes.append(f'<div class="{kinds[line.kind]}">{text}</div>')
    return f'<div class="flow">{"".join(boxes)}</div>'


def _confusion(report: ClinicalReport) -> str:
    frame = report.confusion.add_prefix("predicted ")
    frame = frame.map("{:.1f}".format) if report.n_effective is not None else frame.astype(str)
    frame.index = pd.Index([f"true {label}" for label in report.confusion.index])
    return _table(frame)


def _subgroups(report: ClinicalReport, pictures: dict[str, str]) -> list[str]:
    if not report.by:
        return [_note("No subgroups were given.")]
    parts = [pictures.get("subgroups", ""), _table(tables.subgroup_cells(report))]
    return [*parts, _items(report.suppressed)]


def _coverage(report: ClinicalReport, pictures: dict[str, str]) -> list[str]:
    if report.coverage is None:
        return [_note("The model has no prediction sets that could be checked here.")]
    asked = f"{100 * report.coverage_level:.4g}% were asked."
    return [_note(asked), pictures["coverage"], _table(tables.coverage_cells(report))]


def _contributions(report: ClinicalReport, pictures: dict[str, str]) -> list[str]:
    if report.contributions is None:
        return [_note("There are too many modalities to try every subset of them.")]
    parts = [pictures["contributions"], _table(tables.contribution_cells(report))]
    if report.explanation is not None:
        parts += [_note(EXPLANATION), _table(tables.explanation_cells(report))]
    return [*parts, _items(report.contributions.warnings)]


def _card(report: ClinicalReport) -> str:
    lines = []
    for item, line in report.card.iterrows():
        text = f"<div>{escape(line['text'])}</div>" if line["text"] else ""
        todo = f'<div class="open">{escape(line["open"])}</div>' if line["open"] else ""
        lines.append(
            f"<tr><th>{escape(str(item))}</th><td>{escape(line['topic'])}</td>"
            f"<td>{text}{todo}</td></tr>"
        )
    return (
        '<table class="card"><thead><tr><th>item</th><th>topic</th><th>answer</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _items(notes: list[str]) -> str:
    if not notes:
        return ""
    return f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>"


def _table(frame: pd.DataFrame) -> str:
    if frame.empty:
        return ""
    head = "".join(f"<th>{escape(str(name))}</th>" for name in ["", *frame.columns])
    rows = []
    for label, *cells in frame.itertuples(name=None):
        data = "".join(f"<td>{_cell(str(cell))}</td>" for cell in cells)
        rows.append(f"<tr><th>{escape(str(label))}</th>{data}</tr>")
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    """A line breaks before the bracket of an interval and not within."""
    value, bracket, rest = text.partition(" [")
    interval = f' <span class="interval">[{escape(rest)}</span>' if bracket else ""
    return escape(value) + interval


def _pictures(report: ClinicalReport) -> dict[str, str]:
    matplotlib = require("matplotlib", extra="plot", caller="ClinicalReport.save")
    images = {}
    with matplotlib.rc_context({"svg.hashsalt": "mmfuse", "svg.fonttype": "path"}):
        for name, drawn in sheet_figures(report).items():
            buffer = io.BytesIO()
            drawn.savefig(buffer, format="svg", metadata={"Date": None})
            data = base64.b64encode(buffer.getvalue()).decode("ascii")
            source = f"data:image/svg+xml;base64,{data}"
            images[name] = f'<img alt="{ALTERNATIVES[name]}" src="{source}">'
    return images
