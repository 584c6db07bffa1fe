"""Sound as statistics of its log-Mel spectrum, or as its course in time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmfuse.encoders import _checks
from mmfuse.encoders._logmel import LogMelSequence, LogMelStatistics, LogMelTracks, mel_filters
from mmfuse.encoders._silero import speech_probability, speech_weights_hash
from mmfuse.encoders._voice import energy_parts, keep_parts, silero_parts
from mmfuse.encoders._waves import read_wave
from mmfuse.encoders.base import BaseEncoder

if TYPE_CHECKING:
    from typing import Self

__all__ = ["LogMelEncoder"]

_LENGTHS = ("sample_rate", "n_fft", "win_length", "hop_length")


class LogMelEncoder(BaseEncoder):
    """The log-Mel spectrum and its slope, as statistics over time or as a sequence.

    A cell is a path (str or Path), the bytes of a file, an array of shape (n_samples,) or
    (n_channels, n_samples) at `sample_rate`, ``(array, rate)``, or ``{"array": ...,
    "sampling_rate": ...}``. Any rate and number of channels is read; channels are averaged. A
    sound without samples, or of zeros only, is EMPTY, and so is one without a voice where `trim`
    asks for it. A WAV, FLAC, Ogg or MP3 file that is cut short is an error; not noticed is a cut
    exactly between two frames of an MP3 file that does not say how many frames it has.

    The spectrum is measured in dB below the loudest point of the clip, so that loudness and
    microphone gain do not count. The 1 + n_samples // hop_length frames are centred in the clip.
    Each clip is encoded as if it were alone: padding that a batch needs never reaches a value.

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
    deltas : bool, default=True
        Add the slope over five frames, in dB per frame.
    output : {"statistics", "sequence"}, default="statistics"
        Statistics over all frames, or `n_frames` steps in time.
    percentiles : sequence of float, default=(10, 50, 90)
        For statistics: percentiles over frames, besides mean and standard deviation.
    n_scales : int, default=6
        For statistics: add how much the spectrum changes at scales of 1, 2, 4, ... frames (6: up to
        32). The change is the mean absolute difference between neighbouring stretches of that
        length; a sound too short for a scale takes the change at the longest it has.
    n_segments : int, default=1
        For statistics: above 1, add those of that many equal segments in time.
    n_frames : int, default=32
        For a sequence: its steps. Each is the mean over an equal share of the sound, so that
        every sound, short or long, fills all steps and nothing is padded or cut. In a sound of
        fewer frames than steps, a frame serves several steps. Durations are not kept.
    max_duration : float, optional
        Seconds from the start that are used.
    trim : {None, "energy", "silero"}, default=None
        Use only the sound from the start of the first voice to the end of the last. A recording
        without a voice is EMPTY. "energy" takes for a voice what stands out from the background
        by its level, whatever it is. "silero" takes speech, by the network of the package
        silero-vad (``pip install mmfuse[vad]``).
    trim_pauses : bool, default=False
        With `trim`, also cut out what lies between voices.
    batch_size, device, on_error, cache, n_jobs, verbose
        See `BaseEncoder`.

    Attributes
    ----------
    n_features_out_ : int
    output_shape_ : tuple of int
        ``values.reshape(-1, *output_shape_)`` has axes: step, track, band for a sequence; span,
        statistic, band for statistics.

    Notes
    -----
    Spans are the clip, then each segment if there are several. Tracks are the spectrum, then its
    slope, that of a least-squares line through five frames (Furui 1986, IEEE Trans. ASSP 34).
    Statistics are mean, standard deviation, percentiles and changes of the spectrum, then the first
    three of the slope. Changes are the mean size of the details of a Haar wavelet transform of each
    band, up to a factor, as in a scattering transform (Anden and Mallat 2014, IEEE Trans. Signal
    Processing 62) with first-order paths over the envelope only.

    The voice by energy: a frame of 25 ms counts if its level is above the background (the tenth
    percentile of levels) by a quarter of the way to the loudest frame; a recording whose loudest
    frame is not 10 dB above the background has no voice. After Rabiner and Sambur (1975, Bell
    System Technical Journal 54), without their zero crossings. Either kind of voice lasts 50 ms or
    more, and 100 ms on either side are kept.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse.encoders import LogMelEncoder
    >>> tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    >>> encoder = LogMelEncoder(n_mels=32, cache=False).fit([tone])
    >>> encoder.transform([tone]).shape
    (1, 512)
    >>> encoder.get_feature_names_out()[[0, 511]].tolist()
    ['audio_mel0_mean', 'audio_delta31_p90']
    >>> sequence = LogMelEncoder(n_mels=32, output="sequence", n_frames=10, cache=False)
    >>> values = sequence.fit_transform([tone])
    >>> values.reshape(-1, *sequence.output_shape_).shape
    (1, 10, 2, 32)
    """

    modality: ClassVar[str] = "audio"
    libraries: ClassVar[tuple[str, ...]] = ("soundfile", "scipy")
    batch_room: ClassVar[int | None] = 1 << 22  # samples
    cpu_room: ClassVar[int | None] = 1 << 17

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
        deltas: bool = True,
        output: str = "statistics",
        percentiles: Sequence[float] = (10, 50, 90),
        n_scales: int = 6,
        n_segments: int = 1,
        n_frames: int = 32,
        max_duration: float | None = None,
        trim: str | None = None,
        trim_pauses: bool = False,
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
        self.deltas = deltas
        self.output = output
        self.percentiles = percentiles
        self.n_scales = n_scales
        self.n_segments = n_segments
        self.n_frames = n_frames
        self.max_duration = max_duration
        self.trim = trim
        self.trim_pauses = trim_pauses

    def fit(self, column: Any, y: Any = None) -> Self:
        """Check the arguments and set `n_features_out_` and `output_shape_`; nothing is learned.

        Parameters
        ----------
        column : list, Series or ndarray with one raw sample per row
        y : ignored

        Returns
        -------
        self
        """
        super().fit(column, y)
        self.output_shape_ = self._shape()
        return self

    def set_state(self, state: Mapping[str, Any]) -> Self:
        """Take over what `get_state` returned; the encoder is then fitted."""
        super().set_state(state)
        self.output_shape_ = self._shape()
        return self

    def preprocess(self, sample: Any) -> Tensor | None:
        """Read one sound.

        Returns
        -------
        Tensor of shape (n_samples,), float32, or None
            At `sample_rate`; None for no samples, digital silence or, with `trim`, no voice.
        """
        wave = read_wave(sample, self.sample_rate, self.max_duration)
        if wave is not None and self.trim is not None:
            wave = self._trimmed(wave)
        return None if wave is None else torch.from_numpy(wave)

    def _trimmed(self, wave: np.ndarray) -> np.ndarray | None:
        if self.trim == "energy":
            parts = energy_parts(wave, self.sample_rate)
        else:
            parts = silero_parts(wave, self.sample_rate, speech_probability)
        return keep_parts(wave, parts, cut_pauses=self.trim_pauses)

    def weights_hash(self) -> str | None:
        """Return the SHA-256 of the speech detector's weights, or None where none is used."""
        return speech_weights_hash() if self.trim == "silero" else None

    def collate(self, items: list[Tensor]) -> dict[str, Tensor]:
        """Pad sounds to one length: "wave" (n, longest) and "length" (n,)."""
        length = torch.tensor([len(item) for item in items])
        wave = items[0][None] if len(items) == 1 else pad_sequence(items, batch_first=True)
        return {"wave": wave, "length": length}

    def _length(self, item: Tensor) -> int:
        return len(item)

    def _build_module(self) -> LogMelTracks:
        spectrum: dict[str, Any] = {
            "sample_rate": self.sample_rate,
            "n_fft": self.n_fft,
            "win_length": self.win_length,
            "hop_length": self.hop_length,
            "n_mels": self.n_mels,
            "f_min": self.f_min,
            "f_max": self._f_max(),
            "top_db": self.top_db,
            "deltas": self.deltas,
        }
        if self.output == "sequence":
            return LogMelSequence(n_frames=self.n_frames, **spectrum)
        return LogMelStatistics(
            percentiles=tuple(self.percentiles),
            n_scales=self.n_scales,
            n_segments=self.n_segments,
            **spectrum,
        )

    def _f_max(self) -> float:
        return self.sample_rate / 2 if self.f_max is None else self.f_max

    def _statistics(self) -> list[tuple[str, str]]:
        """Return track and name of every statistic."""
        plain = ["mean", "sd", *(f"p{percentile:g}" for percentile in self.percentiles)]
        changes = [f"change{2**scale}" for scale in range(self.n_scales)]
        slope = plain if self.deltas else []
        return [("mel", one) for one in plain + changes] + [("delta", one) for one in slope]

    def _tracks(self) -> list[str]:
        return ["mel", "delta"] if self.deltas else ["mel"]

    def _spans(self) -> list[str]:
        segments = range(self.n_segments if self.n_segments > 1 else 0)
        return ["", *(f"segment{i}_" for i in segments)]

    def _shape(self) -> tuple[int, ...]:
        if self.output == "sequence":
            return (self.n_frames, len(self._tracks()), self.n_mels)
        return (len(self._spans()), len(self._statistics()), self.n_mels)

    def _width(self) -> int:
        return math.prod(self._shape())

    def _feature_names(self) -> list[str]:
        if self.output == "sequence":
            return [
                f"{self.modality}_step{step}_{track}{band}"
                for step in range(self.n_frames)
                for track in self._tracks()
                for band in range(self.n_mels)
            ]
        return [
            f"{self.modality}_{span}{track}{band}_{statistic}"
            for span in self._spans()
            for track, statistic in self._statistics()
            for band in range(self.n_mels)
        ]

    def _check_params(self) -> None:
        super()._check_params()
        for name in (*_LENGTHS, "n_mels", "n_segments", "n_frames"):
            _checks.check_integer(self, name, least=1)
        _checks.check_integer(self, "n_scales", least=0)
        _checks.check_number(self, "f_min")
        _checks.check_number(self, "f_max", above=0, or_none=True)
        _checks.check_number(self, "top_db", above=0)
        _checks.check_number(self, "max_duration", above=0, or_none=True)
        _checks.check_flag(self, "deltas")
        _checks.check_choice(self, "output", ("statistics", "sequence"))
        _checks.check_choice(self, "trim", (None, "energy", "silero"))
        _checks.check_flag(self, "trim_pauses")
        self._check_percentiles()
        if self.output == "sequence" and self.n_segments > 1:
            raise ValueError(
                "LogMelEncoder: n_segments must be 1 with output='sequence', got "
                f"{self.n_segments!r}; n_frames says how many steps it has."
            )
        if self.trim_pauses and self.trim is None:
            raise ValueError(
                "LogMelEncoder: trim_pauses=True needs trim='energy' or 'silero', got trim=None."
            )
        self._check_spectrum()

    def _check_spectrum(self) -> None:
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
