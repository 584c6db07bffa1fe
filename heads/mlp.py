"""The multilayer perceptron over concatenated blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmfuse.heads.base import FusionModule, HeadOutput

__all__ = ["MLPModule"]


class MLPModule(FusionModule):
    """Concatenate blocks, a learned token in the place of an absent one, and presence bits."""

    def __init__(
        self,
        block_dims: dict[str, int],
        n_outputs: int,
        task: str,
        *,
        hidden: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__(block_dims, n_outputs, task)
        self.token = nn.ParameterList(
            [nn.Parameter(0.02 * torch.randn(d)) for d in block_dims.values()]
        )
        width = sum(block_dims.values()) + len(block_dims)
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(width, size), nn.GELU(), nn.Dropout(dropout)]
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, n_outputs))

    def forward(self, blocks: dict[str, Tensor], presence: Tensor) -> HeadOutput:
        parts = [
            torch.where(presence[:, m, None], blocks[name].to(self.token[m].dtype), self.token[m])
            for m, name in enumerate(self.block_dims)
        ]
        parts.append(presence.to(parts[0].dtype))
        return HeadOutput(self.layers(torch.cat(parts, dim=1)))
