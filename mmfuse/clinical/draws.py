"""Resamples of rows or groups as counts, for scores that are functions of sums."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["draw_counts"]

_CHUNK = 2**21  # counts held at once: 16 MiB


def draw_counts(
    groups: np.ndarray | None,
    n_rows: int,
    n_bootstrap: int,
    seed: int,
    weight: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """How often every row is in the resamples, some of them at a time: (b, n), float64.

    Rows of a group are drawn together. The same seed gives the same resamples. With ``weight``
    (n,) a row that is drawn twice counts twice its weight.
    """
    units = np.arange(n_rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(units.max()) + 1
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // n_rows)
    for start in range(0, n_bootstrap, step):
        size = min(step, n_bootstrap - start)
        drawn = rng.multinomial(count, np.full(count, 1.0 / count), size=size)
        counts = drawn[:, units].astype(np.float64)
        yield counts if weight is None else counts * weight
