"""The modality report as HTML: one page that needs nothing else."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

from mmfuse._require import require
from mmfuse.report.text import (
    figure,
    interval,
    metric_name,
    percent,
    shown_subsets,
    subset_label,
    summary_line,
    with_baseline,
)

if TYPE_CHECKING:
    from mmfuse.report.modality_report import ModalityReport

__all__ = ["report_fragment", "report_page"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: 0.87rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.22rem 0.7rem; text-align: right; border-bottom: 1px solid #ddd;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal;
  overflow-wrap: anywhere; min-width: 9rem; }
thead th { border-bottom: 2px solid #555; vertical-align: bottom; white-space: normal; }
tbody th { font-weight: normal; }
tr.full td, tr.full th { font-weight: bold; }
.wide { overflow-x: auto; }
.warnings { border: 2px solid #c04a00; padding: 0.4rem 1rem; margin: 1rem 0; }
.fine { border: 1px solid #bbb; padding: 0.4rem 1rem; margin: 1rem 0; }
dl { font-size: 0.87rem; } dt { font-weight: bold; float: left; clear: left; }
dt::after { content: ":"; margin-right: 0.4rem; } dd { margin: 0 0 0.2rem 0; }
img { max-width: 100%; height: auto; margin: 0.6rem 0; }
@media print { body { font-size: 10pt; margin: 0; max-width: none; }
  .wide { overflow: visible; } th, td { padding: 0.15rem 0.35rem; }
  img, tr, .warnings { break-inside: avoid; } h2 { break-after: avoid; } }
"""

_MEANING = {
    "log loss": "how badly the probabilities miss the truth, in nats; lower is better, and a "
    "model that is sure and wrong pays most",
    "accuracy": "share of rows whose most probable class is the true one",
    "ECE": "expected calibration error: average gap between the stated confidence and the share "
    "of right answers; 0 is best, and few rows make it look worse than it is",
    "RMSE": "root mean squared error, in the unit of the target; lower is better",
    "MAE": "mean absolute error, in the unit of the target; lower is better",
    "R\u00b2": "share of the variance of the target that is explained; 1 is best, 0 is no better "
    "than the mean",
}


def report_page(report: ModalityReport, title: str) -> str:
    """The whole page with plots, tables and explanations."""
    heading = escape(title)
    figures = _figures(report)
    body = [
        f"<h1>{heading}</h1>",
        f"<p>{escape(summary_line(report))}</p>",
        _warnings(report),
        "<h2>What is in the data</h2>",
        _table(_cells(report)),
        _definitions(_CELLS),
        "<h2>How good is each subset of the modalities</h2>",
        f"<p>{_subset_intro(report)}</p>",
        figures["subsets"],
        _subset_table(report, shown_subsets(report)),
        _definitions(_subset_words(report)),
        "<h2>What is lost when one modality is removed</h2>",
        f"<p>{_removal_words(report)}</p>",
        figures["removal"],
        _table(_removal_table(report)),
        "<h2>How the gain is shared</h2>",
        f"<p>{_share_words(report)}</p>",
        figures["shares"],
        _table(_share_table(report)),
        *_appendix(report),
    ]
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


def report_fragment(report: ModalityReport) -> str:
    """Warnings and tables for a notebook; no plots."""
    parts = [
        f"<p><b>Modality report.</b> {escape(summary_line(report))}</p>",
        _warnings(report),
        _subset_table(report, shown_subsets(report)),
        _table(_removal_table(report)),
        _table(_share_table(report)),
    ]
    return "<div>" + "\n".join(parts) + "</div>"


_CELLS = {
    "present": "rows in which the modality was there and could be used",
    "absent": "it was not collected",
    "failed": "it was collected but could not be read or encoded",
    "empty": "the sensor looked and found nothing",
}


def _subset_intro(report: ModalityReport) -> str:
    prior = "how common each class was" if report.reliability is not None else "the mean target"
    few = len(shown_subsets(report)) < len(report.subsets)
    return (
        "The model predicts all rows again and again, each time from only some of the "
        "modalities; the others are hidden. A row that has none of them is predicted from what "
        f"is known without looking: {prior} in training."
        + (" Shown here are the best of each size; all are at the end of the page." if few else "")
    )


def _subset_words(report: ModalityReport) -> dict[str, str]:
    words = {"rows": "rows with at least one of these modalities"}
    names = [metric_name(column) for column in report.subsets.columns[2:]]
    return words | {name: _MEANING[name] for name in names}


def _removal_words(report: ModalityReport) -> str:
    loss, score = metric_name(report.loss), metric_name(report.score)
    unit = "rows" if report.n_groups is None else "groups"
    return (
        f"Each modality is hidden in turn while all others stay. A rise in {loss} or a fall in "
        f"{score} means that the model needs it. Brackets hold the "
        f"{100 * report.confidence:.4g}% interval: how far the figure moves when the {unit} are "
        f"drawn anew. If the interval for {loss} is not wholly above zero, these data show no "
        "contribution. Two modalities that say the same can each be removed without loss."
    )


