"""Modality dropout: which modalities to hide, and how often."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

__all__ = ["draw_presence", "dropout_masks", "hidden"]

_EXACT = 3  # modalities up to which every pattern is listed
_DRAWN = 4  # patterns drawn for each row beyond


def dropout_masks(presence: Tensor, rate: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Which modalities each row keeps under modality dropout, as a weighted list.

    With up to three modalities every pattern of kept ones is listed, so nothing is drawn. Beyond,
    the row as it was observed stands for itself and four patterns drawn for that row for the rest.

    Parameters
    ----------
    presence : Tensor of shape (n, M), bool
    rate : float
        Chance that a modality is hidden, independently; a row never loses its last one.
    seed : int

    Returns
    -------
    masks : Tensor of shape (n, S, M), bool
        What each row keeps of what it has; the first pattern keeps everything.
    weight : Tensor of shape (S,), float64
        Sums to one.
    """
    n_modalities = presence.shape[1]
    if n_modalities == 1 or rate == 0:
        return presence[:, None], torch.ones(1, dtype=torch.float64, device=presence.device)
    if n_modalities <= _EXACT:
        kept = [p for p in product([True, False], repeat=n_modalities) if any(p)]
        patterns = torch.tensor(kept)
        hidden = (~patterns).sum(dim=1).double()
        weight = rate**hidden * (1 - rate) ** (n_modalities - hidden)
        weight /= weight.sum()
        masks = presence[:, None, :] & patterns.to(presence.device)
    else:
        generator = torch.Generator().manual_seed(seed)
        drawn = [draw_presence(presence.cpu(), rate, generator) for _ in range(_DRAWN)]
        masks = torch.stack([presence.cpu(), *drawn], dim=1).to(presence.device)
        full = (1 - rate) ** n_modalities
        weight = torch.full((_DRAWN + 1,), (1 - full) / _DRAWN, dtype=torch.float64)
        weight[0] = full
    nothing = ~masks.any(dim=-1, keepdim=True)
    return torch.where(nothing, presence[:, None, :], masks), weight.to(presence.device)


def draw_presence(presence: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Hide each present modality with chance ``rate``, row by row; a row keeps at least one."""
    chance = torch.rand(presence.shape, generator=generator, device=presence.device)
    kept = presence & (chance >= rate)
    lost = presence.any(dim=1) & ~kept.any(dim=1)
    last = torch.where(presence, chance, -1.0).argmax(dim=1)
    kept[lost, last[lost]] = True
    return kept


def hidden(presence: Tensor, seed: int, rate: float = 0.3) -> Tensor | None:
    """Presence (n, M) with modalities hidden at random, the same for a seed; None for only one."""
    if presence.shape[1] == 1:
        return None
    generator = torch.Generator().manual_seed(seed)
    return draw_presence(presence.cpu(), rate, generator).to(presence.device)
