"""Reading a manifest for the command line: which columns are which modality."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmfuse._require import require
from mmfuse.table import ModalityTable

__all__ = [
    "Source",
    "check_columns",
    "parse_modalities",
    "parse_modality",
    "read_manifest",
    "read_target",
    "sources_of",
    "to_table",
]

_ENCODERS = {"image": "ImageEncoder", "audio": "LogMelEncoder", "text": "SentenceEncoder"}
_KINDS = (*_ENCODERS, "numeric")
_MISSING_WORDS = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None"]
_SYNTAX = "NAME=COLUMN:KIND, such as image=photo_path:image"


@dataclass(frozen=True)
class Source:
    """Where one modality is in a manifest, and what it is."""

    name: str
    columns: tuple[str, ...]
    kind: str

    def encoder(self, **parameters: Any) -> Any:
        """Make the default encoder of this kind; numeric columns need none."""
        if self.kind not in _ENCODERS:
            return None
        return getattr(import_module("mmfuse.encoders"), _ENCODERS[self.kind])(**parameters)

    def to_dict(self) -> dict[str, Any]:
        return {"columns": list(self.columns), "kind": self.kind}


def parse_modality(text: str) -> Source:
    """Read ``NAME=COLUMN[,COLUMN2...]:KIND``."""
    name, equals, rest = text.partition("=")
    columns, colon, kind = rest.rpartition(":")
    names = tuple(column.strip() for column in columns.split(","))
    if not (equals and colon and name.strip() and all(names)):
        raise ValueError(f"--modality {text!r} is not of the form {_SYNTAX}.")
    if kind not in _KINDS:
        raise ValueError(
            f"--modality {text!r}: the kind {kind!r} is not known. Use one of {', '.join(_KINDS)}."
        )
    if kind != "numeric" and len(names) > 1:
        raise ValueError(
            f"--modality {text!r}: only a numeric modality may have several columns. "
            "Give each column a name of its own."
        )
    return Source(name.strip(), names, kind)


def parse_modalities(texts: Iterable[str]) -> list[Source]:
    """Read every ``--modality``; a name may come once."""
    sources = [parse_modality(text) for text in texts]
    names = [source.name for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"--modality names {', '.join(twice)} more than once. Use other names.")
    return sources


def sources_of(model: Any, texts: Iterable[str] | None) -> list[Source]:
    """Where a fitted model's modalities are: as asked for, else as when it was fitted."""
    if texts:
        sources = parse_modalities(texts)
        unknown = [source.name for source in sources if source.name not in model.modalities_]
        if unknown:
            raise ValueError(
                f"--modality {unknown[0]!r}: the model has no such modality. "
                f"It has {', '.join(model.modalities_)}."
            )
        return sources
    kept: Mapping[str, Any] | None = getattr(model, "input_columns_", None)
    if not kept:
        raise ValueError(
            "The model does not say which columns it reads, as it was not fitted by `mmfuse fit`. "
            f"Add --modality {_SYNTAX}, once per modality."
        )
    return [Source(name, tuple(at["columns"]), at["kind"]) for name, at in kept.items()]


