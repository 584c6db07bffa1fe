"""Vectors that were made elsewhere, read from files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from mmfuse.encoders import _checks
from mmfuse.encoders._columns import as_cells, check_column, merge_states
from mmfuse.encoders._problems import settle
from mmfuse.encoders._stream import ordered_map
from mmfuse.encoders._vectors import VectorFile, as_vector, open_vectors, read_vector
from mmfuse.encoders.base import BaseEncoder, Encoded
from mmfuse.exceptions import SampleError
from mmfuse.presence import Presence

__all__ = ["PrecomputedEncoder"]


class PrecomputedEncoder(BaseEncoder):
    """Feature vectors that another program made, read from npy, npz, parquet or safetensors files.

    Without `source` a cell is the path of a file (str or Path) that holds one vector, of shape
    (n_features,) or (1, n_features), or it is the vector itself. With `source`, the path of one
    file, a cell is the number of a row in it, or the key of a row:

    =============  ========================================================================
    npy            a matrix; cells are row numbers from 0
    npz,           a matrix (`array` names it where there are several), by row number, or by
    safetensors    the entries of the array that `keys` names; or without either, one vector
                   under each name, and the names are the keys
    parquet        columns of numbers, or the column of lists that `array` names, by row
                   number, or by the entries of the column that `keys` names
    =============  ========================================================================

    With `source`, the path of a folder, a cell is the path of a file in it.

    npy and safetensors are mapped, so that only the rows that are asked for are read; parquet
    is read in pieces; npz is compressed as a whole and read as a whole. Nothing is unpickled: a
    file of Python objects is an error.

    Parameters
    ----------
    source : str or Path, optional
        One file that holds the vectors of all cells, or the folder that paths start from. It may
        be set to another file after `fit` (``set_params``), to predict from other rows.
    array : str, optional
        Name of the array or of the Parquet column of lists with the vectors.
    keys : str, optional
        Name of the array or of the Parquet column that says which row is whose.
    on_error : {"raise", "mark"}, default="raise"
        What to do about a cell without a vector in the file, a vector of another width than in
        `fit`, or an infinite value: raise `EncodingError`, or mark the cell FAILED and warn once.
    n_jobs : int, default=2
        Threads that read files of one vector.
    verbose : int, default=0
        Above 0, a progress bar is shown.

    Attributes
    ----------
    n_features_out_ : int
        Width of the first vector that `fit` can read, or of `source`.

    Raises
    ------
    FileNotFoundError
        If `source` is not there.
    ValueError
        If `source` is of another format, has several arrays and none is named, holds Python
        objects or repeats a key.

    Notes
    -----
    A vector with NaN in some places stays PRESENT, with its NaN; one of nothing but NaN is ABSENT.
    Whole floats are taken as the whole numbers that they are, since pandas turns a column of row
    numbers with a gap into floats. There are no weights, and nothing is cached.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from pathlib import Path
    >>> from mmfuse.encoders import PrecomputedEncoder
    >>> file = Path(tempfile.mkdtemp()) / "vectors.npz"
    >>> np.savez(file, x=np.eye(3), patient=["p1", "p2", "p3"])
    >>> encoder = PrecomputedEncoder(source=file, array="x", keys="patient")
    >>> encoder.fit_transform(["p3", None, "p1"])
    array([[ 0.,  0.,  1.],
           [nan, nan, nan],
           [ 1.,  0.,  0.]], dtype=float32)
    """

    modality: ClassVar[str] = "precomputed"

    def __init__(
        self,
        *,
        source: str | Path | None = None,
        array: str | None = None,
        keys: str | None = None,
        on_error: str = "raise",
        n_jobs: int = 2,
        verbose: int = 0,
    ) -> None:
        self.source = source
        self.array = array
        self.keys = keys
        self.on_error = on_error
        self.n_jobs = n_jobs
        self.verbose = verbose

    def fit(self, column: Any, y: Any = None) -> PrecomputedEncoder:
        """Find the width of the vectors.

        Parameters
        ----------
        column : list, Series or ndarray with one cell per row
        y : ignored

        Returns
        -------
        self
        """
        self._check_params()
        check_column(column, caller="PrecomputedEncoder")
        with self._opened() as file:
            self.n_features_out_ = self._first_width(column) if file is None else file.width
        return self

    def _first_width(self, column: Any) -> int:
        cells, states = as_cells(column, caller="PrecomputedEncoder")
        problems: dict[int, str] = {}
        for row in np.flatnonzero(states == Presence.PRESENT).tolist():
            try:
                return len(self._read(cells[row]))
            except SampleError as exc:
                problems[row] = f"{self._at(cells[row])}: {exc}"
                if self.on_error == "raise":
                    self._settle(problems, np.empty((len(states), 0)), states, self.modality)
        reason = "; ".join(f"row {row}{text}" for row, text in list(problems.items())[:1])
        raise ValueError(
            "PrecomputedEncoder: fit needs at least one vector to know their width, and no cell "
            f"has one{f' ({reason})' if reason else ''}."
        )

    def encode(self, column: Any, presence: Any = None, *, name: str | None = None) -> Encoded:
        """Read the vectors of a column and say what became of each cell.

        Parameters
        ----------
        column : list, Series or ndarray with one cell per row
        presence : array-like of shape (n_samples,), optional
            Values of `Presence`. Only cells that are PRESENT here are read.
        name : str, optional
            Name of the column, for messages and the progress bar. By default the modality.

        Returns
        -------
        Encoded

        Raises
        ------
        EncodingError
            If a cell has no vector, or one of another width, and ``on_error="raise"``. It names
            the column, the row and the file.
        """
        check_is_fitted(self)
        cells, states = as_cells(column, caller="PrecomputedEncoder")
        states = merge_states(states, presence, caller="PrecomputedEncoder").copy()
        values = np.full((len(cells), self.n_features_out_), np.nan, dtype=np.float32)
        rows = np.flatnonzero(states == Presence.PRESENT)
        problems: dict[int, str] = {}
        if len(rows):
            with self._bar(len(rows), name or self.modality) as bar:
                with self._opened() as file:
                    if file is None:
                        self._from_files(cells, rows.tolist(), values, problems, bar)
                    else:
                        self._from_source(file, cells, rows.tolist(), values, problems)
            bad = rows[np.isinf(values[rows]).any(axis=1)]
            problems |= {
                int(row): self._at(cells[row]) + ": its vector has infinite values or "
                "values beyond float32"
                for row in bad
            }
        errors = self._settle(problems, values, states, name or self.modality)
        blank = (states == Presence.PRESENT) & np.isnan(values).all(axis=1)
        states[blank] = Presence.ABSENT
        return Encoded(values, states, errors)

    def _from_files(
        self,
        cells: Any,
        rows: list[int],
        values: np.ndarray,
        problems: dict[int, str],
        bar: Any,
    ) -> None:
        """Read one vector per cell, in threads where cells are files."""

        def read(row: int) -> np.ndarray | str:
            try:
                vector = self._read(cells[row])
            except SampleError as exc:
                return f"{self._at(cells[row])}: {exc}"
            if len(vector) != self.n_features_out_:
                return f"{self._at(cells[row])}: {self._width_text(len(vector))}"
            return vector

        files = self._path_of(cells[rows[0]]) is not None
        n_jobs = self.n_jobs if files else 1
        with closing(ordered_map(read, rows, n_jobs=n_jobs, ahead=64)) as found:
            for row, vector in zip(rows, found, strict=True):
                if isinstance(vector, str):
                    problems[row] = vector
                    if self.on_error == "raise":
                        return
                else:
                    values[row] = vector
                if bar is not None:
                    bar.update()

    def _from_source(
        self,
        file: VectorFile,
        cells: Any,
        rows: list[int],
        values: np.ndarray,
        problems: dict[int, str],
    ) -> None:
        """Find the rows of all cells in one file, then read them together."""
        found: dict[int, int] = {}
        for row in rows:
            try:
                found[row] = file.find(cells[row])
            except SampleError as exc:
                problems[row] = str(exc)
        if file.width != self.n_features_out_:
            raise ValueError(f"PrecomputedEncoder: {file.path} has {self._width_text(file.width)}.")
        if problems and self.on_error == "raise":
            return
        mine = np.fromiter(found, np.int64, len(found))
        places = np.fromiter(found.values(), np.int64, len(found))
        values[mine], wrong = file.take(places)
        problems |= {int(mine[i]): f" ({file.path}): {text}" for i, text in wrong.items()}

    def _width_text(self, width: int) -> str:
        return (
            f"a vector of {width} numbers, but those of fit had {self.n_features_out_}; read "
            "vectors of the same model, or fit again"
        )

    def _read(self, cell: Any) -> np.ndarray:
        path = self._path_of(cell)
        return as_vector(cell) if path is None else read_vector(path, self.array)

    def _path_of(self, cell: Any) -> Path | None:
        if not isinstance(cell, (str, Path)):
            return None
        return Path(cell) if self.source is None else Path(self.source) / cell

    def _at(self, cell: Any) -> str:
        """The file, as it follows the row in a message."""
        path = self._path_of(cell)
        if path is not None and self.source is not None and not Path(self.source).is_dir():
            path = Path(self.source)
        return "" if path is None else f" ({path})"

    def _settle(
        self, problems: dict[int, str], values: np.ndarray, states: np.ndarray, name: str
    ) -> dict[int, str]:
        return settle(
            {row: text.removeprefix(": ") for row, text in problems.items()},
            values,
            states,
            on_error=self.on_error,
            name=name,
            cure="fix or remove the file or key",
            stacklevel=3,
        )

    @contextmanager
    def _opened(self) -> Iterator[VectorFile | None]:
        """Open `source`, where that is a file."""
        if self.source is None or Path(self.source).is_dir():
            yield None
            return
        with open_vectors(Path(self.source), self.array, self.keys) as file:
            yield file

    def _bar(self, total: int, name: str) -> Any:
        if not self.verbose:
            return nullcontext()
        from tqdm.auto import tqdm

        return tqdm(total=total, desc=name, unit="cell")

    def preprocess(self, sample: Any) -> Tensor:
        """Read the vector of one cell.

        Returns
        -------
        Tensor of shape (n_features_out,), float32

        Raises
        ------
        SampleError
            If there is none.
        """
        with self._opened() as file:
            if file is None:
                return torch.from_numpy(self._read(sample))
            values, wrong = file.take(np.array([file.find(sample)]))
            if wrong:
                raise SampleError(wrong[0])
            return torch.from_numpy(values[0])

    def module(self) -> nn.Module:
        """Return the identity: the features were made elsewhere."""
        return nn.Identity().eval()

    def _check_params(self) -> None:
        _checks.check_choice(self, "on_error", ("raise", "mark"))
        _checks.check_integer(self, "n_jobs", least=1)
        _checks.check_integer(self, "verbose", least=0)
        for name, kinds in (("source", (str, Path)), ("array", str), ("keys", str)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kinds):
                what = "a path" if name == "source" else "a str"
                raise TypeError(
                    f"PrecomputedEncoder: {name} must be {what} or None, got {value!r}."
                )
        if self.source is None and self.keys is not None:
            raise ValueError(
                "PrecomputedEncoder: keys names the keys of one file with all vectors; name that "
                "file as source, or leave out keys."
            )
