"""Encoders that turn the vectors of another encoder into others."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import nn

from mmfuse._device import resolve_device
from mmfuse.encoders._columns import check_column
from mmfuse.encoders._modules import shared_module
from mmfuse.encoders._run import Encoded
from mmfuse.encoders.base import BaseEncoder
from mmfuse.presence import Presence

__all__ = ["DerivedEncoder"]


class DerivedEncoder(BaseEncoder):
    """Base of encoders whose output is a small function of the output of another.

    Only the vectors of the other encoder are kept on disk, under its own name: two derived
    encoders over the same pictures, or one whose class names change, read them from there. A
    subclass writes `_inner` and `_build_last`.
    """

    def _inner(self) -> BaseEncoder:
        """Return the other encoder, not fitted."""
        raise NotImplementedError

    def _build_last(self) -> nn.Module:
        """Make the module that takes the other's output (n, d), in float32 on the CPU."""
        raise NotImplementedError

    def encode(self, column: Any, presence: Any = None, *, name: str | None = None) -> Encoded:
        """Encode a column and say what became of each cell; see `BaseEncoder.encode`."""
        self.get_state()  # says when this is not fitted
        check_column(column, caller=type(self).__name__)
        if len(column):
            self.weights_hash()  # weights that are missing are missing in this encoder's name
        inner = self._inner().fit(column)
        found = inner.encode(column, presence, name=name or self.modality)
        values = np.full((len(found.presence), self.n_features_out_), np.nan, dtype=np.float32)
        here = found.presence == Presence.PRESENT
        if here.any():
            with torch.inference_mode():
                values[here] = self.last()(torch.from_numpy(found.values[here])).numpy()
        return Encoded(values, found.presence, found.errors)

    def last(self) -> nn.Module:
        """Return the module after the other encoder, on the CPU; it is small."""
        key = (type(self).__name__, "last", json.dumps(self.cache_config(), sort_keys=True))
        return shared_module(key, lambda: self._build_last().eval())

    def preprocess(self, sample: Any) -> Any:
        """Decode one raw sample as the other encoder does."""
        return self._inner().preprocess(sample)

    def collate(self, items: list[Any]) -> Any:
        """Make one batch as the other encoder does."""
        return self._inner().collate(items)

    def _length(self, item: Any) -> int | None:
        return self._inner()._length(item)

    def _build_module(self) -> nn.Module:
        last = self._build_last().to(resolve_device(self.device))
        return nn.Sequential(self._inner().module(), last)

    def _runtime(self) -> dict[str, Any]:
        """Arguments that the other encoder shares."""
        names = ("batch_size", "device", "on_error", "cache", "n_jobs", "verbose")
        return {name: getattr(self, name) for name in names}
