"""One cell: which instruments it holds, and the pixels of each with their states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfuse.encoders._band_files import read_cutout
from mmfuse.encoders._band_grid import border
from mmfuse.encoders._band_instruments import Instrument
from mmfuse.exceptions import SampleError
from mmfuse.presence import Presence
from mmfuse.table.cells import state_of

__all__ = ["Cutout", "files_as_paths", "is_file", "open_cell", "parts_of_cell"]

_SCALE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Cutout:
    """Pixels of one instrument.

    Attributes
    ----------
    cube : ndarray of shape (n_bands, height, width), float64, or None
        NaN where not observed, +inf where the instrument observed nothing. None if there is no
        cutout.
    pixel_scale : float or None
        What the file states.
    state : Presence
    held : bool
        Whether a file that several instruments share has an entry for this one.
    """

    cube: np.ndarray | None
    pixel_scale: float | None
    state: Presence
    held: bool = True


def files_as_paths(cell: Any) -> Any:
    """Turn str values of a dict of instruments into Path: the file's content is then the key."""
    if isinstance(cell, Mapping) and not is_file(cell):
        return {
            k: Path(v) if isinstance(v, str) and v.strip() else v  # "" is a missing value
            for k, v in cell.items()
        }
    return cell


def is_file(cell: Any) -> bool:
    """Tell whether a cell is one file or its bytes."""
    if isinstance(cell, Mapping):
        return cell.get("bytes") is not None or cell.get("path") is not None
    return isinstance(cell, (str, Path, bytes, bytearray, memoryview))


def parts_of_cell(cell: Any, instruments: Sequence[Instrument]) -> dict[str, Any]:
    """Return the raw sample of every instrument: its own entry, or the file that holds all.

    Raises
    ------
    SampleError
        If a dict names an instrument that is not known, or a sample is of no certain instrument.
    """
    names = [instrument.name for instrument in instruments]
    if isinstance(cell, Mapping):
        if is_file(cell):
            source = cell.get("bytes") if cell.get("bytes") is not None else Path(cell["path"])
            return dict.fromkeys(names, source)
        if unknown := [key for key in cell if key not in names]:
            known = ", ".join(repr(name) for name in names if name) or "none, it is one instrument"
            raise SampleError(f"there is no instrument {unknown[0]!r}; instruments: {known}")
        return {name: cell.get(name) for name in names}
    if len(names) > 1 and not is_file(cell):
        raise SampleError(
            f"with several instruments a cell must be a dict of {', '.join(names)}, or a file with "
            f"entries of these names; got an object of type {type(cell).__name__}"
        )
    return dict.fromkeys(names, cell)


def open_cell(cell: Any, instruments: Sequence[Instrument]) -> dict[str, Cutout]:
    """Read the cutouts of all instruments.

    Raises
    ------
    SampleError
        If one cannot be read, or a file holds none of the instruments.
    """
    parts = parts_of_cell(cell, instruments)
    shared = len(instruments) > 1 and is_file(cell)
    found = {one.name: _open_part(parts[one.name], one, shared) for one in instruments}
    if not any(cut.held for cut in found.values()):
        raise SampleError(f"the file has no pixels under the names {', '.join(found)}")
    return found


def _open_part(raw: Any, instrument: Instrument, shared: bool) -> Cutout:
    state = Presence(state_of(raw))
    if state != Presence.PRESENT:
        return Cutout(None, None, state)
    try:
        cube, scale = read_cutout(raw, instrument)
        if cube is None and not shared:
            raise SampleError("the file has no entry of this name, and none without a name")
        if cube is None:
            return Cutout(None, None, Presence.ABSENT, held=False)
        _check_scale(scale, instrument)
    except SampleError as exc:
        if not instrument.name:
            raise
        where = f"{instrument.name} ({raw})" if isinstance(raw, (str, Path)) else instrument.name
        raise SampleError(f"{where}: {exc}") from exc
    cube = _marked(cube, instrument)
    if np.isfinite(cube).any():
        return Cutout(cube, scale, Presence.PRESENT)
    return Cutout(None, scale, Presence.EMPTY if np.isinf(cube).any() else Presence.ABSENT)


def _check_scale(scale: float | None, instrument: Instrument) -> None:
    stated = instrument.pixel_scale
    if scale is None or stated is None:
        return
    if abs(scale - stated) > _SCALE_TOLERANCE * stated:
        raise SampleError(
            f"the file has pixels of {scale:.4g}, and pixel_scale is {stated:.4g}; correct "
            "pixel_scale, or resample the file"
        )


def _marked(cube: np.ndarray, instrument: Instrument) -> np.ndarray:
    """Mark pixels with the flag value, and subtract what `background` says."""
    flag = instrument.empty_value
    if flag is not None:  # a flag such as -99.9 may have been stored with 32 bits
        cube = np.where((cube == flag) | (cube == float(np.float32(flag))), np.inf, cube)
    if instrument.background == "border":
        frame = border(cube)
        sky = [np.median(v[np.isfinite(v)]) if np.isfinite(v).any() else 0.0 for v in frame]
        cube = cube - np.array(sky)[:, None, None]
    return cube
