"""Checks of constructor arguments: one sentence, naming class, argument, allowed values, value."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from numbers import Integral, Real
from typing import Any

import numpy as np

__all__ = ["check_choice", "check_flag", "check_integer", "check_number", "check_percentiles"]


def check_choice(owner: object, name: str, allowed: Sequence[Any]) -> None:
    """Raise ValueError unless the argument is one of `allowed`."""
    value = getattr(owner, name)
    if not any(value is choice or value == choice for choice in allowed):
        listed = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(_sentence(owner, name, f"one of {listed}", value))


def check_flag(owner: object, name: str) -> None:
    """Raise TypeError unless the argument is True or False."""
    value = getattr(owner, name)
    if not isinstance(value, bool):
        raise TypeError(_sentence(owner, name, "True or False", value))


def check_integer(owner: object, name: str, *, least: int, or_none: bool = False) -> None:
    """Raise unless the argument is an integer of at least `least` (or None, where allowed)."""
    value = getattr(owner, name)
    if value is None and or_none:
        return
    must = f"an integer of at least {least}" + (" or None" if or_none else "")
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(_sentence(owner, name, must, value))
    if value < least:
        raise ValueError(_sentence(owner, name, must, value))


def check_number(
    owner: object, name: str, *, above: float | None = None, or_none: bool = False
) -> None:
    """Raise unless the argument is a finite number above `above` (or None, where allowed)."""
    value = getattr(owner, name)
    if value is None and or_none:
        return
    must = "a finite number" + ("" if above is None else f" above {above:g}")
    must += " or None" if or_none else ""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(_sentence(owner, name, must, value))
    if not isfinite(value) or (above is not None and value <= above):
        raise ValueError(_sentence(owner, name, must, value))


def check_percentiles(owner: object, name: str) -> None:
    """Raise unless the argument is a sequence of different numbers in 0..100."""
    values = getattr(owner, name)
    if isinstance(values, str) or not isinstance(values, (Sequence, np.ndarray)):
        raise TypeError(_sentence(owner, name, "a sequence of numbers", values))
    numbers = all(isinstance(value, Real) and not isinstance(value, bool) for value in values)
    if not numbers or not all(0 <= value <= 100 for value in values):
        raise ValueError(_sentence(owner, name, "numbers in 0..100", values))
    if len({f"{value:g}" for value in values}) < len(values):
        raise ValueError(_sentence(owner, name, "different numbers", values))


def _sentence(owner: object, name: str, must: str, value: Any) -> str:
    return f"{type(owner).__name__}: {name} must be {must}, got {value!r}."
