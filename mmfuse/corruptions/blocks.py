"""Corruptions of encoded features, for any modality."""

from __future__ import annotations

import numpy as np

from mmfuse.corruptions.registry import register_corruption

__all__ = ["dropped_features", "feature_noise", "swapped_rows"]


@register_corruption(
    "feature_noise", kind="block", levels=(0.25, 0.5, 1, 2, 4), unit="training standard deviations"
)
def feature_noise(values, level, rng, *, scale, groups):
    """Add Gaussian noise of a multiple of each feature's standard deviation in training."""
    return values + level * scale * rng.standard_normal(values.shape)


@register_corruption(
    "dropped_features", kind="block", levels=(0.1, 0.25, 0.5, 0.75, 0.9), unit="share of features"
)
def dropped_features(values, level, rng, *, scale, groups):
    """Make features NaN, in every row others; a row that loses all is absent."""
    values[rng.random(values.shape) < level] = np.nan
    return values


@register_corruption(
    "swapped_rows", kind="block", levels=(0.1, 0.25, 0.5, 0.75, 1), unit="share of rows"
)
def swapped_rows(values, level, rng, *, scale, groups):
    """Give rows the modality of another row, of another group if groups are known.

    A stream that has slipped, or files of two people that were mixed up: every part is genuine,
    and they do not belong together.
    """
    order = rng.permutation(len(values))
    chosen = np.sort(order[: int(round(level * len(values)))])
    if len(chosen) < 2:
        return values
    if groups is None:
        chosen = rng.permutation(chosen)
        values[chosen] = values[np.roll(chosen, 1)]
        return values
    chosen = chosen[np.argsort(groups[chosen], kind="stable")]
    largest = np.bincount(np.unique(groups[chosen], return_inverse=True)[1]).max()
    donors = np.roll(chosen, largest)  # in another group, unless one holds more than half
    other = groups[donors] != groups[chosen]
    values[chosen[other]] = values[donors[other]]
    return values
