"""The picture of a decision curve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from mmfuse._require import require
from mmfuse.metrics.net_benefit import DecisionCurve, decision_curve
from mmfuse.plotting.panels import BLUE, DARK, ORANGE, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["DecisionCurveDisplay"]

_PANEL = 4.0, 3.5  # inches
_COLUMNS = 3
# dark to light, each with a mark of its own, so that a copy without colour tells them apart
_STYLES = [(DARK, None), (ORANGE, "o"), (BLUE, "s"), ("#111111", "^")]


class DecisionCurveDisplay:
    """Net benefit over thresholds, one panel an event.

    Use `from_estimator` or `from_predictions` to make one.

    Parameters
    ----------
    curve : DecisionCurve
    name : str, default=None
        Name of the model in the legend.

    Attributes
    ----------
    axes_ : ndarray of shape (n_events,)
        Axes of the panels.
    ax_ : matplotlib Axes
        The first of them.
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        The line of the model in each panel.

    See Also
    --------
    mmfuse.decision_curve : The numbers alone.
    """

    ax_: Axes
    axes_: np.ndarray
    figure_: Any
    lines_: list

    def __init__(self, *, curve: DecisionCurve, name: str | None = None) -> None:
        self.curve = curve
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        name: str | None = None,
        ax: Any = None,
        **options: Any,
    ) -> DecisionCurveDisplay:
        """Predict with a fitted classifier and draw its decision curves.

        Parameters
        ----------
        estimator : classifier
            Fitted, with ``predict_proba`` and ``classes_``; of a model of several outputs, one of
            them, ``model.output(t)``.
        X : array-like or ModalityTable of shape (n_samples, ...)
            Rows to predict, none of which the model was fitted on.
        y : array-like of shape (n_samples,)
            True classes.
        name : str, default=None
            Name in the legend; None takes that of the class.
        ax : matplotlib Axes or array of them, default=None
            One for every event; None makes a new figure.
        **options
            Of `mmfuse.decision_curve`: ``events``, ``thresholds``, ``groups`` and others.

        Returns
        -------
        DecisionCurveDisplay
            Drawn.

        Raises
        ------
        TypeError
            If the estimator predicts no probabilities, or those of several outputs.
        """
        caller = "DecisionCurveDisplay.from_estimator"
        kind = type(estimator).__name__
        if not hasattr(estimator, "predict_proba"):
            raise TypeError(f"{caller} needs a classifier with predict_proba; got {kind}.")
        if isinstance(estimator.classes_, list):
            raise TypeError(
                f"{caller} draws one output, and this {kind} has {len(estimator.classes_)}; pass "
                "model.output(t) and its column of y."
            )
        options = {"classes": estimator.classes_, **options}
        proba = estimator.predict_proba(X)
        return cls.from_predictions(y, proba, name=kind if name is None else name, ax=ax, **options)

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        proba: ArrayLike,
        *,
        classes: ArrayLike,
        name: str | None = None,
        ax: Any = None,
        **options: Any,
    ) -> DecisionCurveDisplay:
        """Draw the decision curves of probabilities.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            True classes.
        proba : array-like of shape (n_samples, n_classes)
            Probabilities.
        classes : array-like of shape (n_classes,)
            Class of each column.
        name : str, default=None
            Name of the model in the legend.
        ax : matplotlib Axes or array of them, default=None
            One for every event; None makes a new figure. Axes with a curve on them get another
            line, in a style of its own.
        **options
            Of `mmfuse.decision_curve`.

        Returns
        -------
        DecisionCurveDisplay
            Drawn.
        """
        curve = decision_curve(y_true, proba, classes=classes, **options)
        return cls(curve=curve, name=name).plot(ax)

    def plot(self, ax: Any = None, *, name: str | None = None) -> DecisionCurveDisplay:
        """Draw one panel an event.

        Parameters
        ----------
        ax : matplotlib Axes or array of them, default=None
            One for every event; None makes a new figure.
        name : str, default=None
            Name of the model in the legend, in place of that of the display.

        Returns
        -------
        DecisionCurveDisplay
            Itself, with ``axes_``, ``ax_``, ``figure_`` and ``lines_``.

        Raises
        ------
        ValueError
            If there are not as many axes as events.
        ModuleNotFoundError
            If matplotlib is missing; names ``pip install 'mmfuse[plot]'``.
        """
        axes = self._new_axes() if ax is None else np.asarray(ax, dtype=object).ravel()
        if len(axes) != len(self.curve.events):
            raise ValueError(
                f"DecisionCurveDisplay.plot: ax must hold {len(self.curve.events)} axes, one an "
                f"event ({', '.join(self.curve.events)}); got {len(axes)}."
            )
        label = name or self.name or "model"
        self.lines_ = [self._draw(panel, e, label) for e, panel in enumerate(axes)]
        self.axes_, self.ax_, self.figure_ = axes, axes[0], axes[0].figure
        return self

    def _new_axes(self) -> np.ndarray:
        pyplot = require("matplotlib.pyplot", extra="plot", caller="DecisionCurveDisplay.plot")
        count = len(self.curve.events)
        columns = min(count, _COLUMNS)
        rows = -(-count // columns)
        size = columns * _PANEL[0], rows * _PANEL[1]
        figure, grid = pyplot.subplots(
            rows, columns, figsize=size, layout="constrained", squeeze=False
        )
        for spare in grid.ravel()[count:]:
            figure.delaxes(spare)
        return grid.ravel()[:count]

    def _draw(self, ax: Axes, event: int, label: str) -> Any:
        curve = self.curve
        drawn = [line for line in ax.lines if line.get_gid() == "model"]
        colour, mark = _STYLES[len(drawn) % len(_STYLES)]
        order = np.argsort(curve.thresholds)
        x = curve.thresholds[order]
        if not drawn:
            ax.axhline(0.0, color="black", linewidth=1.0, linestyle=":", label="act on none")
            everyone = curve.treat_all[event, order]
            ax.plot(x, everyone, color="black", linewidth=1.0, linestyle="--", label="act on all")
        if curve.low is not None and curve.high is not None:
            ends = curve.low[event, order], curve.high[event, order]
            ax.fill_between(x, *ends, color=colour, alpha=0.12 if drawn else 0.2, linewidth=0)
        (line,) = ax.plot(
            x,
            curve.net_benefit[event, order],
            color=colour,
            marker=mark,
            markevery=max(len(x) // 12, 1),
            markersize=4,
            linewidth=1.7,
            label=label,
            gid="model",
        )
        self._finish(ax, event, bool(drawn))
        return line

    def _finish(self, ax: Axes, event: int, again: bool) -> None:
        """Limits, which acting on all would pull far below, and words."""
        curve = self.curve
        peak = max(float(curve.prevalence[event]), float(np.nanmax(curve.net_benefit[event])))
        if curve.high is not None:
            peak = max(peak, float(np.nanmax(curve.high[event])))
        low, high = -0.18 * peak, 1.08 * peak
        if again:
            low, high = min(low, ax.get_ylim()[0]), max(high, ax.get_ylim()[1])
        bare(ax, grid="both")
        ax.set(xlim=(0.0, 1.0), ylim=(low, high))
        ax.set_xlabel("threshold probability of acting", fontsize=7.5)
        ax.set_ylabel("net benefit, true positives a row", fontsize=7.5)
        title = curve.events[event].replace("$", r"\$").replace(">=", "≥")
        share = f"prevalence {curve.prevalence[event]:.2f}"
        ax.set_title(f"{title} ({share})", fontsize=9.5, loc="left", fontweight="bold")
        ax.legend(frameon=False, fontsize=7.5, loc="upper right")
