"""ModalityTable: rows are samples, columns are modalities, and every cell has a state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from mmfuse._rows import (
    check_lengths,
    check_name,
    check_names,
    check_presence,
    describe,
    frozen,
    hide_cells,
    positions,
    resolve_cells,
    resolve_rows,
    unknown_name,
)
from mmfuse.presence import Presence
from mmfuse.table import io, views
from mmfuse.table.cells import object_array
from mmfuse.table.columns import Column, cells_of, kind_of, normalise, stack_numeric, take

__all__ = ["ModalityTable", "stack_numeric"]

_OWNER = "ModalityTable"
_MEMBERS = object_array(sorted(Presence))


class ModalityTable(io.TableReaders):
    """Samples seen through several modalities, any of which may be missing in any row.

    The table is immutable, has a two-dimensional ``shape`` and is cut by rows, so that every tool
    of scikit-learn that splits, shuffles or resamples takes it for ``X``.

    Parameters
    ----------
    columns : mapping of str to array-like
        One entry per sample in each: a numeric array or tensor of shape (n, ...), kept without
        copying; a list, Series or object array of samples (paths, texts, arrays, dicts, images);
        or a DataFrame, which is one modality of several measurements. One number per sample makes
        an array of shape (n, 1).
    ids : array-like of shape (n,), optional
        A unique id per row.
    presence : array-like of shape (n, M), optional
        A `Presence` state or boolean per cell. It can only take away: a cell that has no value
        stays as it is.

    Raises
    ------
    TypeError
        If a name is not a string, or a column is not one entry per sample.
    ValueError
        If there is no modality, the numbers of rows differ (each is listed), a name is empty or
        contains ``"__"``, or ``ids`` or ``presence`` do not fit.

    See Also
    --------
    Blocks : The same rows after encoding.

    Notes
    -----
    None, NaN, ``pandas.NA``, blank text and a row that is all NaN are ABSENT; an array without
    values is EMPTY; a `Presence` member in a cell is that state. A partly NaN row is PRESENT.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse import ModalityTable
    >>> X = ModalityTable({"image": np.zeros((3, 2, 2)), "note": ["calm", None, "tense"]})
    >>> X
    ModalityTable: 3 rows x 2 modalities
      image  float64 (2, 2)  3 present
      note   str             2 present, 1 absent
    >>> X[[1, 2]].presence.tolist()
    [[1, 0], [1, 1]]
    >>> X.hide("image", rows=[0]).patterns()["rows"].tolist()
    [1, 1, 1]
    """

    _columns: dict[str, Column]
    _presence: np.ndarray
    _ids: np.ndarray | None

    def __init__(
        self, columns: Mapping[str, Any], *, ids: Any = None, presence: Any = None
    ) -> None:
        if not isinstance(columns, Mapping):
            hint = "; use ModalityTable.from_pandas" if isinstance(columns, pd.DataFrame) else ""
            raise TypeError(
                f"ModalityTable needs a dict of columns, got {type(columns).__name__}{hint}."
            )
        parts = {check_name(name): normalise(name, value) for name, value in columns.items()}
        lengths = {name: len(column) for name, (column, _) in parts.items()}
        shape = (check_lengths(lengths, owner=_OWNER), len(parts))
        states = np.stack([states for _, states in parts.values()], axis=1)
        if presence is not None:
            given = check_presence(presence, shape, owner=_OWNER)
            states = np.where(given == Presence.PRESENT, states, given)
        checked = None if ids is None else io.check_ids(ids, shape[0], owner=_OWNER)
        self._set({name: column for name, (column, _) in parts.items()}, states, checked)

    def _set(
        self, columns: Mapping[str, Column], presence: np.ndarray, ids: np.ndarray | None
    ) -> None:
        self._columns = {
            name: column if isinstance(column, pd.DataFrame) else frozen(column)
            for name, column in columns.items()
        }
        self._presence = frozen(presence)
        self._ids = None if ids is None else frozen(ids)

    @classmethod
    def _make(
        cls, columns: Mapping[str, Column], presence: np.ndarray, ids: np.ndarray | None
    ) -> ModalityTable:
        """Build from parts that are known to be valid."""
        self = object.__new__(cls)
        self._set(columns, presence, ids)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return ModalityTable._make, (self._columns, self._presence, self._ids)

    @classmethod
    def from_dict(
        cls, columns: Mapping[str, Any], *, ids: Any = None, presence: Any = None
    ) -> ModalityTable:
        """Make a table from a dict of columns; the same as the constructor."""
        return cls(columns, ids=ids, presence=presence)

    @classmethod
    def from_object_array(
        cls, array: Any, names: Iterable[str], *, ids: Any = None
    ) -> ModalityTable:
        """Make a table from an array of cells, such as ``numpy.asarray`` makes of a table.

        Parameters
        ----------
        array : array-like of shape (n, M)
            Samples, or `Presence` members where there is none. A modality whose cells are arrays
            of one shape becomes a numeric block again.
        names : iterable of str
            Modalities, one per column of the array.
        ids : array-like of shape (n,), optional
            A unique id per row.

        Raises
        ------
        ValueError
            If the array does not have one column per name.
        """
        cells = np.asarray(array, dtype=object)
        known = [names] if isinstance(names, str) else list(names)
        if cells.ndim != 2 or cells.shape[1] != len(known):
            raise ValueError(
                f"The array of cells has shape {cells.shape}; for the modalities "
                f"{', '.join(map(str, known))} it must have shape (n, {len(known)})."
            )
        if len(set(known)) < len(known):
            raise ValueError(f"The names of modalities must differ, got {known!r}.")
        parts = {
            check_name(name): normalise(name, cells[:, j], stack=True)
            for j, name in enumerate(known)
        }
        columns = {name: column for name, (column, _) in parts.items()}
        presence = [states for _, states in parts.values()]
        return cls(columns, ids=ids, presence=np.stack(presence, axis=1) if presence else None)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in order."""
        return tuple(self._columns)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and number of modalities."""
        return self._presence.shape  # type: ignore[return-value]  # numpy types no lengths

    @property
    def ids(self) -> np.ndarray | None:
        """Ids of the rows, read-only, or None where none were given."""
        return self._ids

    @property
    def presence(self) -> np.ndarray:
        """States, a read-only int8 array of shape (n, M)."""
        return self._presence

    def __len__(self) -> int:
        return len(self._presence)

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(
            "A ModalityTable cannot be iterated over, since rows and modalities are both meant by "
            "someone; use `for name in X.modalities`, or X[i:i + 1] for each row."
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return an object array of shape (n, M) of samples and, elsewhere, `Presence` members."""
        if dtype is not None and np.dtype(dtype) != object:
            raise TypeError(
                f"A ModalityTable holds raw samples and becomes an object array only, not "
                f"{np.dtype(dtype)}; encode it first, as FusionClassifier does, or use X[name]."
            )
        if copy is False:
            raise ValueError("A ModalityTable becomes an array by copying only; leave copy out.")
        cells = np.empty(self.shape, dtype=object)
        for j, column in enumerate(self._columns.values()):
            states = self._presence[:, j]
            cells[:, j] = _MEMBERS[states]
            for row, cell in cells_of(column, states == Presence.PRESENT):
                cells[row, j] = cell
        return cells

    def __getitem__(self, key: Any) -> Any:
        """Return a column for a name, and a table for rows.

        Parameters
        ----------
        key : str, slice, integer array, boolean mask, or (rows, Ellipsis)
            pandas masks count by position. A single integer is refused, as it would drop the row
            axis.

        Returns
        -------
        ndarray, DataFrame or ModalityTable
            A column is a read-only array or a copied DataFrame; it keeps values that `hide`
            hides, which ``presence`` tells apart.
        """
        if isinstance(key, str):
            if key not in self._columns:
                raise unknown_name(key, self.modalities, owner=_OWNER)
            column = self._columns[key]
            return column.copy() if isinstance(column, pd.DataFrame) else column
        rows = resolve_rows(key, len(self), owner=_OWNER)
        columns = {name: take(column, rows) for name, column in self._columns.items()}
        return self._make(
            columns, self._presence[rows], None if self._ids is None else self._ids[rows]
        )

    def hide(self, names: str | Iterable[str], rows: Any = None) -> ModalityTable:
        """Return the same table with some cells ABSENT.

        Parameters
        ----------
        names : str or iterable of str
            Modalities to hide.
        rows : int, slice, integer array or boolean mask, optional
            Rows in which to hide them; every row by default.
        """
        asked = check_names(names, self.modalities, owner=_OWNER)
        cells = resolve_cells(rows, len(self), owner=_OWNER)
        indices = [self.modalities.index(name) for name in asked]
        return self._make(self._columns, hide_cells(self._presence, indices, cells), self._ids)

    def mark(self, name: str, rows: Any, state: Presence | int) -> ModalityTable:
        """Return the same table with another state in some cells of one modality.

        Parameters
        ----------
        name : str
            Modality.
        rows : int, slice, integer array, boolean mask or None
            Rows to mark; None for every row.
        state : Presence
            The new state. PRESENT brings back cells that were hidden.

        Raises
        ------
        ValueError
            If ``state`` is not a state, or is PRESENT for a cell that holds no value.
        """
        (name,) = check_names(name, self.modalities, owner=_OWNER)
        cells = resolve_cells(rows, len(self), owner=_OWNER)
        if state not in tuple(Presence):
            raise ValueError(f"state must be a Presence, such as Presence.FAILED; got {state!r}.")
        if state == Presence.PRESENT:
            own = normalise(name, take(self._columns[name], cells))[1]
            wrong = np.flatnonzero(own != Presence.PRESENT)
            if len(wrong):
                row = positions(cells, len(self))[wrong[0]]
                raise ValueError(f"Modality {name!r}, row {row} holds no value to be PRESENT.")
        presence = self._presence.copy()
        presence[cells, self.modalities.index(name)] = state
        return self._make(self._columns, presence, self._ids)

    def select(self, names: str | Iterable[str]) -> ModalityTable:
        """Return fewer modalities, in the order of ``names``."""
        asked = check_names(names, self.modalities, owner=_OWNER)
        check_lengths(dict.fromkeys(asked, len(self)), owner=_OWNER)
        indices = [self.modalities.index(name) for name in asked]
        columns = {name: self._columns[name] for name in asked}
        return self._make(columns, self._presence[:, indices], self._ids)

    def summary(self, by: Any = None) -> pd.DataFrame:
        """Count the states of each modality.

        Parameters
        ----------
        by : array-like of shape (n,), optional
            A group label per row, such as the site.

        Returns
        -------
        DataFrame
            Indexed by modality: present, absent, failed, empty, and share, that of PRESENT rows.
            With ``by``, the share of PRESENT rows with a column per group.
        """
        return views.summary(self.modalities, self._presence, by)

    def patterns(self) -> pd.DataFrame:
        """Count the patterns of availability, the most frequent first.

        Returns
        -------
        DataFrame
            A boolean column per modality (is it PRESENT), then rows and share.
        """
        return views.patterns(self.modalities, self._presence)

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame of samples, with None where a cell is not PRESENT.

        Returns
        -------
        DataFrame of shape (n, M)
            Object columns, indexed by ids if there are any. A cell is an array, a sample, or a
            dict of measurements; an array of shape (1,) is given as its number.
        """
        index = pd.RangeIndex(len(self)) if self._ids is None else pd.Index(self._ids)
        columns = {}
        for j, (name, column) in enumerate(self._columns.items()):
            single = isinstance(column, np.ndarray) and column.shape[1:] == (1,)
            cells = np.full(len(self), None, dtype=object)
            for row, cell in cells_of(column, self._presence[:, j] == Presence.PRESENT):
                cells[row] = cell[0] if single else cell
            columns[name] = pd.Series(cells, index=index, dtype=object)
        return pd.DataFrame(columns)

    def _kinds(self) -> dict[str, str]:
        present = self._presence == Presence.PRESENT
        columns = enumerate(self._columns.items())
        return {name: kind_of(column, present[:, j]) for j, (name, column) in columns}

    def __repr__(self) -> str:
        return describe(_OWNER, self._kinds(), self._presence)

    def _repr_html_(self) -> str:
        title = repr(self).partition("\n")[0]
        return views.to_html(title, self._kinds(), self._presence)
