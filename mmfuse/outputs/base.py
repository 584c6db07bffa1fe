"""The contract of an output: what is learned of a value, and what is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mmfuse._rows import PREDICT_ROWS
from mmfuse.density.binning import quantile_levels
from mmfuse.density.piecewise import Density

__all__ = ["FITTED", "Output", "fill_with_prior"]

FITTED = (
    "bin_edges_",
    "density_edges_",
    "density_forest_",
    "mixture_start_",
    "pit_map_",
    "prior_quantiles_",
    "quantile_levels_",
    "quantile_shift_",
    "residual_std_",
    "spread_ratio_",
    "target_centre_",
    "temperature_",
)
"""Attributes that one output or another sets in ``fit``; None where it does not."""

Train = Callable[..., "np.ndarray | None"]


class Output:
    """What `FusionRegressor` does for one value of its argument ``output``.

    An output keeps nothing itself: parameters are read from the model, and what is learned becomes
    attributes of the model, listed in ``FITTED`` and in `mmfuse.saving`.

    Attributes
    ----------
    name : str
        The value of the argument.
    calibrations : tuple
        Allowed values of the argument ``calibration``.
    several_targets : bool
        Whether y may have several columns.
    """

    name: str
    calibrations: tuple[str | None, ...] = ("auto", None)
    several_targets = False

    def check(self, model: Any) -> None:
        """Raise a ValueError for a wrong argument of this output."""

    def fit(self, model: Any, y: np.ndarray, weight: np.ndarray, train: Train) -> None:
        """Learn from y (n, T) and weights (n,).

        ``train(target, objective)`` fits the head and gives its out-of-fold scores, or None.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define fit")

    def learn_density(self, model: Any, held: Any, y: np.ndarray, weight: np.ndarray) -> None:
        """Learn more of densities from rows that the head did not see; here nothing.

        ``held`` is a `HeldOut` or None, y (n, T) and weight (n,) are those of ``fit``.
        """

    def density(self, model: Any, X: Any, grid: ArrayLike | None) -> Density:
        """Predictive density of every row, on ``grid`` where that is given."""
        raise NotImplementedError(f"{type(self).__name__} does not define density")

    def predict(self, model: Any, X: Any) -> np.ndarray:
        """Values (n, T): here the summary of the density that the model's ``point`` names."""
        blocks = model.encode(X)
        values = [np.empty(0)]
        for start in range(0, len(blocks), PREDICT_ROWS):  # a density is wide
            density = self.density(model, blocks[start : start + PREDICT_ROWS], None)
            values.append(getattr(density, model.point)())
        return np.concatenate(values)[:, None]

    def quantiles(self, model: Any, X: Any, levels: np.ndarray) -> np.ndarray:
        """Quantiles (n, L) of every row at levels (L,)."""
        return self.density(model, X, None).quantile(levels)

    def interval(self, model: Any, X: Any, coverage: float) -> np.ndarray:
        """Ends (n, 2) of the central interval of every row."""
        return self.density(model, X, None).interval(coverage)


def fill_with_prior(model: Any, edges: np.ndarray, present: np.ndarray, proba: np.ndarray) -> None:
    """Give rows with nothing present the distribution of the training target, in place."""
    nothing = ~present.any(axis=1)
    proba[nothing] = np.diff(quantile_levels(model.prior_quantiles_, edges))
