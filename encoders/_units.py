"""Cells such as "172 cm" as numbers in one unit; pint knows the units."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from mmfuse._require import require
from mmfuse.exceptions import SampleError

__all__ = ["UnitConverter", "converters"]

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_ONE = re.compile(rf"\s*({_NUMBER})\s*(.*?)\s*")
_SEVERAL = re.compile(rf"\s*({_NUMBER})\s*([^\d\s]+)(?=\s|\d|$)")
_SPELLINGS = (
    (re.compile(r"^[x×]\s*(?=10)"), ""),  # "x 10^9/L"
    (re.compile(r"(?<=[A-Za-z])([23])(?![A-Za-z0-9])"), r"**\1"),  # "kg/m2", but not "cmH2O"
    (re.compile(r"\bmm ?hg\b", re.IGNORECASE), "mmHg"),
    (re.compile(r"1\.73\s*m(\*\*2|\^2|²)"), "(1.73*m**2)"),  # body surface of an eGFR
)
# a number in a unit is a factor, and a cell such as "120/80 mmHg" or "1,72 m" is no quantity:
# digits stand in exponents and names only
_FACTOR = re.compile(r"10\s*(?:\^|\*\*)\s*\d+|^1(?=\s*/)|\(1\.73\*m\*\*2\)")
_UNIT = re.compile(r"\s*/?\s*[^\W\d_]*[%°]?(?:[^\W\d_][\d]?|[\s*/^().%°²³·]|(?<=[*^])-?\d)*")
_DEGREES = {"C": "degC", "F": "degF"}  # coulomb and farad to pint
_CLINICAL = (  # spellings of the clinic that pint does not have
    "international_unit = [international_unit] = IU",
    "equivalent = [equivalent] = Eq",
    "bpm = 1 / minute",
    "beat = []",
    "breath = []",
    "cell = []",
    "@alias month = mo",
    "@alias week = wk",
    "@alias year = y = yo",
)


class UnitConverter:
    """Reads the cells of one column as numbers in `unit`.

    Parameters
    ----------
    unit : str
        The unit of the numbers that come out, and of cells that name none.
    molar_mass : float, optional
        g/mol, to convert between mass and amount of substance.

    Raises
    ------
    ValueError
        If pint does not know the unit.
    """

    def __init__(self, unit: str, molar_mass: float | None = None) -> None:
        self.unit = unit
        self._registry = _registry()
        self._mass = None if molar_mass is None else self._registry.Quantity(molar_mass, "g/mol")
        self._known: dict[str, tuple[float, float]] = {"": (1.0, 0.0)}
        self._scale, self._target = self._parsed(unit)

    def number(self, cell: str) -> float:
        """Return a cell such as "1.72 m", "5 ft 8 in" or "172" as a number in `unit`.

        Raises
        ------
        SampleError
            If it is no number, the unit is unknown, or it measures something else.
        """
        found = _ONE.fullmatch(cell)
        if not found:
            raise SampleError(f"{cell!r} is not a number, alone or with a unit such as {self.unit}")
        try:
            slope, shift = self._affine(found[2])
        except SampleError as first:
            parts = _SEVERAL.findall(cell)
            if len(parts) < 2 or _SEVERAL.sub("", cell).strip():
                raise
            try:
                return self._sum(parts)
            except SampleError:
                raise first from None
        return float(found[1]) * slope + shift

    def _sum(self, parts: list[tuple[str, str]]) -> float:
        total = 0.0
        for number, unit in parts:
            slope, shift = self._affine(unit)
            if shift:
                raise SampleError(f"values in {unit!r} cannot be added up")
            total += abs(float(number)) * slope
        return -total if parts[0][0].startswith("-") else total

    def _affine(self, unit: str) -> tuple[float, float]:
        """Return slope and shift from `unit` to the target."""
        if unit not in self._known:
            try:
                scale, parsed = self._parsed(unit)
            except ValueError as exc:
                raise SampleError(f"the unit {unit!r} is unknown ({exc})") from None
            low, high = self._converted(0.0, unit, parsed), self._converted(1.0, unit, parsed)
            self._known[unit] = ((high - low) * scale / self._scale, low / self._scale)
        return self._known[unit]

    def _converted(self, value: float, text: str, unit: Any) -> float:
        pint = _pint()
        try:
            quantity = self._registry.Quantity(value, unit)
            if self._mass is None:
                return float(quantity.to(self._target).magnitude)
            return float(quantity.to(self._target, "chemistry", mw=self._mass).magnitude)
        except pint.DimensionalityError as exc:
            hint = ""
            if self._mass is None and "[substance]" in str(exc) and "[mass]" in str(exc):
                hint = "; give the substance's g/mol in molar_masses"
            raise SampleError(
                f"{text!r} ({unit}) cannot be converted to {self.unit!r}{hint}"
            ) from None

    def _parsed(self, text: str) -> tuple[float, Any]:
        """Return a factor and a unit of pint; raise ValueError where there is none."""
        temperature = hasattr(self, "_target") and "temperature" in str(self._target.dimensionality)
        if temperature and text in _DEGREES:
            text = _DEGREES[text]
        spelled = text
        for pattern, instead in _SPELLINGS:
            spelled = pattern.sub(instead, spelled)
        if not text.strip() or not _UNIT.fullmatch(_FACTOR.sub("", spelled)):
            raise ValueError("it is no product of units and powers of ten")
        if spelled.startswith("/"):
            spelled = f"1{spelled}"
        try:
            return self._exact(spelled)
        except ValueError:
            if spelled.lower() == spelled:
                raise
        try:
            return self._exact(spelled.lower())  # "KG"
        except ValueError:
            return self._exact(spelled)  # for its message

    def _exact(self, text: str) -> tuple[float, Any]:
        pint = _pint()
        try:
            return 1.0, self._registry.parse_units(text)
        except pint.UndefinedUnitError as exc:
            raise ValueError(str(exc)) from None
        except Exception:  # a factor such as 10^9, or no unit at all; the parser raises anything
            try:
                quantity = self._registry.Quantity(text)
                return float(quantity.magnitude), quantity.units
            except Exception as exc:
                raise ValueError(f"{type(exc).__name__}: {exc}") from None


def converters(
    units: Mapping[str, str], molar_masses: Mapping[str, float]
) -> dict[str, UnitConverter]:
    """Return a converter for each column; raise ValueError that names column and unit."""
    made = {}
    for column, unit in units.items():
        try:
            made[column] = UnitConverter(unit, molar_masses.get(column))
        except ValueError as exc:
            raise ValueError(
                f"NumericEncoder: units gives column {column!r} the unit {unit!r}, which pint does "
                f"not know ({exc}); write it as in 'cm', 'mmHg', 'mg/dL' or 'kg/m^2'."
            ) from None
    return made


def _pint() -> Any:
    return require("pint", extra="units", caller="NumericEncoder(units=...)")


@lru_cache(maxsize=1)
def _registry() -> Any:
    registry = _pint().UnitRegistry()
    for line in _CLINICAL:
        registry.define(line)
    return registry
