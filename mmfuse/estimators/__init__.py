"""FusionClassifier and FusionRegressor: any head behind scikit-learn's API."""

from __future__ import annotations

from mmfuse.estimators.classifier import FusionClassifier, FusionRegressor

__all__ = ["FusionClassifier", "FusionRegressor"]
