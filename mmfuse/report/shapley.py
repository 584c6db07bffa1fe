"""Exact Shapley values from the worth of every subset."""

from __future__ import annotations

from collections.abc import Mapping
from math import comb

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["shapley_values"]


def shapley_values(values: Mapping[int, float] | ArrayLike) -> np.ndarray:
    """Share the worth of the full set among its members.

    A member's share is what it adds to a set, averaged over all orders in which the members can
    join. The shares sum to the worth of the full set less that of the empty one.

    Parameters
    ----------
    values : mapping or array-like of shape (2**n_members,) or (2**n_members, n_games)
        Worth of every subset. The key or the position is a bitmask: bit i is set when member i
        is in the subset, so 0 is the empty set.

    Returns
    -------
    ndarray of shape (n_members,) or (n_members, n_games)
        Shares, in the unit of ``values``.

    Raises
    ------
    ValueError
        If ``values`` does not hold exactly one value for each of the subsets.

    References
    ----------
    L. S. Shapley, "A value for n-person games", Contributions to the Theory of Games II, 1953.
    """
    worth = _worth_by_mask(values)
    n_members = len(worth).bit_length() - 1
    masks = np.arange(len(worth))
    bits = (masks[:, None] >> np.arange(n_members)) & 1  # (subsets, members)
    sizes = bits.sum(axis=1)
    shares = np.zeros((n_members, *worth.shape[1:]))
    for member in range(n_members):
        without = masks[bits[:, member] == 0]
        weight = [1.0 / (n_members * comb(n_members - 1, int(s))) for s in sizes[without]]
        gain = worth[without | (1 << member)] - worth[without]
        shares[member] = np.tensordot(weight, gain, axes=1)
    return shares


def _worth_by_mask(values: Mapping[int, float] | ArrayLike) -> np.ndarray:
    if isinstance(values, Mapping):
        missing = [mask for mask in range(len(values)) if mask not in values]
        if missing:
            raise ValueError(
                f"shapley_values: values must have the keys 0 to 2**n_members - 1; of "
                f"{len(values)} keys, {missing[0]} is not there."
            )
        values = [values[mask] for mask in range(len(values))]
    worth = np.asarray(values, dtype=np.float64)
    if worth.ndim == 0 or len(worth) == 0 or len(worth) & (len(worth) - 1):
        raise ValueError(
            "shapley_values: values must hold one value per subset, 2**n_members of them; got "
            f"an array of shape {worth.shape}."
        )
    return worth
