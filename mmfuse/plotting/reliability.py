"""Reliability diagrams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from mmfuse._require import require
from mmfuse.metrics import expected_calibration_error, reliability_curve
from mmfuse.plotting.panels import DARK, GREY, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ReliabilityDisplay"]


class ReliabilityDisplay:
    """Reliability diagram: how often the model is right when it says that it is.

    Use `from_estimator` or `from_predictions` to make one.

    Parameters
    ----------
    confidence : ndarray of shape (n_bins,)
        Mean probability of the predicted class in each bin; NaN in empty bins.
    accuracy : ndarray of shape (n_bins,)
        Share of right predictions in each bin.
    weight : ndarray of shape (n_bins,)
        Rows, or the sum of their weights, in each bin.
    ece : float, default=None
        Expected calibration error; computed from the bins if not given.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the diagram.
    figure_ : matplotlib Figure
        Figure that holds them.
    line_ : matplotlib Line2D
        Points of the bins.

    See Also
    --------
    mmfuse.metrics.reliability_curve : The numbers alone.
    """

    ax_: Axes
    figure_: Any
    line_: Any

    def __init__(
        self,
        *,
        confidence: np.ndarray,
        accuracy: np.ndarray,
        weight: np.ndarray,
        ece: float | None = None,
    ) -> None:
        self.confidence = np.asarray(confidence, dtype=np.float64)
        self.accuracy = np.asarray(accuracy, dtype=np.float64)
        self.weight = np.asarray(weight, dtype=np.float64)
        if ece is None:
            filled = self.weight > 0
            gap = np.abs(self.confidence[filled] - self.accuracy[filled])
            ece = float(np.average(gap, weights=self.weight[filled]))
        self.ece = ece

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        n_bins: int = 15,
        strategy: str = "width",
        sample_weight: ArrayLike | None = None,
        ax: Axes | None = None,
    ) -> ReliabilityDisplay:
        """Predict with a fitted classifier and draw its reliability diagram.

        Parameters
        ----------
        estimator : classifier
            Fitted, with ``predict_proba`` and ``classes_``.
        X : array-like or ModalityTable of shape (n_samples, ...)
            Rows to predict.
        y : array-like of shape (n_samples,)
            True classes.
        n_bins : int, default=15
            Number of bins.
        strategy : {"width", "mass"}, default="width"
            Bins of equal width or of equal weight of rows.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        ReliabilityDisplay
            Drawn.

        Raises
        ------
        TypeError
            If the estimator predicts no probabilities.
        """
        if not hasattr(estimator, "predict_proba"):
            raise TypeError(
                "ReliabilityDisplay.from_estimator needs a classifier with predict_proba; got "
                f"{type(estimator).__name__}."
            )
        return cls.from_predictions(
            y,
            estimator.predict_proba(X),
            n_bins=n_bins,
            strategy=strategy,
            classes=estimator.classes_,
            sample_weight=sample_weight,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        proba: ArrayLike,
        *,
        n_bins: int = 15,
        strategy: str = "width",
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        ax: Axes | None = None,
    ) -> ReliabilityDisplay:
        """Draw the reliability diagram of probabilities.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            True classes.
        proba : array-like of shape (n_samples, n_classes)
            Probabilities.
        n_bins : int, default=15
            Number of bins.
        strategy : {"width", "mass"}, default="width"
            Bins of equal width or of equal weight of rows.
        classes : array-like of shape (n_classes,), default=None
            Class of each column; None takes the sorted classes of ``y_true``.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        ReliabilityDisplay
            Drawn.
        """
        options: dict[str, Any] = {
            "n_bins": n_bins,
            "strategy": strategy,
            "classes": classes,
            "sample_weight": sample_weight,
        }
        curve = reliability_curve(y_true, proba, **options)
        display = cls(
            confidence=curve.confidence,
            accuracy=curve.accuracy,
            weight=curve.weight,
            ece=expected_calibration_error(y_true, proba, **options),
        )
        return display.plot(ax)

    def plot(self, ax: Axes | None = None) -> ReliabilityDisplay:
        """Draw the diagram.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        ReliabilityDisplay
            Itself, with ``ax_``, ``figure_`` and ``line_``.
        """
        if ax is None:
            pyplot = require("matplotlib.pyplot", extra="plot", caller="ReliabilityDisplay.plot")
            _, ax = pyplot.subplots(figsize=(4.6, 4.2), layout="constrained")
        filled = self.weight > 0
        share = self.weight[filled] / self.weight.sum()
        ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", zorder=1)
        ax.bar(self.confidence[filled], share, width=0.03, color=GREY)
        (self.line_,) = ax.plot(
            self.confidence[filled], self.accuracy[filled], "o-", color=DARK, linewidth=1.2
        )
        bare(ax, grid="both")
        ax.set(xlim=(0, 1.02), ylim=(0, 1.02))
        ax.set_ylabel("accuracy", fontsize=7.5)
        ax.set_xlabel(
            "confidence: probability of the predicted class\n"
            "dots: bins; dashed: perfect; grey: share of rows",
            fontsize=7.5,
        )
        ax.set_title(
            f"Reliability (ECE {self.ece:.3f})", fontsize=9.5, loc="left", fontweight="bold"
        )
        self.ax_, self.figure_ = ax, ax.figure
        return self
