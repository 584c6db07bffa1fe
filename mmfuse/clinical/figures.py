"""The pictures of a clinical sheet, legible without colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmfuse._require import require
from mmfuse.plotting.coverage import CoverageDisplay
from mmfuse.plotting.decisions import DecisionCurveDisplay
from mmfuse.plotting.panels import DARK, GREY, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmfuse.clinical.reliability import CalibrationCurve
    from mmfuse.clinical.sheet import ClinicalReport

__all__ = ["draw_calibration", "sheet_figures"]

_SMALL = 7.5
_PANEL = 3.3, 3.4  # inches
_COLUMNS = 3
_PAGE = 9.6


def sheet_figures(report: ClinicalReport) -> dict[str, Figure]:
    """Figures by section, made outside pyplot."""
    made = {
        "calibration": _panels(report, _calibration_panels),
        "decision": _panels(report, _decision_panels),
    }
    if len(report.subgroups):
        made["subgroups"] = _subgroups(report)
    if report.coverage is not None:
        made["coverage"] = _coverage(report)
    if report.contributions is not None:
        from mmfuse.plotting import ModalityReportDisplay

        made["contributions"] = ModalityReportDisplay(report.contributions).figures()["removal"]
    return made


def _figure(width: float, height: float) -> Figure:
    module = require("matplotlib.figure", extra="plot", caller="ClinicalReport.save")
    return module.Figure(figsize=(width, height), layout="constrained")


def _panels(report: ClinicalReport, draw: Any) -> Figure:
    """One panel an event."""
    count = len(report.calibration)
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    figure = _figure(columns * _PANEL[0], rows * _PANEL[1])
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[count:]:
        figure.delaxes(spare)
    draw(report, axes[:count])
    return figure


def _calibration_panels(report: ClinicalReport, axes: Any) -> None:
    for ax, curve in zip(axes, report.calibration.values(), strict=True):
        draw_calibration(curve, ax)


def _decision_panels(report: ClinicalReport, axes: Any) -> None:
    DecisionCurveDisplay(curve=report.decision, name="model").plot(axes)


def draw_calibration(curve: CalibrationCurve, ax: Axes) -> None:
    """Observed against predicted risk: bins with intervals, the smooth curve and its band."""
    smooth, bins = curve.smooth, curve.bins
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    ax.fill_between(smooth["predicted"], smooth["low"], smooth["high"], color=GREY, alpha=0.5, lw=0)
    ax.plot(smooth["predicted"], smooth["observed"], color=DARK, linewidth=1.6)
    reach = np.abs(bins[["low", "high"]].to_numpy().T - bins["observed"].to_numpy())
    ax.errorbar(
        bins["predicted"],
        bins["observed"],
        yerr=reach,
        fmt="o",
        color="black",
        markerfacecolor="white",
        markersize=4,
        elinewidth=0.8,
    )
    bare(ax, grid="both")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.set_xlabel("predicted risk", fontsize=_SMALL)
    ax.set_ylabel("observed share", fontsize=_SMALL)
    slope = curve.summary.loc["slope", "value"]
    title = curve.event.replace("$", r"\$").replace(">=", "\u2265")
    ax.set_title(f"{title} (slope {slope:.2f})", fontsize=9.5, loc="left", fontweight="bold")


def _subgroups(report: ClinicalReport) -> Figure:
    """Area under the curve and accuracy of every subgroup, the whole as a line."""
    frame = report.subgroups
    area = "AUC" if "AUC" in frame.columns else "mean AUC"
    figure = _figure(_PAGE, 1.1 + 0.26 * len(frame))
    axes = figure.subplots(1, 2, sharey=True)
    place = np.arange(len(frame))
    for ax, name in zip(axes, (area, "accuracy"), strict=True):
        ax.axvline(report.scores.loc[name, "value"], color=GREY, linewidth=1.4, zorder=0)
        ends = frame[[f"{name} low", f"{name} high"]].to_numpy()
        ax.hlines(place, ends[:, 0], ends[:, 1], color=DARK, linewidth=1.2)
        ax.plot(frame[name], place, "s", color=DARK, markersize=4.5)
        bare(ax)
        ax.set_xlabel(f"{name}; grey line: all rows", fontsize=_SMALL)
    labels = [
        f"{column}: {value}".replace("$", r"\$")
        for column, value in zip(frame["column"], frame["subgroup"], strict=True)
    ]
    axes[0].set_yticks(place, labels)
    axes[0].set_ylim(len(frame) - 0.5, -0.5)
    return figure


def _coverage(report: ClinicalReport) -> Figure:
    table = report.coverage
    figure = _figure(_PAGE, 1.3 + 0.3 * len(table))
    CoverageDisplay(table, report.coverage_level).plot(figure.subplots(1, 2, sharey=True))
    return figure
