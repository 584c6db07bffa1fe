"""Cells of several instruments taken apart: one cell for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmfuse.encoders._band_cells import files_as_paths, is_file, open_cell, parts_of_cell
from mmfuse.encoders._band_instruments import Instrument

__all__ = ["split_cell"]


def split_cell(cell: Any, instruments: Sequence[Instrument]) -> dict[str, Any]:
    """Return the cells of each instrument; one that the common file lacks is ABSENT.

    Parameters
    ----------
    cell : object
        A cell that is PRESENT. A file is opened to see what it holds.
    instruments : sequence of Instrument
    """
    cell = files_as_paths(cell)
    parts = parts_of_cell(cell, instruments)
    if is_file(cell):
        try:
            found = open_cell(cell, instruments)
        except ValueError:  # `encode` says which row and file
            return parts
        return {
            name: raw if found[name].cube is not None else found[name].state
            for name, raw in parts.items()
        }
    return parts
