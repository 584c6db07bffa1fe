"""Aperture magnitudes, colours and shapes of a cutout, without training."""

from __future__ import annotations

from math import log, pi, sqrt

import numpy as np
import torch
from torch import Tensor, nn

from mmfuse.encoders._band_grid import fill_missing
from mmfuse.encoders._band_instruments import Grid

__all__ = ["Photometry", "asinh_magnitude", "circle", "coverage", "photometry_names"]

POGSON = 2.5 / log(10)
_SOFT = sqrt(POGSON)  # softening in units of the noise that Lupton et al. find best
_STEPS = 24  # of the curve of growth
SHAPES = ("ln_radius50", "concentration", "asymmetry", "ellipticity")


def circle(n_pixels: int, radius: float) -> np.ndarray:
    """Return the part of every pixel that lies in a circle about the centre of the grid.

    Parameters
    ----------
    n_pixels : int
        Along a side.
    radius : float
        In pixels.

    Returns
    -------
    ndarray of shape (n_pixels, n_pixels)
    """
    edge = np.arange(n_pixels + 1) - n_pixels / 2
    x = np.clip(np.abs(edge), None, radius)[None, :]
    y = x.T
    meets = np.minimum(x, np.sqrt(radius**2 - y**2))  # where the circle falls below y
    quarter = y * meets + _under_arc(x, radius) - _under_arc(meets, radius)
    signed = quarter * np.sign(edge)[None, :] * np.sign(edge)[:, None]  # of [0, x] times [0, y]
    return np.diff(np.diff(signed, axis=0), axis=1)


def _under_arc(x: np.ndarray, radius: float) -> np.ndarray:
    """Area under the circle from 0 to x."""
    return (x * np.sqrt(radius**2 - x**2) + radius**2 * np.arcsin(x / radius)) / 2


def asinh_magnitude(flux: Tensor, noise: Tensor, zero_point: Tensor) -> Tensor:
    """Return magnitudes that stay finite and nearly linear for faint and negative fluxes.

    Lupton, Gunn & Szalay 1999 (AJ 118, 1406), with their softening b = 1.042 noise. The magnitude
    is ``zero_point - 2.5 lg flux`` where the flux is large against the noise.
    """
    b = _SOFT * noise
    return zero_point - POGSON * (torch.asinh(flux / (2 * b)) + torch.log(b))


def coverage(images: Tensor) -> Tensor:
    """Return the share of pixels that were observed, (n, n_bands), from (n, n_bands, h, w).

    A pixel that holds nothing (+inf) was observed.
    """
    return (~torch.isnan(images)).to(images.dtype).mean(dim=(2, 3))


