"""One cell of text to its sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmfuse.exceptions import SampleError
from mmfuse.table.cells import is_missing

__all__ = ["read_sentences"]


def read_sentences(sample: Any) -> list[str] | None:
    """Return the sentences of one cell; None for a text without any character.

    Parameters
    ----------
    sample : str, Path or list of str
        The text itself, a text file in UTF-8, or sentences.

    Raises
    ------
    SampleError
        If the file is missing or not UTF-8, or the cell is of another kind.
    """
    if isinstance(sample, Path):
        sample = _read_text(sample)
    if isinstance(sample, str):
        return [str(sample)] if sample.strip() else None
    if not isinstance(sample, (list, tuple, np.ndarray)):
        raise SampleError(
            "expected a str, the Path of a text file or a list of sentences, "
            f"got an object of type {type(sample).__name__}"
        )
    sentences = [sentence for sentence in sample if not is_missing(sentence)]
    for sentence in sentences:
        if not isinstance(sentence, str):
            raise SampleError(
                f"a list of sentences must hold str only, got {type(sentence).__name__}"
            )
    return [str(sentence) for sentence in sentences] or None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SampleError("no such file") from None
    except UnicodeDecodeError as exc:
        raise SampleError(f"the file is not UTF-8 text ({exc.reason} at {exc.start})") from None
