"""FineTuning: how encoders are trained."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from sklearn.base import BaseEstimator

__all__ = ["FineTuning"]

_AMP = ("auto", "bfloat16", "float16", False)


class FineTuning(BaseEstimator):
    """How `FusionClassifier` and `FusionRegressor` train encoders that are ``trainable``.

    Passed as ``FusionClassifier(encoders=..., finetune=FineTuning(...))``; without it the defaults
    hold. What is trained is said by each encoder:

    - ``trainable=True``: all weights.
    - ``trainable="head"``: the last block of the network and all that follows it, such as the last
      normalisation, pooling and projection. The last block is the last child of the largest list
      of like blocks; in networks with numbered stages, such as ``layer1`` to ``layer4``, the last
      stage.
    - ``trainable="lora"``: low-rank adapters (Hu et al. 2021) on the attention projections, or on
      all linear and ungrouped convolution layers where a network has no attention; they are merged
      into the weights after training. Needs ``pip install mmfuse[lora]``.

    `ImageEncoder`, `SentenceEncoder`, `CLIPImageEncoder`, `CLIPTextEncoder`, `MultiBandEncoder`
    over networks and `LidarCameraEncoder` with LoGoNet can be trained. The small network of
    `MultiBandEncoder`, and LoGoNet without a checkpoint, are random and take True alone.

    Parameters
    ----------
    epochs : int, default=10
        The most; the learning rates fall to zero over this many.
    batch_size : int, default=16
        Rows that pass the encoders together, in each process.
    accumulate : int, default=1
        Batches whose gradients make one step. A step is the same as that of one batch of
        ``accumulate * batch_size`` rows, but for rounding.
    encoder_lr : float or "auto", default="auto"
        Learning rate of the encoders: 1e-4, or 1e-3 for ``"lora"``. It is the parameter that
        matters most; convolution networks may want several times as much.
    head_lr : float, default=1e-3
        Learning rate of the joint head.
    weight_decay : float, default=0.01
        Of AdamW, on matrices and kernels only.
    warmup : float, default=0.1
        Share of the steps in which the learning rates rise; then they follow a cosine to zero.
    max_norm : float, default=1.0
        Length to which the gradient of all parameters is clipped.
    amp : {"auto", "bfloat16", "float16", False}, default="auto"
        Precision in which encoders run while they train. ``"auto"`` is bfloat16 on a GPU that has
        it, float16 with a scaled loss on other GPUs, and off on the CPU, where ``"bfloat16"`` may
        be asked for. The joint head, and encoding after the training, are in full precision.
    modality_dropout : float, default=0.2
        Chance that a modality is hidden from a training row; a row keeps at least one.
    patience : int, default=5
        Epochs without a lower loss of the validation rows before training stops.
    validation : float, default=0.1
        Share of the rows for early stopping, at most 0.4. 0: all epochs are run and the last one
        is kept.
    held_out : float, default=0.2
        Share of the rows that no encoder sees, at most 0.4: on them strengths of heads are chosen
        and calibration is fitted.
    joint_head : head from `mmfuse.heads`, default=None
        What the encoders are trained through. None means ``EarlyFusion()``, which is linear over
        the blocks. Another one needs a module that passes gradients.
    lora_rank : int, default=8
    lora_alpha : float, default=16.0
        Adapters are scaled by ``lora_alpha / lora_rank``.
    lora_targets : sequence of str, optional
        Last parts of the names of the layers to adapt, such as ``["fc1", "fc2"]``.
    checkpoint : str or Path, optional
        Folder for the state of the training. A fit that was killed goes on from there when it is
        started again with the same rows and parameters, and ends as it would have ended; a fit
        that was done is not trained again. Every run has a subfolder of its own.
    checkpoint_every : int, optional
        Steps after which the state is written, besides the end of every epoch.
    random_state : int, optional
        Seed of the order of rows, dropout and adapters. By default drawn from the estimator's.

    Notes
    -----
    Rows are split into three parts, by group where ``fit`` gets groups: those that train, those
    that say when to stop, and those that are held out. First the joint head is fitted on the frozen
    encoders, then both are trained by gradient (Kumar et al. 2022, "Fine-tuning can distort
    pretrained features", who found that a head which starts at random harms the encoder). The epoch
    with the lowest validation loss is kept, and that may be none.

    Then all rows are encoded anew, and the estimator's own head is fitted in its usual way on all
    of them, so any head will do. Its folds are made of the held-out rows alone: every score that
    chooses a strength, or calibrates, is of a row that neither the encoder nor the head of that
    fold has seen. Scores of rows that trained the encoder would be far too good.

    Batch normalisation keeps its pretrained statistics, so that a row never depends on the rows
    beside it, and gradients that are accumulated or come from several processes add up to those of
    one large batch. Started by ``accelerate launch``, every process takes its share of each step's
    rows; ``pip install mmfuse[distributed]``. Gradients are summed by mmfuse itself rather than by
    a wrapper of the module, since a process may have no row with some modality.

    The random numbers of a step are a function of the seed and of the number of the step, so a
    checkpoint needs no generator state to go on exactly.

    Examples
    --------
    >>> from mmfuse import FineTuning, FusionClassifier
    >>> from mmfuse.datasets import load_av_digits
    >>> from mmfuse.encoders import ImageEncoder
    >>> digits = load_av_digits(80)
    >>> encoder = ImageEncoder("test_vit", weights=None, image_size=64, trainable="head")
    >>> plan = FineTuning(epochs=1, validation=0)
    >>> model = FusionClassifier(encoders={"image": encoder}, finetune=plan, random_state=0)
    >>> model = model.fit(digits.X.select("image"), digits.y)
    >>> model.history_["finetune"]["parameters"]
    {'image': {'trained': 41856, 'all': 300864}}
    """

    def __init__(
        self,
        *,
        epochs: int = 10,
        batch_size: int = 16,
        accumulate: int = 1,
        encoder_lr: float | str = "auto",
        head_lr: float = 1e-3,
        weight_decay: float = 0.01,
        warmup: float = 0.1,
        max_norm: float = 1.0,
        amp: str | bool = "auto",
        modality_dropout: float = 0.2,
        patience: int = 5,
        validation: float = 0.1,
        held_out: float = 0.2,
        joint_head: Any = None,
        lora_rank: int = 8,
        lora_alpha: float = 16.0,
        lora_targets: Sequence[str] | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_every: int | None = None,
        random_state: int | None = None,
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.encoder_lr = encoder_lr
        self.head_lr = head_lr
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.max_norm = max_norm
        self.amp = amp
        self.modality_dropout = modality_dropout
        self.patience = patience
        self.validation = validation
        self.held_out = held_out
        self.joint_head = joint_head
        self.lora_rank = lora_rank
        self.lora_alpha = lora_alpha
        self.lora_targets = lora_targets
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.random_state = random_state

    def check(self) -> None:
        """Raise for a parameter that is not allowed; ``fit`` calls it.

        Raises
        ------
        ValueError
            Names the parameter, what is allowed and what came.
        """
        for name in ("epochs", "batch_size", "accumulate", "patience", "lora_rank"):
            self._check_integer(name, least=1)
        self._check_integer("checkpoint_every", least=1, or_none=True)
        self._check_integer("random_state", least=0, or_none=True)
        if self.encoder_lr != "auto":
            self._check_number("encoder_lr", "'auto' or a number above 0", 0, None, open_low=True)
        for name in ("head_lr", "max_norm", "lora_alpha"):
            self._check_number(name, "a number above 0", 0, None, open_low=True)
        self._check_number("weight_decay", "a number of at least 0", 0, None)
        self._check_number("warmup", "a number from 0 to 1", 0, 1)
        self._check_number("modality_dropout", "a number of at least 0 and below 1", 0, 1 - 1e-12)
        self._check_number("validation", "a number from 0 to 0.4", 0, 0.4)
        self._check_number("held_out", "a number above 0, at most 0.4", 0, 0.4, open_low=True)
        if not any(self.amp is one or self.amp == one for one in _AMP) or self.amp is True:
            self._refuse("amp", f"one of {', '.join(map(repr, _AMP))}")
        if not isinstance(self.checkpoint, (str, Path, type(None))):
            self._refuse("checkpoint", "a folder or None")
        targets = self.lora_targets
        named = isinstance(targets, (list, tuple)) and targets
        if targets is not None and not (named and all(isinstance(t, str) for t in targets)):
            self._refuse("lora_targets", "a list of names of layers or None")
        self._check_head()

    def _check_head(self) -> None:
        from mmfuse.heads import BaseHead

        if self.joint_head is not None and not isinstance(self.joint_head, BaseHead):
            self._refuse("joint_head", "a head from mmfuse.heads or None")

    def _check_integer(self, name: str, *, least: int, or_none: bool = False) -> None:
        value = getattr(self, name)
        if value is None and or_none:
            return
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            self._refuse(name, f"an integer of at least {least}" + " or None" * or_none)

    def _check_number(
        self, name: str, must: str, low: float, high: float | None, open_low: bool = False
    ) -> None:
        value = getattr(self, name)
        fine = isinstance(value, Real) and not isinstance(value, bool)
        fine = fine and low <= value < float("inf") and (high is None or value <= high)
        if not fine or (open_low and value == low):
            self._refuse(name, must)

    def _refuse(self, name: str, must: str) -> None:
        raise ValueError(f"FineTuning: {name} must be {must}; got {getattr(self, name)!r}.")
