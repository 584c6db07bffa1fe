"""The tables of a sheet as text in cells, for the page and for plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mmfuse.report.text import figure, interval

if TYPE_CHECKING:
    from mmfuse.clinical.sheet import ClinicalReport

__all__ = [
    "calibration_cells",
    "contribution_cells",
    "coverage_cells",
    "explanation_cells",
    "flow_cells",
    "modality_cells",
    "pattern_cells",
    "point_cells",
    "score_cells",
    "subgroup_cells",
]


def _spread(frame: pd.DataFrame, columns: list[str], without: str = "n/a") -> list[str]:
    return [
        without if np.isnan(row[0]) else interval(*row)
        for row in frame[columns].to_numpy(dtype=float)
    ]


def flow_cells(report: ClinicalReport) -> pd.DataFrame:
    """Rows, and groups, at every step."""
    frame = report.flow
    table = pd.DataFrame({"rows": frame["rows"].astype(str)})
    if report.n_groups is not None:
        table["groups"] = frame["groups"].astype(str)
    table.index = pd.Index(frame["step"])
    return table


def modality_cells(report: ClinicalReport) -> pd.DataFrame:
    """States of every modality."""
    table = report.modalities.astype({"share": object})
    table["share"] = [f"{100 * share:.1f}%" for share in report.modalities["share"]]
    return table.astype(str)


def pattern_cells(report: ClinicalReport) -> pd.DataFrame:
    """Rows and scores of every availability pattern."""
    frame = report.patterns
    table = pd.DataFrame({"rows": frame["rows"].astype(str)})
    table["share"] = [f"{100 * share:.1f}%" for share in frame["share"]]
    table["accuracy"] = _spread(frame, ["accuracy", "low", "high"], "not shown")
    for name in ("confidence", "gap"):
        table[name] = ["not shown" if np.isnan(v) else figure(v) for v in frame[name]]
    table.index = pd.Index(frame["pattern"])
    return table


def score_cells(report: ClinicalReport) -> pd.DataFrame:
    """Scores of the model and of the majority class."""
    frame = report.scores
    return pd.DataFrame(
        {
            "model": _spread(frame, ["value", "low", "high"]),
            "majority class": [figure(value) for value in frame["majority"]],
            "better by": _spread(frame, ["gain", "gain_low", "gain_high"]),
        },
        index=frame.index,
    )


def calibration_cells(report: ClinicalReport) -> pd.DataFrame:
    """Observed over expected, intercept and slope of every event."""
    lines = {}
    for event, curve in report.calibration.items():
        cells = _spread(curve.summary, ["value", "low", "high"])
        lines[event] = dict(zip(curve.summary.index, cells, strict=True))
    return pd.DataFrame.from_dict(lines, orient="index")


def point_cells(report: ClinicalReport) -> pd.DataFrame:
    """Sensitivity and its like at the thresholds."""
    frame = report.points
    table = pd.DataFrame({"flagged": [f"{100 * share:.1f}%" for share in frame["flagged"]]})
    names = {"sensitivity": "sensitivity", "specificity": "specificity", "ppv": "PPV", "npv": "NPV"}
    for column, name in names.items():
        table[name] = _spread(frame, [column, f"{column}_low", f"{column}_high"])
    table.index = pd.Index(
        f"{event} at {cut:g}" for event, cut in zip(frame["event"], frame["threshold"], strict=True)
    )
    return table


def subgroup_cells(report: ClinicalReport) -> pd.DataFrame:
    """Counts, observed and predicted shares, and scores of every subgroup that is shown."""
    frame = report.subgroups
    if frame.empty:
        return pd.DataFrame()
    table = pd.DataFrame({"rows": _counts(frame["rows"])})
    if report.n_groups is not None:
        table["groups"] = _counts(frame["groups"])
    if len(report.prevalence) <= 3:
        for event in report.prevalence:
            both = frame[[f"observed {event}", f"predicted {event}"]].to_numpy()
            table[f"{event}: seen / predicted"] = [f"{a:.2f}\u00a0/\u00a0{b:.2f}" for a, b in both]
    scores = [name for name in report.scores.index if f"{name} low" in frame.columns]
    for name in scores:
        table[name] = _spread(frame, [name, f"{name} low", f"{name} high"])
    pairs = zip(frame["column"], frame["subgroup"], strict=True)
    table.index = pd.Index([f"{column}: {value}" for column, value in pairs])
    return table


def _counts(values: pd.Series) -> list[str]:
    return ["withheld" if np.isnan(value) else f"{value:.0f}" for value in values]


def coverage_cells(report: ClinicalReport) -> pd.DataFrame:
    """Coverage and size of the prediction sets by pattern."""
    frame = report.coverage
    if frame is None:
        return pd.DataFrame()
    table = pd.DataFrame({"rows": frame["rows"].astype(str)})
    table["covered"] = _spread(frame, ["covered", "low", "high"])
    table["mean number of classes"] = [figure(value) for value in frame["size"]]
    table.index = pd.Index(frame["pattern"])
    return table


def contribution_cells(report: ClinicalReport) -> pd.DataFrame:
    """What every modality gives."""
    if report.contributions is None:
        return pd.DataFrame()
    frame = report.contributions.modalities
    log_loss = [f"log_loss_change{end}" for end in ("", "_low", "_high")]
    accuracy = [f"accuracy_change{end}" for end in ("", "_low", "_high")]
    return pd.DataFrame(
        {
            "log loss alone": [figure(value) for value in frame["log_loss_alone"]],
            "log loss added when removed": _spread(frame, log_loss),
            "change of accuracy when removed": _spread(frame, accuracy),
            "Shapley share of log loss": [figure(value) for value in frame["shapley_log_loss"]],
            "contributes": ["yes" if used else "not measurably" for used in frame["contributes"]],
        },
        index=frame.index,
    )


def explanation_cells(report: ClinicalReport) -> pd.DataFrame:
    """Mean size of every modality's contribution to every class."""
    frame = report.explanation
    if frame is None:
        return pd.DataFrame()
    table = pd.DataFrame({"mean size": _spread(frame, ["mean_abs", "low", "high"])})
    table["where present"] = [figure(value) for value in frame["mean_abs_present"]]
    table["mean"] = [figure(value) for value in frame["mean"]]
    table["rows present"] = frame["n_present"].astype(str).to_numpy()
    table.index = pd.Index([f"{part}, for {output}" for output, part in frame.index])
    return table
