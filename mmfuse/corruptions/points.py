"""Corruptions of point clouds: floats (n_points, 3 or more)."""

from __future__ import annotations

import numpy as np

from mmfuse.corruptions.registry import register_corruption

__all__ = ["dropped_points", "range_noise"]


@register_corruption(
    "dropped_points", kind="points", levels=(0.1, 0.25, 0.5, 0.75, 0.9), unit="share of points"
)
def dropped_points(points, level, rng):
    """Leave points out."""
    return points[rng.random(len(points)) >= level]


@register_corruption(
    "range_noise", kind="points", levels=(0.02, 0.05, 0.1, 0.2, 0.5), unit="metres"
)
def range_noise(points, level, rng):
    """Move every point along its ray by Gaussian noise."""
    distance = np.maximum(np.linalg.norm(points[:, :3], axis=1), 1e-9)
    out = points.copy()
    out[:, :3] *= (1 + level * rng.standard_normal(len(points)) / distance)[:, None]
    return out
