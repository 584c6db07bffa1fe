"""A cutout from an array or a file: FITS, npy, npz or GeoTIFF, told by its first bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mmfuse._require import require
from mmfuse.encoders._band_instruments import Instrument
from mmfuse.exceptions import SampleError
from mmfuse.table.cells import is_tensor, to_numpy

__all__ = ["read_cutout"]

_LEAST_SIDE = 3  # pixels
_ARCSEC = 3600.0  # per degree
_SQUARE = 0.01  # relative difference of the sides of a pixel
_GEOGRAPHIC = 2  # GTModelTypeGeoKey: coordinates are degrees


def read_cutout(sample: Any, instrument: Instrument) -> tuple[np.ndarray | None, float | None]:
    """Return the pixels of one instrument and the pixel scale that the file states.

    Parameters
    ----------
    sample : ndarray, Tensor, nested list, bytes, str or Path
        A file may hold several instruments, in npz entries or FITS extensions of their names.
    instrument : Instrument

    Returns
    -------
    cube : ndarray of shape (n_bands, height, width), float64, or None
        None if the file has nothing under the instrument's name and nothing without a name.
    pixel_scale : float or None
        Arcsec from a FITS header, units of the map from a GeoTIFF.

    Raises
    ------
    SampleError
    """
    if isinstance(sample, (bytes, bytearray, memoryview)):
        array, scale = _read_file(bytes(sample), instrument)
    elif isinstance(sample, (str, Path)):
        array, scale = _read_file(_load(Path(sample)), instrument)
    elif isinstance(sample, np.ma.MaskedArray):
        raise SampleError("a masked array is not taken; use array.filled(numpy.nan)")
    elif isinstance(sample, np.ndarray) or is_tensor(sample):
        array, scale = to_numpy(sample), None
    elif isinstance(sample, (list, tuple)):
        array, scale = np.asarray(sample), None
    else:
        raise SampleError(
            "expected an array, a path or the bytes of a FITS, npy, npz or GeoTIFF file, "
            f"got an object of type {type(sample).__name__}"
        )
    return (None if array is None else as_cube(array, len(instrument.bands))), scale


def as_cube(array: np.ndarray, n_bands: int) -> np.ndarray:
    """Return (n_bands, height, width) float64 from bands first, bands last, or one band alone."""
    if array.dtype.kind not in "iufb":
        raise SampleError(f"pixels must be real numbers, got {array.dtype}")
    if array.ndim == 2 and n_bands == 1:
        array = array[None]
    if array.ndim == 3 and array.shape[0] != n_bands and array.shape[2] == n_bands:
        array = np.moveaxis(array, 2, 0)
    if array.ndim != 3 or array.shape[0] != n_bands:
        raise SampleError(
            f"a cutout must have shape ({n_bands}, height, width) or (height, width, {n_bands}), "
            f"one for each band, got {array.shape}"
        )
    if min(array.shape[1:]) < _LEAST_SIDE:
        raise SampleError(
            f"a cutout must have at least {_LEAST_SIDE} x {_LEAST_SIDE} pixels, got {array.shape}"
        )
    cube = array.astype(np.float64)
    if np.isinf(cube).any():
        raise SampleError("pixels are infinite; mark what was not observed with NaN")
    return cube


def _load(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise SampleError("no such file") from None
    except OSError as exc:
        raise SampleError(exc.strerror or str(exc)) from exc


_Read = tuple[np.ndarray | None, float | None]


def _read_file(data: bytes, instrument: Instrument) -> _Read:
    kinds: list[tuple[tuple[bytes, ...], str, Callable[[bytes, Instrument], _Read]]] = [
        ((b"SIMPLE  =", b"\x1f\x8b"), "FITS", _read_fits),
        ((b"\x93NUMPY",), "npy", _read_npy),
        ((b"PK\x03\x04",), "npz", _read_npz),
        ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF", _read_tiff),
    ]
    for starts, kind, read in kinds:
        if data.startswith(starts):
            try:
                return read(data, instrument)
            except (SampleError, ModuleNotFoundError):
                raise
            except Exception as exc:  # readers of damaged files raise errors of many kinds
                raise SampleError(
                    f"cannot read this {kind} file ({type(exc).__name__}: {exc})"
                ) from exc
    raise SampleError("not a FITS, npy, npz or TIFF file")


def _read_npy(data: bytes, instrument: Instrument) -> _Read:
    return np.load(io.BytesIO(data), allow_pickle=False), None


def _read_npz(data: bytes, instrument: Instrument) -> _Read:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        if instrument.name and instrument.name in file.files:
            return file[instrument.name], None
        if set(instrument.bands) <= set(file.files):
            return _stacked([file[band] for band in instrument.bands]), None
        if len(file.files) == 1 and (not instrument.name or file.files == ["arr_0"]):
            return file[file.files[0]], None
        if instrument.name:
            return None, None
        raise SampleError(
            f"the file must hold one array, or the bands {', '.join(instrument.bands)}; "
            f"it holds {', '.join(file.files) or 'nothing'}"
        )


def _stacked(planes: list[np.ndarray]) -> np.ndarray:
    if len({plane.shape for plane in planes}) > 1:
        shapes = ", ".join(str(plane.shape) for plane in planes)
        raise SampleError(f"bands of one instrument must have one shape, got {shapes}")
    return np.stack(planes)


def _read_fits(data: bytes, instrument: Instrument) -> _Read:
    fits = require("astropy.io.fits", extra="astro", caller="MultiBandEncoder")
    with fits.open(io.BytesIO(data), memmap=False) as file:
        images = {i: h for i, h in enumerate(file) if h.is_image and h.header.get("NAXIS", 0) >= 2}
        if not images:
            raise SampleError("the FITS file holds no image")
        names = {h.name: h for h in images.values() if h.name}
        bands = [names.get(band.upper()) for band in instrument.bands]
        chosen = [_choose(images, names, instrument)] if None in bands else bands
        if chosen == [None]:
            return None, None
        scale = _fits_scale(chosen[0].header)
        planes = [np.asarray(h.data) for h in chosen]
        return (planes[0] if None in bands else _stacked(planes)), scale


def _choose(images: dict[int, Any], names: dict[str, Any], instrument: Instrument) -> Any:
    """The extension that `hdu` names, that of the instrument's name, or the first image.

    An image that has another name belongs to another instrument.
    """
    asked = instrument.hdu
    if asked is not None:
        found = images.get(asked) if isinstance(asked, int) else names.get(asked.upper())
        if found is None:
            raise SampleError(
                f"the FITS file has no image extension {asked!r}; it has numbers {list(images)} "
                f"and names {sorted(names)}"
            )
        return found
    if instrument.name.upper() in names:
        return names[instrument.name.upper()]
    free = [h for h in images.values() if not instrument.name or h.name in ("", "PRIMARY")]
    return free[0] if free else None


def _fits_scale(header: Any) -> float | None:
    wcs = require("astropy.wcs", extra="astro", caller="MultiBandEncoder")
    frame = wcs.WCS(header, fix=False)  # repairing units would warn, and scales need none
    if not frame.has_celestial:
        return None
    sides = wcs.utils.proj_plane_pixel_scales(frame.celestial)  # degrees
    return _square(float(sides[0]) * _ARCSEC, float(sides[1]) * _ARCSEC)


def _read_tiff(data: bytes, instrument: Instrument) -> _Read:
    tifffile = require("tifffile", extra="geo", caller="MultiBandEncoder")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        array = file.asarray()
        marker = page.tags.get("GDAL_NODATA")
        if marker is not None:
            text = str(marker.value).strip("\0 ").lower()
            array = array.astype(np.float64)
            array[array == (float(text) if text else np.nan)] = np.nan
        return array, _tiff_scale(file.geotiff_metadata or {})


def _tiff_scale(facts: dict[str, Any]) -> float | None:
    if int(facts.get("GTModelTypeGeoKey", 0)) == _GEOGRAPHIC:
        return None  # degrees of longitude and latitude are no lengths
    if facts.get("ModelPixelScale") is not None:
        sides = facts["ModelPixelScale"]
        return _square(float(sides[0]), float(sides[1]))
    if facts.get("ModelTransformation") is not None:
        matrix = np.asarray(facts["ModelTransformation"], dtype=float).reshape(4, 4)[:2, :2]
        return _square(*map(float, np.hypot(*matrix)))
    return None


def _square(width: float, height: float) -> float:
    width, height = abs(width), abs(height)
    if abs(width - height) > _SQUARE * max(width, height):
        raise SampleError(f"pixels must be square, the file says {width:g} by {height:g}")
    return (width + height) / 2
