"""Networks over multi-band cutouts: the stretch, the eight symmetries, the stem for any bands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfuse._require import require
from mmfuse.encoders._band_grid import fill_missing
from mmfuse.encoders._band_instruments import Grid
from mmfuse.encoders._band_photometry import coverage

__all__ = [
    "Branches",
    "NetworkFeatures",
    "SmallCNN",
    "Symmetric",
    "input_side",
    "turned",
    "widen_stem",
]

_CHANNELS = (32, 64, 128)


def turned(images: Tensor, which: int) -> Tensor:
    """Apply one of the eight symmetries of the square to (..., h, w): 0 to 7, 0 changes nothing."""
    images = torch.rot90(images, which % 4, dims=(-2, -1))
    return images.flip(-1) if which >= 4 else images


class Symmetric(nn.Module):
    """A network averaged over the eight symmetries, so that a turned cutout gives the same.

    In training every sample is turned at random instead, with torch's own generator.
    """

    augments = True  # turns samples also where only the last block learns

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Encode square images (n, n_bands, side, side) as (n, n_features)."""
        if self.training:
            which = torch.randint(8, (len(images),)).tolist()
            return self.network(
                torch.stack([turned(x, w) for x, w in zip(images, which, strict=True)])
            )
        out = self.network(images)
        for which in range(1, 8):
            out = out + self.network(turned(images, which))
        return out / 8


class SmallCNN(nn.Module):
    """Three convolutional stages whose means over the image are the features.

    There is no normalisation layer: how bright a cutout is must not be lost.
    """

    width = sum(_CHANNELS)

    def __init__(self, n_bands: int) -> None:
        super().__init__()
        sizes = (n_bands, *_CHANNELS)
        self.stages = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, padding_mode="replicate")
            for a, b in zip(sizes, sizes[1:], strict=False)
        )
        for stage in self.stages:
            nn.init.kaiming_normal_(stage.weight, nonlinearity="relu")
            nn.init.zeros_(stage.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (n, n_bands, h, w) as (n, 224)."""
        pooled = []
        for stage in self.stages:
            images = F.gelu(stage(images))
            pooled.append(images.mean(dim=(2, 3)))
            if min(images.shape[2:]) > 2:
                images = F.avg_pool2d(images, 2, ceil_mode=True, count_include_pad=False)
        return torch.cat(pooled, dim=1)


def input_side(backbone: str) -> int:
    """Return the side in pixels of the pictures that a timm model was trained with."""
    facts = require("timm", extra="image", caller="MultiBandEncoder").get_pretrained_cfg(backbone)
    return 224 if facts is None else int(facts.to_dict().get("input_size", (3, 224, 224))[-1])


def widen_stem(model: Any, n_bands: int) -> None:
    """Give a timm model a first convolution for any number of bands, in place.

    Each band gets the mean of the stem's weights over its three colours, times 3 / n_bands: a
    cutout that is the same in all bands passes the stem as the grey picture did.
    """
    first = (getattr(model, "default_cfg", None) or {}).get("first_conv")
    names = [first] if isinstance(first, str) else list(first or ())
    if not names:
        raise ValueError(
            "MultiBandEncoder: features must be a backbone whose first layer timm names "
            "('first_conv' of its default_cfg), or 'cnn'."
        )
    for name in names:
        parent = model.get_submodule(name.rpartition(".")[0])
        old = getattr(parent, name.rpartition(".")[2])
        mean = old.weight.detach().mean(dim=1, keepdim=True) * old.in_channels / n_bands
        old.weight = nn.Parameter(mean.repeat(1, n_bands, 1, 1))
        old.in_channels = n_bands


class NetworkFeatures(nn.Module):
    """Stretch, scale and encode cutouts of one grid, and add the share of each band observed.

    The stretch is asinh(x / softening), which keeps negative flux; then each band has zero mean
    and unit variance over the training pixels. Unobserved pixels are filled from their
    neighbours. A band that was not observed at all takes its training mean, and its coverage
    says so.

    Parameters
    ----------
    grid : Grid
    network : nn.Module
    side : int or None
        Pixels to which the stretched cutout is resized for the network.
    """

    softening: Tensor
    mean: Tensor
    sd: Tensor

    def __init__(self, grid: Grid, network: nn.Module, side: int | None) -> None:
        super().__init__()
        self.grid, self.network, self.side = grid, network, side
        for name in ("softening", "mean", "sd"):
            values = torch.tensor(getattr(grid, name), dtype=torch.float32)
            self.register_buffer(name, values[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (n, n_bands, h, w), NaN or +inf where there is no value."""
        seen = coverage(images)
        found = torch.isfinite(images).any(dim=(2, 3))
        with torch.autocast(images.device.type, enabled=False):  # flux may be beyond float16
            x = (torch.asinh(fill_missing(images) / self.softening) - self.mean) / self.sd
        x = torch.where(found[:, :, None, None], x, torch.zeros_like(x))
        if self.side is not None and x.shape[-1] != self.side:
            x = F.interpolate(
                x, size=(self.side, self.side), mode="bilinear", antialias=self.side < x.shape[-1]
            )
        values = torch.cat([self.network(x), seen], dim=1)
        known = torch.arange(values.shape[1], device=x.device) >= values.shape[1] - seen.shape[1]
        nothing = ~found.any(dim=1, keepdim=True) & ~known
        gone = ~(seen > 0).any(dim=1, keepdim=True)
        return torch.where(nothing | gone, torch.nan, values)


class Branches(nn.Module):
    """One module per instrument, their features side by side.

    An instrument that is absent has NaN features, and coverage 0 where another one is there.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        super().__init__()
        self.names = list(parts)
        self.parts = nn.ModuleList(parts.values())
        self.networks = [f"parts.{i}" for i in range(len(parts))]  # each has a last block

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """Encode {instrument: (n, n_bands, h, w)}."""
        seen = [coverage(images[name]) for name in self.names]
        some = torch.cat(seen, dim=1).gt(0).any(dim=1, keepdim=True)
        out = []
        for name, part, share in zip(self.names, self.parts, seen, strict=True):
            values = part(images[name])[:, : -share.shape[1]]
            out += [values, torch.where(some, share.to(values.dtype), torch.nan)]
        return torch.cat(out, dim=1)
