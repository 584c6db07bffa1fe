"""Tables of OpenFace, py-feat and LibreFace, one row per frame, to one common form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmfuse.exceptions import SampleError
from mmfuse.table.cells import is_tensor, to_numpy

__all__ = ["TABLE_SUFFIXES", "Layout", "Recording", "as_layout", "read_columns", "read_recording"]

TABLE_SUFFIXES = {".csv": ",", ".tsv": "\t", ".txt": ","}

_UNITS = {
    "OpenFace": (re.compile(r"AU(\d+)_r"), re.compile(r"AU(\d+)_c")),
    "LibreFace": (re.compile(r"au_(\d+)_intensity"), re.compile(r"au_(\d+)")),
    "py-feat": (re.compile(r"AU(\d+)"), None),
}
_HIGHEST = {"OpenFace": 5.0, "LibreFace": 5.0, "py-feat": 1.0}  # of an intensity
_DEGREES = np.pi / 180
_ANGLES: dict[str, dict[str, tuple[str, float]]] = {
    "OpenFace": {
        "gaze_yaw": ("gaze_angle_x", 1.0),
        "gaze_pitch": ("gaze_angle_y", 1.0),
        "pose_pitch": ("pose_Rx", 1.0),
        "pose_yaw": ("pose_Ry", 1.0),
        "pose_roll": ("pose_Rz", 1.0),
    },
    "LibreFace": {
        "gaze_yaw": ("gaze_yaw", _DEGREES),
        "gaze_pitch": ("gaze_pitch", _DEGREES),
        "pose_pitch": ("pitch", _DEGREES),
        "pose_yaw": ("yaw", _DEGREES),
        "pose_roll": ("roll", _DEGREES),
    },
    "py-feat": {
        "gaze_yaw": ("gaze_yaw", 1.0),
        "gaze_pitch": ("gaze_pitch", 1.0),
        "pose_pitch": ("Pitch", 1.0),
        "pose_yaw": ("Yaw", 1.0),
        "pose_roll": ("Roll", 1.0),
    },
}
_EYES = tuple(f"gaze_{eye}_{axis}" for axis in "xyz" for eye in "01")  # OpenFace before 2.1
_CONFIDENCE = {"OpenFace": "confidence", "LibreFace": "confidence", "py-feat": "FaceScore"}
_RECTANGLE = ("FaceRectWidth", "FaceRectHeight")
_WINDOWS_NAN = ["-nan(ind)", "nan(ind)", "-1.#IND", "1.#QNAN", "1.#INF", "-1.#INF"]


@dataclass(frozen=True)
class Layout:
    """Which tool wrote a table, and which of its columns hold what.

    `intensities` and `flags` map names such as "AU12" to a column, `angles` names such as
    "pose_yaw" to a column and the factor that makes radians of it.
    """

    source: str
    intensities: dict[str, str]
    flags: dict[str, str]
    angles: dict[str, tuple[str, float]]
    eyes: bool = False

    @property
    def signals(self) -> list[str]:
        """Names of the angles that the table gives."""
        derived = ["gaze_yaw", "gaze_pitch"] if self.eyes else []
        return [*self.angles, *(name for name in derived if name not in self.angles)]


@dataclass
class Recording:
    """What is known of each frame of one recording; NaN where nothing is.

    Attributes
    ----------
    source : str
        "OpenFace", "py-feat", "LibreFace" or "pictures".
    signals : dict of str to ndarray of shape (n_frames,), float64
        Intensities in 0..1 ("AU12"), and angles in radians ("gaze_yaw", "pose_pitch").
    flags : dict of str to ndarray of shape (n_frames,), float64
        1 where the tool calls an action unit active, else 0.
    used : ndarray of shape (n_frames,), bool
        Frames with a face that is sure enough. The others are NaN everywhere.
    counts : dict of str to int
        "frames", "used", "no_face", "low_confidence", "incomplete" (used, with a NaN in a unit).
    """

    source: str
    signals: dict[str, np.ndarray]
    flags: dict[str, np.ndarray]
    used: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)


def as_layout(columns: list[str]) -> Layout:
    """Recognise the tool from the names of the columns.

    Raises
    ------
    SampleError
        If there is no action unit among them.
    """
    best: Layout | None = None
    for source, (intensity, flag) in _UNITS.items():
        found = _matches(columns, intensity), _matches(columns, flag)
        if not any(found):
            continue
        angles = {k: v for k, v in _ANGLES[source].items() if v[0] in columns}
        eyes = source == "OpenFace" and all(name in columns for name in _EYES)
        layout = Layout(source, *found, angles, eyes)
        if best is None or len(found[0]) + len(found[1]) > len(best.intensities) + len(best.flags):
            best = layout
    if best is None:
        shown = ", ".join(map(repr, columns[:6])) + (", ..." if len(columns) > 6 else "")
        raise SampleError(
            f"there is no action unit among its columns {shown}; expected those of OpenFace "
            "(AU12_r), py-feat (AU12) or LibreFace (au_12_intensity)"
        )
    return best


def read_recording(table: Any, *, min_confidence: float) -> Recording:
    """Read a table of one recording.

    Parameters
    ----------
    table : str, Path, DataFrame or mapping of str to array of shape (n_frames,)
    min_confidence : float
        Frames below it are not used, where the table has a confidence.

    Raises
    ------
    SampleError
        If it cannot be read, holds no action unit, or a value is not a number.
    """
    frame = _as_frame(table)
    layout = as_layout(list(frame.columns))
    frame = _one_face(frame, layout)
    signals = {
        unit: _numbers(frame, column) / _HIGHEST[layout.source]
        for unit, column in layout.intensities.items()
    }
    flags = {unit: _numbers(frame, column) for unit, column in layout.flags.items()}
    units = [*signals.values(), *flags.values()]
    signals |= _angles(frame, layout)
    known = np.isfinite(np.stack(units))
    no_face = ~known.any(axis=0)
    if "success" in frame:
        no_face |= ~(_numbers(frame, "success") > 0)
    unsure = np.zeros(len(frame), dtype=bool)
    if (name := _CONFIDENCE[layout.source]) in frame:
        unsure = ~no_face & ~(_numbers(frame, name) >= min_confidence)
    used = ~no_face & ~unsure
    for series in [*signals.values(), *flags.values()]:
        series[~used] = np.nan
    counts = {
        "frames": len(frame),
        "used": int(used.sum()),
        "no_face": int(no_face.sum()),
        "low_confidence": int(unsure.sum()),
        "incomplete": int((used & ~known.all(axis=0)).sum()),
    }
    return Recording(layout.source, signals, flags, used, counts)


def read_columns(table: Any) -> list[str]:
    """Return the column names of a table, of a file without reading its rows."""
    if isinstance(table, (str, Path)):
        return [str(name).strip() for name in _read_file(table, rows=0).columns]
    return [str(name).strip() for name in table]


def _as_frame(table: Any) -> pd.DataFrame:
    if isinstance(table, (str, Path)):
        header = read_columns(table)
        wanted = _wanted(header)
        frame = _read_file(table, columns=[i for i, name in enumerate(header) if name in wanted])
    elif isinstance(table, pd.DataFrame):
        frame = pd.DataFrame(table).reset_index(drop=True)  # py-feat's own subclass, too
    else:
        frame = _from_arrays(table)
    frame.columns = [str(name).strip() for name in frame.columns]
    if repeated := sorted(set(frame.columns[frame.columns.duplicated()]) & _wanted(frame.columns)):
        raise SampleError(f"the column {repeated[0]!r} is there twice")
    return frame


def _wanted(columns: Any) -> set[str]:
    layout = as_layout(list(columns))
    names = {*layout.intensities.values(), *layout.flags.values()}
    names |= {column for column, _ in layout.angles.values()}
    names |= {"success", "frame", "face_id", "input", _CONFIDENCE[layout.source], *_RECTANGLE}
    return names | set(_EYES if layout.eyes else ())


def _read_file(
    path: str | Path, *, rows: int | None = None, columns: list[int] | None = None
) -> pd.DataFrame:
    try:
        frame = pd.read_csv(
            path,
            sep=TABLE_SUFFIXES.get(Path(path).suffix.lower(), ","),
            skipinitialspace=True,
            na_values=_WINDOWS_NAN,
            usecols=columns,
            nrows=rows,
            encoding="utf-8-sig",
            low_memory=False,
        )
    except FileNotFoundError:
        raise SampleError("no such file") from None
    except pd.errors.EmptyDataError:
        raise SampleError("the table has no header; the file is empty") from None
    except (UnicodeDecodeError, pd.errors.ParserError, ValueError) as exc:
        raise SampleError(f"cannot read the table: {str(exc).strip()}") from None
    if not isinstance(frame.index, pd.RangeIndex):  # pandas makes an index of what is too much
        raise SampleError("row 0 of the table has more values than the header has names")
    return frame


def _from_arrays(table: Mapping[str, Any]) -> pd.DataFrame:
    arrays = {}
    for name, values in table.items():
        array = to_numpy(values) if is_tensor(values) else np.asarray(values)
        if array.ndim == 1:  # a mesh or an embedding may come along
            arrays[str(name)] = array
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise SampleError(f"the arrays of a recording must be of one length, got {lengths}")
    return pd.DataFrame(arrays)


def _matches(columns: list[str], pattern: re.Pattern[str] | None) -> dict[str, str]:
    if pattern is None:
        return {}
    found = ((pattern.fullmatch(column), column) for column in columns)
    named = {f"AU{int(match[1]):02d}": column for match, column in found if match}
    return dict(sorted(named.items()))


def _one_face(frame: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """Keep one face per frame where several were found.

    With ``face_id``, the one that is there most often; otherwise the largest rectangle.
    """
    if "face_id" in frame and frame["face_id"].nunique() > 1:
        frame = frame[frame["face_id"] == frame["face_id"].value_counts(sort=True).index[0]]
    place = [name for name in ("input", "frame") if name in frame]
    if "frame" not in place or not frame.duplicated(place).any():
        return frame.reset_index(drop=True)
    if not all(name in frame for name in _RECTANGLE):
        number = frame.loc[frame.duplicated(place), "frame"].iloc[0]
        raise SampleError(
            f"frame {number!s} is there more than once, and neither face_id nor FaceRectWidth "
            "and FaceRectHeight say which face to take; keep one row per frame"
        )
    area = _numbers(frame, _RECTANGLE[0]) * _numbers(frame, _RECTANGLE[1])
    order = np.lexsort((-np.nan_to_num(area, nan=-1.0), *(frame[p].rank() for p in place[::-1])))
    kept = frame.iloc[order].drop_duplicates(place)
    return kept.sort_index().reset_index(drop=True)


def _numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as new float64, NaN where it is missing or infinite."""
    given = frame[column]
    numbers = pd.to_numeric(given, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    odd = np.isnan(numbers) & given.notna().to_numpy()
    if odd.any():
        row = int(odd.argmax())
        raise SampleError(f"column {column!r}, frame row {row}: {given.iloc[row]!r} is no number")
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _angles(frame: pd.DataFrame, layout: Layout) -> dict[str, np.ndarray]:
    angles = {
        name: _numbers(frame, column) * factor for name, (column, factor) in layout.angles.items()
    }
    if layout.eyes and "gaze_yaw" not in angles:
        x, y, z = (
            _numbers(frame, f"gaze_0_{axis}") + _numbers(frame, f"gaze_1_{axis}") for axis in "xyz"
        )
        angles["gaze_yaw"], angles["gaze_pitch"] = np.arctan2(x, -z), np.arctan2(y, -z)
    return angles
