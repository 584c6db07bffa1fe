"""Whether an explanation points at what the model uses: the deletion curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.base import is_classifier

from mmfuse._random import spawn_seed
from mmfuse.explanations.evaluate import Evaluator
from mmfuse.explanations.explain import explain
from mmfuse.explanations.explanation import Explanation
from mmfuse.explanations.features import Group, feature_groups, feature_names
from mmfuse.explanations.quantity import make_quantity
from mmfuse.explanations.summary import check_bootstrap, group_codes
from mmfuse.metrics.resampling import bootstrap_means, percentile_interval
from mmfuse.presence import Presence

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mmfuse.explanations.display import FaithfulnessDisplay

__all__ = ["Faithfulness", "faithfulness"]

_ROWS = 1024
_SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """The deletion curve of an explanation.

    Attributes
    ----------
    curve : DataFrame
        Indexed by the share of a row's parts that is deleted: ``top``, how much of the answer is
        lost when those with the largest contributions go, and ``random``, the same for parts drawn
        at random; means over rows, with bootstrap ends ``_low`` and ``_high``.
    gain : float
        Mean over the curve of ``top`` less ``random``: above zero, the explanation points at what
        the model uses.
    gain_low, gain_high : float
        Its bootstrap interval, paired by row.
    quantity : str
    n_rows : int
    """

    curve: pd.DataFrame
    gain: float
    gain_low: float
    gain_high: float
    quantity: str
    n_rows: int

    def plot(self, ax: Axes | None = None) -> FaithfulnessDisplay:
        """Draw the curve."""
        from mmfuse.explanations.display import FaithfulnessDisplay

        return FaithfulnessDisplay(self).plot(ax)


def faithfulness(
    model: Any,
    X: Any,
    explanation: Explanation | None = None,
    *,
    shares: Any = _SHARES,
    n_random: int = 5,
    groups: Any = None,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    random_state: Any = None,
    **options: Any,
) -> Faithfulness:
    """Delete the parts that an explanation puts first, and others at random.

    For classifiers, the answer is that for the class which the row is given, and parts that
    speak most for it go first. For values, those with the largest contributions of either sign go
    first, and what is lost is the size of the change. Features that are deleted are put at their
    training mean, modalities are absent.

    Parameters
    ----------
    model : FusionClassifier or FusionRegressor
        Fitted, of one output.
    X : ModalityTable, DataFrame, dict, array or Blocks
        Rows that the model was not fitted on.
    explanation : Explanation, optional
        Of these rows, by any method; its values may come from anywhere. None calls `explain`.
    shares : array-like, default=(0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
        Shares of a row's parts to delete, above 0 and up to 1; at least one part goes.
    n_random : int, default=5
        Random orders of every row.
    groups : array-like of shape (n,), optional
        The bootstrap draws whole groups.
    n_bootstrap, confidence
        Of the intervals.
    random_state : int, RandomState or None, default=None
    **options
        Of `explain`: how the rows are explained where ``explanation`` is None; and ``output``,
        ``groups`` by the name ``feature_groups``, where they are not the defaults.

    Returns
    -------
    Faithfulness

    Raises
    ------
    ValueError
        For shares outside (0, 1], an explanation of other rows, parts or outputs, or rows
        without anything present only.

    References
    ----------
    W. Samek et al., "Evaluating the visualization of what a deep neural network has learned", IEEE
    TNNLS 28, 2017. What differs: parts are tabular features or modalities, and random orders are
    paired with the explained one by row.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse import FusionClassifier, faithfulness
    >>> from mmfuse.heads import EarlyFusion
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(80) % 2
    >>> X = {"a": 2 * y[:, None] + rng.normal(size=(80, 3)), "b": rng.normal(size=(80, 3))}
    >>> model = FusionClassifier(EarlyFusion(C=1.0), random_state=0).fit(X, y)
    >>> found = faithfulness(model, X, level="feature", method="occlusion", random_state=0)
    >>> found.gain_low > 0
    True
    """
    feature_sets = options.pop("feature_groups", None)
    levels = np.asarray(shares, dtype=np.float64).ravel()
    if len(levels) == 0 or not ((levels > 0) & (levels <= 1)).all():
        raise ValueError(f"faithfulness: shares must lie above 0 and up to 1; got {shares!r}.")
    if not isinstance(n_random, (int, np.integer)) or n_random < 1:
        raise ValueError(
            f"faithfulness: n_random must be an integer of at least 1; got {n_random!r}."
        )
    check_bootstrap("faithfulness", n_bootstrap, confidence)
    if explanation is None:
        explanation = explain(model, X, groups=feature_sets, **options)
    if isinstance(explanation, dict):
        raise ValueError(
            "faithfulness: the model has several outputs; pass model.output(t), one at a time."
        )
    names, blocks = feature_names(model, X), model.encode(X)
    parts = _parts_of(model, explanation, names, feature_sets, len(blocks))
    quantity = make_quantity(model, options.get("output", "auto"), options.get("classes"))
    if tuple(quantity.names) != explanation.outputs:
        raise ValueError(
            f"faithfulness: the explanation has the outputs {explanation.outputs} and the answer "
            f"{tuple(quantity.names)}; pass the same output and classes as to explain."
        )
    usable = np.flatnonzero((explanation.states == Presence.PRESENT).any(axis=1))
    if len(usable) == 0:
        raise ValueError("faithfulness: nothing is present in any row; there is nothing to delete.")
    rng = np.random.default_rng(spawn_seed(random_state))
    codes = group_codes("faithfulness", groups, len(blocks))
    lost = _curves(quantity, blocks, explanation, parts, levels, n_random, rng, usable)
    codes = None if codes is None else codes[usable]
    return _summary(lost, levels, quantity.label, codes, n_bootstrap, confidence, rng)


def _parts_of(
    model: Any, explanation: Explanation, names: dict[str, list[str]], sets: Any, n_rows: int
) -> list[Group]:
    """What is deleted with each part; a modality is all of its columns, and goes as a whole."""
    if len(explanation) != n_rows:
        raise ValueError(
            f"faithfulness: X has {n_rows} rows and the explanation {len(explanation)}."
        )
    if explanation.level == "modality":
        parts = [(m, m, np.arange(d)) for m, d in model.block_dims_.items()]
    else:
        parts = feature_groups(names, sets)
    if tuple(m for m, _, _ in parts) != explanation.modality[: len(parts)] or (
        len(parts) != explanation.values.shape[1]
    ):
        raise ValueError(
            f"faithfulness: the explanation has {explanation.values.shape[1]} parts where "
            f"{len(parts)} can be deleted; explain with baseline='mean', and pass the groups of "
            "features, if any, as feature_groups."
        )
    return parts


def _curves(
    quantity: Any,
    blocks: Any,
    explanation: Explanation,
    parts: list[Group],
    levels: np.ndarray,
    n_random: int,
    rng: np.random.Generator,
    usable: np.ndarray,
) -> np.ndarray:
    """Loss of every usable row (n, 2, S): the top parts, and the mean of random ones."""
    lost = np.zeros((len(usable), 2, len(levels)))
    classes = is_classifier(quantity.model) and quantity.kind != "expected"
    for start in range(0, len(usable), _ROWS):
        rows = usable[start : start + _ROWS]
        evaluator = Evaluator(quantity, blocks[rows])
        there = explanation.states[rows] == Presence.PRESENT
        answer = evaluator.run(np.arange(len(rows)), evaluator.present)
        pick = answer.argmax(axis=1) if classes else np.zeros(len(rows), dtype=int)
        signed = explanation.values[rows, :, pick]
        values = signed if classes else np.abs(explanation.values[rows]).mean(axis=2)
        keys = [values]
        keys += [rng.random(values.shape) for _ in range(n_random)]
        eraser = _Eraser(evaluator, parts, explanation.level == "modality")
        for o, key in enumerate(keys):
            order = np.argsort(np.argsort(-np.where(there, key, -np.inf), axis=1), axis=1)
            for s, share in enumerate(levels):
                count = np.maximum(np.round(share * there.sum(axis=1)), 1)[:, None]
                change = answer - eraser.answer((order < count) & there)
                one = change[np.arange(len(rows)), pick]
                one = one if classes else np.abs(change).mean(axis=1)
                lost[start : start + _ROWS, min(o, 1), s] += one / (1 if o == 0 else n_random)
    return lost


class _Eraser:
    """Answers after the deletion of some parts of every row."""

    def __init__(self, evaluator: Evaluator, parts: list[Group], whole: bool) -> None:
        self.evaluator, self.parts, self.whole = evaluator, parts, whole

    def answer(self, gone: np.ndarray) -> np.ndarray:
        """The quantity (n, K) without the parts ``gone`` (n, P)."""
        present = self.evaluator.present
        rows = np.arange(len(present))
        if self.whole:
            return self.evaluator.run(rows, present & ~gone)
        keep = {n: np.ones((len(rows), d), dtype=bool) for n, d in self.evaluator.dims.items()}
        for p, (modality, _, columns) in enumerate(self.parts):
            keep[modality][:, columns] = ~gone[:, p : p + 1]
        return self.evaluator.run(rows, present, keep)


def _summary(
    lost: np.ndarray,
    levels: np.ndarray,
    label: str,
    groups: np.ndarray | None,
    n_bootstrap: int,
    confidence: float,
    rng: np.random.Generator,
) -> Faithfulness:
    n = len(lost)
    gain = (lost[:, 0] - lost[:, 1]).mean(axis=1)
    table = np.column_stack([lost[:, 0], lost[:, 1], gain])
    draws = bootstrap_means(table, n_bootstrap=n_bootstrap, rng=rng, groups=groups)
    low, high = percentile_interval(draws, confidence)
    mean, count = table.mean(axis=0), len(levels)
    columns = {}
    for i, name in enumerate(("top", "random")):
        part = slice(i * count, (i + 1) * count)
        columns |= {name: mean[part], f"{name}_low": low[part], f"{name}_high": high[part]}
    curve = pd.DataFrame(columns, index=pd.Index(levels, name="share"))
    return Faithfulness(curve, float(gain.mean()), float(low[-1]), float(high[-1]), label, n)
