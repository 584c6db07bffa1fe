"""The register of corruptions, to which others may add their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "KINDS",
    "Corruption",
    "corruptions_of",
    "get_corruption",
    "register_corruption",
    "unregister_corruption",
]

KINDS = ("block", "audio", "image", "text", "frames", "points")
"""What a corruption takes: encoded features of all rows, or one raw sample of a kind."""

_KNOWN: dict[tuple[str, str], Corruption] = {}


@dataclass(frozen=True)
class Corruption:
    """One way of going wrong, at several levels.

    Attributes
    ----------
    name : str
    kind : {"block", "audio", "image", "text", "frames", "points"}
    levels : tuple of float
        From mild to severe.
    unit : str
        Unit of the levels, in words.
    function : callable
        Of a block: ``function(values, level, rng, *, scale, groups)`` with the encoded rows that
        have the modality, (n, d) float32, the standard deviation (d,) of every feature in training,
        and the groups (n,) of the rows or None; returns (n, d). Of a raw sample:
        ``function(sample, level, rng)``; returns a sample. None may change what it is given.
    """

    name: str
    kind: str
    levels: tuple[float, ...]
    unit: str
    function: Callable[..., Any]

    def corrupt(self, sample: Any, level: float, seed: int, row: int) -> Any:
        """Corrupt one raw sample; the same at every level draws the same numbers."""
        return self.function(sample, level, np.random.default_rng([seed, row]))

    def corrupt_block(
        self,
        values: np.ndarray,
        level: float,
        seed: int,
        *,
        scale: np.ndarray,
        groups: np.ndarray | None = None,
    ) -> np.ndarray:
        """Corrupt the rows of a block.

        Raises
        ------
        ValueError
            If the function gives another shape.
        """
        rng = np.random.default_rng(seed)
        out = np.asarray(self.function(values.copy(), level, rng, scale=scale, groups=groups))
        if out.shape != values.shape:
            raise ValueError(
                f"corruption {self.name!r} must keep the shape {values.shape} of a block; it gave "
                f"{out.shape}."
            )
        return out.astype(np.float32)


def register_corruption(
    name: str, *, kind: str, levels: Sequence[float], unit: str
) -> Callable[[Callable], Callable]:
    """Add a corruption to the register, as a decorator.

    Parameters
    ----------
    name : str
    kind : {"block", "audio", "image", "text", "frames", "points"}
        "audio": ``(wave, rate)`` with float32 of shape (n_channels, n_samples) and Hz. "image":
        uint8 pixels (height, width, 3). "text": a str. "frames": floats (n_frames, n_features) in
        time order. "points": floats (n_points, 3 or more), x, y, z first. "block": see
        `Corruption`.
    levels : sequence of float
        From mild to severe.
    unit : str

    Raises
    ------
    ValueError
        If the kind is unknown, there are no levels, or the kind has a corruption of that name.

    Examples
    --------
    >>> from mmfuse.corruptions import get_corruption, register_corruption, unregister_corruption
    >>> @register_corruption("shouting", kind="text", levels=(1,), unit="on or off")
    ... def shouting(text, level, rng):
    ...     return text.upper()
    >>> get_corruption("shouting", "text").corrupt("come here", 1, seed=0, row=0)
    'COME HERE'
    >>> unregister_corruption("shouting", "text")
    """
    if kind not in KINDS:
        raise ValueError(
            f"register_corruption: kind must be one of {', '.join(KINDS)}; got {kind!r}."
        )
    steps = tuple(levels)
    if not steps:
        raise ValueError(f"register_corruption: {name!r} needs at least one level.")
    if (kind, name) in _KNOWN:
        raise ValueError(
            f"register_corruption: there is a corruption {name!r} of {kind} already; take another "
            "name, or unregister_corruption first."
        )

    def add(function: Callable) -> Callable:
        _KNOWN[kind, name] = Corruption(name, kind, steps, unit, function)
        return function

    return add


def unregister_corruption(name: str, kind: str) -> None:
    """Take a corruption out of the register.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    get_corruption(name, kind)
    del _KNOWN[kind, name]


def corruptions_of(kind: str) -> tuple[Corruption, ...]:
    """Return the corruptions of a kind, in the order of their registration."""
    return tuple(one for (own, _), one in _KNOWN.items() if own == kind)


def get_corruption(name: str, kind: str) -> Corruption:
    """Return one corruption.

    Raises
    ------
    ValueError
        If there is none of that name; lists those of the kind.
    """
    if (kind, name) not in _KNOWN:
        known = ", ".join(one.name for one in corruptions_of(kind)) or "none"
        raise ValueError(f"There is no corruption {name!r} of {kind}; known: {known}.")
    return _KNOWN[kind, name]
