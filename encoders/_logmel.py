"""Log-Mel spectra and their statistics over time, as a torch module."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["LogMelStatistics", "deltas", "masked_percentiles", "mel_filters"]

_DELTA_REACH = 2  # frames on each side of the regression that gives a delta


class LogMelStatistics(nn.Module):
    """Statistics over time of log-Mel spectra; each clip is treated as if it were alone.

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
    percentiles : tuple of float
    deltas : bool
        Whether the same statistics of the deltas follow.
    n_segments : int
        Above 1, the statistics of that many equal segments follow.
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
        percentiles: tuple[float, ...],
        deltas: bool,
        n_segments: int,
    ) -> None:
        super().__init__()
        self.n_fft, self.win_length, self.hop_length = n_fft, win_length, hop_length
        self.top_db, self.deltas, self.n_segments = top_db, deltas, n_segments
        self.shares = [percentile / 100 for percentile in percentiles]
        filters = mel_filters(n_fft // 2 + 1, n_mels, f_min, f_max, sample_rate)
        self.register_buffer("window", torch.hann_window(win_length))
        self.register_buffer("filters", torch.from_numpy(filters).float())

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Encode a batch.

        Parameters
        ----------
        batch : dict
            "wave", (n, longest) float, padded behind with any finite values, and "length", (n,)
            the samples of each clip. No clip may be all zero.

        Returns
        -------
        Tensor of shape (n, n_features)
            For the clip and then for each segment: log-Mel in dB (mean, sd, percentiles, each
            n_mels wide), then the same of the deltas in dB per frame.
        """
        spectrum, frames = self.log_mel(batch["wave"], batch["length"])
        tracks = [spectrum]
        if self.deltas:
            tracks.append(deltas(_hold_last(spectrum, frames)))
        spans = [(torch.zeros_like(frames), frames)]
        if self.n_segments > 1:
            spans += [self._segment(frames, i) for i in range(self.n_segments)]
        parts = [self._statistics(track, *span) for span in spans for track in tracks]
        return torch.cat(parts, dim=1)

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
        frames = 1 + length.clamp(min=self.n_fft) // self.hop_length
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
        at = torch.arange(longest, device=wave.device)
        wave = wave.masked_fill(at >= length[:, None], 0.0)
        wave = wave / wave.abs().amax(dim=1, keepdim=True)
        wave = nn.functional.pad(wave, (0, max(0, self.n_fft - longest)))
        last = length.clamp(min=self.n_fft)[:, None] - 1
        half = self.n_fft // 2
        place = torch.arange(-half, wave.shape[1] + half, device=wave.device).abs()
        place = (last - (last - place.expand(n, -1)).abs()).clamp(min=0)
        return wave.gather(1, place)

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
    """Sort the last axis; numpy needs half the time of torch, which ranks the places as well."""
    if track.device.type != "cpu" or track.requires_grad:
        return track.sort(dim=2).values
    return torch.from_numpy(np.sort(track.numpy(), axis=2))


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
