"""Checks of an encoder on cells that are missing, and on cells that cannot be encoded."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from mmfuse.encoders.base import Encoded
from mmfuse.exceptions import EncodingError
from mmfuse.presence import Presence
from mmfuse.testing._run import Check, demand, demand_close, demand_raises
from mmfuse.testing.encoder_subject import EncoderSubject

__all__ = ["GAP_CHECKS"]


def check_missing_cells(subject: EncoderSubject) -> None:
    """Absent, FAILED and EMPTY cells keep their state, and their rows are NaN, never zero."""
    samples, encoder = subject.samples, subject.fitted()
    gone = [None, np.nan, pd.NA, "  ", Presence.FAILED, Presence.EMPTY, []]
    encoded = encoder.encode([samples[0], *gone, samples[1]])
    demand(isinstance(encoded, Encoded), "encode must return an Encoded")
    demand(encoded.presence.dtype == np.int8, "presence must be int8")
    states = [1, 0, 0, 0, 0, 2, 3, 3, 1]
    demand(
        encoded.presence.tolist() == states,
        "None, NaN, NA and blank text are ABSENT, a Presence is itself, [] is EMPTY: expected "
        f"{states}, got {encoded.presence.tolist()}",
    )
    demand(encoded.errors == {}, "a missing cell is no error")
    demand(
        np.isnan(encoded.values[1:-1]).all(),
        "the row of a cell that is not PRESENT must be all NaN, not zero or anything else",
    )
    demand_close(
        encoded.values[[0, -1]],
        subject.vectors()[:2],
        "missing cells must not change the vectors of others",
    )


def check_presence(subject: EncoderSubject) -> None:
    """Cells that `presence` says are not PRESENT are never read, and keep that state."""
    broken = object() if subject.broken is None else subject.broken
    column = [*subject.samples[:3], broken, None]
    states = np.array([1, 0, 3, 2, 1])
    try:
        encoded = subject.fitted().encode(column, states)
    except Exception as exc:
        raise AssertionError(
            "a cell that presence says is not PRESENT must not be read; encode raised "
            f"{type(exc).__name__}: {exc}"
        ) from exc
    demand(
        encoded.presence.tolist() == [1, 0, 3, 2, 0],
        f"encode must keep the states it is given, got {encoded.presence.tolist()}",
    )
    demand(np.isnan(encoded.values[1:]).all(), "rows that are not PRESENT must be all NaN")
    demand_raises(
        ValueError,
        lambda: subject.fitted().encode(column, states[:2]),
        "a presence of another length than the column must be a ValueError",
    )


def check_no_rows(subject: EncoderSubject) -> None:
    """An empty column, and one without a present cell, give arrays of the right shape."""
    encoder = subject.fitted()
    for column in ([], np.empty(0, dtype=object), [None, None]):
        values = encoder.transform(column)
        demand(
            values.shape == (len(column), encoder.n_features_out_) and values.dtype == np.float32,
            f"a column of {len(column)} cells, none present, must give float32 of shape "
            f"({len(column)}, n_features_out_), got {values.dtype} {values.shape}",
        )


def check_errors_raised(subject: EncoderSubject) -> None:
    """A broken cell is an EncodingError that names column, row and file, and says what to do."""
    if subject.broken is None:
        return
    column = [*subject.samples, None, subject.broken]
    row = len(column) - 1
    for name in ("visits", None):
        error = demand_raises(
            EncodingError,
            lambda name=name: subject.fitted(on_error="raise").encode(column, name=name),
            "a cell that cannot be encoded must be an EncodingError",
        )
        said = str(error)
        where = f"{name or subject.encoder.modality}, row {row}"
        demand(where in said, f"the error must name column and row, {where!r}; it says {said!r}")
        if subject.reads_files:
            file = Path(subject.broken).name
            demand(file in said, f"the error must name the file {file!r}; it says {said!r}")
        demand(
            "on_error='mark'" in said, f"the error must tell of on_error='mark'; it says {said!r}"
        )


def check_errors_marked(subject: EncoderSubject) -> None:
    """With on_error="mark" broken cells are FAILED, all NaN, with one warning for all."""
    if subject.broken is None or "on_error" not in subject.encoder.get_params():
        return
    n = len(subject.samples)
    column = [subject.broken, *subject.samples, subject.broken]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoded = subject.fitted(on_error="mark").encode(column, name="visits")
    said = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    demand(
        len(said) == 1 and said[0].startswith(f"visits: 2 of {n + 2} cells") and "row 0" in said[0],
        f"marked errors must draw one warning that counts them and shows the first; got {said}",
    )
    demand(
        encoded.presence.tolist() == [2, *[1] * n, 2],
        f"cells that cannot be encoded must be FAILED, got {encoded.presence.tolist()}",
    )
    demand(
        sorted(encoded.errors) == [0, n + 1]
        and all(t.startswith(f"visits, row {r}") for r, t in encoded.errors.items()),
        "errors must hold a message for each FAILED row that names column and row",
    )
    demand(np.isnan(encoded.values[[0, -1]]).all(), "the rows of FAILED cells must be all NaN")
    demand_close(
        encoded.values[1:-1], subject.vectors(), "FAILED cells must not change other vectors"
    )


def check_missing_file(subject: EncoderSubject) -> None:
    """A file that is not there is an error that says so."""
    if not subject.reads_files:
        return
    gone = subject.folder / "gone"
    error = demand_raises(
        EncodingError,
        lambda: subject.fitted(on_error="raise").transform([gone]),
        "a file that is not there must be an EncodingError",
    )
    demand(
        "no such file" in str(error) and "gone" in str(error) and "row 0" in str(error),
        f"the error must name row and file and say 'no such file'; it says {str(error)!r}",
    )


GAP_CHECKS: dict[str, Check] = {
    "missing_cells": check_missing_cells,
    "presence": check_presence,
    "no_rows": check_no_rows,
    "errors_raised": check_errors_raised,
    "errors_marked": check_errors_marked,
    "missing_file": check_missing_file,
}
"""Checks of `ENCODER_CHECKS` on cells that are missing or broken, by name."""
