"""The panels of the report's figure, each drawn on axes that it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmfuse._require import require
from mmfuse.report.text import (
    EMPTY_SUBSET,
    figure,
    interval,
    metric_name,
    percent,
    short_names,
    shown_subsets,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mmfuse.report.modality_report import ModalityReport

__all__ = ["BLUE", "DARK", "GREY", "ORANGE", "bare", "draw_removal", "draw_shares", "draw_subsets"]

# Four of the colours of Okabe and Ito, told apart without colour vision and by lightness in print.
DARK, BLUE, GREY, ORANGE = "#003B5C", "#56A0D3", "#B4B4B4", "#C04A00"

_LABEL = 8.5
_SMALL = 7.5
_MATRIX_FROM = 4
_LONGEST_LABEL = 32
_STEP = 0.17  # inches between the columns of dots
_ROUNDING = 1e-12
_FEWEST_ROWS = 4  # so that one or two bars do not fill a panel


def _labels(report: ModalityReport) -> dict[str, str]:
    """Short names of the modalities that matplotlib does not read as TeX."""
    return {name: short.replace("$", r"\$") for name, short in short_names(report).items()}


def bare(ax: Axes, *, grid: Literal["x", "both"] = "x") -> None:
    """Take away what carries no information."""
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(GREY)
    ax.tick_params(axis="y", length=0, labelsize=_LABEL)
    ax.tick_params(axis="x", color=GREY, labelsize=_SMALL)
    ax.grid(axis=grid, color="#E6E6E6", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.locator_params(axis="x", nbins=5)
    ax.xaxis.set_major_formatter("{x:.4g}")  # no common factor, which would stand on the label


def draw_subsets(report: ModalityReport, left: Axes, right: Axes) -> None:
    """Loss and score of the subsets, the full set on top."""
    sizes = report.subsets["n_modalities"].to_numpy()
    loss = report.subsets[report.loss].to_numpy()
    rows = sorted(shown_subsets(report), key=lambda row: (-sizes[row], loss[row]))
    colours = [_subset_colour(sizes[row], len(report.modalities)) for row in rows]
    for ax, metric in ((left, report.loss), (right, report.score)):
        values = report.subsets[metric].to_numpy()[rows]
        _bars(ax, values, colours, [figure(value) for value in values])
        better = "lower" if metric == report.loss else "higher"
        ax.set_title(f"{_title(metric)} by subset ({better} is better)", **_TITLE)
    right.set_yticks(range(len(rows)), [""] * len(rows))
    short = _labels(report)
    names = [" + ".join(short[name] for name in report.members[row]) for row in rows]
    if len(report.modalities) < _MATRIX_FROM and max(map(len, names)) <= _LONGEST_LABEL:
        left.set_yticks(range(len(rows)), [name or EMPTY_SUBSET for name in names])
    else:
        left.set_yticks([])
        _membership(report, left, rows)


def draw_removal(report: ModalityReport, metric: str, ax: Axes) -> None:
    """Change of a metric when one modality is removed, with its interval."""
    frame = report.modalities
    columns = [f"{metric}_change{end}" for end in ("", "_low", "_high")]
    values = frame[columns].to_numpy(dtype=float)
    for row, (value, low, high) in enumerate(values):
        used = bool(frame["contributes"].iloc[row])
        colour = DARK if used else ORANGE
        ax.plot([low, high], [row, row], color=colour, linewidth=1.8, solid_capstyle="butt")
        ax.plot(value, row, "o", color=colour, markerfacecolor=colour if used else "white")
        ax.plot([low, high], [row, row], "|", color=colour, markersize=8)
    least = 1e-3 * (report.subsets[metric].iloc[0] if metric == report.loss else 1.0)
    if np.abs(np.nan_to_num(values)).max() < least:
        ax.set_xlim(-least, least)  # rounding errors are not worth a scale of their own
    ax.axvline(0.0, color="black", linewidth=0.8)
    _rows(ax, list(_labels(report).values()))
    _right_labels(ax, [interval(*row) for row in values])
    worse = "above" if metric == report.loss else "below"
    ax.set_title(f"Change in {metric_name(metric)} when removed", **_TITLE)
    hollow = "" if frame["contributes"].all() else "; hollow: contributes nothing"
    ax.set_xlabel(f"{worse} zero, the modality helps{hollow}", fontsize=_SMALL)


def draw_shares(report: ModalityReport, metric: str, ax: Axes) -> None:
    """Shapley share of each modality in the gain over the prior."""
    frame = report.modalities
    values = frame[f"shapley_{metric}"].to_numpy()
    labels = [figure(value) for value in values]
    if metric == report.loss:
        shares = frame[f"shapley_{metric}_percent"]
        labels = [f"{a} ({percent(b)})" for a, b in zip(labels, shares, strict=True)]
    colours = [BLUE if value >= 0 else ORANGE for value in values]
    _bars(ax, values, colours, labels)
    _rows(ax, list(_labels(report).values()))
    ax.set_ylim(max(len(values), _FEWEST_ROWS) - 0.4, -0.6)
    ax.axvline(0.0, color="black", linewidth=0.8)
    way = "less" if metric == report.loss else "more"
    ax.set_title(f"Shapley share: {way} {metric_name(metric)} than the prior", **_TITLE)
    unit = "nats; " if metric == "log_loss" else ""
    ax.set_xlabel(f"{unit}all shares add up to {figure(values.sum())}", fontsize=_SMALL)


_TITLE: dict[str, Any] = {"fontsize": 9.5, "loc": "left", "fontweight": "bold"}


def _title(metric: str) -> str:
    name = metric_name(metric)
    return name[0].upper() + name[1:]


def _subset_colour(size: int, total: int) -> str:
    return GREY if size == 0 else DARK if size == total else BLUE


def _bars(ax: Axes, values: np.ndarray, colours: list[str], labels: list[str]) -> None:
    widths = np.nan_to_num(values)
    widths[np.abs(widths) < _ROUNDING] = 0.0
    ax.barh(range(len(values)), widths, color=colours, height=0.68)
    _right_labels(ax, labels)
    ax.set_ylim(len(values) - 0.4, -0.6)
    bare(ax)


def _rows(ax: Axes, names: list[str]) -> None:
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    bare(ax)


def _right_labels(ax: Axes, labels: list[str]) -> None:
    """Figures in a column of their own, where they cannot cover a bar."""
    place = ax.get_yaxis_transform()
    for row, label in enumerate(labels):
        ax.text(1.02, row, label, transform=place, va="center", fontsize=_SMALL)


def _membership(report: ModalityReport, ax: Axes, rows: list[int]) -> None:
    """A dot per modality and subset, filled where the subset has it, in place of long labels."""
    transforms = require("matplotlib.transforms", extra="plot", caller="ModalityReportDisplay")
    names = _labels(report)
    place = _STEP * (np.arange(len(names)) - len(names) - 0.2)  # inches from the left edge
    inches = ax.figure.dpi_scale_trans + transforms.ScaledTranslation(0, 0, ax.transAxes)
    cells = transforms.blended_transform_factory(inches, ax.transData)
    below = transforms.blended_transform_factory(inches, ax.transAxes)
    dots: dict[str, Any] = {"transform": cells, "clip_on": False, "markersize": 4.5}
    for y, row in enumerate(rows):
        inside = [x for x, name in zip(place, names, strict=True) if name in report.members[row]]
        ax.plot(place, np.full(len(names), y), "o", color="#DDDDDD", **dots)
        if inside:  # a line without points would claim the corner of the figure
            ax.plot(inside, np.full(len(inside), y), "o-", color=DARK, linewidth=1.2, **dots)
    for x, label in zip(place, names.values(), strict=True):
        style: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "top", "fontsize": _SMALL}
        ax.text(x, -0.01, label, transform=below, **style)
