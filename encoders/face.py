"""Facial action units, gaze and head pose over a recording."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmfuse.encoders._columns import as_cells, check_column
from mmfuse.encoders._face_arguments import check_face_arguments
from mmfuse.encoders._face_baseline import at_rest, low_level, subtract
from mmfuse.encoders._face_cells import (
    baseline_of,
    count_frames,
    recording_of,
    survey,
    with_paths,
)
from mmfuse.encoders._face_channels import channels, feature_names
from mmfuse.encoders._face_mesh import models_hash
from mmfuse.encoders._face_pictures import watch_recording
from mmfuse.encoders._face_statistics import FaceStatistics
from mmfuse.encoders._face_tables import Recording, read_recording
from mmfuse.encoders._run import Encoded
from mmfuse.encoders.base import BaseEncoder, _version
from mmfuse.exceptions import EncodingError, SampleError
from mmfuse.presence import Presence

__all__ = ["ActionUnitEncoder"]

_COUNTS = ("frames", "used", "no_face", "low_confidence", "incomplete")
_LEARNED = ("action_units_", "rated_units_", "angles_", "sources_")


class ActionUnitEncoder(BaseEncoder):
    """Statistics over frames of facial action units, gaze and head pose.

    A cell is one recording: a table with one row per frame that OpenFace, py-feat or LibreFace
    wrote (a ``.csv``, ``.tsv`` or ``.txt`` file, a DataFrame, or a dict of arrays), a picture or
    video file, a PIL image, or pixels as uint8 RGB: (height, width, 3), or (n_frames, height,
    width, 3). The tool is recognised by the names of its columns. Pictures and videos need the
    extra ``face``; everything else does not.

    Only frames are used in which the tool found a face and was sure enough of it. A recording in
    which that holds for no frame is EMPTY. A table that lacks an action unit which `fit` saw has
    NaN in the features of that unit.

    Intensities are in 0..1: those of OpenFace and LibreFace, in 0..5, are divided by 5. Angles
    are in radians. Tools differ in what they call the same unit, so that a table of a tool which
    was not there in `fit` is an error.

    Parameters
    ----------
    action_units : "auto" or sequence of str, default="auto"
        Which action units, such as ``["AU06", "AU12"]``. "auto" takes all that the column has in
        `fit`.
    angles : bool, default=True
        Also take gaze and head pose, where tables have them.
    min_confidence : float, default=0.75
        Frames whose confidence (OpenFace), FaceScore (py-feat) or mesh score (pictures) is lower
        are not used.
    baseline : {None, "own", "given"}, default=None
        What is subtracted from intensities, so that a face which reads high at rest does not count
        as active. "own" is a low percentile of the recording itself. "given" is the mean of another
        recording of the same person, at rest: every cell is then ``{"recording": ...,
        "baseline": ...}``.
    baseline_percentile : float, default=10.0
        The percentile for ``baseline="own"``.
    activation : "auto" or float, default="auto"
        Intensity from which a unit counts as active where the tool itself does not say. "auto" is
        0.2 for OpenFace and LibreFace (level 1 of 5), 0.5 for py-feat and pictures. It applies to
        what is left above the baseline.
    percentiles : sequence of float, default=(10, 50, 90)
        Percentiles over frames, besides mean and standard deviation.
    deltas : bool, default=True
        Add the mean absolute change from frame to frame, and the standard deviation of the change.
    frame_rate : float or None, default=5.0
        Frames per second of a video file that are looked at; None looks at all. Tables are taken
        as they are.
    batch_size, device, on_error, cache, n_jobs, verbose
        See `BaseEncoder`.

    Attributes
    ----------
    action_units_ : tuple of str
        Units with an intensity.
    rated_units_ : tuple of str
        Units with a rate; OpenFace says of AU28 only whether it is active.
    angles_ : tuple of str
    sources_ : tuple of str
        Who wrote the tables of `fit`; "pictures" for pictures and videos.
    mean_only_ : bool
        Whether all cells of `fit` were single pictures. There is then one feature per unit and
        angle, and it has the name ``face_AU12_mean``.
    n_features_out_ : int

    Raises
    ------
    WeightsNotFoundError
        If there are pictures or videos and the model files are not installed.

    Notes
    -----
    The order of features is: each unit and angle with its statistics, the rate of each unit, and
    the share of frames that were used (``face_found_share``). Changes are per frame, not per
    second: bring tables to one frame rate first. Changes that begin or end in a frame that is not
    used are left out. `frame_counts` tells how many frames were used and why others were not.

    In pictures, the largest face is found with BlazeFace (Bazarevsky et al. 2019,
    arXiv:1907.05047), its mesh with MediaPipe's network (Kartynnik et al. 2019, arXiv:1907.06724),
    and its action units by inverting the linear model of py-feat (Cheong et al. 2023, Affective
    Science 4) that says how units move the mesh. That model was made to draw faces, not to
    measure them: AU12 follows a smile well, AU01, AU11, AU24 and AU28 read high on faces at rest.
    Use `baseline`, and trust tables of a dedicated tool more. py-feat's licence notices leave open
    whether its fitted parameters may be used commercially.
    On Python 3.13 the mesh is an older one, for mediapipe has none there: about 0.8 of AU12 is
    then read for what is 1 with the newer. `weights_hash` tells the two apart.

    Of several faces in a frame, the face_id that is there most often is taken, or the largest.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse.encoders import ActionUnitEncoder
    >>> smile = {" success": [1, 1, 0], " AU12_r": [1.0, 3.0, 0.0], " AU12_c": [0, 1, 0]}
    >>> away = {" success": [0, 0], " AU12_r": [0.0, 0.0], " AU12_c": [0, 0]}
    >>> encoder = ActionUnitEncoder(percentiles=(), deltas=False, cache=False).fit([smile, away])
    >>> encoder.get_feature_names_out().tolist()
    ['face_AU12_mean', 'face_AU12_sd', 'face_AU12_rate', 'face_found_share']
    >>> encoder.transform([smile]).round(2).tolist()
    [[0.4000000059604645, 0.20000000298023224, 0.5, 0.6700000166893005]]
    >>> encoder.encode([smile, away]).presence.tolist()
    [1, 3]
    """

    modality: ClassVar[str] = "face"
    libraries: ClassVar[tuple[str, ...]] = ("pandas",)
    batch_room: ClassVar[int | None] = 1 << 18  # frames
    nan_features: ClassVar[bool] = True

    action_units_: tuple[str, ...]
    rated_units_: tuple[str, ...]
    angles_: tuple[str, ...]
    sources_: tuple[str, ...]
    mean_only_: bool

    def __init__(
        self,
        *,
        action_units: str | Sequence[str] = "auto",
        angles: bool = True,
        min_confidence: float = 0.75,
        baseline: str | None = None,
        baseline_percentile: float = 10.0,
        activation: str | float = "auto",
        percentiles: Sequence[float] = (10, 50, 90),
        deltas: bool = True,
        frame_rate: float | None = 5.0,
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
        self.action_units = action_units
        self.angles = angles
        self.min_confidence = min_confidence
        self.baseline = baseline
        self.baseline_percentile = baseline_percentile
        self.activation = activation
        self.percentiles = percentiles
        self.deltas = deltas
        self.frame_rate = frame_rate

    def fit(self, column: Any, y: Any = None) -> ActionUnitEncoder:
        """Learn which action units and angles the column has, and who wrote its tables.

        Of tables in files the header is read alone. Cells that cannot be read are left for
        `encode` to tell of.

        Parameters
        ----------
        column : list, Series or ndarray with one recording per row
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If no cell can be read, or ``baseline="own"`` and all are single pictures.
        """
        self._check_params()
        caller = type(self).__name__
        cells, states = as_cells(column, caller=caller)
        present = [cells[row] for row in np.flatnonzero(states == Presence.PRESENT)]
        seen = survey(present, n_jobs=self.n_jobs, verbose=self.verbose)
        if len(seen.sources) > 1:
            warnings.warn(
                f"{caller}: the column holds recordings of {' and '.join(seen.sources)}; they "
                "differ in what they call the same action unit. Run one tool over all of them.",
                UserWarning,
                stacklevel=2,
            )
        if seen.single and self.baseline == "own":
            raise ValueError(
                f"{caller}: baseline='own' needs recordings of several frames, and the column "
                "holds single pictures; use None or 'given'."
            )
        auto = isinstance(self.action_units, str)
        named = None if auto else tuple(self.action_units)
        self.action_units_ = seen.units if named is None else named
        self.rated_units_ = seen.rated if named is None else named
        self.angles_ = seen.angles if self.angles else ()
        self.sources_ = seen.sources
        self.mean_only_ = seen.single
        self.n_features_out_ = self._width()
        return self

    def encode(self, column: Any, presence: Any = None, *, name: str | None = None) -> Encoded:
        """Encode a column and say what became of each cell.

        Parameters
        ----------
        column : list, Series or ndarray with one recording per row
        presence : array-like of shape (n_samples,), optional
            Values of `Presence`. Only cells that are PRESENT here are encoded.
        name : str, optional
            Name of the column, for messages and the progress bar. By default the modality.

        Returns
        -------
        Encoded
            EMPTY where no frame has a face.

        Raises
        ------
        EncodingError
            If a recording cannot be read and ``on_error="raise"``.
        """
        check_column(column, caller=type(self).__name__)
        return super().encode(with_paths(column), presence, name=name)

    def preprocess(self, sample: Any) -> Tensor | None:
        """Read one recording.

        Returns
        -------
        Tensor of shape (n_frames, 1 + n_signals + n_rated), float64, or None
            Whether the frame is used, intensities and angles, and activity; None without a face.
        """
        recording = self._read(recording_of(sample))
        if recording.source not in self.sources_:
            raise SampleError(
                f"it is a recording of {recording.source}, but fit saw those of "
                f"{' and '.join(self.sources_)}; tools differ in what they call the same action "
                "unit, so run one tool over all recordings, or fit again"
            )
        units = {*recording.signals, *recording.flags}
        if not units & {*self.action_units_, *self.rated_units_}:
            raise SampleError(
                "it has none of the action units "
                f"{', '.join(self.action_units_ or self.rated_units_)} that the encoder takes"
            )
        if not recording.used.any():
            return None
        self._subtract_baseline(recording, sample)
        rated = () if self.mean_only_ else self.rated_units_
        return torch.from_numpy(channels(recording, self._signals(), rated, self.activation))

    def frame_counts(self, column: Any) -> pd.DataFrame:
        """Count the frames of each recording that are used, and why others are not.

        Parameters
        ----------
        column : list, Series or ndarray with one recording per row

        Returns
        -------
        DataFrame with a row per cell
            ``frames``, ``used``, ``no_face``, ``low_confidence``, and ``incomplete`` (used, but
            with a NaN in some action unit). NA where the cell is not PRESENT or, with
            ``on_error="mark"``, cannot be read.

        Raises
        ------
        EncodingError
            If a recording cannot be read and ``on_error="raise"``.
        """
        self._check_params()
        cells, states = as_cells(column, caller=type(self).__name__)
        rows = np.flatnonzero(states == Presence.PRESENT).tolist()
        table = pd.DataFrame(pd.NA, index=range(len(cells)), columns=list(_COUNTS), dtype="Int64")

        for row, counts in count_frames(self._read, cells, rows, self.n_jobs):
            if isinstance(counts, dict):
                table.loc[row] = [counts[name] for name in _COUNTS]
            elif self.on_error == "raise":
                raise EncodingError(
                    f"{self.modality}, row {row}: {counts}; fix or remove the sample, or use "
                    "on_error='mark'"
                ) from counts
        return table

    def _read(self, sample: Any) -> Recording:
        kind, content = sample
        if kind == "table":
            return read_recording(content, min_confidence=self.min_confidence)
        return watch_recording(
            content, min_confidence=self.min_confidence, frame_rate=self.frame_rate
        )

    def _subtract_baseline(self, recording: Recording, sample: Any) -> None:
        if self.baseline is None:
            return
        if self.baseline == "own":
            levels = low_level(recording, self.action_units_, self.baseline_percentile)
        else:
            rest = self._read(baseline_of(sample))
            levels = at_rest(rest, recording, self.action_units_)
        subtract(recording, self.action_units_, levels)

    def collate(self, items: list[Tensor]) -> Tensor:
        """Pad recordings to one length with NaN: (n, longest, n_channels)."""
        return pad_sequence(items, batch_first=True, padding_value=float("nan"))

    def _length(self, item: Tensor) -> int:
        return len(item)

    def _signals(self) -> tuple[str, ...]:
        return (*self.action_units_, *self.angles_)

    def _build_module(self) -> FaceStatistics:
        return FaceStatistics(
            len(self._signals()),
            percentiles=tuple(self.percentiles),
            deltas=self.deltas,
            mean_only=self.mean_only_,
        )

    def _width(self) -> int:
        return len(self._feature_names())

    def _feature_names(self) -> list[str]:
        rated = None if self.mean_only_ else self.rated_units_
        names = feature_names(self._signals(), rated, self.percentiles, self.deltas)
        return [f"{self.modality}_{name}" for name in names]

    def weights_hash(self) -> str | None:
        """Return a hash of the model files that read pictures; None where tables alone are read."""
        return models_hash() if "pictures" in vars(self).get("sources_", ()) else None

    def _cache_params(self) -> dict[str, Any]:
        learned = {name: list(vars(self).get(name, ())) for name in _LEARNED}
        return {
            **super()._cache_params(),
            "learned": {**learned, "mean_only": vars(self).get("mean_only_")},
        }

    def cache_config(self) -> dict[str, Any]:
        """Return all that a vector depends on besides the sample, as a JSON-able dict."""
        config = super().cache_config()
        if "pictures" in self.sources_:
            readers = ("ai-edge-litert", "opencv-python")
            config["libraries"] |= {name: _version(name) for name in readers}
        return config

    def get_state(self) -> dict[str, Any]:
        """Return what `fit` learned, as a JSON-able dict."""
        learned = {name.rstrip("_"): list(getattr(self, name)) for name in _LEARNED}
        return {**super().get_state(), **learned, "mean_only": self.mean_only_}

    def set_state(self, state: Mapping[str, Any]) -> ActionUnitEncoder:
        """Take over what `get_state` returned; the encoder is then fitted."""
        for name in _LEARNED:
            setattr(self, name, tuple(state[name.rstrip("_")]))
        self.mean_only_ = bool(state["mean_only"])
        super().set_state(state)
        return self

    def _check_params(self) -> None:
        super()._check_params()
        check_face_arguments(self)
