"""The picture of an explained row: a waterfall from the base to the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmfuse._require import require
from mmfuse.plotting.panels import DARK, GREY, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mmfuse.explanations.explanation import RowExplanation
    from mmfuse.explanations.faithfulness import Faithfulness

__all__ = ["ExplanationDisplay", "FaithfulnessDisplay"]

_SMALL = 7.5


class ExplanationDisplay:
    """What raises the answer in solid bars, what lowers it in hatched ones.

    Parameters
    ----------
    row : RowExplanation
    output : class or target, optional
        By default the one with the largest answer.
    max_parts : int, default=12

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    ax_: Axes
    figure_: Any

    def __init__(self, row: RowExplanation, *, output: Any = None, max_parts: int = 12) -> None:
        self.row, self.output, self.max_parts = row, output, max_parts

    def plot(self, ax: Axes | None = None) -> ExplanationDisplay:
        """Draw into ``ax``, or into a figure of its own.

        Raises
        ------
        ModuleNotFoundError
            If matplotlib is missing; names ``pip install 'mmfuse[plot]'``.
        """
        pyplot = require("matplotlib.pyplot", extra="plot", caller="ExplanationDisplay.plot")
        whole = self.row.explanation
        output = self.row.default_output() if self.output is None else self.output
        k = whole.output_index(output)
        steps = self.row.steps(output, self.max_parts)
        if ax is None:
            height = 1.3 + 0.3 * len(steps)
            _, ax = pyplot.subplots(figsize=(6.2, height), layout="constrained")
        ax.use_sticky_edges = False  # or the longest bar would end in the frame
        start, end = float(self.row.base[k]), float(self.row.prediction[k])
        at = start
        for y, (_, value, _) in enumerate(steps):
            self._bar(ax, y, at, value)
            at += value
        self._frame(ax, steps, start, end)
        of = "" if output in ("value", "expected") else f" of {output}"
        title = f"Row {self.row.index}: {whole.quantity}{of}".replace("$", r"\$")
        ax.set_title(title, fontsize=9.5, loc="left", fontweight="bold")
        adds = "" if whole.method != "occlusion" else "; occlusion does not add up"
        ax.set_xlabel(
            f"dotted: {whole.base_label} {start:.3g}; solid line: the model's answer {end:.3g}\n"
            f"solid bars raise it, hatched bars lower it{adds}",
            fontsize=_SMALL,
        )
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _bar(self, ax: Axes, y: int, at: float, value: float) -> None:
        up = value >= 0
        ax.barh(
            y,
            value,
            left=at,
            height=0.62,
            color=DARK if up else "white",
            edgecolor=DARK,
            hatch=None if up else "////",
            linewidth=0.9,
        )
        ax.plot([at + value] * 2, [y - 0.31, y + 1.31], color=GREY, linewidth=0.8, zorder=0)

    def _frame(
        self, ax: Axes, steps: list[tuple[str, float, str]], start: float, end: float
    ) -> None:
        """Names on the left, figures in a column on the right, lines for base and answer."""
        names = [f"{name} ({state})" if state else name for name, _, state in steps]
        ax.set_yticks(range(len(steps)), [name.replace("$", r"\$") for name in names])
        ax.set_ylim(len(steps) - 0.4, -0.6)
        for y, (_, value, state) in enumerate(steps):
            label = "" if state else f"{value:+.3g}"
            ax.text(1.02, y, label, transform=ax.get_yaxis_transform(), va="center", fontsize=8)
        bare(ax)
        ax.axvline(start, color="black", linewidth=0.9, linestyle=":")
        ax.axvline(end, color="black", linewidth=0.9)


class FaithfulnessDisplay:
    """Answer lost when the top parts are deleted, against random ones.

    Parameters
    ----------
    faithfulness : Faithfulness

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    ax_: Axes
    figure_: Any

    def __init__(self, faithfulness: Faithfulness) -> None:
        self.faithfulness = faithfulness

    def plot(self, ax: Axes | None = None) -> FaithfulnessDisplay:
        """Draw into ``ax``, or into a figure of its own."""
        pyplot = require("matplotlib.pyplot", extra="plot", caller="FaithfulnessDisplay.plot")
        if ax is None:
            _, ax = pyplot.subplots(figsize=(5.2, 3.4), layout="constrained")
        curve = self.faithfulness.curve
        share = np.asarray(curve.index)
        for name, style, color in (("top", "o-", DARK), ("random", "s--", "#777777")):
            ax.plot(share, curve[name], style, color=color, markersize=4, label=name)
            ax.fill_between(
                share, curve[f"{name}_low"], curve[f"{name}_high"], color=color, alpha=0.15
            )
        bare(ax, grid="both")
        ax.set_xlabel("share of the parts that is deleted", fontsize=8)
        ax.set_ylabel(f"loss of {self.faithfulness.quantity}", fontsize=8)
        ax.legend(frameon=False)
        self.ax_, self.figure_ = ax, ax.figure
        return self
