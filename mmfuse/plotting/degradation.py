"""The picture of a degradation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmfuse._require import require
from mmfuse.plotting.panels import DARK, GREY, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mmfuse.degrade.measure import Degradation

__all__ = ["DegradationDisplay"]

# told apart by mark and line as well as by shade, for print without colour
_STYLES = (
    ("#003B5C", "-", "o"),
    ("#C04A00", "--", "s"),
    ("#56A0D3", "-.", "^"),
    ("#6B6B6B", ":", "D"),
    ("#000000", (0, (5, 1, 1, 1, 1, 1)), "v"),
    ("#8C6BB1", (0, (1, 1)), "P"),
    ("#2E7D32", (0, (8, 2)), "X"),
)
_WIDTH, _HEIGHT = 4.4, 4.4  # inches of a panel
_WIDE = 4.0  # how far apart losses are that want a scale of logarithms
_SMALL = 7.5


class DegradationDisplay:
    """Loss of every subset, and its course as each modality goes wrong.

    Parameters
    ----------
    degradation : Degradation

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
    figure_ : matplotlib Figure
    """

    axes_: np.ndarray
    figure_: Any

    def __init__(self, degradation: Degradation) -> None:
        self.degradation = degradation

    def plot(self, axes: Any = None) -> DegradationDisplay:
        """Draw into ``axes``, or into a figure of its own.

        Raises
        ------
        ModuleNotFoundError
            If matplotlib is missing; names ``pip install 'mmfuse[plot]'``.
        ValueError
            If the number of axes is wrong.
        """
        pyplot = require("matplotlib.pyplot", extra="plot", caller="DegradationDisplay.plot")
        frame = self.degradation.frame
        wrong = frame[frame["condition"] == "corruption"]
        names = list(dict.fromkeys(wrong["modality"]))
        if axes is None:
            count = 1 + len(names)
            columns = 2 if count == 4 else min(count, 3)
            lines = -(-count // columns)
            size = (_WIDTH * columns, _HEIGHT * lines)
            figure, grid = pyplot.subplots(
                lines, columns, figsize=size, layout="constrained", squeeze=False
            )
            for spare in grid.ravel()[count:]:
                spare.set_axis_off()
            axes = grid.ravel()[:count]
        axes = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()
        if len(axes) != 1 + len(names):
            raise ValueError(
                f"DegradationDisplay.plot: {1 + len(names)} axes are needed, one for the subsets "
                f"and one for each of {len(names)} corrupted modalities; got {len(axes)}."
            )
        self._subsets(axes[0])
        for ax, name in zip(axes[1:], names, strict=True):
            self._curves(ax, name, wrong[wrong["modality"] == name])
        self._same_scale(axes[1:])
        self.axes_, self.figure_ = axes, axes[0].figure
        return self

    @property
    def _label(self) -> str:
        return "log loss" if self.degradation.task == "classification" else "RMSE"

    def _subset_rows(self) -> Any:
        frame = self.degradation.frame
        return frame[frame["condition"] == "subset"]

    def _subsets(self, ax: Axes) -> None:
        rows = self._subset_rows().sort_values(["n_modalities", self.degradation.loss])
        loss = self.degradation.loss
        values = rows[loss].to_numpy()
        reach = np.stack([values - rows[f"{loss}_low"], rows[f"{loss}_high"] - values])
        ax.errorbar(
            values, range(len(rows)), xerr=np.maximum(reach, 0), fmt="o", color=DARK, markersize=4.5
        )
        ax.set_yticks(range(len(rows)), [_plain(name) for name in rows["modality"]])
        ax.set_title("Only these modalities are there", loc="left", fontsize=9.5)
        ax.set_xlabel(f"{self._label}, {self.degradation.confidence:.0%} interval", fontsize=_SMALL)
        bare(ax)

    def _curves(self, ax: Axes, name: str, part: Any) -> None:
        loss = self.degradation.loss
        subsets = self._subset_rows()
        whole = subsets.iloc[-1]
        rest = " + ".join(other for other in whole["modality"].split(" + ") if other != name)
        reference = subsets[subsets["modality"] == rest]
        if len(reference):
            level = reference[loss].iloc[0]
            ax.axhline(level, color="black", linewidth=1.4, label=f"without {_plain(name)}")
        for k, (label, rows) in enumerate(part.groupby("corruption", sort=False)):
            colour, line, mark = _STYLES[k % len(_STYLES)]
            x = np.arange(len(rows) + 1)
            y = np.concatenate([[whole[loss]], rows[loss]])
            low, high = (  # paired with the untouched rows, whose own doubt is on the left
                whole[loss] + np.concatenate([[0.0], rows[f"{loss}_change_{end}"]])
                for end in ("low", "high")
            )
            ax.plot(
                x, y, color=colour, linestyle=line, marker=mark, markersize=4, linewidth=1.2,
                label=f"{_plain(label)}, to {rows['level'].iloc[-1]:g} {rows['unit'].iloc[0]}",
            )  # fmt: skip
            ax.fill_between(x, low, high, color=colour, alpha=0.08, linewidth=0)
        longest = int(part.groupby("corruption").size().max())
        ax.set_xticks(range(longest + 1), ["clean", *map(str, range(1, longest + 1))])
        ax.set_title(f"{_plain(name)} goes wrong", loc="left", fontsize=9.5)
        share = f"{self.degradation.confidence:.0%}"
        ax.set_xlabel(
            f"step of the corruption (shaded: {share} interval of the change)", fontsize=_SMALL
        )
        ax.set_ylabel(self._label, fontsize=_SMALL)
        below = {"loc": "upper left", "bbox_to_anchor": (0.0, -0.16)}
        ax.legend(frameon=False, fontsize=6.5, handlelength=4, **below)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        ax.tick_params(labelsize=_SMALL, color=GREY)
        ax.grid(axis="y", color="#E6E6E6", linewidth=0.6)
        ax.set_axisbelow(True)

    def _same_scale(self, axes: np.ndarray) -> None:
        """One scale for all modalities; of logarithms where the worst would hide the rest."""
        if len(axes) == 0:
            return
        ticker = require("matplotlib.ticker", extra="plot", caller="DegradationDisplay.plot")
        values = np.concatenate([line.get_ydata() for ax in axes for line in ax.lines])
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        for ax in axes:
            if 0 < low < high / _WIDE:
                ax.set_yscale("log")
                ax.set_ylim(0.8 * low, 1.25 * high)
                ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
                ax.yaxis.set_major_formatter("{x:g}")
                ax.yaxis.set_minor_formatter(ticker.NullFormatter())
            else:
                room = 0.05 * (high - low) or 1.0
                ax.set_ylim(low - room, high + room)


def _plain(name: str) -> str:
    """A name that matplotlib does not read as TeX."""
    return str(name).replace("_", " ").replace("$", r"\$")
