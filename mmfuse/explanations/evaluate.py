"""Answers of a model under any presence and with any features at the training mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mmfuse.blocks import Blocks
from mmfuse.explanations.quantity import Quantity
from mmfuse.report.shapley import shapley_values

__all__ = ["Evaluator", "modality_shapley", "subset_values"]

_NUMBERS = 4_000_000  # features that pass the head together
_ROWS = 8192


class Evaluator:
    """Encoded rows, standardised once, and the quantity under what is kept of them.

    Parameters
    ----------
    quantity : Quantity
    blocks : Blocks
        In the order of the model's modalities.
    """

    def __init__(self, quantity: Quantity, blocks: Blocks) -> None:
        import torch

        self.quantity, self.model, self.blocks = quantity, quantity.model, blocks
        self.present = np.array(blocks.present)
        if quantity.by_scores:
            with torch.no_grad():
                self.data = self.model.scaler_(self.model._tensors(blocks))
        self.step = int(np.clip(_NUMBERS // sum(self.dims.values()), 1, _ROWS))

    @property
    def dims(self) -> dict[str, int]:
        return self.model.block_dims_

    def mean(self, name: str) -> np.ndarray:
        """Training mean (d,) of the raw block, which is zero once standardised."""
        return self.model.scaler_.statistics(name)[0].cpu().numpy().astype(np.float32)

    def run(
        self,
        rows: np.ndarray,
        present: np.ndarray,
        keep: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """The quantity (r, K) of ``rows`` (r,) under ``present`` (r, M).

        ``keep`` has a boolean (r, d) for a modality in which features that are False are put at
        their training mean.
        """
        found = [np.empty((0, len(self.quantity.names)))]
        for start in range(0, len(rows), self.step):
            part = slice(start, start + self.step)
            kept = {name: mask[part] for name, mask in (keep or {}).items()}
            answer = self._of_scores if self.quantity.by_scores else self._of_density
            found.append(answer(rows[part], present[part], kept))
        return np.concatenate(found)

    def _of_scores(
        self, rows: np.ndarray, present: np.ndarray, keep: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        import torch

        device = self.model.device_
        index = torch.as_tensor(rows, device=device)
        there = torch.as_tensor(present, device=device)
        blocks = {}
        with torch.inference_mode():
            for m, name in enumerate(self.dims):
                mask = there[:, m, None]
                if name in keep:
                    mask = mask & torch.as_tensor(keep[name], device=device)
                blocks[name] = torch.where(mask, self.data[name][index], 0.0)
            scores = self.model.head_(blocks, there).scores
            return self.quantity.of_scores(scores, present).cpu().numpy()

    def _of_density(
        self, rows: np.ndarray, present: np.ndarray, keep: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        arrays = {}
        for m, name in enumerate(self.dims):
            values = self.blocks[name][rows]
            if name in keep:
                values = np.where(keep[name], values, self.mean(name))
            values[~present[:, m]] = np.nan
            arrays[name] = values
        return self.quantity.predict(Blocks(arrays, present))


def subset_values(
    run: Callable[[np.ndarray, np.ndarray], np.ndarray], present: np.ndarray
) -> np.ndarray:
    """The quantity of every row from every subset of the modalities: (2**M, n, K).

    ``run(rows, present)`` answers for rows (r,) under a presence (r, M). Position is a bitmask. A
    subset that differs from another only in what a row lacks anyway is not computed again, so
    that an absent modality gets exactly zero.
    """
    n, count = present.shape
    own = present @ (1 << np.arange(count))
    masks, rows = np.nonzero((np.arange(2**count)[:, None] & ~own[None, :]) == 0)
    bits = (masks[:, None] >> np.arange(count)) & 1 == 1
    found = run(rows, bits)
    values = np.empty((2**count, n, found.shape[1]))
    values[masks, rows] = found
    for mask in range(2**count):  # a smaller mask is there before a larger one asks for it
        same = mask & own
        other = np.flatnonzero(same != mask)
        values[mask, other] = values[same[other], other]
    return values


def modality_shapley(evaluator: Evaluator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shapley values (n, M, K), the answer without any modality and with all: (n, K) each."""
    values = subset_values(evaluator.run, evaluator.present)
    shares = np.moveaxis(shapley_values(values), 0, 1)
    shares[~evaluator.present] = 0.0
    return shares, values[0], values[-1]
