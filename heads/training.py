"""Training of network heads: folds choose the number of epochs, then all rows are used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mmfuse._random import seeded
from mmfuse.heads.base import FitData, FitResult, FusionModule

if TYPE_CHECKING:
    from mmfuse.heads.base import BaseHead

__all__ = ["train_network"]

_ONE_FOLD_FROM = 20_000  # with so many rows one held-out fold says enough


def train_network(head: BaseHead, data: FitData) -> FitResult:
    """Train by AdamW with per-row modality dropout and early stopping.

    Every fold is trained until its held-out loss stops falling; the number of epochs with the
    lowest mean held-out loss is kept, its held-out scores serve calibration, and the final module
    is trained on all rows for that number of epochs. So no row is lost to a validation split, and
    no score used for calibration comes from a module that saw the row.

    ``head`` gives ``max_epochs``, ``patience``, ``batch_size``, ``learning_rate``,
    ``weight_decay`` and ``modality_dropout``.
    """
    folds = data.folds if len(data.weight) < _ONE_FOLD_FROM else data.folds[:1]
    runs = []
    with seeded(data.seed):
        for number, (train, test) in enumerate(folds):
            runs.append(_run_fold(head, data.take(train), data.take(test), f"fold {number + 1}"))
        best, losses = _best_epoch(runs, head.max_epochs)
        module, curve = _train(head, data, best, "final fit")
    oof, masked = _collect(folds, runs, best, data) if runs else (None, None)
    history: dict[str, Any] = {"epochs": best, "held_out_loss": losses, "train_loss": curve}
    return FitResult(module, oof, history, masked)


def _collect(
    folds: list, runs: list, best: int, data: FitData
) -> tuple[np.ndarray, np.ndarray | None]:
    """Held-out scores of the best epoch, as observed and as masked."""
    out = np.full((2, len(data.weight), data.n_outputs), np.nan)
    for (_, test), (_, scores) in zip(folds, runs, strict=True):
        out[: len(scores[best - 1]), test] = scores[best - 1]
    return out[0], None if data.masked is None else out[1]


def _best_epoch(runs: list, max_epochs: int) -> tuple[int, list[float]]:
    if not runs:
        return max_epochs, []
    length = min(len(losses) for losses, _ in runs)
    mean = np.mean([losses[:length] for losses, _ in runs], axis=0)
    return int(np.argmin(mean)) + 1, mean.tolist()


def _run_fold(
    head: BaseHead, train: FitData, test: FitData, label: str
) -> tuple[list[float], list[np.ndarray]]:
    """Held-out loss and scores (as observed, as masked) of every epoch, until patience ends."""
    losses: list[float] = []
    scores: list[np.ndarray] = []

    def watch(module: FusionModule) -> bool:
        with torch.inference_mode():
            module.eval()
            output = module(test.blocks, test.presence)
            losses.append(
                float(head.loss(output, test.target, test.weight.float(), test.objective))
            )
            held = [output.scores]
            if test.masked is not None:
                held.append(module(test.blocks, test.masked).scores)
            scores.append(torch.stack(held).cpu().numpy())
            module.train()
        return len(losses) - 1 - int(np.argmin(losses)) >= head.patience

    _train(head, train, head.max_epochs, label, watch)
    return losses, scores


def _train(
    head: BaseHead, data: FitData, epochs: int, label: str, watch: Any = None
) -> tuple[FusionModule, list[float]]:
    device = data.presence.device
    module = head.make_module(data.dims, data.n_outputs, data.task).to(device).train()
    module.start(data.target, data.weight)
    optimiser = torch.optim.AdamW(
        module.parameters(), lr=head.learning_rate, weight_decay=head.weight_decay
    )
    weight = (data.weight / data.weight.mean()).float()
    curve: list[float] = []
    for _ in _epochs(epochs, label, data.verbose):
        total = 0.0
        batches = torch.randperm(len(weight), device=device).split(head.batch_size)
        for rows in batches:
            total += _step(head, module, optimiser, data, weight, rows)
        curve.append(total / len(batches))
        if watch is not None and watch(module):
            break
    return module.eval(), curve


def _epochs(count: int, label: str, verbose: int) -> Iterable[int]:
    if not verbose:
        return range(count)
    from tqdm.auto import tqdm  # in a notebook without widgets its import warns

    return tqdm(range(count), desc=label, leave=False)


def _step(
    head: BaseHead,
    module: FusionModule,
    optimiser: torch.optim.Optimizer,
    data: FitData,
    weight: Tensor,
    rows: Tensor,
) -> float:
    presence = head.draw_presence(data.presence[rows], list(data.blocks))
    blocks = {
        name: torch.where(presence[:, m, None], block[rows], 0.0)
        for m, (name, block) in enumerate(data.blocks.items())
    }
    optimiser.zero_grad()
    output = module(blocks, presence)
    loss = head.loss(output, data.target[rows], weight[rows], data.objective)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())
