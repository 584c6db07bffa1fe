"""The picture of coverage and size of sets or intervals by availability pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mmfuse._require import require
from mmfuse.conformal.coverage import coverage_by_pattern
from mmfuse.plotting.panels import DARK, GREY, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CoverageDisplay"]


class CoverageDisplay:
    """Coverage with its interval, and size of sets or intervals, for every pattern.

    Use `from_estimator` to make one.

    Parameters
    ----------
    table : DataFrame
        From `mmfuse.conformal.coverage.coverage_by_pattern`.
    coverage : float
        What was asked.
    size_label : str, default="mean number of classes"

    Attributes
    ----------
    axes_ : ndarray of shape (2,)
        Axes of coverage and of size.
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import pandas as pd
    >>> from mmfuse.plotting import CoverageDisplay
    >>> line = {"pattern": "text", "rows": 50, "covered": 0.9, "low": 0.8, "high": 0.96, "size": 2}
    >>> CoverageDisplay(pd.DataFrame([line]), 0.9).coverage
    0.9
    """

    axes_: np.ndarray
    figure_: Any

    def __init__(
        self, table: pd.DataFrame, coverage: float, *, size_label: str = "mean number of classes"
    ) -> None:
        self.table = table
        self.coverage = coverage
        self.size_label = size_label

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        coverage: float = 0.9,
        by: Any = None,
        axes: Any = None,
        **options: Any,
    ) -> CoverageDisplay:
        """Measure a fitted model on rows that it has not seen, and draw.

        Parameters
        ----------
        estimator : FusionClassifier or FusionRegressor
        X, y, coverage, by, **options
            As in `mmfuse.conformal.coverage.coverage_by_pattern`.
        axes : array-like of two matplotlib axes, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        CoverageDisplay
            Drawn.
        """
        table = coverage_by_pattern(estimator, X, y, coverage, by=by, **options)
        classes = hasattr(estimator, "classes_")
        label = "mean number of classes" if classes else "median width, in the unit of y"
        return cls(table, coverage, size_label=label).plot(axes)

    def plot(self, axes: Any = None) -> CoverageDisplay:
        """Draw into two axes, or into a figure of its own.

        Returns
        -------
        CoverageDisplay
            Itself, with ``axes_`` and ``figure_``.

        Raises
        ------
        ValueError
            If ``axes`` does not hold two axes.
        ModuleNotFoundError
            If matplotlib is missing; names ``pip install 'mmfuse[plot]'``.
        """
        if axes is None:
            pyplot = require("matplotlib.pyplot", extra="plot", caller="CoverageDisplay.plot")
            size = (7.6, 1.3 + 0.3 * len(self.table))
            _, axes = pyplot.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
        axes = np.asarray(axes, dtype=object).ravel()
        if len(axes) != 2:
            raise ValueError(f"CoverageDisplay.plot: axes must hold two axes; got {len(axes)}.")
        self._draw_coverage(axes[0])
        place = np.arange(len(self.table))
        size = self.table["size"].to_numpy(dtype=float)
        axes[1].barh(place, np.where(np.isfinite(size), size, 0.0), height=0.55, color=GREY)
        for at, value in zip(place, size, strict=True):
            if not np.isfinite(value):
                axes[1].text(0, at, " infinite", va="center", fontsize=7)
        bare(axes[1])
        axes[1].set_xlabel(self.size_label, fontsize=7.5)
        self.axes_, self.figure_ = axes, axes[0].figure
        return self

    def _draw_coverage(self, ax: Axes) -> None:
        table = self.table
        share = table["covered"].to_numpy(dtype=float)
        reach = np.stack([share - table["low"], table["high"] - share])
        place = np.arange(len(table))
        ax.axvline(self.coverage, color=GREY, linewidth=1.2, zorder=0)
        ax.errorbar(share, place, xerr=reach, fmt="o", color=DARK, markersize=4.5, elinewidth=1.1)
        names = [c for c in table.columns if c not in ("covered", "low", "high", "size", "rows")]
        labels = table[names].astype(str).agg(", ".join, axis=1)
        ax.set_yticks(place, [f"{n}  ({r})" for n, r in zip(labels, table["rows"], strict=True)])
        ax.set_ylim(len(table) - 0.5, -0.5)
        bare(ax)
        ax.set_xlabel(
            f"share of rows covered, 95 % interval; line: {self.coverage:g} asked", fontsize=7.5
        )
