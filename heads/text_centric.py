"""Text-centric fusion: weak modalities query a strong anchor, gates put the answers back."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from mmfuse.heads.anchored import AnchoredModule, fit_anchored
from mmfuse.heads.base import BaseHead, FitData, FitResult, FusionModule, HeadOutput
from mmfuse.heads.early import EarlyFusion
from mmfuse.heads.training import train_network
from mmfuse.objectives import Objective, of_classes

__all__ = ["ChunkProjector", "CrossModalConnector", "TextCentricFusion", "TextCentricModule"]

_CHUNKS = ((20480, 40), (16384, 32), (8192, 16), (4096, 8), (2048, 4), (1024, 2))
_MEMBER_WIDTH = 32  # second hidden layer of every member of the ensemble


class TextCentricFusion(BaseHead):
    """One modality is the anchor; the others query it, and gates return what they found.

    Every block is projected chunk by chunk, with learned prompts gated in. Each other modality
    asks the anchor through a connector; an enhancer adds the answers, weighted by gates, to a
    second projection of the anchor; the mean of many small networks is the output.

    Parameters
    ----------
    anchor : str or None, default=None
        Name of the strong modality, as a rule the text; None takes the first one.
    projection : int, default=64
        Width of the projected modalities (512 in the paper's code).
    hidden : int, default=32
        Width of connectors and enhancer (256 in the paper's code).
    n_heads : int, default=4
        Heads of a connector; must divide ``hidden``.
    n_members : int, default=32
        Small networks whose mean is the output.
    n_chunks : int or "auto", default="auto"
        Chunks of every projector; ``"auto"`` goes by the block's width (8 from 4096 features on, 1
        below 1024). It is lowered to the next divisor of the output width; chunks of the input may
        differ by one feature.
    projector_dropout, connector_dropout, enhancer_dropout : float, default=0.2, 0.3, 0.1
    modality_dropout : float, default=0.2
        Chance that another modality than the anchor is hidden from a training row; where there is
        one network for all rows, also the anchor.
    learning_rate : float, default=1e-3
    weight_decay : float, default=1e-2
    batch_size : int, default=32
    max_epochs : int, default=200
    patience : int, default=15
        Epochs without a lower held-out loss before a fold stops.

    Notes
    -----
    After "Traits Run Deep" (arXiv 2507.22367), from the formulas of the authors' competition code.
    With ``projection=512, hidden=256``, one output, and an anchor and two other blocks of 4096
    features, the module has the 6,625,255 parameters of that code. As there:

    - a connector has no sequence axis, and its softmax runs over its heads: the query decides how
      much each head's value of the anchor counts;
    - the loss is on the mean of the ensemble, not on each member.

    What differs, and is ours:

    - any number of other modalities, also none, any widths, several outputs, classification (the
      members' logits are averaged);
    - absence: an absent modality has no connector, and the gates are renormalised over what is
      present. Without the anchor there is nothing to ask, and little of the others would get
      through: such rows are answered by a network of their own, that of ``EarlyFusion("mlp")``
      over the other modalities, trained on all rows that have one, without looking at the anchor.
      Quantiles and mixtures, of which such a network was seen to be too sure, keep one network, in
      which the projectors' prompts stand in the place of an absent anchor;
    - epochs are chosen on folds and the learning rate is constant; the published script keeps the
      best epoch of one validation set, which it also tests on, and lowers the rate on a plateau;
    - the published script feeds the same text embedding to all three inputs, so its ranking says
      nothing about a gain from audio or video;
    - smaller default sizes, for tables with hundreds of rows.

    Inputs are vectors; sequences of tokens are not taken.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse import FusionRegressor
    >>> from mmfuse.heads import TextCentricFusion
    >>> rng = np.random.default_rng(0)
    >>> X = {"text": rng.normal(size=(60, 4)), "audio": rng.normal(size=(60, 3))}
    >>> y = X["text"][:, 0] + 0.5 * X["audio"][:, 0]
    >>> head = TextCentricFusion("text", projection=16, hidden=8, n_members=4, max_epochs=10)
    >>> model = FusionRegressor(head, random_state=0).fit(X, y)
    >>> model.predict({"text": X["text"][:2]}).shape  # no audio
    (2,)
    """

    def __init__(
        self,
        anchor: str | None = None,
        *,
        projection: int = 64,
        hidden: int = 32,
        n_heads: int = 4,
        n_members: int = 32,
        n_chunks: int | str = "auto",
        projector_dropout: float = 0.2,
        connector_dropout: float = 0.3,
        enhancer_dropout: float = 0.1,
        modality_dropout: float = 0.2,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        batch_size: int = 32,
        max_epochs: int = 200,
        patience: int = 15,
    ) -> None:
        self.anchor = anchor
        self.projection = projection
        self.hidden = hidden
        self.n_heads = n_heads
        self.n_members = n_members
        self.n_chunks = n_chunks
        self.projector_dropout = projector_dropout
        self.connector_dropout = connector_dropout
        self.enhancer_dropout = enhancer_dropout
        self.modality_dropout = modality_dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience

    def check_parameters(self, block_dims: dict[str, int], objective: Objective) -> None:
        owner = type(self).__name__
        if self.anchor is not None and self.anchor not in block_dims:
            raise ValueError(
                f"{owner}: anchor must be one of the modalities {', '.join(block_dims)}, or None "
                f"for the first; got {self.anchor!r}."
            )
        for name in ("projector", "connector", "enhancer", "modality"):
            value = getattr(self, f"{name}_dropout")
            if not 0 <= value < 1:
                raise ValueError(f"{owner}: {name}_dropout must be in [0, 1); got {value!r}.")
        counts = ("projection", "hidden", "n_heads", "n_members", "batch_size", "max_epochs")
        for name in (*counts, "patience"):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{owner}: {name} must be an integer from 1 on; got {value!r}.")
        if self.hidden % self.n_heads:
            raise ValueError(
                f"{owner}: n_heads must divide hidden; got {self.n_heads} and {self.hidden}."
            )
        auto = isinstance(self.n_chunks, str) and self.n_chunks == "auto"
        if not auto and (not isinstance(self.n_chunks, (int, np.integer)) or self.n_chunks < 1):
            raise ValueError(
                f"{owner}: n_chunks must be 'auto' or an integer from 1 on; got {self.n_chunks!r}."
            )

    def build(self, block_dims: dict[str, int], n_outputs: int, task: str) -> TextCentricModule:
        return TextCentricModule(block_dims, n_outputs, task, self)

    def make_module(self, block_dims: dict[str, int], n_outputs: int, task: str) -> FusionModule:
        """As the base, and beside it a network for rows without the anchor."""
        main = super().make_module(block_dims, n_outputs, task)
        if not self._apart(block_dims, task):
            return main
        anchor = self._anchor(block_dims)
        others = {name: width for name, width in block_dims.items() if name != anchor}
        return AnchoredModule(main, self._rest().make_module(others, n_outputs, task), anchor)

    def fit_module(self, data: FitData) -> FitResult:
        """Train by gradient; what answers rows without the anchor by itself."""
        if not self._apart(data.dims, data.task):
            return train_network(self, data)
        anchor = self._anchor(data.dims)
        main = _AnchorNetwork(**self.get_params()).set_params(anchor=anchor)
        return fit_anchored(partial(train_network, main), self._rest(), data, anchor)

    def _apart(self, block_dims: dict[str, int], task: str) -> bool:
        """Whether rows without the anchor have a network of their own."""
        return len(block_dims) > 1 and (task == "regression" or of_classes(task))

    def _anchor(self, block_dims: dict[str, int]) -> str:
        return next(iter(block_dims)) if self.anchor is None else self.anchor

    def _rest(self) -> EarlyFusion:
        names = ("modality_dropout", "weight_decay", "max_epochs", "patience")
        return EarlyFusion("mlp", **{name: getattr(self, name) for name in names})


class _AnchorNetwork(TextCentricFusion):
    """The network of the rows with the anchor: training hides any other modality, never this."""

    def make_module(self, block_dims: dict[str, int], n_outputs: int, task: str) -> FusionModule:
        return BaseHead.make_module(self, block_dims, n_outputs, task)

    def draw_presence(self, presence: Tensor, names: list[str]) -> Tensor:
        place = names.index(self.anchor)
        drawn = super().draw_presence(presence, names)
        drawn[:, place] = presence[:, place]
        return drawn


class ChunkProjector(nn.Module):
    """Project every chunk of a vector by itself and gate a learned prompt into each.

    Parameters
    ----------
    width, out : int
        Features that come in and go out.
    n_chunks : int or "auto"
    dropout : float
    """

    def __init__(self, width: int, out: int, *, n_chunks: int | str, dropout: float) -> None:
        super().__init__()
        if n_chunks == "auto":
            n_chunks = next((n for least, n in _CHUNKS if width >= least), 1)
        limit = min(int(n_chunks), width)
        self.n_chunks = next(n for n in range(limit, 0, -1) if out % n == 0)
        size = out // self.n_chunks
        spread, rest = divmod(width, self.n_chunks)
        self.widths = [spread + (i < rest) for i in range(self.n_chunks)]
        self.chunks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(d, 4 * size),
                nn.ReLU(),
                nn.LayerNorm(4 * size),
                nn.Linear(4 * size, size),
                nn.Dropout(dropout),
            )
            for d in self.widths
        )
        self.prompt = nn.Parameter(0.02 * torch.randn(self.n_chunks, size))
        self.gate = nn.Linear(2 * size, 1)
        nn.init.orthogonal_(self.gate.weight)
        nn.init.constant_(self.gate.bias, 0.5)
        self.offset = nn.Parameter(torch.full((out,), 0.1))

    def forward(self, block: Tensor, present: Tensor) -> Tensor:
        """Project (n, width) to (n, out); where not ``present`` (n,), the prompts stand alone."""
        parts = block.split(self.widths, dim=1)
        inner = torch.stack([f(x) for f, x in zip(self.chunks, parts, strict=True)], dim=1)
        prompt = self.prompt.expand(len(block), -1, -1)
        gate = torch.sigmoid(self.gate(torch.cat([inner, prompt], dim=2)))
        mixed = gate * inner + (1 - gate) * prompt
        mixed = torch.where(present[:, None, None], mixed, prompt)
        return mixed.flatten(1) + self.offset


class CrossModalConnector(nn.Module):
    """What the anchor answers to another modality; attention over heads, without a sequence."""

    def __init__(self, width: int, hidden: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query, self.key, self.value = (nn.Linear(width, hidden) for _ in range(3))
        self.out = nn.Linear(hidden, hidden)
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, other: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
        """The answer (n, hidden), and the weight of every head (n, H), summing to one."""
        shape = (len(other), self.n_heads, -1)
        q, k, v = (
            layer(x).view(shape)
            for layer, x in ((self.query, other), (self.key, anchor), (self.value, anchor))
        )
        weight = torch.softmax((q * k).sum(dim=2) / q.shape[2] ** 0.5, dim=1)
        context = (weight[..., None] * v).flatten(1)
        return self.norm(self.dropout(self.out(context))), weight


class _Enhancer(nn.Module):
    """Add the answers to the anchor, weighted by gates over what is present."""

    def __init__(self, n_streams: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.gates = nn.Sequential(
            nn.Linear(n_streams * hidden, hidden), nn.ReLU(), nn.Linear(hidden, n_streams)
        )
        self.turn = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(n_streams))
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, streams: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Streams (n, S, hidden), zero where not ``present`` (n, S); the last is the anchor."""
        logits = self.gates(streams.flatten(1)).masked_fill(~present, -torch.inf)
        gates = torch.softmax(logits, dim=1)
        turned = torch.stack([f(streams[:, s]) for s, f in enumerate(self.turn)], dim=1)
        mixed = (gates[..., None] * turned).sum(dim=1)
        return self.norm(streams[:, -1] + self.dropout(mixed)), gates


class _StackedLinear(nn.Module):
    """One linear layer for each of several members, in one product."""

    def __init__(self, members: int, width: int, out: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(members, width, out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(x, self.weight) + self.bias


class TextCentricModule(FusionModule):
    """Projectors, connectors, enhancer and ensemble of `TextCentricFusion`."""

    def __init__(
        self, block_dims: dict[str, int], n_outputs: int, task: str, head: TextCentricFusion
    ) -> None:
        super().__init__(block_dims, n_outputs, task)
        names = list(block_dims)
        self.anchor = names[0] if head.anchor is None else head.anchor
        self.others = [name for name in names if name != self.anchor]

        def projector(name: str, out: int) -> ChunkProjector:
            options = {"n_chunks": head.n_chunks, "dropout": head.projector_dropout}
            return ChunkProjector(block_dims[name], out, **options)

        self.projectors = nn.ModuleList(projector(name, head.projection) for name in self.others)
        self.anchor_source = projector(self.anchor, head.projection) if self.others else None
        self.anchor_stream = projector(self.anchor, head.hidden)
        self.connectors = nn.ModuleList(
            CrossModalConnector(head.projection, head.hidden, head.n_heads, head.connector_dropout)
            for _ in self.others
        )
        self.enhancer = _Enhancer(len(names), head.hidden, head.enhancer_dropout)
        half = max(1, head.hidden // 2)
        self.members = nn.Sequential(
            _StackedLinear(head.n_members, head.hidden, half),
            nn.ReLU(),
            _StackedLinear(head.n_members, half, _MEMBER_WIDTH),
            nn.ReLU(),
            _StackedLinear(head.n_members, _MEMBER_WIDTH, n_outputs),
        )

    def forward(self, blocks: dict[str, Tensor], presence: Tensor) -> HeadOutput:
        """Scores; extras hold ``gates``, ``head_weights`` (by name) and ``members`` (n, H, K)."""
        dtype = self.anchor_stream.offset.dtype
        blocks = {name: block.to(dtype) for name, block in blocks.items()}
        column = {name: presence[:, m] for m, name in enumerate(self.block_dims)}
        anchor, here = blocks[self.anchor], column[self.anchor]
        streams, weights = [], {}
        if self.anchor_source is not None:
            source = self.anchor_source(anchor, here)
            parts = zip(self.others, self.projectors, self.connectors, strict=True)
            for name, projector, connector in parts:
                answer, weights[name] = connector(projector(blocks[name], column[name]), source)
                streams.append(torch.where(column[name][:, None], answer, 0.0))
        streams.append(self.anchor_stream(anchor, here))
        kept = torch.stack([*(column[name] for name in self.others), torch.ones_like(here)], dim=1)
        enhanced, gates = self.enhancer(torch.stack(streams, dim=1), kept)
        members = self.members(enhanced.expand(self.members[0].weight.shape[0], -1, -1))
        names = [*self.others, self.anchor]
        extras = {
            "gates": {name: gates[:, s] for s, name in enumerate(names)},
            "head_weights": weights,
            "members": members.transpose(0, 1),
        }
        return HeadOutput(members.mean(dim=0), extras)
