"""Decoding in threads with a bounded number of samples in memory, and cutting of batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["batches", "chunks", "ordered_map", "windows"]

A = TypeVar("A")
B = TypeVar("B")


def ordered_map(
    function: Callable[[A], B], items: Iterable[A], *, n_jobs: int, ahead: int
) -> Generator[B, None, None]:
    """Yield ``function(item)`` in the order of `items`, computed by `n_jobs` threads.

    At most `ahead` results wait to be taken. One job means the calling thread.
    """
    if n_jobs == 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(n_jobs, thread_name_prefix="mmfuse-decode")
    waiting: deque[Future[B]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def chunks(items: list[A], size: int) -> Iterator[list[A]]:
    """Cut a list in pieces of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def windows(
    items: Iterable[A], *, count: Callable[[A], int], size: Callable[[A], int], room: int
) -> Iterator[list[A]]:
    """Collect items in lists that end at ``count(first item)`` items or at `room` bytes."""
    window: list[A] = []
    filled = 0
    for item in items:
        window.append(item)
        filled += size(item)
        if len(window) >= count(window[0]) or filled >= room:
            yield window
            window, filled = [], 0
    if window:
        yield window


def batches(
    window: list[A], *, length: Callable[[A], int | None], most: int, room: int | None
) -> Iterator[list[A]]:
    """Cut a window in batches of similar length, longest first.

    A batch has at most `most` items, and fewer where its padded length would pass `room`.
    Items without a length keep their order.
    """
    lengths: list[Any] = [length(item) for item in window]
    if lengths[0] is None:
        yield from chunks(window, most)
        return
    order = sorted(range(len(window)), key=lambda i: -lengths[i])
    while order:
        take = most if room is None else max(1, min(most, room // max(1, lengths[order[0]])))
        yield [window[i] for i in order[:take]]
        order = order[take:]
