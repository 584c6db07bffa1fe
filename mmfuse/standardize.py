"""Standardising blocks with statistics of the training rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from mmfuse.solver.columns import Column

__all__ = ["StandardisedBlocks", "Standardizer"]

_ROWS = 2048  # at a time
_EXACT_UP_TO = 4_000_000  # numbers for which sums are made in float64 from the start


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
        self, blocks: Mapping[str, Tensor], weight: Tensor, raw: Collection[str] = ()
    ) -> Standardizer:
        """Learn from blocks of shape (n, d), NaN where missing, and row weights (n,).

        Blocks that ``raw`` names keep mean 0 and scale 1: they come out as they are.
        """
        for m, name in enumerate(self.block_dims):
            if name in raw:
                continue
            total, mean, spread = _moments(blocks[name], weight.double())
            # a constant feature (up to float32 rounding) carries nothing: leave it unscaled
            constant = spread <= 1e-6 * mean.abs().clamp(min=1e-30)
            getattr(self, f"mean_{m}").copy_(torch.where(total > 0, mean, 0.0))
            getattr(self, f"scale_{m}").copy_(torch.where(constant, 1.0, spread))
        return self

    def statistics(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean and scale (d,) of one block."""
        m = list(self.block_dims).index(name)
        return getattr(self, f"mean_{m}"), getattr(self, f"scale_{m}")

    def block(self, name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
        """One standardised block, made a part at a time so that no double copy of it exists."""
        mean, scale = self.statistics(name)
        if values.requires_grad or len(values) <= _ROWS:  # differentiable
            return torch.nan_to_num((values.double() - mean) / scale, nan=0.0).to(dtype)
        out = torch.empty(values.shape, dtype=dtype, device=values.device)
        for part, source in zip(out.split(_ROWS), values.split(_ROWS), strict=True):
            part.copy_(torch.nan_to_num((source.double() - mean) / scale, nan=0.0))
        return out

    def forward(
        self, blocks: Mapping[str, Tensor], dtype: torch.dtype = torch.float64
    ) -> dict[str, Tensor]:
        """Standardised blocks of the same shapes."""
        return {name: self.block(name, blocks[name], dtype) for name in self.block_dims}


class StandardisedBlocks(Mapping[str, Tensor]):
    """Standardised blocks by name, each made when it is first asked for.

    Who can do with the raw block and its statistics takes `column`, and no copy is made.

    Parameters
    ----------
    raw : dict of str to Tensor of shape (n, d)
        NaN where missing.
    scaler : Standardizer
    dtype : torch.dtype
    """

    def __init__(self, raw: dict[str, Tensor], scaler: Standardizer, dtype: torch.dtype) -> None:
        self.raw, self.scaler, self.dtype = raw, scaler, dtype
        self._made: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            self._made[name] = self.scaler.block(name, self.raw[name], self.dtype)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    def column(self, name: str) -> Column:
        """The block for the linear solver, which standardises by algebra."""
        if name in self._made or self.dtype == torch.float64:
            return Column(self[name], dtype=self.dtype)
        return Column(self.raw[name], *self.scaler.statistics(name), dtype=self.dtype)

    def widths(self) -> dict[str, int]:
        return {name: block.shape[1] for name, block in self.raw.items()}

    def take(self, rows: Tensor) -> StandardisedBlocks:
        """Some rows."""
        part = {name: block[rows] for name, block in self.raw.items()}
        return StandardisedBlocks(part, self.scaler, self.dtype)

    def select(self, name: str) -> StandardisedBlocks:
        """One block."""
        part = StandardisedBlocks({name: self.raw[name]}, self.scaler, self.dtype)
        part._made = {key: made for key, made in self._made.items() if key == name}
        return part


def _moments(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weight of the observed values, their mean and their standard deviation: (d,) each."""
    total = weight.new_zeros(values.shape[1])
    first, second = torch.zeros_like(total), torch.zeros_like(total)
    centre = torch.zeros_like(total)
    parts = list(zip(values.split(_ROWS), weight.split(_ROWS), strict=True))
    exact = values.numel() <= _EXACT_UP_TO
    for number, (part, w) in enumerate(parts):
        if number == 0:  # sums of distances from about the mean lose nothing to rounding
            centre = torch.nan_to_num(part.double().nanmean(dim=0), nan=0.0)
        away = part.double() - centre if exact else part - centre.to(part.dtype)
        if not torch.isfinite(away.sum()):
            seen = ~torch.isnan(away)
            away = torch.where(seen, away, 0.0)
            total += w @ seen.double()
        else:
            total += w.sum()
        w = w.to(away.dtype)
        first += (w @ away).double()
        second += (w @ away.square()).double()
    shift = first / total.clamp(min=1e-300)
    variance = second / total.clamp(min=1e-300) - shift.square()
    return total, centre + shift, variance.clamp(min=0).sqrt()
