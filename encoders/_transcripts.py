"""Cells of a text column: texts, files, lists of sentences and transcripts of several speakers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmfuse.exceptions import SampleError
from mmfuse.table.cells import is_missing

__all__ = ["read_units"]

_NAME = re.compile(r"\s*\[?([^\W\d_][^:\n\[\]]{0,39}?)\]?\s*:(?:\s+|$)")
_WORDS_OF_A_NAME = 3
Turn = tuple[Any, str]


def read_units(
    sample: Any, *, keep: Sequence[str] | None = None, drop: Sequence[str] | None = None
) -> list[str]:
    """Return the texts of a cell.

    Parameters
    ----------
    sample : str, Path, or list of str, of (speaker, text) pairs or of dicts
    keep, drop : sequence of str, optional
        Speakers whose turns are kept, or left out; capitals do not matter. With one of them a str
        or file is a transcript: a line that opens with a name of at most three words and a colon
        begins a turn, and other lines go on with it.

    Returns
    -------
    list of str
        Without blank ones; empty where there is nothing, or where no kept speaker has spoken.

    Raises
    ------
    SampleError
        If the cell is of another kind, or a turn has no speaker though speakers are chosen.
    """
    chosen = keep is not None or drop is not None
    if isinstance(sample, Path):
        sample = _read_text(sample)
    if isinstance(sample, str):
        if not chosen:
            return [str(sample)] if sample.strip() else []
        turns: list[Turn] = _parsed(sample)
    elif isinstance(sample, (list, tuple, np.ndarray)):
        turns = _listed(sample, chosen)
    else:
        raise SampleError(
            "expected a str, the Path of a text file or a list of sentences or of (speaker, text) "
            f"pairs, got an object of type {type(sample).__name__}"
        )
    if chosen:
        turns = _filtered(turns, keep, drop)
    return [text for _, text in turns if not is_missing(text)]


def _listed(items: Any, chosen: bool) -> list[Turn]:
    items = [item for item in items if not is_missing(item)]
    if all(isinstance(item, str) for item in items):
        if chosen:
            return _parsed("\n".join(items))
        return [(None, str(item)) for item in items]
    return [_turn(item, chosen) for item in items]


def _turn(item: Any, chosen: bool) -> Turn:
    if isinstance(item, Mapping) and "text" in item:
        speaker, text = item.get("speaker"), item["text"]
    elif isinstance(item, (tuple, list)) and len(item) == 2:
        speaker, text = item
    elif isinstance(item, str) and not chosen:
        return None, str(item)
    else:
        raise SampleError(
            "a list must hold str only, (speaker, text) pairs or dicts with 'speaker' and 'text', "
            f"got {type(item).__name__}" + (" without a speaker" if isinstance(item, str) else "")
        )
    if is_missing(text):
        return speaker, ""
    if not isinstance(text, str) or not (is_missing(speaker) or isinstance(speaker, (str, int))):
        raise SampleError(
            "speaker and text of a turn must be str, "
            f"got {type(speaker).__name__} and {type(text).__name__}"
        )
    return None if is_missing(speaker) else str(speaker), str(text)


def _parsed(text: str) -> list[Turn]:
    """Read lines of "Speaker: text"."""
    turns: list[Turn] = []
    for line in text.splitlines():
        found = _NAME.match(line)
        if found and len(found[1].split()) <= _WORDS_OF_A_NAME:
            turns.append((found[1], line[found.end() :].strip()))
        elif line.strip():
            if not turns:
                raise SampleError(
                    f"the transcript begins without a speaker ({line.strip()[:30]!r}); begin it "
                    "with a line such as 'Interviewer: ...', or leave the choice of speakers out"
                )
            turns[-1] = (turns[-1][0], f"{turns[-1][1]}\n{line.strip()}".strip())
    return turns


def _filtered(
    turns: list[Turn], keep: Sequence[str] | None, drop: Sequence[str] | None
) -> list[Turn]:
    names = {_plain(name) for name in (keep if keep is not None else drop or ())}
    for i, (speaker, text) in enumerate(turns):
        if speaker is None and not is_missing(text):
            raise SampleError(f"turn {i} has no speaker ({text[:30]!r}), but speakers are chosen")
    return [turn for turn in turns if (_plain(turn[0]) in names) == (keep is not None)]


def _plain(name: Any) -> str:
    return " ".join(str(name).split()).casefold()


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SampleError("no such file") from None
    except UnicodeDecodeError as exc:
        raise SampleError(f"the file is not UTF-8 text ({exc.reason} at {exc.start})") from None
