"""What a user says of an instrument, checked, and the grid that its cutouts are brought to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from numbers import Real
from typing import Any

__all__ = ["Grid", "Instrument", "parse_instruments"]

_QUANTITIES = ("flux", "brightness")
_RESERVED = ("array", "bytes", "path", "sampling_rate")  # keys that make a dict a file or a sound


@dataclass(frozen=True)
class Instrument:
    """One instrument: bands that share a pixel grid.

    Per-band entries have one value per band, or are None where the training cutouts decide.
    """

    name: str
    bands: tuple[str, ...]
    pixel_scale: float | None = None
    noise: tuple[float, ...] | None = None
    softening: tuple[float, ...] | None = None
    zero_point: tuple[float, ...] = ()
    quantity: str = "flux"
    background: str | None = None
    empty_value: float | None = None
    hdu: str | int | None = None

    @property
    def labels(self) -> list[str]:
        """Names of the bands, with the instrument's where it has one."""
        return [f"{self.name}_{band}" if self.name else band for band in self.bands]


@dataclass(frozen=True)
class Grid:
    """A square grid and, for each band on it, the noise and the scale of its stretch."""

    name: str
    bands: tuple[str, ...]
    pixel_scale: float
    n_pixels: int
    noise: tuple[float, ...]
    softening: tuple[float, ...]
    zero_point: tuple[float, ...]
    apertures: tuple[float, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON-able dict."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Grid:
        """Make a grid from what `to_dict` gave."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in state.items()})


def parse_instruments(given: Any) -> tuple[Instrument, ...]:
    """Return the instruments that the argument `instruments` describes.

    Parameters
    ----------
    given : dict
        Of one instrument, with the key "bands", or of names to such dicts.

    Raises
    ------
    TypeError, ValueError
        For anything else; names the instrument and the key.
    """
    if not isinstance(given, Mapping) or not given:
        raise TypeError(
            "MultiBandEncoder: instruments must be a dict such as {'bands': ['g', 'r']}, or one "
            f"of instrument names to such dicts, got {given!r}."
        )
    if "bands" in given and not isinstance(given["bands"], Mapping):
        return (_parse("", given),)
    for name in given:
        if not isinstance(name, str) or not name or name in _RESERVED:
            raise ValueError(
                f"MultiBandEncoder: the name of an instrument must be a string and none of "
                f"{', '.join(_RESERVED)}, got {name!r}."
            )
    return tuple(_parse(name, spec) for name, spec in given.items())


def _parse(name: str, spec: Any) -> Instrument:
    where = f"MultiBandEncoder: instruments[{name!r}]" if name else "MultiBandEncoder: instruments"
    known = [k for k in Instrument.__dataclass_fields__ if k != "name"]
    if not isinstance(spec, Mapping) or "bands" not in spec:
        raise TypeError(f"{where} must be a dict with the key 'bands', got {spec!r}.")
    if unknown := [key for key in spec if key not in known]:
        raise ValueError(f"{where} has the key {unknown[0]!r}; known keys: {', '.join(known)}.")
    bands = _band_names(spec["bands"], where)
    fields: dict[str, Any] = {"name": name, "bands": bands}
    fields["pixel_scale"] = _number(spec, "pixel_scale", where, above=0)
    for key in ("noise", "softening"):
        fields[key] = _per_band(spec, key, len(bands), where, above=0)
    fields["zero_point"] = _per_band(spec, "zero_point", len(bands), where) or (0.0,) * len(bands)
    fields["empty_value"] = _number(spec, "empty_value", where)
    fields["quantity"] = spec.get("quantity", "flux")
    fields["background"] = spec.get("background")
    fields["hdu"] = spec.get("hdu")
    if fields["quantity"] not in _QUANTITIES:
        raise ValueError(
            f"{where}: quantity must be 'flux' (per pixel: sums are kept) or 'brightness' (per "
            f"area: means are kept), got {fields['quantity']!r}."
        )
    if fields["background"] not in (None, "border"):
        raise ValueError(
            f"{where}: background must be None (cutouts have no sky left) or 'border' (subtract "
            f"the median of the border), got {fields['background']!r}."
        )
    if isinstance(fields["hdu"], bool) or not isinstance(fields["hdu"], (str, int, type(None))):
        raise TypeError(
            f"{where}: hdu must be the name or number of a FITS extension or None, "
            f"got {fields['hdu']!r}."
        )
    return Instrument(**fields)


def _band_names(bands: Any, where: str) -> tuple[str, ...]:
    names = bands if isinstance(bands, Sequence) and not isinstance(bands, str) else ()
    sound = all(isinstance(band, str) and band for band in names)
    if not names or not sound or len(set(names)) != len(names):
        raise ValueError(
            f"{where}: bands must be a list of different names, such as ['g', 'r'], got {bands!r}."
        )
    return tuple(names)


def _is_number(value: Any, above: float | None) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        return False
    return above is None or value > above


def _number(
    spec: Mapping[str, Any], key: str, where: str, above: float | None = None
) -> float | None:
    value = spec.get(key)
    if value is None or _is_number(value, above):
        return None if value is None else float(value)
    limit = "" if above is None else f" above {above:g}"
    raise ValueError(f"{where}: {key} must be a finite number{limit} or None, got {value!r}.")


def _per_band(
    spec: Mapping[str, Any], key: str, n_bands: int, where: str, above: float | None = None
) -> tuple[float, ...] | None:
    value = spec.get(key)
    if value is None:
        return None
    listed = [value] * n_bands if isinstance(value, Real) else value
    sized = hasattr(listed, "__len__") and not isinstance(listed, (str, Mapping))
    if not sized or len(listed) != n_bands or not all(_is_number(v, above) for v in listed):
        limit = "" if above is None else f" above {above:g}"
        raise ValueError(
            f"{where}: {key} must be one finite number{limit} or a list with one for each of the "
            f"{n_bands} bands, got {value!r}."
        )
    return tuple(float(v) for v in listed)
