"""A tiny encoder that trains in a second, for the tests of fine-tuning."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mmfuse import FineTuning, FusionClassifier, ModalityTable
from mmfuse.datasets import load_av_digits
from mmfuse.encoders import BaseEncoder, LogMelEncoder
from mmfuse.encoders._modules import state_hash
from mmfuse.heads import EarlyFusion

__all__ = ["PictureEncoder", "SoundEncoder", "classifier", "digits", "pictures", "plan"]


class PictureEncoder(BaseEncoder):
    """A random two-layer network over 14 x 14 pixels; nothing but the argument makes it trainable.

    The second layer stands in two like blocks, so that "head" means the last of them.
    """

    modality: ClassVar[str] = "image"

    def __init__(
        self,
        *,
        width: int = 16,
        dropout: float = 0.0,
        batch_size: int = 64,
        device: str = "cpu",
        on_error: str = "raise",
        cache: Any = False,
        n_jobs: int = 1,
        verbose: int = 0,
        trainable: bool | str = False,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            device=device,
            on_error=on_error,
            cache=cache,
            n_jobs=n_jobs,
            verbose=verbose,
            trainable=trainable,
        )
        self.width = width
        self.dropout = dropout

    def preprocess(self, sample: Any) -> Tensor:
        return torch.tensor(np.asarray(sample), dtype=torch.float32)[::2, ::2].reshape(-1) / 255

    def _build_module(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            width = self.width
            block = [nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(2)]
            return nn.Sequential(
                nn.Linear(196, width), nn.Tanh(), nn.Dropout(self.dropout), nn.Sequential(*block)
            )

    def _width(self) -> int:
        return self.width

    def weights_hash(self) -> str:
        return state_hash(self.module())


class SoundEncoder(LogMelEncoder):
    """Accepts the argument and has nothing to train."""

    def __init__(self, *, n_mels: int = 20, device: str = "cpu", trainable: Any = False) -> None:
        super().__init__(n_mels=n_mels, device=device, cache=False)
        self.trainable = trainable


def digits(n_rows: int = 200, gaps: float = 0.0) -> tuple[ModalityTable, np.ndarray, np.ndarray]:
    """Pictures, a few numbers about the sound, digits and speakers; some pictures are missing."""
    found = load_av_digits(n_rows)
    rng = np.random.default_rng(0)
    sound = np.eye(10)[found.y] + rng.normal(0, 1.0, (n_rows, 10))
    table = ModalityTable({"image": found.X["image"], "sound": sound})
    if gaps:
        table = table.hide("image", np.flatnonzero(rng.random(n_rows) < gaps))
        table = table.hide("sound", np.flatnonzero(rng.random(n_rows) < gaps / 2))
    return table, found.y, found.groups


def plan(**params: Any) -> FineTuning:
    """A short training through a head of one strength."""
    quick = {"epochs": 3, "encoder_lr": 3e-3, "joint_head": EarlyFusion(C=1.0)}
    return FineTuning(**{**quick, **params})


def pictures() -> tuple[ModalityTable, np.ndarray]:
    """480 pictures alone."""
    table, y, _ = digits(480)
    return table.select("image"), y


def classifier(
    encoder: BaseEncoder | None = None, head: Any = None, cls: Any = FusionClassifier, **params: Any
) -> Any:
    """A model that trains an encoder of pictures."""
    encoders = {"image": PictureEncoder(trainable=True) if encoder is None else encoder}
    options = {"finetune": plan(), "random_state": 0, **params}
    return cls(EarlyFusion(C=1.0) if head is None else head, encoders=encoders, **options)
