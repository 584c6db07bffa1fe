"""Encoding a column: look up, decode, batch, forward, keep."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmfuse._device import resolve_device
from mmfuse.cache import EmbeddingCache, cache_folder
from mmfuse.encoders._keys import content_key, file_of, quick_key
from mmfuse.encoders._stream import batches, chunks, ordered_map, windows
from mmfuse.exceptions import EncodingError, SampleError, WeightsNotFoundError
from mmfuse.presence import Presence

if TYPE_CHECKING:
    from mmfuse.encoders.base import BaseEncoder

__all__ = ["Encoded", "encode_cells"]

_WINDOW_BATCHES = 16  # samples that have a length are sorted within this many batches
_WINDOW_BYTES = 256 << 20
_KEYS_PER_TASK = 32
_DECODED_PER_TASK = 4  # a thread that wakes for each sample costs more than a short one
_LOOKUPS = 4096
_NOTHING = np.empty(0, dtype=np.float32)  # kept for a sample in which nothing was found


@dataclass(frozen=True)
class Encoded:
    """What encoding a column gives.

    Attributes
    ----------
    values : ndarray of shape (n_samples, n_features_out), float32
        NaN rows where the cell is not PRESENT.
    presence : ndarray of shape (n_samples,), int8
        Values of `Presence`; FAILED where encoding failed, EMPTY where nothing was found.
    errors : dict of int to str
        For each row that FAILED in this call, what went wrong, with the row and the file.
    """

    values: np.ndarray
    presence: np.ndarray
    errors: dict[int, str] = field(default_factory=dict)


@dataclass
class _Job:
    """One distinct sample and the rows that hold it."""

    key: bytes | None
    rows: list[int]
    item: Any = None


def encode_cells(
    encoder: BaseEncoder, cells: Sequence[Any] | np.ndarray, states: np.ndarray, name: str
) -> Encoded:
    """Encode the cells that are PRESENT; `states` is not changed."""
    run = _Run(encoder, cells, states.copy(), name)
    rows = np.flatnonzero(states == Presence.PRESENT).tolist()
    if rows:
        with run.open_cache() as run.cache, run.open_bar(len(rows)) as run.bar:
            run.encode(rows)
        run.warn(len(rows))
    return Encoded(run.values, run.states, run.errors)


class _Run:
    """One call of `encode`."""

    def __init__(
        self,
        encoder: BaseEncoder,
        cells: Sequence[Any] | np.ndarray,
        states: np.ndarray,
        name: str,
    ) -> None:
        self.encoder, self.cells, self.states, self.name = encoder, cells, states, name
        self.values = np.full((len(cells), encoder.n_features_out_), np.nan, dtype=np.float32)
        self.errors: dict[int, str] = {}
        self.cache: EmbeddingCache | None = None
        self.alone: int | None = None  # longer samples pass the module alone
        self.bar: Any = None

    def open_cache(self) -> Any:
        where = self.encoder.cache
        if where is False:
            return nullcontext()
        folder = cache_folder() if where is True else Path(where)
        return EmbeddingCache(folder, self.encoder.cache_config())

    def open_bar(self, total: int) -> Any:
        if not self.encoder.verbose:
            return nullcontext()
        from tqdm.auto import tqdm

        return tqdm(total=total, desc=self.name, unit="cell")

    def encode(self, rows: list[int]) -> None:
        jobs = self._look_up(self._distinct(rows))
        if not jobs:
            return
        encoder = self.encoder
        device, module = resolve_device(encoder.device), encoder.module()
        if device == "cpu" and encoder.cpu_room is not None:
            self.alone = encoder.cpu_room // 2
        with closing(self._decoded(jobs)) as decoded:
            for window in windows(decoded, count=self._window, size=_size, room=_WINDOW_BYTES):
                for batch in batches(
                    window,
                    length=lambda job: encoder._length(job.item),
                    most=encoder.batch_size,
                    room=encoder.batch_room,
                ):
                    self._forward(batch, module, device)

    def _distinct(self, rows: list[int]) -> list[_Job]:
        """Group rows by content; without a cache, files by their names, as none need be read."""
        keys = self._quick_keys(rows)
        unread = [row for row, key in zip(rows, keys, strict=True) if key is None]
        jobs: list[_Job] = []
        known: dict[bytes, _Job] = {}
        with closing(self._content_keys(unread)) as found:
            for row, quick in zip(rows, keys, strict=True):
                key, error = next(found) if quick is None else (quick, None)
                if error is not None:
                    self._fail([row], error)
                elif key is not None and key in known:
                    known[key].rows.append(row)
                else:
                    jobs.append(_Job(key, [row]))
                    if key is not None:
                        known[key] = jobs[-1]
        return jobs

    def _quick_keys(self, rows: list[int]) -> list[bytes | None]:
        text, by_name = self.encoder.text_cells, self.cache is None
        return [quick_key(self.cells[row], text_cells=text, by_name=by_name) for row in rows]

    def _content_keys(self, rows: list[int]) -> Generator[tuple[Any, Exception | None], None, None]:
        """Files are read in threads, the rest is already in memory."""
        text = self.encoder.text_cells

        def keys(part: list[int]) -> list[tuple[Any, Exception | None]]:
            return [_attempt(content_key, self.cells[row], text_cells=text) for row in part]

        files = any(file_of(self.cells[row], text_cells=text) for row in rows[:1])
        n_jobs = self.encoder.n_jobs if files else 1
        parts = ordered_map(keys, chunks(rows, _KEYS_PER_TASK), n_jobs=n_jobs, ahead=4 * n_jobs)
        with closing(parts):
            for part in parts:
                yield from part

    def _look_up(self, jobs: list[_Job]) -> list[_Job]:
        """Fill in what the cache has; return the jobs that remain."""
        if self.cache is None:
            return jobs
        remaining = []
        for part in chunks(jobs, _LOOKUPS):
            found = self.cache.get_many([job.key for job in part if job.key is not None])
            for job in part:
                vector = found.get(job.key) if job.key is not None else None
                if vector is None or vector.size not in (0, self.values.shape[1]):
                    remaining.append(job)
                else:
                    self._finish(job, vector)
        return remaining

    def _window(self, job: _Job) -> int:
        batch, length = self.encoder.batch_size, self.encoder._length(job.item)
        sort = length is not None and (self.alone is None or length <= self.alone)
        return _WINDOW_BATCHES * batch if sort else batch

    def _decoded(self, jobs: list[_Job]) -> Generator[_Job, None, None]:
        """Yield jobs with their decoded sample; settle those that have none."""
        encoder = self.encoder

        def decode(part: list[_Job]) -> list[tuple[_Job, Any, Exception | None]]:
            cells = [self.cells[job.rows[0]] for job in part]
            return [
                (job, *_attempt(encoder.preprocess, cell))
                for job, cell in zip(part, cells, strict=True)
            ]

        n_jobs = encoder.n_jobs
        at_once = 1 if n_jobs == 1 else min(_DECODED_PER_TASK, 1 + len(jobs) // (4 * n_jobs))
        ahead = (min(encoder.batch_size, 16) + n_jobs) // at_once
        parts = ordered_map(decode, chunks(jobs, at_once), n_jobs=n_jobs, ahead=ahead)
        with closing(parts):
            for job, item, error in (outcome for part in parts for outcome in part):
                job.item = item
                if error is not None:
                    self._fail(job.rows, error)
                elif job.item is None:
                    self._finish(job, _NOTHING)
                    self._keep([job], [_NOTHING])
                else:
                    yield job

    def _forward(self, batch: list[_Job], module: Any, device: str) -> None:
        encoder = self.encoder
        with torch.inference_mode():
            found = [
                module(_to_device(encoder.collate(part), device))
                for part in self._parts([job.item for job in batch], device)
            ]
            vectors = torch.cat(found).float().cpu().numpy()
        wanted = (len(batch), self.values.shape[1])
        if vectors.shape != wanted:
            raise ValueError(
                f"{type(encoder).__name__}: the module gave an array of shape {vectors.shape} "
                f"where {wanted} was expected."
            )
        sound = ~np.isinf(vectors).any(axis=1)
        if not encoder.nan_features:
            sound &= ~np.isnan(vectors).any(axis=1)
        kept = [job for job, fine in zip(batch, sound, strict=True) if fine]
        self._keep(kept, vectors[sound])
        for job, vector, fine in zip(batch, vectors, sound, strict=True):
            job.item = None
            if fine:
                self._finish(job, vector)
            else:
                self._fail(job.rows, SampleError("its vector has NaN or infinite values"))

    def _parts(self, items: list[Any], device: str) -> Iterator[list[Any]]:
        """Cut a batch, which is sorted by length, in what passes the module together."""
        if device != "cpu":
            return iter([items])
        encoder = self.encoder
        most = encoder.cpu_rows or encoder.batch_size
        return batches(items, length=encoder._length, most=most, room=encoder.cpu_room)

    def _keep(self, jobs: list[_Job], vectors: Any) -> None:
        if self.cache is not None:
            pairs = [(j.key, v) for j, v in zip(jobs, vectors, strict=True) if j.key is not None]
            self.cache.put_many([key for key, _ in pairs], [vector for _, vector in pairs])

    def _finish(self, job: _Job, vector: np.ndarray) -> None:
        if vector.size:
            # one row as a number, as a list of rows takes three times as long
            self.values[job.rows if len(job.rows) > 1 else job.rows[0]] = vector
            if self.encoder.nan_features and np.isnan(vector).all():
                self.states[job.rows] = Presence.ABSENT
        else:
            self.states[job.rows] = Presence.EMPTY
        if self.bar is not None:
            self.bar.update(len(job.rows))

    def _fail(self, rows: list[int], error: Exception) -> None:
        for row in rows:
            file = file_of(self.cells[row], text_cells=self.encoder.text_cells)
            where = f"{self.name}, row {row}" + (f" ({file})" if file else "")
            message = f"{where}: {error}"
            if self.encoder.on_error == "raise":
                raise EncodingError(
                    f"{message}; fix or remove the {'file' if file else 'sample'}, "
                    "or use on_error='mark' to mark such cells FAILED"
                ) from error
            self.errors[row] = message
            self.states[row] = Presence.FAILED
        if self.bar is not None:
            self.bar.update(len(rows))

    def warn(self, n_present: int) -> None:
        if self.errors:
            first = self.errors[min(self.errors)].removeprefix(f"{self.name}, ")
            warnings.warn(
                f"{self.name}: {len(self.errors)} of {n_present} cells could not be encoded and "
                f"are marked FAILED; first: {first}",
                UserWarning,
                stacklevel=4,
            )


def _attempt(function: Any, *args: Any, **kwargs: Any) -> tuple[Any, Exception | None]:
    """Return the result and None, or None and the reason why the sample cannot be used.

    A TypeError or the like is a fault of the program, not of the sample, and is raised.
    """
    try:
        return function(*args, **kwargs), None
    except WeightsNotFoundError:
        raise
    except (SampleError, OSError) as exc:
        return None, exc
    except (ValueError, RuntimeError) as exc:
        return None, SampleError(f"{type(exc).__name__}: {exc}")


def _size(job: _Job) -> int:
    return int(getattr(job.item, "nbytes", 0))


def _to_device(inputs: Any, device: str) -> Any:
    if isinstance(inputs, dict):
        return {name: _to_device(value, device) for name, value in inputs.items()}
    if isinstance(inputs, (list, tuple)):
        return type(inputs)(_to_device(value, device) for value in inputs)
    return inputs.to(device) if hasattr(inputs, "to") else inputs
