"""Decoded samples of the encoders that are trained, read when a batch needs them."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfuse.encoders import BaseEncoder
from mmfuse.encoders._columns import as_cells
from mmfuse.encoders._keys import file_of
from mmfuse.encoders._stream import ordered_map
from mmfuse.exceptions import EncodingError, SampleError

__all__ = ["Batch", "Samples"]

_ROOM = 1 << 30  # bytes of decoded samples that are kept for the next epoch
_AHEAD = 2  # batches that are decoded while one is computed


@dataclass
class Batch:
    """Rows that pass together.

    Attributes
    ----------
    rows : ndarray of shape (b,)
    present : ndarray of shape (b, M), bool
        After modality dropout.
    items : dict of str to list
        Decoded samples of the rows that have the modality, in order.
    """

    rows: np.ndarray
    present: np.ndarray
    items: dict[str, list[Any]]


class Samples:
    """The columns of the encoders that are trained.

    Parameters
    ----------
    table : ModalityTable
    encoders : dict of str to encoder
        Those that are trained.
    names : tuple of str
        All modalities, in the order of the presence.
    """

    def __init__(
        self, table: Any, encoders: dict[str, BaseEncoder], names: tuple[str, ...]
    ) -> None:
        self.encoders = encoders
        self.columns = {
            name: as_cells(table[name], caller=type(encoder).__name__)[0]
            for name, encoder in encoders.items()
        }
        self.place = {name: names.index(name) for name in encoders}
        self._kept: dict[tuple[str, int], Any] = {}
        self._room = _ROOM

    def batches(
        self, parts: Iterable[tuple[np.ndarray, np.ndarray]]
    ) -> Generator[Batch, None, None]:
        """Batches for pairs of rows (b,) and presence (b, M); decoded ahead in threads."""
        threads = max(encoder.n_jobs for encoder in self.encoders.values())
        stream = ordered_map(self._read, parts, n_jobs=threads, ahead=_AHEAD + threads)
        with closing(stream):
            yield from stream

    def _read(self, part: tuple[np.ndarray, np.ndarray]) -> Batch:
        rows, present = part
        items = {
            name: [self._item(name, int(row)) for row in rows[present[:, m]]]
            for name, m in self.place.items()
        }
        return Batch(rows, present, items)

    def _item(self, name: str, row: int) -> Any:
        known = self._kept.get((name, row))
        if known is not None:
            return known
        encoder, cell = self.encoders[name], self.columns[name][row]
        try:
            item = encoder.preprocess(cell)
        except (SampleError, OSError, ValueError, RuntimeError) as exc:
            raise EncodingError(self._message(name, row, cell, str(exc))) from exc
        if item is None:
            raise EncodingError(self._message(name, row, cell, "nothing is found in it any more"))
        size = int(getattr(item, "nbytes", 1024))
        if size <= self._room:
            self._room -= size
            self._kept[name, row] = item
        return item

    def _message(self, name: str, row: int, cell: Any, reason: str) -> str:
        file = file_of(cell, text_cells=self.encoders[name].text_cells)
        where = f"{name}, row {row}" + (f" ({file})" if file else "")
        return (
            f"{where}: {reason}; this sample could be encoded before the training began, so leave "
            "its file as it is until fit returns."
        )
