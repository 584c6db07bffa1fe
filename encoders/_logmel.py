"""Log-Mel spectra, their statistics over time and their course in time, as torch modules."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "LogMelSequence",
    "LogMelStatistics",
    "LogMelTracks",
    "changes",
    "deltas",
    "equal_shares",
    "masked_percentiles",
    "mel_filters",
]

_DELTA_REACH = 2  # frames on each side of the regression that gives a delta
_LONG = 32_000  # samples; shorter clips are quicker together


class LogMelTracks(nn.Module):
    """Log-Mel spectra and their deltas; each clip is treated as if it were alone.

    Parameters
    ----------
    sample_rate : int
        Hz.
    n_fft, win_length, hop_length : int
        Samples.
    n_mels : int
    f_min, f_max : float
        Hz.
    top_db : float
        Depth of the spectrum below the loudest point of the clip, in dB.
    deltas : bool
        Whether deltas follow.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        n_fft: int,
        win_length: int,
        hop_length: int,
        n_mels: int,
        f_min: float,
        f_max: float,
        top_db: float,
        deltas: bool,
    ) -> None:
        super().__init__()
        self.n_fft, self.win_length, self.hop_length = n_fft, win_length, hop_length
        self.top_db, self.deltas = top_db, deltas
        filters = mel_filters(n_fft // 2 + 1, n_mels, f_min, f_max, sample_rate)
        self.register_buffer("window", torch.hann_window(win_length))
        self.register_buffer("filters", torch.from_numpy(filters).float())

    def tracks(self, batch: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return what is followed in time and the number of frames of each clip.

        Parameters
        ----------
        batch : dict
            "wave", (n, longest) float, padded behind with any finite values, and "length", (n,)
            the samples of each clip. No clip may be all zero.

        Returns
        -------
        list of Tensor of shape (n, n_mels, frames)
            Log-Mel in dB, then deltas in dB per frame.
        Tensor of shape (n,)
        """
        spectrum, frames = self.log_mel(batch["wave"], batch["length"])
        tracks = [spectrum]
        if self.deltas:
            tracks.append(deltas(_hold_last(spectrum, frames)))
        return tracks, frames

    def log_mel(self, wave: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-Mel spectra (n, n_mels, frames) in dB below the clip's maximum, and the
        number of frames (n,) of each clip; later frames have no meaning."""
        wave = self._centred(wave, length)
        spectrum = torch.stft(
            wave,
            self.n_fft,
            self.hop_length,
            self.win_length,
            self.window,
            center=False,
            return_complex=True,
        )  # (n, bins, frames)
        real, imaginary = torch.view_as_real(spectrum).unbind(dim=3)  # abs() takes a slow root
        power = self.filters @ (real.square() + imaginary.square())
        frames = 1 + length // self.hop_length  # their centres lie in the clip
        valid = torch.arange(power.shape[2], device=wave.device) < frames[:, None]  # (n, frames)
        power = power.masked_fill(~valid[:, None], 0.0)
        loudest = power.amax(dim=(1, 2), keepdim=True)
        floor = 10 ** (-self.top_db / 10)
        return 10 * torch.log10((power / loudest).clamp(min=floor)), frames

    def _centred(self, wave: Tensor, length: Tensor) -> Tensor:
        """Scale each clip to its peak and reflect it at its own ends, half a window long.

        Clips shorter than `n_fft` are first padded with zeros behind.
        """
        n, longest = wave.shape
        alone = n == 1 and int(length[0]) == longest >= self.n_fft
        if alone:  # nothing behind it
            wave = wave / wave.abs().amax()
            return nn.functional.pad(wave, (self.n_fft // 2, self.n_fft // 2), mode="reflect")
        at = torch.arange(longest, device=wave.device)
        wave = wave.masked_fill(at >= length[:, None], 0.0)
        wave = wave / wave.abs().amax(dim=1, keepdim=True)
        wave = nn.functional.pad(wave, (0, max(0, self.n_fft - longest)))
        last = length.clamp(min=self.n_fft)[:, None] - 1
        half = self.n_fft // 2
        place = torch.arange(-half, wave.shape[1] + half, device=wave.device).abs()
        place = (last - (last - place.expand(n, -1)).abs()).clamp(min=0)
        return wave.gather(1, place)


def _better_alone(batch: dict[str, Tensor]) -> bool:
    """Whether clips are long enough to leave the processor's cache when they go together."""
    wave = batch["wave"]
    return len(wave) > 1 and wave.device.type == "cpu" and wave.shape[1] >= _LONG


def _one_by_one(batch: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Batches of one clip without padding."""
    for wave, length in zip(batch["wave"], batch["length"], strict=True):
        yield {"wave": wave[None, : int(length)], "length": length[None]}


class LogMelStatistics(LogMelTracks):
    """Statistics over time of log-Mel spectra and deltas.

    Parameters
    ----------
    percentiles : tuple of float
    n_scales : int
        Scales in time at which changes are measured, see `changes`.
    n_segments : int
        Above 1, the statistics of that many equal segments follow those of the clip.
    **spectrum
        See `LogMelTracks`.
    """

    def __init__(
        self, *, percentiles: tuple[float, ...], n_scales: int, n_segments: int, **spectrum: Any
    ) -> None:
        super().__init__(**spectrum)
        self.shares = [percentile / 100 for percentile in percentiles]
        self.n_scales, self.n_segments = n_scales, n_segments

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Encode a batch, see `tracks`.

        Returns
        -------
        Tensor of shape (n, n_features)
            For the clip and then for each segment: log-Mel in dB (mean, sd, percentiles, changes,
            each n_mels wide), then mean, sd and percentiles of the deltas in dB per frame.
        """
        if _better_alone(batch):
            return torch.cat([self.forward(one) for one in _one_by_one(batch)])
        tracks, frames = self.tracks(batch)
        spans = [(torch.zeros_like(frames), frames)]
        if self.n_segments > 1:
            spans += [self._segment(frames, i) for i in range(self.n_segments)]
        parts = []
        for span in spans:
            parts.append(self._statistics(tracks[0], *span))
            parts += changes(tracks[0], *span, self.n_scales)
            parts += [self._statistics(track, *span) for track in tracks[1:]]
        return torch.cat(parts, dim=1)

    def _segment(self, frames: Tensor, i: int) -> tuple[Tensor, Tensor]:
        start = (i * frames) // self.n_segments
        stop = ((i + 1) * frames) // self.n_segments
        return start, torch.maximum(stop, start + 1)

    def _statistics(self, track: Tensor, start: Tensor, stop: Tensor) -> Tensor:
        """Return mean, sd and percentiles (n, (2 + n_percentiles) * n_mels) over a span."""
        at = torch.arange(track.shape[2], device=track.device)
        inside = ((at >= start[:, None]) & (at < stop[:, None]))[:, None]  # (n, 1, frames)
        count = (stop - start)[:, None]
        mean = track.masked_fill(~inside, 0.0).sum(dim=2) / count
        apart = (track - mean[:, :, None]).masked_fill(~inside, 0.0)
        sd = (apart.square().sum(dim=2) / count).sqrt()
        ranked = masked_percentiles(track, inside, self.shares)
        return torch.cat([mean, sd, *ranked], dim=1)


def changes(track: Tensor, start: Tensor, stop: Tensor, n_scales: int) -> list[Tensor]:
    """Return how much a track changes at scales of 1, 2, 4, ... frames.

    The change at a scale is the mean absolute difference between the means of neighbouring
    stretches of that many frames, cut from the start. A span without two stretches of that length
    takes the change at the longest scale that it has; a single frame does not change.

    Parameters
    ----------
    track : Tensor of shape (n, channels, frames)
    start, stop : Tensor of shape (n,)
        The span of each clip.
    n_scales : int

    Returns
    -------
    list of Tensor of shape (n, channels)
    """
    at = torch.arange(track.shape[2], device=track.device)
    if n_scales and start.any():
        place = (start[:, None] + at).clamp(max=track.shape[2] - 1)
        track = track.gather(2, place[:, None].expand(-1, track.shape[1], -1))
    count, found = stop - start, [torch.zeros_like(track[:, :, 0])]
    for _ in range(n_scales):
        steps = track.diff(dim=2).abs()
        outside = at[: steps.shape[2]] >= (count - 1)[:, None]
        total = steps.masked_fill(outside[:, None], 0.0).sum(dim=2)
        change = total / (count - 1).clamp(min=1)[:, None]
        found.append(torch.where((count > 1)[:, None], change, found[-1]))
        even = track[:, :, : track.shape[2] // 2 * 2]
        track = (even[:, :, ::2] + even[:, :, 1::2]) / 2
        count = count // 2
    return found[1:]


class LogMelSequence(LogMelTracks):
    """Log-Mel spectra and deltas at a fixed number of steps, whatever the length of the clip.

    Parameters
    ----------
    n_frames : int
        Steps. Each is the mean over an equal share of the clip.
    **spectrum
        See `LogMelTracks`.
    """

    def __init__(self, *, n_frames: int, **spectrum: Any) -> None:
        super().__init__(**spectrum)
        self.n_frames = n_frames

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Encode a batch, see `tracks`.

        Returns
        -------
        Tensor of shape (n, n_frames * n_tracks * n_mels)
            Step by step: log-Mel in dB, then deltas in dB per frame.
        """
        if _better_alone(batch):
            return torch.cat([self.forward(one) for one in _one_by_one(batch)])
        tracks, frames = self.tracks(batch)
        shares = equal_shares(frames, tracks[0].shape[2], self.n_frames)
        steps = torch.stack([track @ shares for track in tracks], dim=1)
        return steps.permute(0, 3, 1, 2).flatten(start_dim=1)  # (n, steps, tracks, mels)


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


def _sorted(track: Tensor) -> Tensor:
    """Sort along the last axis; on the CPU numpy does it many times faster than torch."""
    if track.device.type != "cpu" or track.requires_grad:
        return track.sort(dim=-1).values
    return torch.from_numpy(np.sort(track.numpy(), axis=-1))


def deltas(track: Tensor) -> Tensor:
    """Return the slope over two frames on each side, with the edge frames repeated.

    Parameters
    ----------
    track : Tensor of shape (n, channels, frames)
    """
    reach = _DELTA_REACH
    wide = nn.functional.pad(track, (reach, reach), mode="replicate")
    frames = track.shape[2]
    total = torch.zeros_like(track)
    for step in range(1, reach + 1):
        later = wide[:, :, reach + step : reach + step + frames]
        total = total + step * (later - wide[:, :, reach - step : reach - step + frames])
    return total / (2 * sum(step * step for step in range(1, reach + 1)))


def mel_filters(
    n_bins: int, n_mels: int, f_min: float, f_max: float, sample_rate: int
) -> np.ndarray:
    """Return triangular filters (n_mels, n_bins), equally spaced in mel, each with a peak of 1.

    The scale is that of O'Shaughnessy: 2595 log10(1 + Hz / 700).
    """
    bins = np.linspace(0, sample_rate / 2, n_bins)
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (f_min, f_max))
    corners = 700 * (10 ** (np.linspace(low, high, n_mels + 2) / 2595) - 1)
    rise = (bins - corners[:-2, None]) / np.diff(corners)[:-1, None]
    fall = (corners[2:, None] - bins) / np.diff(corners)[1:, None]
    return np.maximum(0, np.minimum(rise, fall))


def _hold_last(track: Tensor, frames: Tensor) -> Tensor:
    """Repeat the last valid frame of each clip up to the end of the batch."""
    at = torch.arange(track.shape[2], device=track.device)
    place = torch.minimum(at, frames[:, None] - 1)  # (n, frames)
    return track.gather(2, place[:, None].expand(-1, track.shape[1], -1))
