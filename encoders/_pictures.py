"""Any kind of picture to an RGB picture of 8 bits."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfuse._require import require
from mmfuse.exceptions import SampleError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["read_picture"]

_CHANNELS = (1, 3, 4)
_LEAST, _MOST = -1e-3, 1 + 1e-3  # float pixels, with room for rounding


def read_picture(sample: Any) -> Image:
    """Return a picture as an RGB image of 8 bits.

    Parameters
    ----------
    sample : str, Path, bytes, dict, PIL image, ndarray or Tensor
        A file, its bytes, ``{"bytes": ..., "path": ...}``, or pixels: (height, width), (height,
        width, channels) or (channels, height, width) with 1, 3 or 4 channels, as uint8, uint16,
        bool, or floats in 0..1.

    Notes
    -----
    The EXIF orientation is applied. Transparent pixels are laid over white. 16-bit pixels are
    scaled to 8 bits, and of several frames the first is taken.

    Raises
    ------
    SampleError
        If the file is missing, truncated or not a picture, or the pixels are of another kind.
    """
    pil = require("PIL.Image", extra="image", caller="ImageEncoder")
    if isinstance(sample, Mapping):
        sample = sample.get("bytes") if sample.get("bytes") is not None else sample.get("path")
    if isinstance(sample, (bytes, bytearray, memoryview)):
        return _open(io.BytesIO(sample))
    if isinstance(sample, (str, Path)):
        return _open(sample)
    if isinstance(sample, pil.Image):
        return _read(sample)
    if hasattr(sample, "detach"):
        sample = sample.detach().cpu().numpy()
    if isinstance(sample, np.ndarray):
        return pil.fromarray(_pixels(sample))
    raise SampleError(
        "expected a path, bytes, a PIL image or an array of pixels, "
        f"got an object of type {type(sample).__name__}"
    )


def _open(source: Any) -> Image:
    pil = require("PIL.Image", extra="image", caller="ImageEncoder")
    try:
        with pil.open(source) as picture:
            return _read(picture)
    except SampleError:
        raise
    except FileNotFoundError:
        raise SampleError("no such file") from None
    except pil.UnidentifiedImageError:
        raise SampleError("cannot identify image file") from None
    except pil.DecompressionBombError as exc:
        raise SampleError(str(exc)) from exc
    except OSError as exc:
        raise SampleError(exc.strerror or str(exc)) from exc


def _read(picture: Image) -> Image:
    """Load the pixels, turn them as EXIF says, and convert them."""
    try:
        picture.load()
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as exc:
        raise SampleError(str(exc) or f"cannot read the pixels ({type(exc).__name__})") from exc
    if 0 in picture.size:
        raise SampleError("the picture has no pixels")
    return _to_rgb(_upright(picture))


def _upright(picture: Image) -> Image:
    turn = require("PIL.ImageOps", extra="image", caller="ImageEncoder").exif_transpose
    try:
        return turn(picture)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return picture


def _to_rgb(picture: Image) -> Image:
    pil = require("PIL.Image", extra="image", caller="ImageEncoder")
    if picture.mode.startswith("I;16"):
        return pil.fromarray(_pixels(np.asarray(picture).astype(np.uint16)))
    if picture.mode == "I":
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise SampleError("a 32-bit picture must have values in 0..65535")
        deep = values.max() > 255
        return pil.fromarray(_pixels(values.astype(np.uint16 if deep else np.uint8)))
    if picture.mode == "F":
        return pil.fromarray(_pixels(np.asarray(picture)))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return pil.alpha_composite(pil.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def _pixels(array: np.ndarray) -> np.ndarray:
    """Return (height, width, 3) uint8 from an array of pixels of any accepted kind."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim == 3 and array.shape[2] not in _CHANNELS and array.shape[0] in _CHANNELS:
        array = np.moveaxis(array, 0, 2)
    if array.ndim != 3 or array.shape[2] not in _CHANNELS:
        raise SampleError(
            "an array of pixels must have shape (height, width), (height, width, channels) or "
            f"(channels, height, width) with 1, 3 or 4 channels, got {array.shape}"
        )
    if array.size == 0:
        raise SampleError("the picture has no pixels")
    array = _eight_bits(array)
    if array.shape[2] == 4:
        clear = 255 - array[:, :, 3:].astype(np.uint16)
        colour = array[:, :, :3].astype(np.uint16) * (255 - clear) + 255 * clear
        array = ((colour + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def _eight_bits(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype.kind != "f":
        raise SampleError(
            f"pixels must be uint8, uint16, bool or floats in 0..1, got {array.dtype}"
        )
    if not np.isfinite(array).all():
        raise SampleError("pixels are NaN or infinite")
    if array.min() < _LEAST or array.max() > _MOST:
        raise SampleError(
            f"float pixels must lie in 0..1, got {array.min():.4g} to {array.max():.4g}"
        )
    return np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
