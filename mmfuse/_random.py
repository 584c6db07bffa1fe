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
def seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """Seed torch inside the block and give the caller's generators back after it."""
    import torch

    devices = [device] if str(device).startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
