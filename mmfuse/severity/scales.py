"""Questionnaires whose totals fall into ordered bands: PHQ-8 and PTSD checklists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mmfuse.metrics._checks import class_codes

__all__ = ["PCL", "PHQ8", "SeverityScale", "pcl_bands", "phq8_bands", "shift_bands"]

_PCL_RANGES = {None: (0, 85), "PCL-C": (17, 85), "PCL-5": (0, 80)}


@dataclass(frozen=True)
class SeverityScale:
    """A questionnaire whose total falls into ordered bands.

    Attributes
    ----------
    name : str
    bands : tuple of str
        From the least to the most severe.
    starts : tuple of int
        Lowest total of every band.
    lowest, highest : int
        Range of the total.
    """

    name: str
    bands: tuple[str, ...]
    starts: tuple[int, ...]
    lowest: int
    highest: int

    @property
    def dtype(self) -> pd.CategoricalDtype:
        """The ordered pandas type of the bands."""
        return pd.CategoricalDtype(list(self.bands), ordered=True)

    def band(self, totals: ArrayLike) -> Any:
        """Put totals into bands.

        Parameters
        ----------
        totals : array-like of shape (n,)
            Integers; an empty cell stays empty.

        Returns
        -------
        ordered Categorical of shape (n,), or Series if ``totals`` is one

        Raises
        ------
        ValueError
            If a total is no integer or out of range; names its row.
        """
        values = _totals(totals, self)
        known = ~np.isnan(values)
        codes = np.full(len(values), -1)
        codes[known] = np.searchsorted(self.starts, values[known], side="right") - 1
        bands = pd.Categorical.from_codes(codes, dtype=self.dtype)
        if isinstance(totals, pd.Series):
            return pd.Series(bands, index=totals.index, name=totals.name)
        return bands

    def place(self, band: Any) -> int:
        """Number of a band, 0 for the least severe; a number is itself."""
        places = class_codes(np.array([band], dtype=object), np.array(self.bands, dtype=object))
        if places[0] >= 0:
            return int(places[0])
        number = isinstance(band, (int, np.integer)) and not isinstance(band, bool)
        if number and 0 <= band < len(self.bands):
            return int(band)
        raise ValueError(
            f"{self.name} has no band {band!r}; its bands are {', '.join(self.bands)}, or 0 to "
            f"{len(self.bands) - 1}."
        )


PHQ8 = SeverityScale(
    name="PHQ-8",
    bands=("minimal", "mild", "moderate", "moderately severe", "severe"),
    starts=(0, 5, 10, 15, 20),
    lowest=0,
    highest=24,
)
PCL = SeverityScale(
    name="PCL", bands=("low", "moderate", "high"), starts=(0, 21, 41), lowest=0, highest=85
)


def phq8_bands(totals: ArrayLike) -> Any:
    """Bands of depression: 0-4, 5-9, 10-14, 15-19 and 20-24 of the PHQ-8.

    Parameters
    ----------
    totals : array-like of shape (n,)
        Sums of the eight items, integers from 0 to 24; an empty cell stays empty.

    Returns
    -------
    ordered Categorical of shape (n,), or Series if ``totals`` is one
        As ``y`` for ``FusionClassifier(target="ordinal")``.

    Raises
    ------
    ValueError
        If a total is impossible; names its row.

    References
    ----------
    K. Kroenke et al., "The PHQ-8 as a measure of current depression in the general population",
    Journal of Affective Disorders, 2009.

    Examples
    --------
    >>> from mmfuse.severity.bands import phq8_bands
    >>> list(phq8_bands([4, 5, 10, 19, 20]))
    ['minimal', 'mild', 'moderate', 'moderately severe', 'severe']
    """
    return PHQ8.band(totals)


def pcl_bands(totals: ArrayLike, *, version: str | None = None) -> Any:
    """Bands of post-traumatic stress: up to 20, 21-40, and above 40 of a PTSD checklist.

    Parameters
    ----------
    totals : array-like of shape (n,)
        Sums of the items, integers; an empty cell stays empty.
    version : {"PCL-C", "PCL-5"}, default=None
        Totals of the PCL-C go from 17 to 85, those of the PCL-5 from 0 to 80. None takes what
        either may give.

    Returns
    -------
    ordered Categorical of shape (n,), or Series if ``totals`` is one

    Raises
    ------
    ValueError
        If a total is impossible, whose row is named, or the version is unknown.

    Notes
    -----
    The edges are those of the code of Tri-Modal Severity Fused Diagnosis (arXiv 2510.20239), which
    numbers the bands; the names low, moderate and high are ours. They grade a total and are no
    diagnosis: cut-offs for one differ between versions and clinics.

    Examples
    --------
    >>> from mmfuse.severity.bands import pcl_bands
    >>> list(pcl_bands([20, 21, 40, 41]))
    ['low', 'moderate', 'moderate', 'high']
    """
    if version not in _PCL_RANGES:
        raise ValueError(f"pcl_bands: version must be 'PCL-C', 'PCL-5' or None; got {version!r}.")
    low, high = _PCL_RANGES[version]
    return SeverityScale(version or PCL.name, PCL.bands, PCL.starts, low, high).band(totals)


def shift_bands(bands: Any, steps: ArrayLike, scale: SeverityScale) -> pd.Categorical:
    """Override bands up or down by steps, as a clinician may; they stop at the ends of the scale.

    Parameters
    ----------
    bands : array-like of shape (n,)
        Names or numbers of bands.
    steps : int or array-like of shape (n,)
        Above 0 is more severe.
    scale : SeverityScale

    Returns
    -------
    ordered Categorical of shape (n,)

    Raises
    ------
    ValueError
        If a band is none of the scale, or a step no integer.

    Examples
    --------
    >>> from mmfuse.severity.bands import PCL, shift_bands
    >>> list(shift_bands(["low", "moderate", "high"], [-1, 1, 1], PCL))
    ['low', 'high', 'high']
    """
    places = np.array([scale.place(band) for band in bands], dtype=int)
    moved = np.broadcast_to(np.asarray(steps), places.shape)
    if moved.dtype.kind not in "iu":
        raise ValueError(f"shift_bands: steps must be integers; got {np.asarray(steps).dtype}.")
    codes = np.clip(places + moved, 0, len(scale.bands) - 1)
    return pd.Categorical.from_codes(codes, dtype=scale.dtype)


def _totals(totals: ArrayLike, scale: SeverityScale) -> np.ndarray:
    """Totals as float64, NaN where the cell is empty."""
    cells = pd.Series(totals)
    if np.ndim(totals) != 1 or cells.dtype == bool:
        raise ValueError(
            f"{scale.name}: totals must be numbers in the shape (n,); got "
            f"{'booleans' if cells.dtype == bool else np.shape(totals)}."
        )
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    empty = cells.isna().to_numpy()
    with np.errstate(invalid="ignore"):
        right = (numbers >= scale.lowest) & (numbers <= scale.highest)
        right &= numbers == np.round(numbers)
    if not (right | empty).all():
        row = int(np.flatnonzero(~(right | empty))[0])
        label, cell = cells.index[row], cells.iloc[row]
        cell = cell.item() if isinstance(cell, np.generic) else cell
        where = f"row {row}" if label == row else f"row {row} ({label!r})"
        raise ValueError(
            f"{scale.name}: the total in {where} is {cell!r}, and totals are integers "
            f"from {scale.lowest} to {scale.highest}; correct it, or leave the cell empty if the "
            "total is not known."
        )
    return numbers
