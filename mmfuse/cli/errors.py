"""One line on stderr for what a user can mend; a traceback for the rest."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TextIO

__all__ = ["one_line_errors"]

_USER_ERRORS = (ValueError, OSError, ModuleNotFoundError)


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors of a command into one line and exit status 2, and warnings into notes.

    With ``MMFUSE_DEBUG=1`` the traceback is shown.
    """

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        with _warnings_as_notes():
            try:
                command(*args, **kwargs)
            except _USER_ERRORS as exc:
                if os.environ.get("MMFUSE_DEBUG", "0") not in ("", "0"):
                    raise
                say(f"mmfuse: {_one_line(exc)}")
                raise SystemExit(2) from None

    return wrapped


def say(line: str) -> None:
    """Print one line on stderr."""
    print(line, file=sys.stderr, flush=True)


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, UserWarning):  # deprecations are for developers
            say(f"note: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