def _share_words(report: ModalityReport) -> str:
    loss = metric_name(report.loss)
    prior, full = (figure(report.subsets[report.loss].iloc[i]) for i in (0, -1))
    diagram = (
        " The diagram on the right asks whether the model can be taken at its word: of the rows "
        "that it is 80% sure of, 80% should be right, and the dots should lie on the dashed line. "
        "Dots below it are overconfident."
    )
    return (
        f"From the prior to the full model, {loss} goes from {prior} to {full}. The Shapley "
        "value divides the difference fairly: a modality gets what it adds on average over all "
        "orders in which the modalities could be added, so two that say the same share what they "
        "say. A negative share means that the modality harms more than it helps."
        + (diagram if report.reliability is not None else "")
    )


def _cells(report: ModalityReport) -> pd.DataFrame:
    return report.modalities[["present", "absent", "failed", "empty"]].astype(str)


def _appendix(report: ModalityReport) -> list[str]:
    everything = list(range(len(report.subsets)))
    if shown_subsets(report) == everything:
        return []
    return ["<h2>All subsets</h2>", _subset_table(report, everything)]


def _subset_table(report: ModalityReport, rows: list[int]) -> str:
    frame = report.subsets.iloc[rows]
    table = pd.DataFrame({"rows": frame["n_rows"].astype(str)})
    for column in frame.columns[2:]:
        table[metric_name(column)] = [figure(value) for value in frame[column]]
    table.index = pd.Index([subset_label(report, row) for row in rows])
    return _table(with_baseline(report, table), bold=len(rows))


def _removal_table(report: ModalityReport) -> pd.DataFrame:
    frame = report.modalities
    table = pd.DataFrame(index=frame.index)
    for metric in (report.loss, report.score):
        name = metric_name(metric)
        table[f"{name} alone"] = [figure(value) for value in frame[f"{metric}_alone"]]
        table[f"{name} without"] = [figure(value) for value in frame[f"{metric}_without"]]
        columns = [f"{metric}_change{end}" for end in ("", "_low", "_high")]
        table[f"change in {name}"] = [interval(*row) for row in frame[columns].to_numpy()]
    table["contributes"] = ["yes" if used else "no" for used in frame["contributes"]]
    return table


def _share_table(report: ModalityReport) -> pd.DataFrame:
    frame, loss, score = report.modalities, report.loss, report.score
    table = pd.DataFrame(index=frame.index)
    table[f"{metric_name(loss)} removed"] = [figure(v) for v in frame[f"shapley_{loss}"]]
    table["share"] = [percent(v) for v in frame[f"shapley_{loss}_percent"]]
    table[f"{metric_name(score)} added"] = [figure(v) for v in frame[f"shapley_{score}"]]
    return table


def _warnings(report: ModalityReport) -> str:
    if not report.warnings:
        return '<p class="fine">No warnings: each modality contributes.</p>'
    items = "".join(f"<li>{escape(note)}</li>" for note in report.warnings)
    return f'<div class="warnings"><b>Warnings</b><ul>{items}</ul></div>'


def _definitions(words: dict[str, str]) -> str:
    items = (f"<dt>{escape(key)}</dt><dd>{escape(text)}</dd>" for key, text in words.items())
    return f"<dl>{''.join(items)}</dl>"


def _table(frame: pd.DataFrame, *, bold: int = -1) -> str:
    head = "".join(f"<th>{escape(str(name))}</th>" for name in ["", *frame.columns])
    rows = []
    for number, (label, *cells) in enumerate(frame.itertuples(name=None)):
        kind = ' class="full"' if number == bold else ""
        data = "".join(f"<td>{escape(str(cell))}</td>" for cell in cells)
        rows.append(f"<tr{kind}><th>{escape(str(label))}</th>{data}</tr>")
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _figures(report: ModalityReport) -> dict[str, str]:
    from mmfuse.plotting import ModalityReportDisplay

    matplotlib = require("matplotlib", extra="plot", caller="ModalityReport.save")
    alternatives = {
        "subsets": "Bars: loss and score of each subset, as in the table below.",
        "removal": "Change when a modality is removed, with intervals, as in the table below.",
        "shares": "Shapley shares, as in the table below.",
    }
    images = {}
    with matplotlib.rc_context({"svg.hashsalt": "mmfuse", "svg.fonttype": "path"}):
        for name, drawn in ModalityReportDisplay(report).figures().items():
            buffer = io.BytesIO()
            drawn.savefig(buffer, format="svg", metadata={"Date": None})
            data = base64.b64encode(buffer.getvalue()).decode("ascii")
            source = f"data:image/svg+xml;base64,{data}"
            images[name] = f'<img alt="{alternatives[name]}" src="{source}">'
    return images
