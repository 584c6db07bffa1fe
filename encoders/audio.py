"""Sound as statistics of its log-Mel spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmfuse.encoders import _checks
from mmfuse.encoders._logmel import LogMelStatistics, mel_filters
from mmfuse.encoders._waves import read_wave
from mmfuse.encoders.base import BaseEncoder

__all__ = ["LogMelEncoder"]


class LogMelEncoder(BaseEncoder):
    """Statistics over time of the log-Mel spectrum and of its slope.

    A cell is a path (str or Path), the bytes of a file, an array of shape (n_samples,) or
    (n_channels, n_samples) at `sample_rate`, ``(array, rate)``, or ``{"array": ...,
    "sampling_rate": ...}``. Any rate and number of channels is read; channels are averaged. A
    sound without samples, or of zeros only, is EMPTY. A WAV file that is cut short is an error.

    The spectrum is measured in dB below the loudest point of the clip, so that loudness and
    microphone gain do not count. Each clip is encoded as if it were alone: padding that a batch
    needs never reaches a statistic.

    Parameters
    ----------
    sample_rate : int, default=16000
        Hz to which sounds are resampled.
    n_fft : int, default=512
        Samples of the Fourier transform.
    win_length : int, default=400
        Samples of the Hann window.
    hop_length : int, default=160
        Samples between frames.
    n_mels : int, default=64
        Mel bands.
    f_min : float, default=20.0
        Lowest frequency in Hz.
    f_max : float, optional
        Highest frequency in Hz. By default half of `sample_rate`.
    top_db : float, default=80.0
        Depth in dB at which the spectrum is cut.
    percentiles : sequence of float, default=(10, 50, 90)
        Percentiles over frames, besides mean and standard deviation.
    deltas : bool, default=True
        Add the same statistics of the slope over five frames, in dB per frame.
    n_segments : int, default=1
        Above 1, add the statistics of that many equal segments in time.
    max_duration : float, optional
        Seconds from the start that are used.
    batch_size, device, on_error, cache, n_jobs, verbose
        See `BaseEncoder`.

    Attributes
    ----------
    n_features_out_ : int

    Notes
    -----
    The order of features is: the clip, then each segment; the spectrum, then its slope; mean,
    standard deviation, then percentiles; the bands. The slope is that of a least-squares line
    through five frames (Furui 1986, IEEE Trans. ASSP 34).

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse.encoders import LogMelEncoder
    >>> tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    >>> encoder = LogMelEncoder(n_mels=32, cache=False).fit([tone])
    >>> encoder.transform([tone]).shape
    (1, 320)
    >>> encoder.get_feature_names_out()[[0, 319]].tolist()
    ['audio_mel0_mean', 'audio_delta31_p90']
    """

    modality: ClassVar[str] = "audio"
    libraries: ClassVar[tuple[str, ...]] = ("soundfile", "scipy")
    batch_room: ClassVar[int | None] = 1 << 19  # samples; larger batches are slower on a CPU

    def __init__(
        self,
        *,
        sample_rate: int = 16000,
        n_fft: int = 512,
        win_length: int = 400,
        hop_length: int = 160,
        n_mels: int = 64,
        f_min: float = 20.0,
        f_max: float | None = None,
        top_db: float = 80.0,
        percentiles: Sequence[float] = (10, 50, 90),
        deltas: bool = True,
        n_segments: int = 1,
        max_duration: float | None = None,
        batch_size: int = 32,
        device: str = "auto",
        on_error: str = "raise",
        cache: bool | str | Path = True,
        n_jobs: int = 2,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            device=device,
            on_error=on_error,
            cache=cache,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        self.sample_rate = sample_rate
        self.n_fft = n_fft
        self.win_length = win_length
        self.hop_length = hop_length
        self.n_mels = n_mels
        self.f_min = f_min
        self.f_max = f_max
        self.top_db = top_db
        self.percentiles = percentiles
        self.deltas = deltas
        self.n_segments = n_segments
        self.max_duration = max_duration

    def preprocess(self, sample: Any) -> Tensor | None:
        """Read one sound.

        Returns
        -------
        Tensor of shape (n_samples,), float32, or None
            At `sample_rate`; None for no samples or digital silence.
        """
        wave = read_wave(sample, self.sample_rate, self.max_duration)
        return None if wave is None else torch.from_numpy(wave)

    def collate(self, items: list[Tensor]) -> dict[str, Tensor]:
        """Pad sounds to one length: "wave" (n, longest) and "length" (n,)."""
        length = torch.tensor([len(item) for item in items])
        return {"wave": pad_sequence(items, batch_first=True), "length": length}

    def _length(self, item: Tensor) -> int:
        return len(item)

    def _build_module(self) -> LogMelStatistics:
        return LogMelStatistics(
            sample_rate=self.sample_rate,
            n_fft=self.n_fft,
            win_length=self.win_length,
            hop_length=self.hop_length,
            n_mels=self.n_mels,
            f_min=self.f_min,
            f_max=self._f_max(),
            top_db=self.top_db,
            percentiles=tuple(self.percentiles),
            deltas=self.deltas,
            n_segments=self.n_segments,
        )

    def _f_max(self) -> float:
        return self.sample_rate / 2 if self.f_max is None else self.f_max

    def _statistics(self) -> list[str]:
        return ["mean", "sd", *(f"p{percentile:g}" for percentile in self.percentiles)]

    def _tracks(self) -> list[str]:
        return ["mel", "delta"] if self.deltas else ["mel"]

    def _spans(self) -> list[str]:
        segments = range(self.n_segments if self.n_segments > 1 else 0)
        return ["", *(f"segment{i}_" for i in segments)]

    def _width(self) -> int:
        parts = len(self._spans()) * len(self._tracks()) * len(self._statistics())
        return parts * self.n_mels

    def _feature_names(self) -> list[str]:
        return [
            f"{self.modality}_{span}{track}{band}_{statistic}"
            for span in self._spans()
            for track in self._tracks()
            for statistic in self._statistics()
            for band in range(self.n_mels)
        ]

    def _check_params(self) -> None:
        super()._check_params()
        for name in ("sample_rate", "n_fft", "win_length", "hop_length", "n_mels", "n_segments"):
            _checks.check_integer(self, name, least=1)
        _checks.check_number(self, "f_min")
        _checks.check_number(self, "f_max", above=0, or_none=True)
        _checks.check_number(self, "top_db", above=0)
        _checks.check_number(self, "max_duration", above=0, or_none=True)
        _checks.check_flag(self, "deltas")
        self._check_percentiles()
        if self.win_length > self.n_fft:
            raise ValueError(
                f"LogMelEncoder: win_length must be at most n_fft={self.n_fft}, "
                f"got {self.win_length!r}."
            )
        if not 0 <= self.f_min < self._f_max() <= self.sample_rate / 2:
            raise ValueError(
                "LogMelEncoder: f_min and f_max must satisfy 0 <= f_min < f_max <= "
                f"{self.sample_rate / 2:g}, got {self.f_min!r} and {self.f_max!r}."
            )
        filters = mel_filters(
            self.n_fft // 2 + 1, self.n_mels, self.f_min, self._f_max(), self.sample_rate
        )
        if not filters.any(axis=1).all():
            raise ValueError(
                f"LogMelEncoder: n_mels={self.n_mels} bands are too narrow for "
                f"n_fft={self.n_fft}; take fewer bands or a longer transform."
            )

    def _check_percentiles(self) -> None:
        values = self.percentiles
        if isinstance(values, str) or not isinstance(values, (Sequence, np.ndarray)):
            raise TypeError(
                f"LogMelEncoder: percentiles must be a sequence of numbers, got {values!r}."
            )
        numbers = all(isinstance(value, (int, float, np.number)) for value in values)
        if not numbers or not all(0 <= value <= 100 for value in values):
            raise ValueError(f"LogMelEncoder: percentiles must lie in 0..100, got {values!r}.")
