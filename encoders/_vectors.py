"""Files of vectors: one vector per file, or one file with a row for every key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mmfuse._require import require
from mmfuse.exceptions import SampleError
from mmfuse.table.cells import to_numpy

__all__ = ["SUFFIXES", "VectorFile", "as_vector", "open_vectors", "plain_key", "read_vector"]

SUFFIXES = (".npy", ".npz", ".parquet", ".safetensors")
_CALLER = "PrecomputedEncoder"
_ROWS_AT_ONCE = 4096


class VectorFile:
    """Vectors in one file, by row number or by key.

    Attributes
    ----------
    path : Path
    width : int
        Numbers in a vector.
    n_rows : int
    place : dict or None
        Row of each key; None where rows have numbers only.
    """

    def __init__(
        self,
        path: Path,
        width: int,
        n_rows: int,
        keys: Iterable[Any] | None,
        take: Callable[[np.ndarray, dict[int, str]], np.ndarray],
    ) -> None:
        self.path, self.width, self.n_rows, self._take = path, width, n_rows, take
        self.place = None if keys is None else _places(keys, path)

    def find(self, cell: Any) -> int:
        """Return the row of a cell, or raise SampleError."""
        key = plain_key(cell)
        if self.place is None:
            if not isinstance(key, int):
                raise SampleError(
                    f"{key!r} is no row number, and {self.path} has no keys; give row "
                    "numbers, or name the array or column of keys as keys='...'"
                )
            if not 0 <= key < self.n_rows:
                raise SampleError(
                    f"row {key} is not in {self.path}, which has rows 0 to {self.n_rows - 1}"
                )
            return key
        if key not in self.place:
            near = ", ".join(map(repr, list(self.place)[:3]))
            raise SampleError(
                f"the key {key!r} ({type(key).__name__}) is not among the {len(self.place)} keys "
                f"of {self.path}, such as {near}"
            )
        return self.place[key]

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        """Return the vectors (n, width) of some rows as float32, and what is wrong with any."""
        wrong: dict[int, str] = {}
        with np.errstate(over="ignore"):
            return np.asarray(self._take(rows, wrong), dtype=np.float32), wrong


def plain_key(cell: Any) -> Any:
    """Return a cell as the key it stands for: str, or int (a whole float too)."""
    if isinstance(cell, np.ndarray) and cell.size == 1:
        cell = cell.reshape(-1)[0]
    if isinstance(cell, np.generic):
        cell = cell.item()
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "replace")
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)  # pandas makes floats of whole numbers where one is missing
    if isinstance(cell, bool) or not isinstance(cell, (str, int, Path)):
        raise SampleError(f"a key must be a str or a whole number, got {cell!r}")
    return cell.as_posix() if isinstance(cell, Path) else cell


def _places(keys: Iterable[Any], path: Path) -> dict[Any, int]:
    place: dict[Any, int] = {}
    for row, raw in enumerate(keys):
        try:
            key = plain_key(raw)
        except SampleError as exc:
            raise ValueError(f"{_CALLER}: {path}, key of row {row}: {exc}.") from None
        if key in place:
            raise ValueError(
                f"{_CALLER}: the key {key!r} stands at rows {place[key]} and {row} of {path}; "
                "keys must differ."
            )
        place[key] = row
    return place


@contextmanager
def open_vectors(path: Path, array: str | None, keys: str | None) -> Iterator[VectorFile]:
    """Open a file of many vectors; raise FileNotFoundError or ValueError where that fails."""
    if not path.is_file():
        raise FileNotFoundError(f"{_CALLER}: source {str(path)!r} is no file.")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{_CALLER}: source must end in {', '.join(SUFFIXES)}; got {str(path)!r}.")
    try:
        if path.suffix == ".npy":
            if keys is not None or array is not None:
                raise SampleError("a .npy file holds one array; leave out keys and array")
            yield _from_matrix(path, _load(path, mmap=True), None)
        elif path.suffix == ".parquet":
            yield _from_parquet(path, array, keys)
        elif path.suffix == ".npz":
            with _load(path) as file:
                yield _from_named(path, file.files, _member(file), array, keys)
        else:
            with _safetensors(path) as file:
                names = list(file.keys())
                yield _from_named(path, names, file.get_tensor, array, keys)
    except SampleError as exc:
        raise ValueError(f"{_CALLER}: cannot use {path}: {exc}.") from exc


def read_vector(path: Path, array: str | None) -> np.ndarray:
    """Return the one vector of a file, as float32; raise SampleError where there is none."""
    if not path.is_file():
        raise SampleError("no such file")
    if path.suffix == ".npy":
        found: Any = _load(path, mmap=True)
    elif path.suffix == ".npz":
        with _load(path) as file:
            found = _member(file)(_the_name(file.files, array))
    elif path.suffix == ".safetensors":
        with _safetensors(path) as file:
            found = file.get_tensor(_the_name(list(file.keys()), array))
    elif path.suffix == ".parquet":
        table = _parquet(path)
        with table:
            columns = _value_columns(table, array, None)
            found = _rows_of(table.read(columns), columns)
    else:
        raise SampleError(f"a file of a vector must end in {', '.join(SUFFIXES)}")
    return as_vector(found)


def as_vector(found: Any) -> np.ndarray:
    """Return numbers of shape (d,) or (1, d) as a float32 vector, or raise SampleError."""
    try:
        array = np.asarray(to_numpy(found) if hasattr(found, "detach") else found)
    except ValueError:
        raise SampleError("a vector must hold numbers only") from None
    if array.dtype.kind not in "biuf":
        raise SampleError(f"a vector must hold real numbers, got {array.dtype}")
    shape = array.shape
    if array.ndim == 2 and len(array) == 1:
        array = array[0]
    if array.ndim != 1 or not array.size:
        raise SampleError(
            f"expected one vector, of shape (n_features,), got shape {shape}; pool it over the "
            "other axes first (a mean over time, say)"
        )
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _load(path: Path, *, mmap: bool = False) -> Any:
    """Load with numpy, never unpickling."""
    try:
        return np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except ValueError as exc:
        if "Object arrays" in str(exc) or "Python objects" in str(exc):
            raise SampleError(_objects(path.name)) from None
        if "allow_pickle" in str(exc):  # numpy takes what has no header of its own for a pickle
            raise SampleError("not a file of numpy; pickles are not read") from None
        if mmap and "size" in str(exc):  # numpy's words for a file that is cut short, or is empty
            raise SampleError(f"the file is truncated or empty ({exc})") from None
        raise SampleError(f"not a file of numpy ({exc})") from None
    except (OSError, EOFError) as exc:
        raise SampleError(f"not a file of numpy ({exc})") from None
    except Exception as exc:  # zipfile and the parser of the header have errors of their own
        raise SampleError(f"not a file of numpy ({type(exc).__name__}: {exc})") from None


def _objects(name: str) -> str:
    return (
        f"{name} holds Python objects, which only pickle can read, and unpickling a file may run "
        "code in it; save numbers: numpy.save(path, numpy.stack(vectors).astype('float32'))"
    )


def _member(file: Any) -> Callable[[str], np.ndarray]:
    def read(name: str) -> np.ndarray:
        try:
            return file[name]
        except ValueError as exc:
            if "allow_pickle" in str(exc):
                raise SampleError(_objects(name)) from None
            raise SampleError(f"the array {name!r} cannot be read ({exc})") from None

    return read


@contextmanager
def _safetensors(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(str(path), framework="pt")  # numpy has no bfloat16
    except (SafetensorError, OSError) as exc:
        raise SampleError(f"not a safetensors file ({exc})") from None
    with file as opened:
        yield opened


def _the_name(names: list[str], array: str | None) -> str:
    if array is not None and array in names:
        return array
    if array is None and len(names) == 1:
        return names[0]
    asked = f"has no array {array!r}" if array is not None else f"holds {len(names)} arrays"
    raise SampleError(f"the file {asked}; array must be one of {sorted(names)[:10]!r}")


def _from_named(
    path: Path,
    names: list[str],
    read: Callable[[str], Any],
    array: str | None,
    keys: str | None,
) -> VectorFile:
    """A file of named arrays: a matrix (and its keys), or a vector under each key."""
    if keys is None and array is None and len(names) != 1:
        return _from_vectors(path, names, read)
    listed = None
    if keys is not None:
        if keys not in names:
            raise SampleError(f"it has no array {keys!r} of keys; it has {sorted(names)[:10]!r}")
        listed = np.asarray(read(keys)).reshape(-1).tolist()
    matrix = read(_the_name([name for name in names if name != keys], array))
    return _from_matrix(path, matrix, listed)


def _from_vectors(path: Path, names: list[str], read: Callable[[str], Any]) -> VectorFile:
    if not names:
        raise SampleError("it holds no array")
    width = len(as_vector(read(names[0])))

    def take(rows: np.ndarray, wrong: dict[int, str]) -> np.ndarray:
        found = np.full((len(rows), width), np.nan, dtype=np.float32)
        for i, row in enumerate(rows):
            try:
                vector = as_vector(read(names[row]))
            except SampleError as exc:
                wrong[i] = f"{names[row]!r}: {exc}"
                continue
            if len(vector) == width:
                found[i] = vector
            else:
                wrong[i] = (
                    f"{names[row]!r} is a vector of {len(vector)} numbers, but {names[0]!r} has "
                    f"{width}; the vectors of a file must have one width"
                )
        return found

    return VectorFile(path, width, len(names), names, take)


def _from_matrix(path: Path, matrix: Any, keys: list[Any] | None) -> VectorFile:
    """A matrix, mapped where the format allows it."""
    torch_like = hasattr(matrix, "detach")
    kind = "f" if torch_like else matrix.dtype.kind
    if matrix.ndim != 2 or not matrix.shape[1] or kind not in "biuf":
        raise SampleError(
            "expected numbers of shape (n_rows, n_features), got "
            f"{matrix.dtype} of shape {tuple(matrix.shape)}"
        )
    if keys is not None and len(keys) != len(matrix):
        raise SampleError(f"it has {len(keys)} keys for {len(matrix)} rows")

    def take(rows: np.ndarray, wrong: dict[int, str]) -> np.ndarray:
        found = np.empty((len(rows), matrix.shape[1]), dtype=np.float32)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = matrix[rows[start : start + _ROWS_AT_ONCE]]
            found[start : start + len(part)] = to_numpy(part) if torch_like else part
        return found

    return VectorFile(path, matrix.shape[1], len(matrix), keys, take)


def _parquet(path: Path) -> Any:
    parquet = require("pyarrow.parquet", extra="parquet", caller=_CALLER)
    arrow = require("pyarrow", extra="parquet", caller=_CALLER)
    try:
        return parquet.ParquetFile(path, memory_map=True)
    except (arrow.ArrowException, OSError) as exc:
        raise SampleError(f"not a Parquet file ({exc})") from None


def _value_columns(file: Any, array: str | None, keys: str | None) -> list[str]:
    names = file.schema_arrow.names
    for asked in (array, keys):
        if asked is not None and asked not in names:
            raise SampleError(f"it has no column {asked!r}; it has {names[:10]!r}")
    columns = [array] if array is not None else [name for name in names if name != keys]
    if not columns:
        raise SampleError("it has no column of numbers")
    return columns


def _rows_of(table: Any, columns: list[str]) -> np.ndarray:
    """Return the numbers (n, d) of a piece of a Parquet file: a column of lists, or columns."""
    if len(columns) == 1 and "list" in str(table.schema.field(columns[0]).type):
        cells = table.column(columns[0]).to_pylist()
        widths = {len(cell) for cell in cells if cell is not None}
        if len(widths) > 1:
            raise SampleError(f"column {columns[0]!r} has lists of {sorted(widths)[:5]!r} numbers")
        blank = [np.nan] * (widths.pop() if widths else 0)
        rows = [
            blank if cell is None else [np.nan if v is None else v for v in cell] for cell in cells
        ]
        return np.asarray(rows, dtype=np.float64)
    parts = []
    for name in columns:
        part = table.column(name).to_pandas()
        if part.dtype.kind not in "biuf":
            raise SampleError(
                f"column {name!r} holds {part.dtype}, not numbers; if it holds the keys, "
                f"say keys={name!r}"
            )
        parts.append(part.to_numpy(dtype=np.float64))
    return np.stack(parts, axis=1)


def _from_parquet(path: Path, array: str | None, keys: str | None) -> VectorFile:
    file = _parquet(path)
    columns = _value_columns(file, array, keys)
    n_rows = file.metadata.num_rows
    listed = None if keys is None else file.read([keys]).column(keys).to_pylist()
    width = _rows_of(_first(file, columns), columns).shape[1] if n_rows else 0

    def take(rows: np.ndarray, wrong: dict[int, str]) -> np.ndarray:
        """Walk through the file once, a piece at a time: Parquet is compressed."""
        found = np.full((len(rows), width), np.nan, dtype=np.float32)
        start = 0
        for piece in file.iter_batches(_ROWS_AT_ONCE, columns=columns):
            wanted = np.flatnonzero((rows >= start) & (rows < start + len(piece)))
            if len(wanted):
                found[wanted] = _rows_of(_table(piece), columns)[rows[wanted] - start]
            start += len(piece)
        return found

    return VectorFile(path, width, n_rows, listed, take)


def _first(file: Any, columns: list[str]) -> Any:
    return _table(next(file.iter_batches(1, columns=columns)))


def _table(piece: Any) -> Any:
    arrow = require("pyarrow", extra="parquet", caller=_CALLER)
    return arrow.Table.from_batches([piece])
