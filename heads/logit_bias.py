"""Logit bias: a trained model's logits, corrected by linear branches over other features."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from mmfuse.exceptions import UnsupportedObjectiveError
from mmfuse.heads.base import BaseHead, FitData, FitResult, FusionModule, HeadOutput
from mmfuse.objectives import Objective

__all__ = ["LogitBiasFusion", "LogitBiasModule", "standardise_rows", "uncertainty_factor"]

KINDS = ("kurtosis", "entropy", "max", "margin", "none")
_EPS = 1e-8


class LogitBiasFusion(BaseHead):
    """Add a learned bias to the logits of a model that is already good, where it is unsure.

    One block, the prior, holds logits: of zero-shot CLIP, or of any classifier. Every other block
    is an auxiliary view with a linear branch of its own, which starts from the class means. The
    standardised logits of the branches are added to the prior's, the more the less sure it is::

        scores = prior + factor(prior) * sum over present m of alpha_m * standardised_m

    It is made for few labelled rows per class, from one on.

    Parameters
    ----------
    prior : str or None, default=None
        Name of the block that holds logits, one column per class, in the order of ``classes_``
        (the sorted labels). They are used as they come, unscaled: cosine similarities of CLIP want
        its factor of 100 first. None: there is no such block, and the branches speak alone.
    alpha : float or "cv", default="cv"
        Weight of every branch where the prior is present; 0 leaves the prior as it is. ``"cv"``
        chooses one weight a branch by out-of-fold log loss; without usable folds it is 0.5, as in
        the paper's code. Rows without the prior always have weights of their own, chosen so.
    uncertainty : {"kurtosis", "entropy", "max", "margin", "none"}, default="kurtosis"
        How the factor is measured on the prior's probabilities; see Notes.
    power : float, default=0.4
        Strength of the factor; 0 makes it 1.
    fused_share : float, default=0.35
        Share of the fused scores in the training loss, between 0 and 1; the rest is the mean loss
        of the branches. 0.35 is the value of the published command.
    modality_dropout : float, default=0.2
        Chance that a modality is hidden from a training row; part of the objective, nothing is
        drawn for up to three modalities.
    learning_rate : float, default=0.05
        First step of the optimiser, relative to the root mean square of a branch's class means.
    max_steps : int, default=100
        Steps over all rows, with a cosine schedule. Folds choose where to stop, also at no step.

    Notes
    -----
    After "AMU-Tuning: Effective Logit Bias for CLIP-based Few-shot Learning" (arXiv 2404.08958),
    from the formulas of its code: class-mean initialisation, a linear layer without intercept on
    features of length one, logits standardised within a row (unbiased deviation), and the loss
    ``fused_share * CE(fused) + (1 - fused_share) * mean CE(branch)``.

    The factor is 1 for a row of which the prior is certain, whatever the number of classes K, and
    grows with doubt, so alpha is the weight in certain rows. ``"kurtosis"``: kurtosis of the
    probabilities over its value for a certain row, K - 2 + 1/(K - 1), to the power of minus
    ``power``; the code divides by 250, which fits a thousand classes only. ``"entropy"``:
    ``exp(power * H / log K)``. ``"max"`` and ``"margin"``: the highest probability, or its
    distance to the second (1/K at least), to the power of minus ``power``. With two classes the
    kurtosis is always 1 and says nothing; take another kind.

    What else differs, and is ours:

    - any number of auxiliary blocks, each absent in any row. Without the prior a row starts from
      the log frequencies of the classes; without auxiliaries the prior is the answer;
    - auxiliary features are standardised before they are brought to length one, and class means
      are true means, also when classes are not balanced;
    - with two classes, logits standardised within a row are a mere sign; there one scale for all
      training rows takes the place of the row's own. A small number is added to every deviation;
    - alpha and the number of steps come from folds of the training rows (the code stops at the best
      epoch on the test set), and all rows are used in every step, so that nothing is drawn. A
      held-out row whose class has no training row in its fold is not counted; where none is left,
      as with one row a class, alpha is 0.5 and the class means stay as they are.

    Only for classification. The prior's logits are taken for honest: those of a model fitted on the
    same rows look too good, use out-of-fold ones then.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse import FusionClassifier
    >>> from mmfuse.heads import LogitBiasFusion
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1, 2], 8)
    >>> centre = np.eye(3)[y]
    >>> X = {"clip": rng.normal(2 * centre), "aux": rng.normal(centre, 0.5)}
    >>> model = FusionClassifier(LogitBiasFusion("clip"), random_state=0).fit(X, y)
    >>> model.predict_proba({"clip": X["clip"][:2]}).shape  # no auxiliary view
    (2, 3)
    """

    def __init__(
        self,
        prior: str | None = None,
        *,
        alpha: float | str = "cv",
        uncertainty: str = "kurtosis",
        power: float = 0.4,
        fused_share: float = 0.35,
        modality_dropout: float = 0.2,
        learning_rate: float = 0.05,
        max_steps: int = 100,
    ) -> None:
        self.prior = prior
        self.alpha = alpha
        self.uncertainty = uncertainty
        self.power = power
        self.fused_share = fused_share
        self.modality_dropout = modality_dropout
        self.learning_rate = learning_rate
        self.max_steps = max_steps

    def raw_blocks(self, block_dims: dict[str, int]) -> tuple[str, ...]:
        """The prior's logits mean something as they are."""
        return () if self.prior is None else (self.prior,)

    def check_parameters(self, block_dims: dict[str, int], objective: Objective) -> None:
        owner = type(self).__name__
        if objective.task != "classification":
            kind = "ordered classes" if objective.task == "ordinal" else objective.task
            raise UnsupportedObjectiveError(
                f"{owner} biases logits of classes; it has no form for {kind}."
            )
        if self.prior is not None and self.prior not in block_dims:
            raise ValueError(
                f"{owner}: prior must be one of the modalities {', '.join(block_dims)}, or None; "
                f"got {self.prior!r}."
            )
        if self.uncertainty not in KINDS:
            raise ValueError(
                f"{owner}: uncertainty must be one of {', '.join(KINDS)}; got {self.uncertainty!r}."
            )
        chosen = isinstance(self.alpha, str) and self.alpha == "cv"
        if not chosen and not _is_number(self.alpha, 0.0, math.inf):
            raise ValueError(
                f"{owner}: alpha must be 'cv' or a number from 0 on; got {self.alpha!r}."
            )
        for name, high in (("power", math.inf), ("fused_share", 1.0)):
            if not _is_number(getattr(self, name), 0.0, high):
                what = "from 0 on" if high > 1 else "in [0, 1]"
                raise ValueError(f"{owner}: {name} must be {what}; got {getattr(self, name)!r}.")
        if not 0 <= self.modality_dropout < 1:
            raise ValueError(
                f"{owner}: modality_dropout must be in [0, 1); got {self.modality_dropout!r}."
            )
        if not self.learning_rate > 0:
            raise ValueError(f"{owner}: learning_rate must be above 0; got {self.learning_rate!r}.")
        if not isinstance(self.max_steps, (int, np.integer)) or self.max_steps < 0:
            raise ValueError(
                f"{owner}: max_steps must be an integer from 0 on; got {self.max_steps!r}."
            )

    def build(self, block_dims: dict[str, int], n_outputs: int, task: str) -> LogitBiasModule:
        if self.prior is not None and block_dims[self.prior] != n_outputs:
            raise ValueError(
                f"{type(self).__name__}: the prior block {self.prior!r} must hold one logit per "
                f"class, in the order of classes_; it has {block_dims[self.prior]} columns for "
                f"{n_outputs} classes."
            )
        return LogitBiasModule(block_dims, n_outputs, task, self)

    def fit_module(self, data: FitData) -> FitResult:
        """Train the branches on every fold and on all rows; choose alpha on held-out rows."""
        from mmfuse.heads.logit_bias_fit import fit_logit_bias

        return fit_logit_bias(self, data)


