"""What a cell of a column of faces holds: a table or pictures, and perhaps a baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmfuse.encoders._face_pictures import ANGLES, PICTURE_SUFFIXES, VIDEO_SUFFIXES, is_pixels
from mmfuse.encoders._face_tables import (
    TABLE_SUFFIXES,
    Recording,
    as_layout,
    read_columns,
)
from mmfuse.encoders._face_units import UNITS
from mmfuse.encoders._stream import ordered_map
from mmfuse.exceptions import SampleError
from mmfuse.table.cells import NUMERIC, is_tensor

__all__ = ["Survey", "baseline_of", "count_frames", "recording_of", "survey", "with_paths"]


@dataclass(frozen=True)
class Survey:
    """What a column holds: names in order, and whether all cells are single pictures."""

    sources: tuple[str, ...]
    units: tuple[str, ...]
    rated: tuple[str, ...]
    angles: tuple[str, ...]
    single: bool


def recording_of(cell: Any) -> tuple[str, Any]:
    """Return "table" or "pictures", and what holds them.

    Raises
    ------
    SampleError
        If the cell is neither.
    """
    if isinstance(cell, Mapping) and "recording" in cell:
        return _kind(cell["recording"])
    return _kind(cell)


def baseline_of(cell: Any) -> tuple[str, Any]:
    """Return the baseline of a cell, as `recording_of` does.

    Raises
    ------
    SampleError
        If it has none.
    """
    if not isinstance(cell, Mapping) or cell.get("baseline") is None:
        raise SampleError(
            "baseline='given' needs cells {'recording': ..., 'baseline': ...}, and this one has "
            "no baseline"
        )
    return _kind(cell["baseline"])


def with_paths(column: Any) -> Any:
    """Return a column whose pairs name files as Path and whose DataFrames are dicts of arrays.

    So the cache knows their content.
    """
    if is_tensor(column) or (isinstance(column, np.ndarray) and column.dtype.kind in NUMERIC):
        return column
    return [_known(cell) for cell in (column.tolist() if hasattr(column, "tolist") else column)]


def survey(cells: list[Any], *, n_jobs: int, verbose: int) -> Survey:
    """Look at all cells of a column, of tables at their header alone.

    Raises
    ------
    ValueError
        If none can be read.
    """
    found = ordered_map(_look, cells, n_jobs=n_jobs, ahead=64 * n_jobs)
    if verbose:
        from tqdm.auto import tqdm

        found = tqdm(found, total=len(cells), desc="looking for action units", unit="cell")
    sources, units, rated, angles = set(), set(), set(), set()
    problem, single = None, True
    for row, (layout, one, error) in enumerate(found):
        if error is not None:
            problem = problem or f" The first one, row {row} of those present: {error}."
            continue
        sources.add(layout[0])
        units.update(layout[1])
        rated.update(layout[2])
        angles.update(layout[3])
        single = single and one
    if not sources:
        raise ValueError(
            "ActionUnitEncoder: fit must see at least one recording that can be read, to learn "
            f"which action units there are; got {len(cells)} cells.{problem or ''}"
        )
    return Survey(*(tuple(sorted(names)) for names in (sources, units, rated, angles)), single)


def count_frames(
    read: Callable[[Any], Recording], cells: Any, rows: list[int], n_jobs: int
) -> Iterator[tuple[int, dict[str, int] | Exception]]:
    """Yield each row and the counts of its recording, or why it cannot be read."""

    def count(row: int) -> dict[str, int] | Exception:
        try:
            return read(recording_of(cells[row])).counts
        except (SampleError, OSError) as exc:
            return exc

    counts = ordered_map(count, rows, n_jobs=n_jobs, ahead=4 * n_jobs)
    yield from zip(rows, counts, strict=True)


def _look(cell: Any) -> tuple[Any, bool, Exception | None]:
    try:
        kind, content = recording_of(cell)
        if kind == "pictures":
            return ("pictures", UNITS, UNITS, ANGLES), not _moves(content), None
        layout = as_layout(read_columns(content))
    except (SampleError, OSError) as exc:
        return None, False, exc
    rated = {**layout.flags, **layout.intensities}
    return (layout.source, layout.intensities, rated, layout.signals), False, None


def _moves(content: Any) -> bool:
    if isinstance(content, (str, Path)):
        return Path(content).suffix.lower() in VIDEO_SUFFIXES
    return getattr(content, "ndim", 0) == 4


def _kind(content: Any) -> tuple[str, Any]:
    if isinstance(content, Mapping) and isinstance(content.get("path"), (str, Path)):
        content = content["path"]
    if isinstance(content, (str, Path)):
        suffix = Path(content).suffix.lower()
        if suffix in TABLE_SUFFIXES:
            return "table", content
        if suffix in PICTURE_SUFFIXES or suffix in VIDEO_SUFFIXES:
            return "pictures", content
        listed = _listed([*TABLE_SUFFIXES, *PICTURE_SUFFIXES, *VIDEO_SUFFIXES])
        raise SampleError(f"a file of faces must end in one of {listed}, got {suffix!r}")
    if isinstance(content, (pd.DataFrame, Mapping)):
        return "table", content
    if is_tensor(content):
        content = content.detach().cpu().numpy()
    if is_pixels(content):
        return "pictures", content
    raise SampleError(
        "expected a path, a DataFrame or dict of arrays with one entry per frame, a PIL image or "
        f"an array of pixels, got an object of type {type(content).__name__}"
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _known(cell: Any) -> Any:
    if isinstance(cell, Mapping) and "recording" in cell:
        return {
            key: Path(part) if isinstance(part, str) else _known(part) for key, part in cell.items()
        }
    if isinstance(cell, pd.DataFrame) and cell.columns.is_unique:
        return {str(name): cell[name].to_numpy() for name in cell}
    return cell
