"""Checks of what a NumericEncoder is told of its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from numbers import Real
from typing import Any

__all__ = ["check_table_arguments"]


def check_table_arguments(encoder: Any) -> None:
    """Raise for categories, ordered, units, molar_masses or missing_codes of a wrong form."""
    _check_categories(encoder.categories)
    if encoder.ordered != "auto" and (
        isinstance(encoder.ordered, str) or not isinstance(encoder.ordered, Sequence)
    ):
        raise ValueError(
            "NumericEncoder: ordered must be 'auto' or a sequence of column names, "
            f"got {encoder.ordered!r}."
        )
    _check_units(encoder.units, encoder.molar_masses)
    _check_codes(encoder.missing_codes, encoder.categories)


def _check_categories(categories: Any) -> None:
    if isinstance(categories, Mapping):
        for column, listed in categories.items():
            if isinstance(listed, str) or not len(listed) or len(set(listed)) != len(listed):
                raise ValueError(
                    f"NumericEncoder: the categories of {column!r} must be a sequence of "
                    f"different values, got {listed!r}."
                )
    elif categories != "auto":
        raise ValueError(
            "NumericEncoder: categories must be 'auto' or a dict of column names to "
            f"categories, got {categories!r}."
        )


def _check_units(units: Any, molar_masses: Any) -> None:
    if units is not None and not (
        isinstance(units, Mapping) and all(isinstance(unit, str) for unit in units.values())
    ):
        raise TypeError(
            "NumericEncoder: units must be None or a dict of column names to units such as 'cm', "
            f"got {units!r}."
        )
    masses = {} if molar_masses is None else molar_masses
    if not isinstance(masses, Mapping) or not all(map(_is_positive, masses.values())):
        raise ValueError(
            "NumericEncoder: molar_masses must be None or a dict of column names to positive "
            f"numbers in g/mol, got {molar_masses!r}."
        )


def _is_positive(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < value < float("inf")


def _check_codes(codes: Any, categories: Any) -> None:
    by_column = codes if isinstance(codes, Mapping) else {None: codes or ()}
    for column, listed in by_column.items():
        fine = isinstance(listed, Sequence) and not isinstance(listed, str)
        if not fine or not all(map(_is_code, listed)):
            where = "" if column is None else f" of {column!r}"
            raise ValueError(
                f"NumericEncoder: missing_codes{where} must be a sequence of finite numbers and "
                f"strings, such as [-9, 999, 'NK'], got {listed!r}."
            )
    for column, known in categories.items() if isinstance(categories, Mapping) else ():
        listed = by_column.get(column, by_column.get(None, ()))
        if both := [code for code in listed if code in list(known)]:
            raise ValueError(
                f"NumericEncoder: {both!r} of column {column!r} stand in missing_codes and in "
                "categories; a value is one or the other."
            )


def _is_code(value: Any) -> bool:
    if isinstance(value, str):
        return True
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
