"""Columns of a table from pandas, CSV and parquet files, and joins by id."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from mmfuse._require import require
from mmfuse._rows import check_name, shorten
from mmfuse.presence import Presence
from mmfuse.table.cells import is_missing, object_array
from mmfuse.table.columns import Column, normalise, scatter, take

__all__ = ["TableReaders", "check_ids"]

Table = TypeVar("Table", bound="TableReaders")
_MISSING_WORDS = frozenset({"NA", "N/A", "#N/A", "n/a", "NaN", "nan", "NULL", "null", "None"})
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")  # what an integer prints: "007" stays text
_LOOKED_AT = 50


class TableReaders:
    """The constructors of a table that read files and frames or join by id."""

    def __init__(self, columns: Mapping[str, Any], *, ids: Any = None, presence: Any = None):
        raise NotImplementedError

    @classmethod
    def from_pandas(
        cls: type[Table],
        df: pd.DataFrame,
        /,
        *,
        id: str | None = None,
        **modalities: str | list[str],
    ) -> Table:
        """Make a table from columns of a DataFrame.

        Parameters
        ----------
        df : DataFrame
            One row per sample.
        id : str, optional
            Column, or name of the index, that holds a unique id per row.
        **modalities : str or list of str
            For each modality its column, or several columns that make one modality of
            measurements. Without any, every column but ``id`` is a modality of its own.

        Raises
        ------
        ValueError
            If a column is not there (those that are there are listed), or an id is repeated.
        """
        columns, ids = _columns_of(df, id, modalities, owner="ModalityTable.from_pandas")
        return cls(columns, ids=ids)

    @classmethod
    def from_csv(
        cls: type[Table],
        path: str | os.PathLike[str],
        /,
        *,
        id: str | None = None,
        root: str | os.PathLike[str] | None = None,
        paths: str | Iterable[str] | None = None,
        **modalities: str | list[str],
    ) -> Table:
        """Make a table from a CSV file (or TSV, by its suffix) with a header.

        An empty cell is ABSENT. Words such as ``NA`` stay text in a column of text and are gaps in
        a column of numbers.

        Parameters
        ----------
        path : str or path-like
            The file.
        id : str, optional
            Column that holds a unique id per row. Ids with leading zeros stay text.
        root : str or path-like, optional
            Folder that file names in the cells start from; by default that of ``path``.
        paths : str or iterable of str, optional
            Modalities whose text is a file name and becomes a `pathlib.Path`. By default those in
            which one of the first 50 cells that are not empty is a file; ``[]`` for none. A file
            that is not there is reported by the encoder, with its row.
        **modalities : str or list of str
            As in `from_pandas`.

        Raises
        ------
        ValueError
            If a column or a name in ``paths`` is not there, or an id is missing or repeated.
        """
        owner = "ModalityTable.from_csv"
        columns, ids = _columns_of(_read_csv(path, id), id, modalities, owner=owner)
        root = Path(path).parent if root is None else root
        return cls(_with_paths(columns, root, paths, owner=owner), ids=ids)

    @classmethod
    def from_parquet(
        cls: type[Table],
        path: str | os.PathLike[str],
        /,
        *,
        id: str | None = None,
        root: str | os.PathLike[str] | None = None,
        paths: str | Iterable[str] | None = None,
        **modalities: str | list[str],
    ) -> Table:
        """Make a table from a parquet file; parameters and errors as in `from_csv`.

        Raises
        ------
        ModuleNotFoundError
            If pyarrow is not installed; the message says how to install it.
        """
        owner = "ModalityTable.from_parquet"
        frame = _read_parquet(path, owner=owner)
        columns, ids = _columns_of(frame, id, modalities, owner=owner)
        root = Path(path).parent if root is None else root
        return cls(_with_paths(columns, root, paths, owner=owner), ids=ids)

    @classmethod
    def join(cls: type[Table], parts: Mapping[str, Any], *, how: str = "outer") -> Table:
        """Align modalities by id; where a modality lacks an id, its cell is ABSENT.

        Parameters
        ----------
        parts : mapping of str to Series, DataFrame or (ids, column)
            For each modality its samples, indexed by id. A DataFrame is one modality.
        how : {"outer", "inner", "left"}, default="outer"
            Rows for the ids of any modality, of all modalities, or of the first one; in order of
            first appearance.

        Raises
        ------
        ValueError
            If an id is repeated within a modality, or some ids are numbers and others are not.
        """
        columns, ids, presence = _join_columns(parts, how, owner="ModalityTable.join")
        return cls(columns, ids=ids, presence=presence)


def check_ids(ids: Any, n_rows: int, *, owner: str) -> np.ndarray:
    """Return ids as an array, or name the one that is missing or repeated."""
    if isinstance(ids, str) or not hasattr(ids, "__len__"):
        raise TypeError(f"{owner}: ids must be a sequence with one id per row, got {ids!r}.")
    if np.ndim(ids) > 1 and not isinstance(ids, pd.Index):
        ids = object_array(tuple(row) for row in ids)
    index = pd.Index(ids)
    if len(index) != n_rows:
        raise ValueError(f"{owner}: there are {len(index)} ids for {n_rows} rows.")
    missing = np.flatnonzero([is_missing(value) for value in index])
    if len(missing):
        raise ValueError(f"{owner}: row {missing[0]} has no id ({index[missing[0]]!r}).")
    if not index.is_unique:
        repeated = index[index.duplicated()][0]
        rows = [i for i, value in enumerate(index) if value == repeated]
        raise ValueError(
            f"{owner}: ids must be unique, but {repeated!r} is the id of rows "
            f"{', '.join(map(str, rows[:5]))}{', ...' if len(rows) > 5 else ''}."
        )
    return index.to_numpy()


def _columns_of(
    frame: pd.DataFrame, id: str | None, modalities: Mapping[str, str | list[str]], *, owner: str
) -> tuple[dict[str, Any], Any]:
    """Pick the columns of a frame that make the modalities, and its ids."""
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"{owner} needs a DataFrame, got {type(frame).__name__}.")
    if id is not None and id not in frame.columns and id in frame.index.names:
        frame = frame.reset_index(level=id)
    ids = None if id is None else _column(frame, id, f"{owner}: id={id!r}")
    if not modalities:
        modalities = {name: name for name in frame.columns if id is None or name != id}
        for name in modalities:
            check_name(name)
    columns: dict[str, Any] = {}
    for name, source in modalities.items():
        who = f"{owner}: {name}={source!r}"
        if isinstance(source, str):
            columns[name] = _column(frame, source, who)
            continue
        if not isinstance(source, (list, tuple)) or not source:
            raise TypeError(f"{who} must be the name of a column, or a list of names.")
        columns[name] = pd.DataFrame({column: _column(frame, column, who) for column in source})
    return columns, ids


def _read_csv(path: str | os.PathLike[str], id: str | None) -> pd.DataFrame:
    """Read a CSV (or TSV) so that an empty cell is missing and text stays text."""
    separator = "\t" if Path(path).suffix in {".tsv", ".tab"} else ","
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                sep=separator,
                index_col=False,  # or pandas takes cells beyond the header for an index
                keep_default_na=False,
                na_values=[""],
                dtype={id: str} if id is not None else None,
                low_memory=False,
            )
    except pd.errors.ParserWarning as exc:
        raise ValueError(
            f"The rows of {os.fspath(path)!r} have more cells than its header; name every column "
            "in the first line."
        ) from exc
    for position, column in enumerate(frame.columns):
        if not is_numeric_dtype(frame.dtypes.iloc[position]):
            convert = _whole_numbers if column == id else _numbers
            converted = convert(frame.iloc[:, position])
            if converted is not None:
                frame = frame.assign(**{column: converted})
    return frame


def _read_parquet(path: str | os.PathLike[str], *, owner: str) -> pd.DataFrame:
    """Read a parquet file, or say that pyarrow is not installed."""
    require("pyarrow", extra="parquet", caller=owner)
    return pd.read_parquet(path, engine="pyarrow")


def _with_paths(
    columns: dict[str, Any],
    root: str | os.PathLike[str],
    paths: str | Iterable[str] | None,
    *,
    owner: str,
) -> dict[str, Any]:
    """Turn the text of path columns into paths under ``root``.

    Without ``paths`` a column is one of paths if one of its first 50 cells that are not empty is
    a file.
    """
    root = Path(root)
    if paths is not None:
        paths = [paths] if isinstance(paths, str) else list(paths)
        for name in paths:
            if name not in columns or isinstance(columns[name], pd.DataFrame):
                known = [n for n, c in columns.items() if not isinstance(c, pd.DataFrame)]
                raise ValueError(
                    f"{owner}: paths names {name!r}, which is not a modality of one column. "
                    f"These are: {', '.join(known)}."
                )
    result = {}
    for name, column in columns.items():
        forced = paths is not None and name in paths
        if forced or (paths is None and _holds_files(column, root)):
            cells = [root / c if _is_text(c) else c for c in column.to_numpy(dtype=object)]
            column = object_array(cells)
        result[name] = column
    return result


def _join_columns(
    parts: Mapping[str, Any], how: str, *, owner: str
) -> tuple[dict[str, Column], np.ndarray, np.ndarray]:
    """Align modalities by id; what has no row for an id is ABSENT there.

    Returns
    -------
    columns : dict of str to column
    ids : ndarray of shape (n,)
    presence : int8 ndarray of shape (n, M)
    """
    if how not in ("outer", "inner", "left"):
        raise ValueError(f"{owner}: how must be 'outer', 'inner' or 'left', got {how!r}.")
    if not parts:
        raise ValueError(f"{owner} needs at least one modality, got none.")
    indexed = {check_name(name): _indexed(name, part, owner) for name, part in parts.items()}
    _check_same_kind({name: index for name, (index, _) in indexed.items()}, owner)
    ids = _joined_ids([index for index, _ in indexed.values()], how)
    presence = np.full((len(ids), len(parts)), Presence.ABSENT, dtype=np.int8)
    columns: dict[str, Column] = {}
    for j, (name, (index, value)) in enumerate(indexed.items()):
        column, states = normalise(name, value)
        found = index.get_indexer(ids)
        rows = np.flatnonzero(found >= 0)
        presence[rows, j] = states[found[rows]]
        if isinstance(column, pd.DataFrame):
            columns[name] = column.reindex(found)  # -1 is no label of theirs: a missing row
        else:
            columns[name] = scatter(np.asarray(take(column, found[rows])), rows, len(ids))
    return columns, ids.to_numpy(), presence


def _column(frame: pd.DataFrame, name: str, who: str) -> pd.Series:
    if name not in frame.columns:
        known = ", ".join(map(repr, frame.columns))
        raise ValueError(f"{who}: there is no column {name!r}. The columns are {known}.")
    column = frame[name]
    if isinstance(column, pd.DataFrame):
        raise ValueError(f"{who}: the column {name!r} is there {column.shape[1]} times.")
    return column


def _is_text(cell: Any) -> bool:
    return isinstance(cell, str) and not is_missing(cell)


def _holds_files(column: Any, root: Path) -> bool:
    if isinstance(column, pd.DataFrame) or is_numeric_dtype(column.dtype):
        return False
    cells = (cell for cell in column.to_numpy(dtype=object) if not is_missing(cell))
    first = (cell for cell, _ in zip(cells, range(_LOOKED_AT), strict=False))
    # os.path.isfile answers False where Path.is_file raises: a text longer than a name may be
    return any(isinstance(cell, str) and os.path.isfile(root / cell) for cell in first)


def _numbers(column: pd.Series) -> pd.Series | None:
    """Convert a column of numbers whose gaps are written as words (NA, null), or return None."""
    gaps = column.isna() | column.isin(_MISSING_WORDS)
    if gaps.all():
        return None
    numbers = pd.to_numeric(column.mask(gaps), errors="coerce")
    return None if (numbers.isna() & ~gaps).any() else numbers


def _whole_numbers(column: pd.Series) -> pd.Series | None:
    """Convert ids that are whole numbers without leading zeros, or return None."""
    whole = all(isinstance(cell, str) and _WHOLE.fullmatch(cell) for cell in column)
    return column.astype(np.int64) if whole else None


def _indexed(name: str, part: Any, owner: str) -> tuple[pd.Index, Any]:
    """Split one input of a join into its ids and its column."""
    who = f"{owner}: modality {name!r}"
    if isinstance(part, (pd.Series, pd.DataFrame)):
        ids, column = part.index, part
    elif isinstance(part, tuple) and len(part) == 2:
        ids, column = part
    else:
        raise TypeError(
            f"{who} must be a Series or DataFrame indexed by id, or a pair (ids, column); got "
            f"{shorten(part)}."
        )
    n_rows = len(column) if hasattr(column, "__len__") else len(ids)
    return pd.Index(check_ids(ids, n_rows, owner=who)), column


def _check_same_kind(indexes: Mapping[str, pd.Index], owner: str) -> None:
    """Refuse to join numbers with text: 7 and "7" are never the same id."""
    kinds = {
        name: "numbers" if is_numeric_dtype(index.dtype) else "not numbers"
        for name, index in indexes.items()
        if len(index)
    }
    if len(set(kinds.values())) > 1:
        listed = ", ".join(
            f"{name}: {kind}, e.g. {indexes[name][0]!r}" for name, kind in kinds.items()
        )
        raise ValueError(
            f"{owner}: the ids are of different kinds ({listed}); convert one of them."
        )


def _joined_ids(indexes: list[pd.Index], how: str) -> pd.Index:
    """Return the ids of the rows, in order of first appearance."""
    ids = indexes[0]
    for index in indexes[1:]:
        if how == "outer":
            new = index[~index.isin(ids)]
            ids = ids.append(new) if len(new) else ids  # an empty one may change the type
        elif how == "inner":
            ids = ids[ids.isin(index)]
    return ids