class LogitBiasModule(FusionModule):
    """Prior logits, a linear branch per auxiliary block, and the weights that join them."""

    def __init__(
        self, block_dims: dict[str, int], n_outputs: int, task: str, head: LogitBiasFusion
    ) -> None:
        super().__init__(block_dims, n_outputs, task)
        self.prior, self.uncertainty, self.power = head.prior, head.uncertainty, head.power
        self.names = [name for name in block_dims if name != head.prior]
        place = list(block_dims)
        self.columns = [place.index(name) for name in self.names]
        self.prior_column = None if head.prior is None else place.index(head.prior)
        size, options = len(self.names), {"dtype": torch.float64}
        self.weight = nn.ParameterList(
            nn.Parameter(torch.zeros(n_outputs, block_dims[name], **options)) for name in self.names
        )
        self.register_buffer("alpha", torch.full((size,), 0.5, **options))
        self.register_buffer("alpha_alone", torch.ones(size, **options))
        self.register_buffer("spread", torch.ones(size, **options))
        uniform = torch.full((n_outputs,), -math.log(n_outputs), **options)
        self.register_buffer("log_prior", uniform)

    def features(self, blocks: dict[str, Tensor]) -> list[Tensor]:
        """Auxiliary features of length one, float64."""
        return [nn.functional.normalize(blocks[name].double(), eps=_EPS) for name in self.names]

    def branches(self, features: list[Tensor], spread: Tensor | None = None) -> Tensor:
        """Standardised logits (n, A, K) of every branch, whether it is present or not."""
        spread = self.spread if spread is None else spread
        parts = [f @ w.T for f, w in zip(features, self.weight, strict=True)]
        if not parts:
            return self.log_prior.new_zeros(0)
        logits = torch.stack(parts, dim=1)
        if self.n_outputs > 2:
            return standardise_rows(logits)
        centred = logits - logits.mean(dim=-1, keepdim=True)
        return centred / (spread[None, :, None] + _EPS)

    def common_spread(self, features: list[Tensor], presence: Tensor, weight: Tensor) -> Tensor:
        """Root mean square over training rows of every branch's deviation in a row: (A,)."""
        if self.n_outputs > 2 or not features:
            return self.spread
        parts = [f @ w.T for f, w in zip(features, self.weight, strict=True)]
        variance = torch.stack(parts, dim=1).var(dim=-1)
        w = presence[:, self.columns] * weight[:, None]
        return ((w * variance).sum(0) / w.sum(0).clamp(min=_EPS) + _EPS**2).sqrt()

    def base(self, blocks: dict[str, Tensor], here: Tensor) -> tuple[Tensor, Tensor]:
        """Logits to start from (n, K) and the factor of doubt (n,)."""
        start = self.log_prior.expand(len(here), -1)
        factor = torch.ones(len(here), dtype=start.dtype, device=here.device)
        if self.prior is None:
            return start, factor
        logits = blocks[self.prior].double()
        doubt = uncertainty_factor(logits.softmax(dim=1), self.uncertainty, self.power)
        return torch.where(here[:, None], logits, start), torch.where(here, doubt, factor)

    def has_prior(self, presence: Tensor) -> Tensor:
        """Rows (n,) in which the prior is present."""
        if self.prior_column is None:
            return torch.zeros(len(presence), dtype=torch.bool, device=presence.device)
        return presence[:, self.prior_column]

    def bias(self, branches: Tensor, presence: Tensor) -> Tensor:
        """Weighted sum (n, K) of the branches that are present, before the factor."""
        if not self.names:
            return self.log_prior.new_zeros(len(presence), self.n_outputs)
        here = self.has_prior(presence)
        weight = torch.where(here[:, None], self.alpha, self.alpha_alone)
        kept = torch.where(presence[:, self.columns], weight, 0.0)
        return (kept[..., None] * branches).sum(dim=1)

    def fuse(self, blocks: dict[str, Tensor], branches: Tensor, presence: Tensor) -> HeadOutput:
        """Scores from branches that are already there."""
        start, factor = self.base(blocks, self.has_prior(presence))
        bias = self.bias(branches, presence)
        extras = {"prior": start, "factor": factor, "bias": bias}
        return HeadOutput(start + factor[:, None] * bias, extras)

    def forward(self, blocks: dict[str, Tensor], presence: Tensor) -> HeadOutput:
        return self.fuse(blocks, self.branches(self.features(blocks)), presence)


