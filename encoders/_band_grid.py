"""Bringing a cutout to a grid: resampling that keeps flux, and filling of unobserved pixels.

A pixel that was not observed is NaN; one in which the instrument observed nothing is +inf.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["border", "fill_missing", "regrid", "shared_lengths"]

_SIGMAS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # pixels; the next is for what the last cannot reach
_REACH = 3  # sigmas
_LEAST_WEIGHT = 1e-3
_HALF = 0.5 - 1e-9


@lru_cache(maxsize=64)
def shared_lengths(n_in: int, scale_in: float, n_out: int, scale_out: float) -> np.ndarray:
    """Return the part of every input pixel's length that lies in every output pixel.

    Both rows of pixels have the same centre.

    Returns
    -------
    ndarray of shape (n_out, n_in)
        Columns sum to 1 where the input pixel lies within the output row.
    """
    left_in = (np.arange(n_in) - n_in / 2) * scale_in
    left_out = ((np.arange(n_out) - n_out / 2) * scale_out)[:, None]
    shared = np.minimum(left_in + scale_in, left_out + scale_out) - np.maximum(left_in, left_out)
    return np.clip(shared, 0, None) / scale_in


def regrid(
    cube: np.ndarray, scale_in: float, n_out: int, scale_out: float, *, brightness: bool = False
) -> np.ndarray:
    """Resample a cutout to a square grid with the same centre.

    Every input pixel is divided among output pixels by the area that they share, so that the
    total is kept but for what lies outside of the new grid. The same operation crops and pads.

    Parameters
    ----------
    cube : ndarray of shape (n_bands, height, width)
    scale_in, scale_out : float
        Sides of a pixel.
    n_out : int
        Pixels along a side of the new grid.
    brightness : bool, default=False
        Whether pixels hold a quantity per area: then means are kept instead of sums.

    Returns
    -------
    ndarray of shape (n_bands, n_out, n_out)
        A pixel of which half or more was not observed, or lies outside, is NaN; +inf where the
        larger part of what is lacking was observed and held nothing.
    """
    rows = shared_lengths(cube.shape[1], scale_in, n_out, scale_out)
    columns = shared_lengths(cube.shape[2], scale_in, n_out, scale_out)
    area = (scale_in / scale_out) ** 2

    def spread(values: np.ndarray) -> np.ndarray:
        return rows @ values @ columns.T

    finite = np.isfinite(cube)
    whole = cube if finite.all() else fill_missing(torch.from_numpy(cube)).numpy()
    whole = np.where(np.isfinite(whole), whole, 0.0)  # a band without any pixel, NaN below
    out = spread(whole)
    if brightness:  # the mean over the part that lies within the input
        out = out / np.maximum(spread(np.ones_like(cube)), 1e-300)
    seen, nothing = area * spread(finite), area * spread(np.isposinf(cube))
    missing = seen < _HALF
    blank = missing & (nothing > np.clip(1 - seen - nothing, 0, None))
    return np.where(blank, np.inf, np.where(missing, np.nan, out))


def fill_missing(images: Tensor) -> Tensor:
    """Fill NaN and infinite pixels with the Gaussian-weighted mean of their neighbours.

    The result turns with the image. An image without any finite pixel stays as it is.

    Parameters
    ----------
    images : Tensor of shape (..., height, width)
    """
    good = torch.isfinite(images)
    if bool(good.all()):
        return images
    shape = images.shape
    out = images.reshape(-1, 1, *shape[-2:]).clone()
    known = good.reshape(out.shape)
    source = torch.where(known, out, torch.zeros_like(out))
    weight = known.to(out.dtype)
    lacking = ~known & known.any(dim=(2, 3), keepdim=True)
    for sigma in _SIGMAS:
        if not bool(lacking.any()):
            break
        total = _blur(weight, sigma)
        reached = lacking & (total > _LEAST_WEIGHT)
        out = torch.where(reached, _blur(source, sigma) / total.clamp(min=1e-30), out)
        lacking = lacking & ~reached
    if bool(lacking.any()):  # farther than any kernel reaches
        mean = source.sum(dim=(2, 3), keepdim=True) / weight.sum(dim=(2, 3), keepdim=True)
        out = torch.where(lacking, mean, out)
    return out.reshape(shape)


def _blur(images: Tensor, sigma: float) -> Tensor:
    reach = int(_REACH * sigma)
    steps = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    across = F.conv2d(images, kernel.reshape(1, 1, 1, -1), padding=(0, reach))
    return F.conv2d(across, kernel.reshape(1, 1, -1, 1), padding=(reach, 0))


def border(cube: np.ndarray) -> np.ndarray:
    """Return the pixels of a frame around each band, an eighth of the side wide: (n_bands, n)."""
    height, width = cube.shape[1:]
    wide = max(1, min(height, width) // 8)
    frame = np.ones((height, width), dtype=bool)
    frame[wide : height - wide, wide : width - wide] = False
    return cube[:, frame]
