"""The picture of an ablation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmfuse._require import require
from mmfuse.plotting.panels import DARK, GREY, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mmfuse.ablation import Ablation

__all__ = ["AblationDisplay"]

_MARKS = "osD^vP"


class AblationDisplay:
    """Loss of every subset of the modalities, with its interval, the best on top.

    Parameters
    ----------
    ablation : Ablation

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    ax_: Axes
    figure_: Any

    def __init__(self, ablation: Ablation) -> None:
        self.ablation = ablation

    def plot(self, ax: Axes | None = None) -> AblationDisplay:
        """Draw into ``ax``, or into a figure of its own.

        Raises
        ------
        ModuleNotFoundError
            If matplotlib is missing; names ``pip install 'mmfuse[plot]'``.
        """
        pyplot = require("matplotlib.pyplot", extra="plot", caller="AblationDisplay.plot")
        table = self.ablation.summary.reset_index()
        order = list(dict.fromkeys(table["subset"]))
        heads = list(dict.fromkeys(table["head"]))
        if ax is None:
            height = 0.9 + 0.32 * len(order)
            _, ax = pyplot.subplots(figsize=(6.2, height), layout="constrained")
        spread = 0.5 / max(len(heads), 1)
        for h, head in enumerate(heads):
            part = table[table["head"] == head]
            place = np.array([order.index(s) for s in part["subset"]], dtype=float)
            place += (h - (len(heads) - 1) / 2) * spread
            reach = np.stack([part["loss"] - part["loss_low"], part["loss_high"] - part["loss"]])
            color = DARK if h == 0 else f"C{h}"
            ax.errorbar(
                part["loss"],
                place,
                xerr=reach,
                fmt=_MARKS[h % len(_MARKS)],
                color=color,
                markersize=4.5,
                elinewidth=1.1,
                label=head,
            )
        ax.axvline(table["loss"].min(), color=GREY, linewidth=0.8, zorder=0)
        ax.set_yticks(range(len(order)), order)
        ax.invert_yaxis()
        classes = self.ablation.task == "classification"
        measure = "log loss" if classes else "mean squared error"
        ax.set_xlabel(f"{measure} of held-out rows, {self.ablation.confidence:.0%} interval")
        bare(ax)
        if len(heads) > 1:
            ax.legend(frameon=False)
        self.ax_, self.figure_ = ax, ax.figure
        return self