def photometry_names(grid: Grid) -> list[str]:
    """Return the names of the features of `Photometry`."""
    prefix = f"{grid.name}_" if grid.name else ""
    middle = grid.apertures[len(grid.apertures) // 2]
    pairs = zip(grid.bands, grid.bands[1:], strict=False)
    return [
        *(f"{band}_mag_{radius:.4g}" for band in grid.bands for radius in grid.apertures),
        *(f"{a}-{b}_colour_{middle:.4g}" for a, b in pairs),
        *(f"{prefix}{shape}" for shape in SHAPES),
        *(f"{band}_coverage" for band in grid.bands),
    ]


class Photometry(nn.Module):
    """Features of cutouts on one grid, the same for a cutout that is turned or mirrored.

    Magnitudes in circular apertures about the centre of the grid, per band; differences of
    neighbouring bands (colours) in the middle aperture; shapes on the sum of all bands, each
    weighted by its inverse variance; the share of each band that was observed. What cannot be
    measured is NaN.

    Parameters
    ----------
    grid : Grid
    """

    masks: Tensor
    weight: Tensor
    noise: Tensor
    zero_point: Tensor
    place: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        n, scale = grid.n_pixels, grid.pixel_scale
        self.radii = np.linspace(0, max(grid.apertures), _STEPS + 1)[1:]
        masks = np.stack([circle(n, r / scale) for r in (*grid.apertures, *self.radii)])
        x = (np.arange(n) - (n - 1) / 2) * scale
        middle = sorted(grid.apertures)[len(grid.apertures) // 2]
        weight = np.exp(-0.5 * (x[:, None] ** 2 + x**2) / middle**2)
        for name, values in {
            "masks": masks,
            "weight": weight,
            "place": x,
            "noise": np.array(grid.noise),
            "zero_point": np.array(grid.zero_point),
        }.items():
            self.register_buffer(name, torch.as_tensor(values, dtype=torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        """Measure images of shape (n, n_bands, h, w), NaN or +inf where there is no value."""
        x = images.float() if images.device.type == "mps" else images.double()
        seen = coverage(x)
        found = torch.isfinite(x).any(dim=(2, 3))  # (n, n_bands)
        x = fill_missing(x)
        x = torch.where(found[:, :, None, None], x, torch.zeros_like(x))
        n_apertures = len(self.grid.apertures)
        masks = self.masks[:n_apertures].to(x.dtype)
        fluxes = x.flatten(2) @ masks.flatten(1).T  # (n, n_bands, n_apertures)
        spread = masks.square().sum(dim=(1, 2)).sqrt()
        noise = self.noise.to(x.dtype)[:, None] * spread
        mags = asinh_magnitude(fluxes, noise, self.zero_point.to(x.dtype)[:, None])
        mags = torch.where(found[:, :, None], mags, torch.nan)
        middle = mags[:, :, n_apertures // 2]
        shapes = self._shapes(x, found)
        every = [mags.flatten(1), middle[:, :-1] - middle[:, 1:], shapes, seen]
        gone = ~(seen > 0).any(dim=1, keepdim=True)
        return torch.where(gone, torch.nan, torch.cat(every, dim=1)).float()

    def _shapes(self, x: Tensor, found: Tensor) -> Tensor:
        """Radius, concentration, asymmetry, ellipticity: (n, 4)."""
        inverse = found / self.noise.to(x.dtype).square()
        total = inverse.sum(dim=1).clamp(min=1e-300 if x.dtype == torch.float64 else 1e-30)
        image = (inverse[:, :, None, None] * x).sum(dim=1) / total[:, None, None]
        some = found.any(dim=1)
        r20, r50, r80 = self._radii(image)
        parts = [
            torch.log(r50),
            5 * torch.log10(r80 / r20),
            self._asymmetry(image, total.rsqrt()),
            self._ellipticity(image),
        ]
        return torch.where(some[:, None], torch.stack(parts, dim=1), torch.nan)

    def _radii(self, image: Tensor) -> list[Tensor]:
        """Radii that hold 20, 50 and 80 % of the flux in the largest circle; NaN if it has none."""
        growth = image.flatten(1) @ self.masks[-_STEPS:].to(image.dtype).flatten(1).T
        total = growth[:, -1:]
        share = torch.cummax(growth / total, dim=1).values.clamp(0, 1)
        share = torch.cat([torch.zeros_like(total), share], dim=1)
        radii = torch.as_tensor([0.0, *self.radii], dtype=image.dtype, device=image.device)
        found = []
        for level in (0.2, 0.5, 0.8):
            after = (share < level).sum(dim=1, keepdim=True).clamp(max=_STEPS)
            low, high = share.gather(1, after - 1), share.gather(1, after)
            part = ((level - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
            radius = radii[after - 1] + part * (radii[after] - radii[after - 1])
            found.append(torch.where(total > 0, radius, torch.nan)[:, 0])
        return found

    def _asymmetry(self, image: Tensor, noise: Tensor) -> Tensor:
        """Conselice 2003 (ApJS 147, 1): |image - image turned by 180 degrees|, less the noise's."""
        mask = self.masks[-1].to(image.dtype)
        difference = ((image - image.flip(1, 2)).abs() * mask).sum(dim=(1, 2))
        expected = noise * sqrt(2) * sqrt(2 / pi) * mask.sum()
        size = (image.abs() * mask).sum(dim=(1, 2))
        return torch.where(size > 0, (difference - expected) / size, torch.nan)

    def _ellipticity(self, image: Tensor) -> Tensor:
        """(a^2 - b^2) / (a^2 + b^2) from second moments under a round Gaussian weight."""
        weighed = image * self.weight.to(image.dtype)
        x = self.place.to(image.dtype)
        total = weighed.sum(dim=(1, 2))
        xx = (weighed.sum(dim=1) * x.square()).sum(dim=1) / total
        yy = (weighed.sum(dim=2) * x.square()).sum(dim=1) / total
        xy = ((weighed * x).sum(dim=2) * x).sum(dim=1) / total
        size = torch.sqrt((xx - yy).square() + 4 * xy.square()) / (xx + yy)
        return torch.where((total > 0) & (xx + yy > 0), size.clamp(max=1), torch.nan)
