"""One block as the linear solver reads it: a chunk at a time, standardised by algebra."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Column"]

_AT_ONCE = 512  # rows that are gathered together
_FAR = 300.0  # means beyond so many deviations would cancel in float32; then rows are shifted


class Column:
    """A block (n, d) whose standardised form is never made as a whole.

    Where the block has no missing value and means that are not far from zero, products take the raw
    rows, and mean and scale move into the coefficients. Else each chunk of rows is standardised
    before it is used, with zeros for what is missing.

    Parameters
    ----------
    raw : Tensor of shape (n, d)
        NaN where missing.
    mean, scale : Tensor of shape (d,), optional
        Without them the block counts as standardised already.
    dtype : torch.dtype
        Of the products.
    """

    def __init__(
        self,
        raw: Tensor,
        mean: Tensor | None = None,
        scale: Tensor | None = None,
        *,
        dtype: torch.dtype,
    ) -> None:
        self.raw, self.dtype = raw, dtype
        self.mean = None if mean is None else mean.double()
        self.scale = None if scale is None else scale.double()
        self.folded = False
        if self.mean is not None and self.scale is not None and raw.dtype == dtype:
            near = bool(((self.mean / self.scale).abs() <= _FAR).all())
            # a sum is not finite where any value is missing, and costs one pass without a mask
            self.folded = near and bool(torch.isfinite(raw.sum()))

    @property
    def width(self) -> int:
        return self.raw.shape[1]

    def __len__(self) -> int:
        return len(self.raw)

    def rows(self, where: slice | Tensor) -> Tensor:
        """Standardised rows, zero where missing."""
        part = self.raw[where]
        if self.mean is None or self.scale is None:
            return part.to(self.dtype)
        if self.folded:  # nothing is missing, and means are near
            away = part - self.mean.to(self.dtype)
            return away.div_(self.scale.to(self.dtype))
        wide = (part.double() - self.mean) / self.scale
        return torch.nan_to_num(wide, nan=0.0).to(self.dtype)

    def chunk(self, where: slice) -> Tensor:
        """Rows as products want them: raw where the algebra is folded, else standardised."""
        return self.raw[where] if self.folded else self.rows(where)

    def take(self, rows: Tensor) -> Column:
        """Some rows, standardised now."""
        out = torch.empty(len(rows), self.width, dtype=self.dtype, device=self.raw.device)
        for part, some in zip(out.split(_AT_ONCE), rows.split(_AT_ONCE), strict=True):
            part.copy_(self.rows(some))
        return Column(out, dtype=self.dtype)

    def forward(self, coef: Tensor) -> tuple[Tensor, Tensor | None]:
        """Coefficients (c, d) for chunks, and the constant (c, 1) that products lack."""
        if not self.folded:
            return coef.to(self.dtype).contiguous(), None
        scaled = coef.double() / self.scale
        constant = -(scaled @ self.mean)[:, None]
        return scaled.to(self.dtype).contiguous(), constant.to(self.dtype)

    def backward(self, product: Tensor, total: Tensor) -> Tensor:
        """Gradient (c, d) from ``back @ chunks`` and the row sums (c,) of ``back``."""
        if not self.folded:
            return product
        return (product - total[:, None] * self.mean) / self.scale
