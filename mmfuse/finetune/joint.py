"""Encoders and a joint head as one module that gradients pass."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmfuse.encoders import BaseEncoder
from mmfuse.encoders._run import _to_device
from mmfuse.finetune.modes import training_mode
from mmfuse.finetune.rows import Batch
from mmfuse.heads import BaseHead, FitData
from mmfuse.objectives import Objective
from mmfuse.standardize import Standardizer

__all__ = ["JointModel", "Target"]


@dataclass(frozen=True)
class Target:
    """One target that all encoders are trained for.

    Attributes
    ----------
    values : ndarray of shape (n,) or (n, T)
        Class indices, or standardised values.
    weight : ndarray of shape (n,)
    objective : Objective
    """

    values: np.ndarray
    weight: np.ndarray
    objective: Objective


class JointModel(nn.Module):
    """Copies of the encoders' modules, and for every target a module of the joint head.

    Parameters
    ----------
    encoders : dict of str to encoder
        Those that are trained.
    modules : dict of str to nn.Module
        A module for each, which is changed by training.
    blocks : Blocks
        All rows and modalities, by the encoders as they are before the training.
    targets : list of Target
    head : BaseHead
    device : str
    """

    def __init__(
        self,
        encoders: Mapping[str, BaseEncoder],
        modules: Mapping[str, nn.Module],
        blocks: Any,
        targets: list[Target],
        head: BaseHead,
        device: str,
    ) -> None:
        super().__init__()
        self.encoders, self.head, self.targets, self.device = encoders, head, targets, device
        self.dims = blocks.dims
        self.parts = nn.ModuleList(list(modules.values()))
        self.blocks = {name: torch.tensor(blocks[name], device=device) for name in blocks.names}
        self.present = torch.tensor(blocks.present, device=device)
        self.values = [torch.as_tensor(t.values, device=device) for t in targets]
        self.weights = [torch.as_tensor(t.weight, device=device) for t in targets]
        self.heads = nn.ModuleList()
        self.autocast: AbstractContextManager[Any] = nullcontext()

    def start(self, rows: np.ndarray, folds: list, seed: int) -> None:
        """Standardise, and fit the joint head, on ``rows`` of the blocks as they are."""
        where = torch.as_tensor(rows, device=self.device)
        weight = torch.stack(self.weights).mean(dim=0)
        scaler = Standardizer(self.dims).to(self.device)
        raw = self.head.raw_blocks(self.dims)
        scaler.fit({n: b[where] for n, b in self.blocks.items()}, weight[where], raw)
        self.moments = {}
        for name in self.dims:
            mean, scale = scaler.statistics(name)
            if name in self.encoders and name not in raw:
                # one scale for all features: one that hardly varies now may come to do so
                scale = torch.full_like(scale, float(scale.square().mean().sqrt()))
            self.moments[name] = (mean.float(), scale.float())
        blocks = {name: self._scaled(name, block) for name, block in self.blocks.items()}
        for target, values, weight in zip(self.targets, self.values, self.weights, strict=True):
            data = FitData(
                {name: block[where].double() for name, block in blocks.items()},
                self.present[where],
                values[where],
                weight[where],
                folds,
                target.objective,
                seed,
                need_oof=False,
            )
            module = self.head.fit_module(data).module
            for parameter in module.parameters():
                parameter.requires_grad_(parameter.is_floating_point())
            self.heads.append(module.to(self.device))
        for name in self.encoders:
            del self.blocks[name]

    def _scaled(self, name: str, values: Tensor) -> Tensor:
        mean, scale = self.moments[name]
        return torch.nan_to_num((values - mean) / scale, nan=0.0)

    def learn(self, modes: Mapping[str, bool | str]) -> None:
        """Set all parts for a training step."""
        self.heads.train()
        for part, name in zip(self.parts, self.encoders, strict=True):
            training_mode(part, modes[name])

    def forward(self, batch: Batch) -> Tensor:
        """Weighted sum of the loss over the rows of a batch, one for every target: (T,)."""
        present = torch.as_tensor(batch.present, device=self.device)
        rows = torch.as_tensor(batch.rows, device=self.device)
        blocks = {
            name: torch.where(present[:, m, None], self._scaled(name, self.blocks[name][rows]), 0.0)
            if name not in self.encoders
            else self._encoded(name, batch, present[:, m])
            for m, name in enumerate(self.dims)
        }
        sums = []
        for module, target, values, weight in zip(
            self.heads, self.targets, self.values, self.weights, strict=True
        ):
            share = weight[rows].float()
            output = module(blocks, present)
            loss = self.head.loss(output, values[rows], share, target.objective)
            sums.append(loss * share.sum())
        return torch.stack([total.double() for total in sums])

    def _encoded(self, name: str, batch: Batch, present: Tensor) -> Tensor:
        """The standardised block (b, d) of an encoder, zero where the modality is absent."""
        block = torch.zeros(len(present), self.dims[name], device=self.device)
        items = batch.items[name]
        if not items:
            return block
        inputs = _to_device(self.encoders[name].collate(items), self.device)
        part = self.parts[list(self.encoders).index(name)]
        with self.autocast:
            vectors = part(inputs)
        return block.index_copy(0, present.nonzero()[:, 0], self._scaled(name, vectors.float()))
