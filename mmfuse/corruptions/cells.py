"""From the raw cells of a table to the samples that corruptions take, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmfuse.table.cells import is_tensor, to_numpy

__all__ = ["corrupt_cell", "kind_of_encoder"]

Function = Callable[[Any], Any]
_KIND = {"audio": "audio", "image": "image", "text": "text", "face": "frames", "object": "points"}


def kind_of_encoder(encoder: Any) -> str | None:
    """Return which corruptions of raw samples suit what an encoder reads; None if none do.

    An encoder of one's own says so by its ``corruption_kind``, or else by its ``modality``.
    """
    return getattr(encoder, "corruption_kind", None) or _KIND.get(getattr(encoder, "modality", ""))


def corrupt_cell(cell: Any, kind: str, function: Function, rate: int = 16000) -> Any:
    """Apply a function of a sample to a cell.

    Parameters
    ----------
    cell : object
        Any form that the encoders of this kind read; files are read, and never written.
    kind : str
    function : callable
        Takes and returns a sample as `mmfuse.corruptions.register_corruption` describes it.
    rate : int
        Hz of waves that come without a rate.

    Raises
    ------
    SampleError
        If the cell cannot be read.
    ValueError
        If the form of the cell is not known.
    """
    return _CHANGE[kind](cell, function, rate)


def _audio(cell: Any, function: Function, rate: int) -> Any:
    from mmfuse.encoders._waves import _decode

    wave, own = _decode(cell, rate, None)
    wave = np.atleast_2d(wave).astype(np.float32)
    changed, own = function((wave, own))
    return {"array": changed, "sampling_rate": own}


def _image(cell: Any, function: Function, rate: int) -> Any:
    from mmfuse.encoders._pictures import read_picture
    from mmfuse.encoders._regions import split_region

    picture, box = split_region(cell)
    changed = function(np.asarray(read_picture(picture)))
    return changed if box is None else {"image": changed, "box": box}


def _text(cell: Any, function: Function, rate: int) -> Any:
    if isinstance(cell, Path):
        return function(cell.read_text(encoding="utf-8"))
    if isinstance(cell, str):
        return function(cell)
    if isinstance(cell, Mapping) and isinstance(cell.get("text"), str):
        return {**cell, "text": function(cell["text"])}
    if isinstance(cell, tuple) and len(cell) == 2 and all(isinstance(part, str) for part in cell):
        return cell[0], function(cell[1])  # speaker and words
    if isinstance(cell, list):
        return [_text(turn, function, rate) for turn in cell]
    raise _unknown(cell, "text")


def _frames(cell: Any, function: Function, rate: int) -> Any:
    if isinstance(cell, Mapping) and "recording" in cell:
        return {**cell, "recording": _frames(cell["recording"], function, rate)}
    if isinstance(cell, (str, Path)) and Path(cell).suffix.lower() == ".csv":
        cell = pd.read_csv(cell)
    if isinstance(cell, Mapping):
        cell = pd.DataFrame(dict(cell))
    if isinstance(cell, pd.DataFrame):
        numbers = cell.select_dtypes("number")
        changed = function(numbers.to_numpy(dtype=np.float64))
        return pd.DataFrame(changed, columns=numbers.columns)
    array = to_numpy(cell) if is_tensor(cell) else cell
    if isinstance(array, np.ndarray) and array.ndim == 2:
        return function(array.astype(np.float64))
    raise _unknown(cell, "frames")


def _points(cell: Any, function: Function, rate: int) -> Any:
    if isinstance(cell, Mapping) and cell.get("points") is not None:
        return {**cell, "points": _points(cell["points"], function, rate)}
    if isinstance(cell, (str, Path)):
        from mmfuse.encoders._kitti import read_points

        cell = read_points(cell)
    array = to_numpy(cell) if is_tensor(cell) else cell
    if isinstance(array, np.ndarray) and array.ndim == 2 and array.shape[1] >= 3:
        return function(array.astype(np.float64)).astype(np.float32)
    raise _unknown(cell, "points")


def _unknown(cell: Any, kind: str) -> ValueError:
    return ValueError(f"a cell of type {type(cell).__name__} is in no form of {kind} that is known")


_CHANGE = {"audio": _audio, "image": _image, "text": _text, "frames": _frames, "points": _points}
