"""Blocks: a table after encoding, one float32 matrix per modality."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfuse._rows import (
    check_lengths,
    check_name,
    check_names,
    check_presence,
    describe,
    frozen,
    hide_cells,
    resolve_cells,
    resolve_rows,
    unknown_name,
)
from mmfuse.presence import Presence

if TYPE_CHECKING:
    from mmfuse.table import ModalityTable

__all__ = ["Blocks"]

_OWNER = "Blocks"


class Blocks:
    """Encoded modalities: a float32 matrix per modality and a state per cell.

    Blocks are immutable. Rows that are not PRESENT are all NaN, and a row that is all NaN is not
    PRESENT; both are put right by the constructor, on a copy. A partly NaN row is PRESENT.

    Parameters
    ----------
    arrays : mapping of str to array-like of shape (n, d)
        One matrix per modality, in the order that ``names`` keeps. Other numeric types are
        converted to float32; a float32 matrix is kept without copying unless it is reversed.
    presence : array-like of shape (n, M), optional
        A `Presence` state or boolean per cell. Without it a cell is ABSENT where its row is all
        NaN and PRESENT elsewhere.

    Raises
    ------
    ValueError
        If there is no matrix, the numbers of rows differ (each is listed), a matrix is not 2-D or
        not numeric, a value is infinite (modality and row are named), or ``presence`` does not fit.

    See Also
    --------
    ModalityTable : The same rows before encoding.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse import Blocks
    >>> blocks = Blocks({"image": np.ones((3, 4)), "audio": [[1, 2], [np.nan, np.nan], [3, 4]]})
    >>> blocks
    Blocks: 3 rows x 2 modalities
      image  (3, 4)  3 present
      audio  (3, 2)  2 present, 1 absent
    >>> blocks[1:].hide("image").presence.tolist()
    [[0, 0], [0, 1]]
    """

    _arrays: dict[str, np.ndarray]
    _presence: np.ndarray

    def __init__(self, arrays: Mapping[str, Any], presence: Any = None) -> None:
        matrices = {check_name(name): _matrix(name, value) for name, value in arrays.items()}
        n_rows = check_lengths({name: len(a) for name, a in matrices.items()}, owner=_OWNER)
        shape = (n_rows, len(matrices))
        if presence is None:
            states = np.full(shape, Presence.PRESENT, dtype=np.int8)
        else:
            states = check_presence(presence, shape, owner=_OWNER)
        self._arrays = {
            name: frozen(_settle(matrix, states[:, j]))
            for j, (name, matrix) in enumerate(matrices.items())
        }
        self._presence = frozen(states)

    @classmethod
    def _make(cls, arrays: dict[str, np.ndarray], presence: np.ndarray) -> Blocks:
        """Build from parts that are known to be valid."""
        self = object.__new__(cls)
        self._arrays = {name: frozen(array) for name, array in arrays.items()}
        self._presence = frozen(presence)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Blocks._make, (self._arrays, self._presence)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modalities, in order."""
        return tuple(self._arrays)

    @property
    def dims(self) -> dict[str, int]:
        """Number of columns of each modality."""
        return {name: array.shape[1] for name, array in self._arrays.items()}

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and number of modalities."""
        return self._presence.shape  # type: ignore[return-value]  # numpy types no lengths

    @property
    def presence(self) -> np.ndarray:
        """States, a read-only int8 array of shape (n, M)."""
        return self._presence

    @property
    def present(self) -> np.ndarray:
        """Where a cell is PRESENT, a boolean array of shape (n, M)."""
        return self._presence == Presence.PRESENT

    def __len__(self) -> int:
        return len(self._presence)

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(
            "Blocks cannot be iterated over, since rows and modalities are both meant by someone; "
            "use `for name in blocks.names` or `for i in range(len(blocks))`."
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError(
            "Blocks do not become one array by themselves: use blocks[name] for one modality, or "
            "numpy.asarray(blocks.to_table()) for an object array of vectors."
        )

    def __getitem__(self, key: Any) -> Any:
        """Return a modality for a name, and Blocks for rows.

        Parameters
        ----------
        key : str, slice, integer array, boolean mask, or (rows, Ellipsis)
            A single integer is refused, as it would drop the row axis.

        Returns
        -------
        ndarray of shape (n, d) or Blocks
            A name gives the modality's read-only matrix.
        """
        if isinstance(key, str):
            if key not in self._arrays:
                raise unknown_name(key, self.names, owner=_OWNER)
            return self._arrays[key]
        rows = resolve_rows(key, len(self), owner=_OWNER)
        arrays = {name: _forward(array[rows]) for name, array in self._arrays.items()}
        return self._make(arrays, self._presence[rows])

    def hide(self, names: str | Iterable[str], rows: Any = None) -> Blocks:
        """Return the same blocks with some cells ABSENT and their values NaN.

        Parameters
        ----------
        names : str or iterable of str
            Modalities to hide.
        rows : int, slice, integer array or boolean mask, optional
            Rows in which to hide them; every row by default.

        Returns
        -------
        Blocks
            Modalities that are not named are shared, not copied.
        """
        asked = check_names(names, self.names, owner=_OWNER)
        cells = resolve_cells(rows, len(self), owner=_OWNER)
        arrays = dict(self._arrays)
        for name in asked:
            arrays[name] = arrays[name].copy()
            arrays[name][cells] = np.nan
        columns = [self.names.index(name) for name in asked]
        return self._make(arrays, hide_cells(self._presence, columns, cells))

    def select(self, names: str | Iterable[str]) -> Blocks:
        """Return fewer modalities, in the order of ``names``."""
        asked = check_names(names, self.names, owner=_OWNER)
        check_lengths(dict.fromkeys(asked, len(self)), owner=_OWNER)
        columns = [self.names.index(name) for name in asked]
        arrays = {name: self._arrays[name] for name in asked}
        return self._make(arrays, self._presence[:, columns])

    def to_table(self) -> ModalityTable:
        """Return a `ModalityTable` with the same matrices and states."""
        from mmfuse.table import ModalityTable

        return ModalityTable(self._arrays, presence=self._presence)

    def __repr__(self) -> str:
        kinds = {name: str(array.shape) for name, array in self._arrays.items()}
        return describe("Blocks", kinds, self._presence)


def _matrix(name: str, value: Any) -> np.ndarray:
    """Convert one block to a finite-or-NaN float32 matrix."""
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinite and is refused below
            array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"Block {name!r} must be a numeric matrix: {exc}.") from exc
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(
            f"Block {name!r} must have shape (n, d) with d >= 1, got shape {array.shape}."
        )
    infinite = np.isinf(array)
    if infinite.any():
        row = int(np.argmax(infinite.any(axis=1)))
        raise ValueError(
            f"Input X contains infinity in modality {name!r}, row {row}; float32 blocks hold "
            "finite values, and NaN where a value is missing."
        )
    return _forward(array)


def _forward(array: np.ndarray) -> np.ndarray:
    """Copy what is read backwards in memory, which torch cannot take."""
    return array.copy() if min(array.strides) < 0 else array


def _settle(matrix: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Make NaN rows and states agree: ``states`` in place, the values on a copy if need be."""
    blank = np.isnan(matrix[:, 0])  # few rows, as a rule: look at the rest of these alone
    blank[blank] = np.isnan(matrix[blank]).all(axis=1)
    states[blank & (states == Presence.PRESENT)] = Presence.ABSENT
    filled = (states != Presence.PRESENT) & ~blank
    if filled.any():
        matrix = matrix.copy()
        matrix[filled] = np.nan
    return matrix
