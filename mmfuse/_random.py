"""Randomness stays at home: torch code runs from ``random_state`` and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from sklearn.utils import check_random_state

__all__ = ["seeded", "spawn_seed"]


def spawn_seed(random_state: int | np.random.RandomState | None) -> int:
    """Draw one integer seed, as scikit-learn's estimators do."""
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch inside the block and give the caller's generators back after it."""
    import torch

    # seeding reaches every GPU that this process has started
    count = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
    with torch.random.fork_rng(devices=list(range(count))):
        torch.manual_seed(seed)
        yield
