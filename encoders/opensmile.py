"""Sound as functionals of openSMILE, such as eGeMAPS."""

from __future__ import annotations

import threading
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mmfuse._require import require
from mmfuse.encoders import _checks
from mmfuse.encoders._waves import read_wave
from mmfuse.encoders.base import BaseEncoder
from mmfuse.exceptions import SampleError

__all__ = ["OpenSmileEncoder"]

_SETS = ("eGeMAPSv02", "GeMAPSv01b", "emobase", "ComParE_2016")
_OVERSHOOT = 4.0  # lossy codecs pass 1, by half in a real Vorbis file; players clip too
_lock = threading.Lock()


class OpenSmileEncoder(BaseEncoder):
    """Functionals of a whole recording by openSMILE: pitch, loudness, voice quality, spectrum.

    **Licence.** openSMILE is not free for all uses: its licence allows research and other
    non-commercial purposes, and forbids use in products. Read it before you use this encoder; it
    is for that reason not part of ``pip install mmfuse[all]``. Install it with ``pip install
    mmfuse[opensmile]``.

    A cell is whatever `LogMelEncoder` takes. A sound without samples or of zeros only is EMPTY;
    one that is too short for the functionals (some 60 ms) is an error. Unlike `LogMelEncoder` the
    loudness of the recording counts, so samples must lie in -1..1; what a lossy codec puts beyond
    is clipped, and samples beyond 4 are an error.

    Parameters
    ----------
    feature_set : {"eGeMAPSv02", "GeMAPSv01b", "emobase", "ComParE_2016"}, default="eGeMAPSv02"
        88, 62, 988 or 6373 functionals.
    sample_rate : int, default=16000
        Hz to which sounds are resampled, so that the spectrum means the same for all.
    max_duration : float, optional
        Seconds from the start that are used.
    batch_size, device, on_error, cache, n_jobs, verbose
        See `BaseEncoder`. openSMILE runs on the CPU, one recording for each of `n_jobs` threads;
        `device` and `batch_size` change nothing.

    Attributes
    ----------
    n_features_out_ : int

    Notes
    -----
    openSMILE: Eyben, Woellmer, Schuller 2010, ACM Multimedia. eGeMAPS: Eyben et al. 2016, IEEE
    Transactions on Affective Computing 7. The features are those of the package `opensmile`,
    unchanged, with "audio\\_" before their names; openSMILE measures 16-bit samples.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse.encoders import OpenSmileEncoder
    >>> tone = 0.5 * np.sin(2 * np.pi * 220 * np.arange(16000) / 16000)
    >>> encoder = OpenSmileEncoder(cache=False).fit([tone])  # doctest: +SKIP
    >>> encoder.transform([tone]).shape  # doctest: +SKIP
    (1, 88)
    """

    modality: ClassVar[str] = "audio"
    libraries: ClassVar[tuple[str, ...]] = ("opensmile", "soundfile", "scipy")

    def __init__(
        self,
        *,
        feature_set: str = "eGeMAPSv02",
        sample_rate: int = 16000,
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
        self.feature_set = feature_set
        self.sample_rate = sample_rate
        self.max_duration = max_duration

    def preprocess(self, sample: Any) -> Tensor | None:
        """Read one sound and take its functionals.

        Returns
        -------
        Tensor of shape (n_features_out,), float32, or None
            None for no samples or digital silence.
        """
        wave = read_wave(sample, self.sample_rate, self.max_duration)
        if wave is None:
            return None
        peak = float(np.abs(wave).max())
        if peak > _OVERSHOOT:
            raise SampleError(
                f"samples must lie in -1..1, the largest is {peak:.3g}; divide by what full scale "
                "is, since the loudness counts"
            )
        wave = np.clip(wave, -1, 1 - 2**-15)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Segment too short", UserWarning)
            values = _smile(self.feature_set)(wave, self.sample_rate).reshape(-1)
        if np.isnan(values).all():
            raise SampleError(
                f"the sound of {len(wave) / self.sample_rate:.3f} s is too short for "
                f"{self.feature_set}"
            )
        return torch.from_numpy(values.astype(np.float32))

    def _build_module(self) -> nn.Module:
        return nn.Identity()

    def _width(self) -> int:
        return len(_smile(self.feature_set).feature_names)

    def _feature_names(self) -> list[str]:
        return [f"{self.modality}_{name}" for name in _smile(self.feature_set).feature_names]

    def _check_params(self) -> None:
        super()._check_params()
        _checks.check_choice(self, "feature_set", _SETS)
        _checks.check_integer(self, "sample_rate", least=1)
        _checks.check_number(self, "max_duration", above=0, or_none=True)


def _smile(feature_set: str) -> Any:
    with _lock:
        return _load(feature_set)


@lru_cache(maxsize=len(_SETS))
def _load(feature_set: str) -> Any:
    opensmile = require("opensmile", extra="opensmile", caller="OpenSmileEncoder")
    return opensmile.Smile(
        feature_set=opensmile.FeatureSet[feature_set],
        feature_level=opensmile.FeatureLevel.Functionals,
    )
