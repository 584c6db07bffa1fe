"""Running named checks and telling what contracts are broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["Check", "demand", "demand_close", "demand_raises", "run_checks"]

Check = Callable[[Any], None]


def run_checks(checks: Mapping[str, Check], subject: Any, *, who: str) -> None:
    """Run all checks on a subject, then raise one AssertionError that lists what failed."""
    broken, first = [], None
    for name, check in checks.items():
        try:
            check(subject)
        except Exception as exc:  # what a check did not expect is a broken contract as well
            said = str(exc) if isinstance(exc, AssertionError) else f"{type(exc).__name__}: {exc}"
            broken.append(f"{name}: {said}")
            first = first or exc
    if broken:
        listed = "\n  ".join(broken)
        raise AssertionError(
            f"{who} breaks {len(broken)} of {len(checks)} contracts:\n  {listed}"
        ) from first


def demand(fine: Any, broken: str) -> None:
    """Raise AssertionError with the contract that is broken, unless `fine`."""
    if not fine:
        raise AssertionError(broken)


def demand_close(found: Any, expected: Any, broken: str, *, within: float = 1e-5) -> None:
    """Raise AssertionError unless two arrays agree, NaN where NaN is."""
    found, expected = np.asarray(found), np.asarray(expected)
    demand(
        found.shape == expected.shape,
        f"{broken}; the shapes are {found.shape} and {expected.shape}",
    )
    if not np.allclose(found, expected, rtol=within, atol=within, equal_nan=True):
        gap = np.abs(found - expected)
        worst = "NaN in one of them" if np.isnan(gap).all() else f"{np.nanmax(gap):.3g}"
        raise AssertionError(f"{broken}; the largest difference is {worst}")


def demand_raises(
    error: type[Exception] | tuple[type[Exception], ...], call: Callable[[], Any], broken: str
) -> Exception:
    """Return the error that a call raises; raise AssertionError where it is none or another."""
    try:
        call()
    except error as exc:
        return exc
    except Exception as exc:
        raise AssertionError(f"{broken}; it raised {type(exc).__name__}: {exc}") from exc
    raise AssertionError(f"{broken}; it raised nothing")
