"""The processes that train together: one, or as many as ``accelerate launch`` started."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmfuse._require import require

__all__ = ["Ranks"]


class Ranks:
    """Number and place of this process, and sums over all of them.

    Parameters
    ----------
    owner : str
        Opens messages.
    device : str
        Where the training runs; processes on the CPU talk through gloo.

    Attributes
    ----------
    count : int
    index : int
        0 is the process that writes.
    """

    def __init__(self, owner: str, device: str) -> None:
        self.count, self.index = 1, 0
        self._state: Any = None
        wanted = int(os.environ.get("WORLD_SIZE", "1"))
        if wanted > 1:
            accelerate = require("accelerate", extra="distributed", caller=owner)
            # joins the processes, and takes a GPU of its own for this one
            self._state = accelerate.PartialState(cpu=device == "cpu")
            self.count, self.index = self._state.num_processes, self._state.process_index
            if self.count != wanted:
                raise RuntimeError(
                    f"{owner}: {wanted} processes were started (WORLD_SIZE), and accelerate joined "
                    f"{self.count} for device={device!r}; make its PartialState before fit, or "
                    "start one process."
                )

    def share(self, rows: Sequence[Any]) -> Sequence[Any]:
        """What this process takes of rows that all processes know in the same order."""
        return rows[self.index :: self.count]

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums of numbers over the processes."""
        if self.count == 1:
            return list(values)
        return self._sum(torch.tensor(values, dtype=torch.float64)).tolist()

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over the processes.

        A parameter that no row of any process reached keeps None, as in one process.
        """
        if self.count == 1:
            return
        parameters = list(parameters)
        reached = self.sum([float(p.grad is not None) for p in parameters])
        groups: dict[tuple, list[Tensor]] = {}
        for parameter, times in zip(parameters, reached, strict=True):
            if times:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                groups.setdefault((parameter.dtype, parameter.device), []).append(parameter)
        for members in groups.values():
            flat = self._sum(torch.cat([p.grad.reshape(-1) for p in members]))
            for p, part in zip(members, flat.split([p.numel() for p in members]), strict=True):
                p.grad.copy_(part.view_as(p))

    def same(self, parameters: Iterable[Tensor]) -> None:
        """Give all processes the parameters of the first."""
        if self.count > 1:
            for parameter in parameters:
                torch.distributed.broadcast(self._ready(parameter.data), 0)

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self._state is not None:
            self._state.wait_for_everyone()

    def _ready(self, values: Tensor) -> Tensor:
        return values.to(self._state.device)

    def _sum(self, values: Tensor) -> Tensor:
        device = values.device
        values = self._ready(values)
        torch.distributed.all_reduce(values)
        return values.to(device)
