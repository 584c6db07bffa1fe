"""Presence: what is known about a cell before its value."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Presence"]


class Presence(IntEnum):
    """State of one cell of a table.

    Only a PRESENT cell has a value. The other three are missing for different reasons, and the
    reason is kept: it is counted in summaries and reports and never becomes a zero vector.
    """

    ABSENT = 0
    """Not collected."""
    PRESENT = 1
    FAILED = 2
    """Collected, but it could not be decoded or encoded."""
    EMPTY = 3
    """The sensor looked and there was nothing: a camera with no face, a silent channel."""
