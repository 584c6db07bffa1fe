"""Training rows without one of their instruments, for models of one block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfuse.encoders._band_instruments import Instrument, parse_instruments
from mmfuse.encoders._band_split import split_cell
from mmfuse.encoders.multiband import MultiBandEncoder
from mmfuse.exceptions import SampleError
from mmfuse.presence import Presence
from mmfuse.table import ModalityTable
from mmfuse.table.cells import object_array, state_of

__all__ = ["GapCopies", "add_instrument_gaps"]


@dataclass(frozen=True)
class GapCopies:
    """Rows and copies of them that lack an instrument.

    Attributes
    ----------
    X : ModalityTable of n rows
        All rows as they were, then the copies, instrument by instrument.
    rows : ndarray of shape (n,), int
        The row that each came from: take targets and weights with it.
    groups : ndarray of shape (n,)
        The same for a row and its copies, for ``fit(..., groups=...)``.
    removed : ndarray of shape (n,), object
        The instrument that a copy lacks; None for the rows as they were.
    """

    X: ModalityTable
    rows: np.ndarray
    groups: np.ndarray
    removed: np.ndarray


def add_instrument_gaps(
    X: ModalityTable,
    modality: str,
    encoder: MultiBandEncoder,
    *,
    groups: Any = None,
    share: float = 1.0,
    random_state: int = 0,
) -> GapCopies:
    """Add copies of training rows in which one instrument is missing.

    A model of one block learns to do without an instrument only from rows that lack it. Where
    instruments may be missing later and training rows are complete, fit it on these copies too.
    With the groups, calibration and the choice of regularisation never see a copy of a row that
    was trained on. Copies make every row count several times; where that matters, divide its
    weight by the number of its copies.

    Parameters
    ----------
    X : ModalityTable
        Training rows.
    modality : str
        The column of cutouts, whose cells hold several instruments.
    encoder : MultiBandEncoder
        It says which instruments there are; it need not be fitted.
    groups : array-like of shape (n_rows,), optional
        Groups that rows have already, such as nights or patches of sky; copies join those of
        their row. By default every row is its own.
    share : float, default=1.0
        Of the rows that have an instrument and another one besides, the share that is copied
        without it.
    random_state : int, default=0
        Chooses the rows where `share` is below 1.

    Returns
    -------
    GapCopies

    Raises
    ------
    TypeError
        If X is no table.
    ValueError
        If there is no such column, the encoder has one instrument, or `share` or `groups` do not
        fit.
    SampleError
        If a cell names an unknown instrument.

    Notes
    -----
    A file that holds all instruments is opened to see which it has; the copy names it for each
    that is left. What remains of a row is never nothing: an instrument that is alone stays.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse import ModalityTable
    >>> from mmfuse.encoders import MultiBandEncoder, add_instrument_gaps
    >>> rng = np.random.default_rng(0)
    >>> cells = [{"a": rng.normal(size=(2, 8, 8)), "b": rng.normal(size=(1, 4, 4))} for _ in "xy"]
    >>> bands = {"a": {"bands": ["g", "r"], "pixel_scale": 1.0}}
    >>> bands["b"] = {"bands": ["z"], "pixel_scale": 2.0}
    >>> found = add_instrument_gaps(
    ...     ModalityTable({"cutout": cells}), "cutout", MultiBandEncoder(bands)
    ... )
    >>> found.rows.tolist(), found.removed.tolist()
    ([0, 1, 0, 1, 0, 1], [None, None, 'a', 'a', 'b', 'b'])
    >>> sorted(found.X["cutout"][2])
    ['b']
    """
    instruments = _checked(X, modality, encoder, share)
    own = np.arange(len(X)) if groups is None else np.asarray(groups)
    if own.shape != (len(X),):
        raise ValueError(
            f"add_instrument_gaps: groups must have one entry per row, got shape {own.shape} for "
            f"{len(X)} rows."
        )
    column, states = X[modality], X.presence[:, X.modalities.index(modality)]
    parts = _parts(column, np.flatnonzero(states == Presence.PRESENT), modality, instruments)
    rng = np.random.default_rng(random_state)
    rows, removed = list(range(len(X))), [None] * len(X)
    cells = list(column)
    for one in instruments:
        for row in _chosen([r for r, p in parts.items() if one.name in p], parts, share, rng):
            cells.append({name: raw for name, raw in parts[row].items() if name != one.name})
            rows.append(row)
            removed.append(one.name)
    source = np.array(rows, dtype=int)
    return GapCopies(
        _with_cells(X, modality, cells, source, removed),
        source,
        own[source],
        object_array(removed),
    )


def _checked(X: Any, modality: str, encoder: MultiBandEncoder, share: float) -> list[Instrument]:
    if not isinstance(X, ModalityTable):
        raise TypeError(
            f"add_instrument_gaps: X must be a ModalityTable, got {type(X).__name__}; make one of "
            f"a column with ModalityTable({{{modality!r}: column}})."
        )
    if modality not in X.modalities:
        raise ValueError(
            f"add_instrument_gaps: modality must be one of {', '.join(X.modalities)}, "
            f"got {modality!r}."
        )
    instruments = list(parse_instruments(encoder.instruments))
    if len(instruments) < 2:
        raise ValueError(
            "add_instrument_gaps: encoder must have several instruments, got one; a row without "
            "it is an ABSENT cell, which every head knows."
        )
    number = isinstance(share, (int, float, np.number)) and not isinstance(share, bool)
    if not number or not 0 < share <= 1:
        raise ValueError(
            f"add_instrument_gaps: share must be a number above 0 and at most 1, got {share!r}."
        )
    return instruments


def _parts(
    column: Any, rows: np.ndarray, modality: str, instruments: list[Instrument]
) -> dict[int, dict[str, Any]]:
    """For each row, the raw cells of the instruments that it holds."""
    found = {}
    for row in rows.tolist():
        try:
            parts = split_cell(column[row], instruments)
        except SampleError as exc:
            raise SampleError(f"add_instrument_gaps: {modality}, row {row}: {exc}") from exc
        found[row] = {n: raw for n, raw in parts.items() if state_of(raw) == Presence.PRESENT}
    return found


def _chosen(
    rows: list[int], parts: dict[int, dict[str, Any]], share: float, rng: np.random.Generator
) -> list[int]:
    several = [row for row in rows if len(parts[row]) > 1]
    if share == 1 or not several:
        return several
    n = max(1, round(share * len(several)))
    return sorted(rng.choice(several, n, replace=False).tolist())


def _with_cells(
    X: ModalityTable, modality: str, cells: list[Any], rows: np.ndarray, removed: list[Any]
) -> ModalityTable:
    """The rows of a table with other cells in one column; copies have ids of their own."""
    taken = X[rows]
    columns = {name: taken[name] for name in X.modalities}
    columns[modality] = object_array(cells)
    ids = None
    if X.ids is not None:
        ids = [
            own if one is None else f"{own} without {one}"
            for own, one in zip(X.ids[rows].tolist(), removed, strict=True)
        ]
        ids = object_array(ids)
    return ModalityTable(columns, ids=ids, presence=taken.presence)
