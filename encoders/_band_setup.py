"""What training cutouts tell: pixel scales, fields of view, noise, and the scale of the stretch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmfuse.encoders._band_cells import Cutout
from mmfuse.encoders._band_grid import border, regrid
from mmfuse.encoders._band_instruments import Grid, Instrument
from mmfuse.presence import Presence

__all__ = ["ROWS", "bring_to_grid", "make_grids"]

ROWS = 64
"""Training rows that are looked at, evenly spaced."""
_APERTURES = (0.15, 0.3, 0.6)  # of half the field
_MAD = 1.4826


def make_grids(
    instruments: Sequence[Instrument], cells: Sequence[Mapping[str, Cutout]], options: Any
) -> tuple[dict[str, float], list[Grid]]:
    """Return the pixel scale of every instrument, and one grid each (late) or one grid (early).

    Parameters
    ----------
    instruments : sequence of Instrument
    cells : sequence of dict of str to Cutout
        Training cutouts.
    options : MultiBandEncoder
    """
    cuts = {
        one.name: [c[one.name] for c in cells if c[one.name].cube is not None]
        for one in instruments
    }
    scales = {one.name: _pixel_scale(one, cuts[one.name]) for one in instruments}
    sides = {
        one.name: _field(one, cuts[one.name], scales[one.name], options) for one in instruments
    }
    noise = {one.name: one.noise or _noise(one, cuts[one.name]) for one in instruments}
    if options.fusion == "late":
        groups = [([one], one.name, scales[one.name]) for one in instruments]
    else:
        finest = options.pixel_scale or min(scales.values())
        groups = [(list(instruments), "", finest)]
    grids = []
    for members, name, scale in groups:
        field = min(sides[one.name] for one in members)
        grid = _grid(members, name, scale, field, scales, noise, options)
        if options.features != "photometry":
            grid = _scaled(grid, members, cells, scales)
        grids.append(grid)
    return scales, grids


def bring_to_grid(
    cuts: Mapping[str, Cutout],
    members: Sequence[Instrument],
    grid: Grid,
    scales: Mapping[str, float],
    least: float = 0.0,
) -> np.ndarray:
    """Stack the bands of some instruments on one grid.

    Parameters
    ----------
    least : float
        Share of a band's pixels that must have a value; with less the band has none.

    Returns
    -------
    ndarray of shape (n_bands, n_pixels, n_pixels), float32
        NaN where not observed, +inf where nothing was observed.
    """
    planes = []
    for one in members:
        cut = cuts[one.name]
        if cut.cube is None:
            value = np.inf if cut.state == Presence.EMPTY else np.nan
            planes.append(np.full((len(one.bands), grid.n_pixels, grid.n_pixels), value))
            continue
        plane = regrid(
            cut.cube,
            scales[one.name],
            grid.n_pixels,
            grid.pixel_scale,
            brightness=one.quantity == "brightness",
        )
        known, blank = np.isfinite(plane).mean(axis=(1, 2)), np.isinf(plane).any(axis=(1, 2))
        for band in np.flatnonzero((known < least) | (known == 0)):
            plane[band] = np.inf if blank[band] else np.nan
        planes.append(plane)
    return np.concatenate(planes).astype(np.float32)


def _pixel_scale(one: Instrument, cuts: list[Cutout]) -> float:
    if one.pixel_scale is not None:
        return one.pixel_scale
    stated = [cut.pixel_scale for cut in cuts if cut.pixel_scale is not None]
    if not stated:
        raise ValueError(_wanted(one, "pixel_scale", "no training file states it"))
    return stated[0]


def _field(one: Instrument, cuts: list[Cutout], scale: float, options: Any) -> float:
    if options.field is not None:
        return float(options.field)
    if not cuts:
        raise ValueError(
            f"MultiBandEncoder: {_label(one)} has no cutout in the training rows that were looked "
            "at; leave it out, or give field, pixel_scale and noise."
        )
    return min(min(cut.cube.shape[1:]) for cut in cuts if cut.cube is not None) * scale


def _noise(one: Instrument, cuts: list[Cutout]) -> tuple[float, ...]:
    """Median over cutouts of the robust standard deviation of their borders."""
    spreads = np.full((len(cuts), len(one.bands)), np.nan)
    for i, cut in enumerate(cuts):
        for j, values in enumerate(border(cut.cube)):
            values = values[np.isfinite(values)]
            if values.size:
                spreads[i, j] = _MAD * np.median(np.abs(values - np.median(values)))
    noise = [np.median(s[~np.isnan(s)]) if (~np.isnan(s)).any() else 0.0 for s in spreads.T]
    for band, value in zip(one.bands, noise, strict=True):
        if not value > 0:
            why = f"band {band!r} has no pixels, or constant ones, at the borders of cutouts"
            raise ValueError(_wanted(one, "noise", why))
    return tuple(float(value) for value in noise)


def _wanted(one: Instrument, key: str, why: str) -> str:
    return f"MultiBandEncoder: {_label(one)} needs {key!r} in instruments: {why}."


def _label(one: Instrument) -> str:
    return f"the instrument {one.name!r}" if one.name else "the instrument"


def _grid(
    members: Sequence[Instrument],
    name: str,
    scale: float,
    field: float,
    scales: Mapping[str, float],
    noise: Mapping[str, tuple[float, ...]],
    options: Any,
) -> Grid:
    """The grid with noise and softening of every band as they are after resampling."""
    n_pixels = int(field / scale + 1e-6)
    if n_pixels < 3:
        raise ValueError(
            f"MultiBandEncoder: field={field:g} must be at least three pixels of {scale:g}."
        )
    apertures = options.apertures
    if apertures is None:
        apertures = [share * field / 2 for share in _APERTURES]
    if max(apertures) > field / 2 * (1 + 1e-9):
        raise ValueError(
            f"MultiBandEncoder: apertures must be at most half of the field, {field / 2:g}, "
            f"got {max(apertures):g}."
        )
    noises: list[float] = []
    softenings: list[float] = []
    for one in members:
        ratio = scale / scales[one.name]
        flux = one.quantity == "flux"
        noises += [s * (ratio if flux else 1 / ratio) for s in noise[one.name]]
        softenings += [s * (ratio**2 if flux else 1.0) for s in (one.softening or noise[one.name])]
    bands = [label for one in members for label in one.labels]
    return Grid(
        name=name,
        bands=tuple(bands),
        pixel_scale=float(scale),
        n_pixels=n_pixels,
        noise=tuple(noises),
        softening=tuple(softenings),
        zero_point=tuple(z for one in members for z in one.zero_point),
        apertures=tuple(float(radius) for radius in apertures),
        mean=(0.0,) * len(bands),
        sd=(1.0,) * len(bands),
    )


def _scaled(
    grid: Grid,
    members: Sequence[Instrument],
    cells: Sequence[Mapping[str, Cutout]],
    scales: Mapping[str, float],
) -> Grid:
    """The grid with mean and standard deviation of the stretched training pixels of each band."""
    soft = np.array(grid.softening)[:, None, None]
    sums = np.zeros((3, len(grid.bands)))
    for cuts in cells:
        stretched = np.arcsinh(bring_to_grid(cuts, members, grid, scales) / soft)
        good = np.isfinite(stretched)
        values = np.where(good, stretched, 0.0)
        sums += [good.sum(axis=(1, 2)), values.sum(axis=(1, 2)), (values**2).sum(axis=(1, 2))]
    count = np.maximum(sums[0], 1)
    mean = sums[1] / count
    sd = np.sqrt(np.maximum(sums[2] / count - mean**2, 0))
    sd = np.where(sd > 0, sd, 1.0)
    state = grid.to_dict()
    return Grid.from_dict({**state, "mean": mean.tolist(), "sd": sd.tolist()})
