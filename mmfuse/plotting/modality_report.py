"""The plots of a modality report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmfuse._require import require
from mmfuse.plotting.panels import draw_removal, draw_shares, draw_subsets
from mmfuse.plotting.reliability import ReliabilityDisplay
from mmfuse.report.text import shown_subsets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mmfuse.report import ModalityReport

__all__ = ["ModalityReportDisplay"]

_PART_WIDTH = 5.2  # inches
_ROW_HEIGHT = 0.24


class ModalityReportDisplay:
    """The figure of a modality report.

    Six panels: loss and score of the subsets; change of loss and of score when one modality is
    removed, with intervals; Shapley shares of the loss; and the reliability diagram for
    classifiers or the Shapley shares of R2 for regressors. With more than 31 subsets, the
    subset panels keep single modalities, all but one, all, and the best of each size between.

    Parameters
    ----------
    report : ModalityReport
        The numbers.

    Attributes
    ----------
    axes_ : ndarray of shape (6,)
        Axes of the panels, row by row.
    figure_ : matplotlib Figure
        Figure that holds them.
    """

    def __init__(self, report: ModalityReport) -> None:
        self.report = report

    def plot(self, axes: Any = None) -> ModalityReportDisplay:
        """Draw all panels.

        Parameters
        ----------
        axes : array-like of six matplotlib axes, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        ModalityReportDisplay
            Itself, with ``axes_`` and ``figure_``.

        Raises
        ------
        ValueError
            If ``axes`` does not hold six axes.
        """
        if axes is None:
            caller = "ModalityReportDisplay.plot"
            pyplot = require("matplotlib.pyplot", extra="plot", caller=caller)
            heights = self._heights()
            size = (2 * _PART_WIDTH, sum(heights))
            figure = pyplot.figure(figsize=size, layout=_layout(caller))
            axes = figure.subplots(3, 2, height_ratios=heights)
        axes = np.asarray(axes, dtype=object).ravel()
        if len(axes) != 6:
            raise ValueError(
                f"ModalityReportDisplay.plot: axes must hold six axes; got {len(axes)}."
            )
        self.draw_subsets(axes[:2])
        self.draw_removal(axes[2:4])
        self.draw_shares(axes[4:])
        self.axes_, self.figure_ = axes, axes[0].figure
        return self

    def figures(self) -> dict[str, Figure]:
        """Draw each pair of panels on a figure of its own, outside pyplot.

        Returns
        -------
        dict of str to Figure
            Keys ``"subsets"``, ``"removal"`` and ``"shares"``.
        """
        caller = "ModalityReportDisplay.figures"
        matplotlib_figure = require("matplotlib.figure", extra="plot", caller=caller)
        made = {}
        for name, height in zip(("subsets", "removal", "shares"), self._heights(), strict=True):
            size = (2 * _PART_WIDTH, height)
            figure = matplotlib_figure.Figure(figsize=size, layout=_layout(caller))
            getattr(self, f"draw_{name}")(figure.subplots(1, 2))
            made[name] = figure
        return made

    def draw_subsets(self, axes: Any) -> None:
        """Draw loss and score of the subsets on two axes."""
        draw_subsets(self.report, *axes)

    def draw_removal(self, axes: Any) -> None:
        """Draw what is lost without each modality on two axes."""
        draw_removal(self.report, self.report.loss, axes[0])
        draw_removal(self.report, self.report.score, axes[1])

    def draw_shares(self, axes: Any) -> None:
        """Draw the Shapley shares and, for classifiers, the reliability diagram on two axes."""
        draw_shares(self.report, self.report.loss, axes[0])
        bins = self.report.reliability
        if bins is None:
            draw_shares(self.report, self.report.score, axes[1])
            return
        ReliabilityDisplay(
            confidence=bins["confidence"], accuracy=bins["accuracy"], weight=bins["weight"]
        ).plot(axes[1])

    def _heights(self) -> list[float]:
        """Heights of the three rows of panels, in inches."""
        count = len(self.report.modalities)
        rows = _ROW_HEIGHT * len(shown_subsets(self.report))
        lowest = 3.2 if self.report.reliability is not None else 1.4 + 0.3 * count
        return [1.1 + rows + (1.2 if count > 3 else 0.0), 1.3 + 0.3 * count, lowest]


def _layout(caller: str) -> Any:
    engines = require("matplotlib.layout_engine", extra="plot", caller=caller)
    return engines.ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.12, wspace=0.05, hspace=0.06)
