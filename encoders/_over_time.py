"""What is said of tracks of bands over time: moments, percentiles, changes, equal shares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["changes", "equal_shares", "masked_percentiles", "statistics"]


def statistics(
    track: Tensor, shares: Sequence[float], span: tuple[Tensor, Tensor] | None = None
) -> list[Tensor]:
    """Return mean, standard deviation and percentiles over frames.

    Parameters
    ----------
    track : Tensor of shape (n, channels, frames)
    shares : sequence of float
        Percentiles in 0..1.
    span : (Tensor, Tensor) of shape (n,), optional
        First frame of each clip and the frame behind its last. By default all.

    Returns
    -------
    list of Tensor of shape (n, channels)
    """
    if span is None:
        mean = track.mean(dim=2)
        sd = (track - mean[:, :, None]).square_().mean(dim=2).sqrt_()
        return [mean, sd, *_percentiles(track, shares)]
    start, stop = span
    at = torch.arange(track.shape[2], device=track.device)
    inside = ((at >= start[:, None]) & (at < stop[:, None]))[:, None]  # (n, 1, frames)
    count = (stop - start)[:, None]
    mean = track.masked_fill(~inside, 0.0).sum(dim=2) / count
    apart = (track - mean[:, :, None]).masked_fill(~inside, 0.0)
    sd = (apart.square().sum(dim=2) / count).sqrt()
    return [mean, sd, *masked_percentiles(track, inside, shares)]


def changes(
    track: Tensor, n_scales: int, span: tuple[Tensor, Tensor] | None = None
) -> list[Tensor]:
    """Return how much a track changes at scales of 1, 2, 4, ... frames.

    The change at a scale is the mean absolute difference between the means of neighbouring
    stretches of that many frames, cut from the start. A span without two stretches of that length
    takes the change at the longest scale that it has; a single frame does not change.

    Parameters
    ----------
    track : Tensor of shape (n, channels, frames)
    n_scales : int
    span : (Tensor, Tensor) of shape (n,), optional
        First frame of each clip and the frame behind its last. By default all.

    Returns
    -------
    list of Tensor of shape (n, channels)
    """
    found = [torch.zeros_like(track[:, :, 0])]
    if span is None:
        for _ in range(n_scales):
            several = track.shape[2] > 1
            found.append(track.diff(dim=2).abs_().mean(dim=2) if several else found[-1])
            track = _halved(track)
        return found[1:]
    start, stop = span
    at = torch.arange(track.shape[2], device=track.device)
    if n_scales and start.any():
        place = (start[:, None] + at).clamp(max=track.shape[2] - 1)
        track = track.gather(2, place[:, None].expand(-1, track.shape[1], -1))
    count = stop - start
    for _ in range(n_scales):
        steps = track.diff(dim=2).abs()
        outside = at[: steps.shape[2]] >= (count - 1)[:, None]
        total = steps.masked_fill(outside[:, None], 0.0).sum(dim=2)
        change = total / (count - 1).clamp(min=1)[:, None]
        found.append(torch.where((count > 1)[:, None], change, found[-1]))
        track, count = _halved(track), count // 2
    return found[1:]


def _halved(track: Tensor) -> Tensor:
    """Return the means of pairs of frames."""
    even = track[:, :, : track.shape[2] // 2 * 2]
    return (even[:, :, ::2] + even[:, :, 1::2]).div_(2)


def equal_shares(frames: Tensor, longest: int, steps: int) -> Tensor:
    """Return weights (n, longest, steps) of the means over equal shares of each clip.

    Share i of a clip of T frames lasts from i T / steps to (i + 1) T / steps; frames that are in it
    partly count partly. Frames from T on have no weight.
    """
    total = frames.double()[:, None, None]
    width = total / steps
    begin = width * torch.arange(steps, device=frames.device)
    at = torch.arange(longest, device=frames.device, dtype=torch.float64)[:, None]
    overlap = torch.minimum(begin + width, at + 1) - torch.maximum(begin, at)
    return (overlap.clamp(min=0).masked_fill(at >= total, 0.0) / width).float()


def masked_percentiles(track: Tensor, inside: Tensor, shares: Sequence[float]) -> list[Tensor]:
    """Return percentiles over the last axis, between the nearest ranks, of what is inside.

    Parameters
    ----------
    track : Tensor of shape (n, channels, frames)
    inside : Tensor of shape (n, 1, frames), bool
    shares : sequence of float
        In 0..1.

    Returns
    -------
    list of Tensor of shape (n, channels)
    """
    ordered = _sorted(track.masked_fill(~inside, torch.inf))
    last = inside.sum(dim=2) - 1  # (n, 1)
    found = []
    for share in shares:
        place = share * last
        below = place.floor().long()
        above = torch.minimum(below + 1, last)
        weight = (place - below).to(track.dtype)
        columns = torch.stack([below, above], dim=2).expand(-1, track.shape[1], -1)
        low, high = ordered.gather(2, columns).unbind(dim=2)
        found.append(low + (high - low) * weight)
    return found


def _percentiles(track: Tensor, shares: Sequence[float]) -> list[Tensor]:
    """Return percentiles (n, channels) over the last axis, between the nearest ranks."""
    ordered, last, found = _sorted(track), track.shape[2] - 1, []
    for share in shares:
        place = share * last
        below = int(place)
        low, high = ordered[:, :, below], ordered[:, :, min(below + 1, last)]
        found.append(low + (high - low) * (place - below))
    return found


def _sorted(track: Tensor) -> Tensor:
    """Sort along the last axis; on the CPU numpy does it many times faster than torch."""
    if track.device.type != "cpu" or track.requires_grad:
        return track.sort(dim=-1).values
    return torch.from_numpy(np.sort(track.numpy(), axis=-1))
