"""What was decoded of the frames that were used last, shared by the objects in them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from pathlib import Path
from threading import Lock
from typing import Any

from mmfuse.exceptions import SampleError

__all__ = ["FRAMES", "Recent", "file_key"]


class Recent:
    """The results of the last calls, by key; each is computed once, whichever thread comes first.

    Parameters
    ----------
    kept : int
        How many results are kept.
    """

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self._known: OrderedDict[Hashable, Future[Any]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what is kept under `key`, or make and keep it; an error is not kept."""
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
            else:
                mine: Future[Any] = Future()
                self._known[key] = mine
                while len(self._known) > self.kept:
                    self._known.popitem(last=False)
        if found is not None:
            return found.result()
        try:
            mine.set_result(make())
        except BaseException as exc:
            with self._lock:
                self._known.pop(key, None)
            mine.set_exception(exc)
        return mine.result()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._known.clear()

    def __len__(self) -> int:
        return len(self._known)


FRAMES = Recent(24)
"""Sweeps, pictures and calibrations; a sweep of 64 beams has 2 MB, a picture up to 6 MB."""


def file_key(path: Path) -> tuple[str, int, int]:
    """Return what changes when the file does."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        raise SampleError(f"{path}: no such file") from None
    except OSError as exc:
        raise SampleError(f"{path}: {exc.strerror or exc}") from exc
    return str(path), facts.st_mtime_ns, facts.st_size