def read_manifest(path: Path, *, id: str | None = None) -> pd.DataFrame:
    """Read a CSV, TSV or parquet manifest; of the first two every cell is text or missing."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}. Give the path of a manifest.")
    try:
        if path.suffix == ".parquet":
            require("pyarrow", extra="parquet", caller="Reading a parquet manifest")
            frame = pd.read_parquet(path)
        else:
            separator = "\t" if path.suffix in (".tsv", ".tab") else ","
            frame = pd.read_csv(
                path, dtype=str, sep=separator, keep_default_na=False, na_values=[""]
            )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as exc:
        raise ValueError(f"{str(path)!r} could not be read as a table: {exc}.") from exc
    if not isinstance(frame.index, pd.RangeIndex) and path.suffix != ".parquet":
        raise ValueError(f"The rows of {str(path)!r} have more cells than its header.")
    if not len(frame):
        raise ValueError(f"{str(path)!r} has no rows below its header.")
    if id is not None:
        check_columns(frame, [id], path, option="--id")
    return frame


def check_columns(frame: pd.DataFrame, columns: Iterable[str], path: Path, option: str) -> None:
    """Raise an error that lists the columns that are there."""
    for column in columns:
        if column not in frame.columns:
            raise ValueError(
                f"{option}: {path.name!r} has no column {column!r}. "
                f"It has {', '.join(map(str, frame.columns))}."
            )


def read_target(
    frame: pd.DataFrame, column: str, path: Path, *, option: str, words: bool = False
) -> np.ndarray:
    """A column without gaps: numbers if all its cells are and ``words`` is not set, else text."""
    check_columns(frame, [column], path, option)
    values = frame[column]
    numbers = None if words else _as_numbers(values)
    if numbers is not None:
        values = numbers
    gaps = np.flatnonzero(values.isna())
    if len(gaps):
        raise ValueError(
            f"{option}: column {column!r} of {path.name!r} is empty in {len(gaps)} of {len(frame)} "
            f"rows, first in row {gaps[0]}. Fill these rows or remove them."
        )
    return values.astype(str).to_numpy(dtype=object) if numbers is None else values.to_numpy()


def _as_numbers(column: pd.Series) -> pd.Series | None:
    """Numbers, with NaN where a cell is empty or says so; None if a cell is something else."""
    if pd.api.types.is_bool_dtype(column):
        return None
    gaps = column.isna() | column.isin(_MISSING_WORDS)
    numbers = pd.to_numeric(column.mask(gaps), errors="coerce")
    return None if gaps.all() or (numbers.isna() & ~gaps).any() else numbers


def to_table(
    frame: pd.DataFrame, sources: Iterable[Source], folder: Path, *, id: str | None = None
) -> tuple[ModalityTable, list[str]]:
    """Make the table, and name the columns that the manifest lacks.

    A modality none of whose columns are there is left out: a model takes it for absent.
    """
    columns: dict[str, Any] = {}
    lacking: list[str] = []
    for source in sources:
        missing = [name for name in source.columns if name not in frame.columns]
        lacking += missing
        if len(missing) == len(source.columns):
            continue
        if source.kind == "numeric":
            columns[source.name] = _numbers(frame, source)
        else:
            columns[source.name] = _samples(frame[source.columns[0]], source.kind, folder)
    if not columns:
        raise ValueError(
            f"None of the columns {', '.join(lacking)} is in the manifest, which has "
            f"{', '.join(map(str, frame.columns))}."
        )
    ids = None if id is None else frame[id].to_numpy(dtype=object)
    return ModalityTable(columns, ids=ids), lacking


def _samples(column: pd.Series, kind: str, folder: Path) -> np.ndarray:
    cells = np.empty(len(column), dtype=object)
    for row, (value, gap) in enumerate(zip(column, column.isna(), strict=True)):
        if not gap and str(value).strip():
            cells[row] = str(value) if kind == "text" else folder / str(value)
    return cells


def _numbers(frame: pd.DataFrame, source: Source) -> np.ndarray:
    block = np.full((len(frame), len(source.columns)), np.nan)
    for index, name in enumerate(source.columns):
        if name not in frame.columns:
            continue
        column = frame[name].mask(frame[name].isin(_MISSING_WORDS))
        values = pd.to_numeric(column, errors="coerce")
        wrong = np.flatnonzero(values.isna() & column.notna())
        if len(wrong):
            raise ValueError(
                f"Modality {source.name!r}: column {name!r} is not a number in row {wrong[0]}, "
                f"which holds {column.iloc[wrong[0]]!r}. Leave the cell empty if the value is "
                "missing."
            )
        block[:, index] = values
    return block
