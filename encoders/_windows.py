"""Long texts cut at sentences in windows that a model can read whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

__all__ = ["cut_text", "sentence_spans", "split_text"]

_END = re.compile(r"(?:(?<=[.!?…])|(?<=[.!?…][\"'”’)\]]))\s+|(?<=[。！？])\s*|\s*\n\s*")
_WORD = re.compile(r"\S+")
Count = Callable[[Sequence[str]], list[int]]
Span = tuple[int, int]


def split_text(text: str, most: int, count: Count) -> list[str]:
    """Cut a text in windows of at most `most` tokens.

    Windows hold whole sentences and are as few and then as even as can be. A sentence that is too
    long is cut between words, and a word that is too long between characters. All of the text
    is in exactly one window; only white space at the cuts is left out.

    Parameters
    ----------
    text : str
    most : int
    count : callable
        Takes texts and returns the number of tokens of each.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If one character alone has more than `most` tokens.
    """
    [size] = count([text])
    if size <= most:
        return [text]
    for spans in (sentence_spans(text), _words(text), _characters(text)):
        if len(spans) > 1:
            return _packed(text, spans, most, count)
    raise ValueError(f"one character has {size} tokens, more than the {most} of a window")


def cut_text(text: str, most: int, count: Count) -> str:
    """Return the longest beginning of a text that has at most `most` tokens."""
    if count([text])[0] <= most:
        return text
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        if count([text[:middle]])[0] <= most:
            low = middle
        else:
            high = middle
    return text[:low].rstrip()


def sentence_spans(text: str) -> list[Span]:
    """Return start and end of every sentence: full stops, other such marks, and line ends."""
    cuts = [found.span() for found in _END.finditer(text)]
    starts = [0, *(stop for _, stop in cuts)]
    stops = [*(start for start, _ in cuts), len(text)]
    return [(a, b) for a, b in zip(starts, stops, strict=True) if text[a:b].strip()]


def _words(text: str) -> list[Span]:
    return [found.span() for found in _WORD.finditer(text)]


def _characters(text: str) -> list[Span]:
    return [(i, i + 1) for i in range(len(text)) if not text[i].isspace()]


def _packed(text: str, spans: list[Span], most: int, count: Count) -> list[str]:
    sizes = count([text[a:b] for a, b in spans])
    windows: list[str] = []
    run: list[int] = []
    for i, size in enumerate(sizes):
        if size <= most:
            run.append(i)
            continue
        windows += _joined(text, spans, sizes, run, most, count)
        windows += split_text(text[slice(*spans[i])], most, count)
        run = []
    return windows + _joined(text, spans, sizes, run, most, count)


def _joined(
    text: str, spans: list[Span], sizes: list[int], run: list[int], most: int, count: Count
) -> list[str]:
    """Join neighbours, none of which is too long, in few and even windows."""
    if not run:
        return []
    here = [spans[i] for i in run]
    groups = _even([sizes[i] for i in run], most)
    parts = [text[here[a][0] : here[b - 1][1]] for a, b in groups]
    exact = count(parts)  # a few more than the sum, where tokens do not end at white space
    return [w for part, n in zip(parts, exact, strict=True) for w in _halved(part, n, most, count)]


def _even(sizes: list[int], most: int) -> list[Span]:
    """Group consecutive sizes: few groups, and the largest of them as small as can be."""
    wanted = len(_greedy(sizes, most))
    low, high = max(sizes), most
    while low < high:
        middle = (low + high) // 2
        if len(_greedy(sizes, middle)) <= wanted:
            high = middle
        else:
            low = middle + 1
    starts = _greedy(sizes, high)
    return list(zip(starts, [*starts[1:], len(sizes)], strict=True))


def _greedy(sizes: list[int], most: int) -> list[int]:
    """Fill groups up to `most`; return where each begins."""
    starts, filled = [0], 0
    for i, size in enumerate(sizes):
        if i > starts[-1] and filled + size > most:
            starts.append(i)
            filled = 0
        filled += size
    return starts


def _halved(text: str, size: int, most: int, count: Count) -> list[str]:
    if size <= most:
        return [text]
    spans = _words(text)
    if len(spans) < 2:
        return split_text(text, most, count)
    middle = len(text) / 2
    cut = min((a for a, _ in spans[1:]), key=lambda start: abs(start - middle))
    halves = [text[:cut].rstrip(), text[cut:]]
    sizes = count(halves)
    return [w for part, n in zip(halves, sizes, strict=True) for w in _halved(part, n, most, count)]
