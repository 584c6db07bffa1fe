"""Modality dropout: which modalities to hide, and how often."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

__all__ = ["draw_presence", "dropout_patterns"]

_EXACT = 4
_DRAWN = 12


def dropout_patterns(n_modalities: int, rate: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Patterns of kept modalities and their probabilities.

    Parameters
    ----------
    n_modalities : int
        M. Up to four modalities every pattern is listed; beyond, the full pattern and twelve
        drawn ones stand for all.
    rate : float
        Chance that a modality is hidden, independently; a row never loses its last one.

    Returns
    -------
    patterns : Tensor of shape (S, M), bool
        The first keeps everything.
    weight : Tensor of shape (S,)
        Sums to one.
    """
    if n_modalities == 1 or rate == 0:
        return torch.ones(1, n_modalities, dtype=torch.bool), torch.ones(1, dtype=torch.float64)
    if n_modalities <= _EXACT:
        kept = [p for p in product([True, False], repeat=n_modalities) if any(p)]
        patterns = torch.tensor(kept)
        hidden = (~patterns).sum(dim=1).double()
        weight = rate**hidden * (1 - rate) ** (n_modalities - hidden)
        return patterns, weight / weight.sum()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(_DRAWN, n_modalities, generator=generator) >= rate
    drawn[~drawn.any(dim=1), 0] = True
    full = (1 - rate) ** n_modalities
    weight = torch.full((_DRAWN + 1,), (1 - full) / _DRAWN, dtype=torch.float64)
    weight[0] = full
    return torch.cat([torch.ones(1, n_modalities, dtype=torch.bool), drawn]), weight


def draw_presence(presence: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Hide each present modality with chance ``rate``, row by row; a row keeps at least one."""
    chance = torch.rand(presence.shape, generator=generator, device=presence.device)
    kept = presence & (chance >= rate)
    lost = presence.any(dim=1) & ~kept.any(dim=1)
    last = torch.where(presence, chance, -1.0).argmax(dim=1)
    kept[lost, last[lost]] = True
    return kept
