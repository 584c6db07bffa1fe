"""Log-Mel spectra, their statistics over time and their course in time, as torch modules.

Most time goes into memory, not arithmetic: a clip that fills its batch takes a way without masks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmfuse.encoders._over_time import changes, equal_shares, statistics

__all__ = ["LogMelSequence", "LogMelStatistics", "LogMelTracks", "deltas", "mel_filters"]

_DELTA_REACH = 2  # frames on each side of the regression that gives a delta
_BANDS_AT_ONCE = 16  # their filters share few bins with the rest
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
        self.n_fft, self.hop_length = n_fft, hop_length
        self.top_db, self.deltas = top_db, deltas
        before = (n_fft - win_length) // 2
        window = nn.functional.pad(
            torch.hann_window(win_length), (before, n_fft - win_length - before)
        )
        self.register_buffer("window", window)
        filters = mel_filters(n_fft // 2 + 1, n_mels, f_min, f_max, sample_rate)
        self.bands: list[tuple[int, int]] = []  # bins that a group of filters covers
        for first in range(0, n_mels, _BANDS_AT_ONCE):
            group = filters[first : first + _BANDS_AT_ONCE]
            covered = np.flatnonzero(group.any(axis=0))
            low, high = int(covered[0]), int(covered[-1]) + 1
            part = torch.from_numpy(group[:, low:high]).float().repeat_interleave(2, dim=1)
            self.register_buffer(f"filters{len(self.bands)}", part)  # real and imaginary parts
            self.bands.append((low, high))

    def tracks(self, batch: dict[str, Tensor]) -> tuple[list[Tensor], Tensor, bool]:
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
        bool
            Whether every clip has all of these frames.
        """
        spectrum, frames = self.log_mel(batch["wave"], batch["length"])
        full = bool((frames == spectrum.shape[2]).all())
        tracks = [spectrum]
        if self.deltas:
            tracks.append(deltas(spectrum if full else _hold_last(spectrum, frames)))
        return tracks, frames, full

    def log_mel(self, wave: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-Mel spectra (n, n_mels, frames) in dB below the clip's maximum, and the
        number of frames (n,) of each clip; later frames have no meaning."""
        full = wave.shape[1] >= self.n_fft and bool((length == wave.shape[1]).all())
        power = self._mel_power(self._reflected(wave) if full else self._centred(wave, length))
        frames = 1 + length // self.hop_length  # their centres lie in the clip
        if not full:
            valid = torch.arange(power.shape[2], device=wave.device) < frames[:, None]
            power = power.masked_fill(~valid[:, None], 0.0)
        loudest = power.amax(dim=(1, 2), keepdim=True)
        floor = 10 ** (-self.top_db / 10)
        return (power / loudest).clamp_(min=floor).log10_().mul_(10), frames

    def _mel_power(self, wave: Tensor) -> Tensor:
        """Return the power (n, n_mels, frames) of waves that are padded on both sides."""
        frames = wave.unfold(1, self.n_fft, self.hop_length) * self.window
        spectrum = torch.view_as_real(torch.fft.rfft(frames)).flatten(start_dim=2)
        squares = spectrum.square_()  # (n, frames, 2 * bins)
        parts = [
            getattr(self, f"filters{i}") @ squares[:, :, 2 * low : 2 * high].mT
            for i, (low, high) in enumerate(self.bands)
        ]
        return torch.cat(parts, dim=1)

    def _reflected(self, wave: Tensor) -> Tensor:
        """Scale clips that fill their rows to their peaks and reflect them at both ends."""
        before, behind = self.n_fft // 2, (self.n_fft + 1) // 2
        ends = wave[:, 1 : before + 1].flip(1), wave[:, -behind - 1 : -1].flip(1)
        peak = torch.maximum(wave.amax(dim=1), -wave.amin(dim=1))  # aminmax takes longer
        return torch.cat([ends[0], wave, ends[1]], dim=1).div_(peak[:, None])

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
        before, behind = self.n_fft // 2, (self.n_fft + 1) // 2
        place = torch.arange(-before, wave.shape[1] + behind, device=wave.device).abs()
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
        tracks, frames, full = self.tracks(batch)
        if full:  # every clip has the same frames
            spans = self._spans(torch.tensor(tracks[0].shape[2]))
            cuts = [slice(int(start), int(stop)) for start, stop in spans]
            parts = [self._described([track[:, :, cut] for track in tracks]) for cut in cuts]
        else:
            parts = [self._described(tracks, span) for span in self._spans(frames)]
        return torch.cat(parts, dim=1)

    def _spans(self, frames: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the first frames of the clip and of each segment, and the frames behind."""
        spans = [(torch.zeros_like(frames), frames)]
        for i in range(self.n_segments if self.n_segments > 1 else 0):
            start = (i * frames) // self.n_segments
            stop = ((i + 1) * frames) // self.n_segments
            spans.append((start, torch.maximum(stop, start + 1)))
        return spans

    def _described(self, tracks: list[Tensor], span: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return what is said of a span; None is all frames."""
        parts = statistics(tracks[0], self.shares, span)
        parts += changes(tracks[0], self.n_scales, span)
        for track in tracks[1:]:
            parts += statistics(track, self.shares, span)
        return torch.cat(parts, dim=1)


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
        tracks, frames, _ = self.tracks(batch)
        shares = equal_shares(frames, tracks[0].shape[2], self.n_frames)
        steps = torch.stack([track @ shares for track in tracks], dim=1)
        return steps.permute(0, 3, 1, 2).flatten(start_dim=1)  # (n, steps, tracks, mels)


def deltas(track: Tensor) -> Tensor:
    """Return the slope over two frames on each side, with the edge frames repeated.

    Parameters
    ----------
    track : Tensor of shape (n, channels, frames)
    """
    reach = _DELTA_REACH
    wide = nn.functional.pad(track, (reach, reach), mode="replicate")
    slopes = wide[:, :, 2 * reach :] - wide[:, :, : -2 * reach]
    slopes *= reach
    for step in range(1, reach):
        later = wide[:, :, reach + step : step - reach]
        slopes.add_(later - wide[:, :, reach - step : -reach - step], alpha=step)
    return slopes.div_(2 * sum(step * step for step in range(1, reach + 1)))


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
