"""Bins of the target as classes: probabilities of any shape."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from mmfuse.calibration.temperature import make_calibrator
from mmfuse.density.binning import bin_index, make_edges
from mmfuse.density.piecewise import Density
from mmfuse.density.recalibration import PITRecalibrator, apply_map
from mmfuse.outputs.base import Output, Train

__all__ = ["BinnedOutput"]


class BinnedOutput(Output):
    """The head classifies the bins of the target."""

    name = "binned"
    calibrations = ("auto", "pit", None)

    def fit(self, model: Any, y: np.ndarray, weight: np.ndarray, train: Train) -> None:
        from mmfuse.objectives import Multinomial

        edges = make_edges(model.bins, y[:, 0], weight)
        index = bin_index(y[:, 0], edges, weight)
        model.bin_edges_ = edges
        totals = np.bincount(index, weights=weight, minlength=len(edges) - 1)
        model.prior_ = totals / totals.sum()
        oof = train(index, Multinomial(len(totals)))
        kind = None if model.calibration is None else "auto"
        calibrator = make_calibrator(kind, oof, index, weight)
        if calibrator is None or oof is None:
            return
        model.temperature_ = calibrator.temperature_
        model.history_["calibration"] = calibrator.get_state()
        if model.calibration == "pit":
            held = np.isfinite(oof).all(axis=1) & (weight > 0)
            density = Density(edges, softmax(oof[held] / model.temperature_, axis=1))
            fitted = PITRecalibrator().fit(density, y[held, 0], weight[held])
            model.pit_map_ = np.stack([fitted.pit_, fitted.level_])

    def density(self, model: Any, X: Any, grid: ArrayLike | None) -> Density:
        if grid is not None:
            raise ValueError("This model has bins of its own; grid is for the other outputs.")
        blocks, scores = model._output(X)
        density = Density(model.bin_edges_, softmax(scores / (model.temperature_ or 1.0), axis=1))
        proba = apply_map(model.pit_map_, density).probabilities.copy()
        proba[~blocks.present.any(axis=1)] = model.prior_
        return Density(model.bin_edges_, proba)
