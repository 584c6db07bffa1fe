"""Scores of predictions: of probabilities, densities and ordered classes, with intervals."""

from __future__ import annotations

from mmfuse.metrics.brier import BrierDecomposition, brier_decomposition
from mmfuse.metrics.calibration import (
    ReliabilityCurve,
    classwise_calibration_error,
    expected_calibration_error,
    reliability_curve,
)
from mmfuse.metrics.costs import expected_cost
from mmfuse.metrics.densities import bias, cde_loss, crps, nmad, outlier_fraction, pit
from mmfuse.metrics.ordinal import quadratic_kappa, ranked_probability_score
from mmfuse.metrics.probabilities import (
    brier_score,
    brier_score_per_row,
    log_loss,
    log_loss_per_row,
)
from mmfuse.metrics.resampling import BootstrapResult, bootstrap
from mmfuse.metrics.thresholds import choose_threshold, operating_points

__all__ = [
    "BootstrapResult",
    "BrierDecomposition",
    "ReliabilityCurve",
    "bias",
    "bootstrap",
    "brier_decomposition",
    "brier_score",
    "brier_score_per_row",
    "cde_loss",
    "choose_threshold",
    "classwise_calibration_error",
    "crps",
    "expected_calibration_error",
    "expected_cost",
    "log_loss",
    "log_loss_per_row",
    "nmad",
    "operating_points",
    "outlier_fraction",
    "pit",
    "quadratic_kappa",
    "ranked_probability_score",
    "reliability_curve",
]
