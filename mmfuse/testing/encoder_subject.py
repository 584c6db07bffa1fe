"""An encoder under check and the cells that it is fed."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone

from mmfuse.encoders.base import BaseEncoder

__all__ = ["EncoderSubject"]


@dataclass(frozen=True)
class EncoderSubject:
    """An encoder and what to feed it.

    Attributes
    ----------
    encoder : BaseEncoder
        It is cloned for each check.
    samples : list
        Different cells that are all present, three or more.
    broken : object or None
        A cell that cannot be encoded; None leaves out the checks of errors.
    reads_files : bool
        Whether a cell may be the path of a file; messages then name it.
    folder : Path
        Where a check may write.
    """

    encoder: BaseEncoder
    samples: list[Any]
    broken: Any = None
    reads_files: bool = False
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="mmfuse-check-")))

    def unfitted(self, **params: Any) -> BaseEncoder:
        """A clone on the CPU, without a cache, with those of `params` that it has."""
        encoder = clone(self.encoder)
        known = encoder.get_params()
        given = {"cache": False, "device": "cpu", **params}
        return encoder.set_params(**{k: v for k, v in given.items() if k in known})

    def fitted(self, **params: Any) -> BaseEncoder:
        """The same, fitted."""
        return self.unfitted(**params).fit(self.samples)

    def vectors(self) -> np.ndarray:
        """What the samples give."""
        return self.fitted().transform(self.samples)
