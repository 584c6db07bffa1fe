"""Densities of a value on a grid, the bins they are learned in, and their recalibration."""

from __future__ import annotations

from mmfuse.density.piecewise import Density, check_edges
from mmfuse.density.recalibration import PITRecalibrator, apply_map

__all__ = ["Density", "PITRecalibrator", "apply_map", "check_edges"]
