"""Standardising blocks with statistics of the training rows."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

__all__ = ["Standardizer"]


class Standardizer(nn.Module):
    """Zero mean and unit variance per feature; a missing value becomes the mean, which is zero.

    Statistics are weighted, and come from the present cells and observed values alone. Rows where
    the block is absent come out as zeros, which no head reads: heads look at presence.

    Parameters
    ----------
    block_dims : dict of str to int
    """

    def __init__(self, block_dims: dict[str, int]) -> None:
        super().__init__()
        self.block_dims = dict(block_dims)
        for m, d in enumerate(block_dims.values()):
            self.register_buffer(f"mean_{m}", torch.zeros(d, dtype=torch.float64))
            self.register_buffer(f"scale_{m}", torch.ones(d, dtype=torch.float64))

    def fit(
        self, blocks: dict[str, Tensor], weight: Tensor, raw: Collection[str] = ()
    ) -> Standardizer:
        """Learn from blocks of shape (n, d), NaN where missing, and row weights (n,).

        Blocks that ``raw`` names keep mean 0 and scale 1: they come out as they are.
        """
        for m, name in enumerate(self.block_dims):
            if name in raw:
                continue
            values = blocks[name].double()
            observed = ~torch.isnan(values)
            w = observed * weight.double()[:, None]
            total = w.sum(0)
            values = torch.where(observed, values, 0.0)
            mean = (w * values).sum(0) / total.clamp(min=1e-300)
            spread = ((w * (values - mean).square()).sum(0) / total.clamp(min=1e-300)).sqrt()
            # a constant feature (up to float32 rounding) carries nothing: leave it unscaled
            constant = spread <= 1e-6 * mean.abs().clamp(min=1e-30)
            getattr(self, f"mean_{m}").copy_(torch.where(total > 0, mean, 0.0))
            getattr(self, f"scale_{m}").copy_(torch.where(constant, 1.0, spread))
        return self

    def forward(
        self, blocks: dict[str, Tensor], dtype: torch.dtype = torch.float64
    ) -> dict[str, Tensor]:
        """Standardised blocks of the same shapes."""
        out = {}
        for m, name in enumerate(self.block_dims):
            values = blocks[name]
            mean, scale = getattr(self, f"mean_{m}"), getattr(self, f"scale_{m}")
            scaled = ((values.double() - mean) / scale).to(dtype)
            out[name] = torch.nan_to_num(scaled, nan=0.0)
        return out
