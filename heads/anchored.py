"""A network around an anchor, and another for the rows without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mmfuse.heads.base import BaseHead, FitData, FitResult, FusionModule, HeadOutput
from mmfuse.splits import folds_within

__all__ = ["AnchoredModule", "fit_anchored"]


class AnchoredModule(FusionModule):
    """``main`` answers rows that have the anchor, ``rest`` the others, from what is left.

    Parameters
    ----------
    main : FusionModule
        Takes all blocks.
    rest : FusionModule
        Takes all blocks but the anchor.
    anchor : str
    """

    def __init__(self, main: FusionModule, rest: FusionModule, anchor: str) -> None:
        super().__init__(main.block_dims, main.n_outputs, main.task)
        self.main, self.rest, self.anchor = main, rest, anchor
        self.place = list(main.block_dims).index(anchor)

    def start(self, target: Tensor, weight: Tensor) -> None:
        self.main.start(target, weight)
        self.rest.start(target, weight)

    def forward(self, blocks: dict[str, Tensor], presence: Tensor) -> HeadOutput:
        """Scores; extras are those of ``main``, for every row."""
        output = self.main(blocks, presence)
        here = presence[:, self.place, None]
        if here.all():
            return output
        others = {name: block for name, block in blocks.items() if name != self.anchor}
        scores = self.rest(others, _without(presence, self.place)).scores
        return HeadOutput(torch.where(here, output.scores, scores.to(output.scores)), output.extras)


def fit_anchored(
    train: Callable[[FitData], FitResult], rest: BaseHead, data: FitData, anchor: str
) -> FitResult:
    """Train one network on the rows with the anchor, and one on all rows without looking at it.

    Parameters
    ----------
    train : callable
        Trains the network that has the anchor.
    rest : BaseHead
        Head of the rows without the anchor.
    data : FitData
    anchor : str
    """
    place = list(data.blocks).index(anchor)
    sides = (
        (train, data, data.presence[:, place]),
        (rest.fit_module, _less(data, anchor), _without(data.presence, place).any(dim=1)),
    )
    results, places = [], []
    for fit, part, rows in sides:
        results.append(_on_rows(fit, part, rows))
        places.append(rows.nonzero()[:, 0].cpu().numpy())
    main, other = results
    module = AnchoredModule(main.module, other.module, anchor).eval()
    n = len(data.weight)
    scores = [
        _chosen([_spread(r, p, n, masked) for r, p in zip(results, places, strict=True)], presence)
        for masked, presence in (
            (False, data.presence[:, place]),
            (True, None if data.masked is None else data.masked[:, place]),
        )
    ]
    history = {**main.history, "without_anchor": other.history}
    return FitResult(module, scores[0], history, scores[1])


def _without(presence: Tensor, place: int) -> Tensor:
    return torch.cat([presence[:, :place], presence[:, place + 1 :]], dim=1)


def _less(data: FitData, anchor: str) -> FitData:
    """The same rows without the anchor."""
    place = list(data.blocks).index(anchor)
    blocks = {name: data.blocks[name] for name in data.blocks if name != anchor}
    masked = None if data.masked is None else _without(data.masked, place)
    return replace(data, blocks=blocks, presence=_without(data.presence, place), masked=masked)


def _on_rows(fit: Callable[[FitData], FitResult], data: FitData, rows: Tensor) -> FitResult:
    kept = rows.nonzero()[:, 0]
    folds = folds_within(data.folds, kept.cpu().numpy(), len(data.weight))
    return fit(data.take(kept, folds))


def _spread(result: FitResult, rows: np.ndarray, n: int, masked: bool) -> np.ndarray | None:
    """Out-of-fold scores of some rows among all (n, K), NaN elsewhere."""
    scores = result.oof_masked if masked else result.oof_scores
    if scores is None:
        return None
    found = np.full((n, scores.shape[1]), np.nan)
    found[rows] = scores
    return found


def _chosen(scores: list[np.ndarray | None], here: Tensor | None) -> np.ndarray | None:
    """Scores of the first for rows with the anchor, of the second for the others."""
    if here is None or any(s is None for s in scores):
        return None
    return np.where(here.cpu().numpy()[:, None], *scores)
