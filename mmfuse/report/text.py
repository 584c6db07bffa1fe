"""The words and figures of a modality report."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from mmfuse.report.modality_report import ModalityReport

__all__ = [
    "EMPTY_SUBSET",
    "figure",
    "interval",
    "metric_name",
    "percent",
    "report_text",
    "short_names",
    "shown_subsets",
    "subset_label",
    "summary_line",
    "with_baseline",
]

EMPTY_SUBSET = "nothing (prior)"

_WIDTH = 100
_MOST_SUBSETS = 31
_LONGEST_NAME = 24
_NAMES = {
    "accuracy": "accuracy",
    "ece": "ECE",
    "log_loss": "log loss",
    "mae": "MAE",
    "r2": "R\u00b2",
    "rmse": "RMSE",
}


def metric_name(metric: str) -> str:
    """Name of a metric as people write it."""
    return _NAMES[metric]


def figure(value: float) -> str:
    """A number with the digits that matter: three decimals, or three digits if it is tiny."""
    if not np.isfinite(value):
        return "n/a"
    if abs(value) < 1e-9:
        return "0.000"
    if abs(value) < 5e-4:
        return f"{value:.1g}"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"


def interval(value: float, low: float, high: float) -> str:
    """A number and its interval."""
    return f"{figure(value)} [{figure(low)}, {figure(high)}]"


def summary_line(report: ModalityReport) -> str:
    """What was scored, in one sentence."""
    groups = "" if report.n_groups is None else f" in {report.n_groups} groups"
    count = len(report.modalities)
    return (
        f"{report.task.capitalize()}, {report.n_rows} rows{groups}, {count} "
        f"{'modality' if count == 1 else 'modalities'}; {100 * report.confidence:.4g}% intervals "
        f"from {report.n_bootstrap} bootstrap draws of "
        f"{'rows' if report.n_groups is None else 'groups'}."
    )


def subset_label(report: ModalityReport, row: int) -> str:
    """A label that stays short: from four modalities on, what is left out where that is less."""
    members, names = report.members[row], short_names(report)
    if not members:
        return EMPTY_SUBSET
    left_out = [short for name, short in names.items() if name not in members]
    if len(names) > 3 and len(left_out) <= 2:
        return f"all but {', '.join(left_out)}" if left_out else "all"
    return " + ".join(names[name] for name in members)


def short_names(report: ModalityReport, width: int = _LONGEST_NAME) -> dict[str, str]:
    """Each modality's name on one short line, with the middle left out; no two are the same."""
    flat = {name: " ".join(str(name).split()) for name in report.modalities.index}
    tail = (width - 1) // 2
    short = {
        name: text if len(text) <= width else f"{text[: width - 1 - tail]}\u2026{text[-tail:]}"
        for name, text in flat.items()
    }
    taken = Counter(short.values())
    for number, (name, text) in enumerate(flat.items(), start=1):
        if taken[short[name]] > 1:
            end = f"\u2026 (no. {number})"
            short[name] = text[: width - len(end)] + end
    return short


def shown_subsets(report: ModalityReport) -> list[int]:
    """Positions of the subsets to show where there is no room for all.

    With more than 31 of them: nothing, single modalities, all but one, all, and the best few of
    each size between.
    """
    sizes = report.subsets["n_modalities"].to_numpy()
    if len(sizes) <= _MOST_SUBSETS:
        return list(range(len(sizes)))
    total = len(report.modalities)
    best = max(1, min(3, (_MOST_SUBSETS - 2 - 2 * total) // (total - 3)))
    loss = report.subsets[report.loss].to_numpy()
    shown: list[int] = []
    for size, rows in groupby(range(len(sizes)), key=lambda row: sizes[row]):
        ranked = sorted(rows, key=lambda row: loss[row])
        shown += ranked if size in (0, 1, total - 1, total) else ranked[:best]
    return sorted(shown)


def report_text(report: ModalityReport) -> str:
    """The report as plain text."""
    parts = ["Modality report", *wrap(summary_line(report), _WIDTH)]
    if report.warnings:
        parts += ["", "Warnings"]
        for note in report.warnings:
            parts += wrap(note, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
    parts += ["", *_table(_subset_table(report), "Subset of modalities")]
    left_out = len(report.subsets) - len(shown_subsets(report))
    if left_out:
        parts.append(f"  ... and {left_out} more in .subsets")
    for title, table in _modality_tables(report):
        parts += ["", *_table(table, title)]
    return "\n".join(parts)


def _subset_table(report: ModalityReport) -> pd.DataFrame:
    shown = shown_subsets(report)
    frame = report.subsets.iloc[shown]
    table = pd.DataFrame({"rows": frame["n_rows"].astype(str)})
    for column in frame.columns[2:]:
        table[metric_name(column)] = [figure(value) for value in frame[column]]
    table.index = pd.Index([subset_label(report, row) for row in shown])
    return with_baseline(report, table)


def with_baseline(report: ModalityReport, table: pd.DataFrame) -> pd.DataFrame:
    """The table of the subsets under a row of what can be had without a model."""
    row = {
        column: figure(report.baseline[metric])
        for metric in report.subsets.columns[2:]
        if (column := metric_name(metric)) in table.columns
    }
    row["rows"] = str(report.n_rows)
    first = pd.DataFrame([row], index=[report.baseline["name"]], columns=table.columns)
    return pd.concat([first, table])


def _modality_tables(report: ModalityReport) -> list[tuple[str, pd.DataFrame]]:
    frame, loss, score = report.modalities, report.loss, report.score
    cells = frame[["present", "absent", "failed", "empty"]].astype(str)
    change = pd.DataFrame(index=frame.index)
    for metric in (loss, score):
        columns = [f"{metric}_change{end}" for end in ("", "_low", "_high")]
        change[f"change in {metric_name(metric)}"] = [
            interval(*row) for row in frame[columns].to_numpy()
        ]
    share = pd.DataFrame(index=frame.index)
    share[f"{metric_name(loss)} removed"] = [figure(v) for v in frame[f"shapley_{loss}"]]
    share["share"] = [percent(v) for v in frame[f"shapley_{loss}_percent"]]
    share[f"{metric_name(score)} added"] = [figure(v) for v in frame[f"shapley_{score}"]]
    return [
        ("Cells", cells),
        ("Removed from the full model", change),
        ("Shapley share of the gain over the prior", share),
    ]


def percent(value: float) -> str:
    """A percentage without decimals."""
    return f"{value:.0f}%" if np.isfinite(value) else "n/a"


def _table(frame: pd.DataFrame, title: str) -> list[str]:
    """Lines of a table: labels to the left, figures to the right."""
    rows: list[list[Any]] = [[title, *frame.columns]]
    rows += [["  " + str(label), *cells] for label, *cells in frame.itertuples(name=None)]
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for label, *cells in rows:
        padded = [str(cell).rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([str(label).ljust(widths[0]), *padded]).rstrip())
    return lines