def standardise_rows(logits: Tensor) -> Tensor:
    """Mean 0 and unbiased deviation 1 over the last axis; a constant row becomes zero."""
    centred = logits - logits.mean(dim=-1, keepdim=True)
    return centred / (logits.std(dim=-1, keepdim=True) + _EPS)


def uncertainty_factor(proba: Tensor, kind: str, power: float) -> Tensor:
    """Factor (n,) from probabilities (n, K): 1 for a certain row, more for a doubtful one."""
    n_classes = proba.shape[1]
    if kind == "none" or power == 0:
        return torch.ones_like(proba[:, 0])
    if kind == "entropy":
        entropy = torch.special.entr(proba).sum(dim=1)
        return torch.exp(power * entropy / math.log(n_classes))
    if kind == "max":
        return proba.amax(dim=1) ** -power
    if kind == "margin":
        first, second = proba.topk(2, dim=1).values.unbind(dim=1)
        return (first - second).clamp(min=1 / n_classes) ** -power
    centred = proba - 1 / n_classes
    second = centred.square().mean(dim=1)
    flat = second < 1e-24
    ratio = centred.pow(4).mean(dim=1) / torch.where(flat, 1.0, second.square())
    kurtosis = torch.where(flat, 1.0, ratio).clamp(min=1.0)
    return (kurtosis / (n_classes - 2 + 1 / (n_classes - 1))) ** -power


def _is_number(value: object, low: float, high: float) -> bool:
    number = isinstance(value, (int, float, np.integer, np.floating))
    return number and not isinstance(value, bool) and low <= value <= high and math.isfinite(value)
