"""`mmfuse.explain`: what every modality, or every feature, adds to the answer for a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted

from mmfuse.blocks import Blocks
from mmfuse.estimators._base import FusionEstimator
from mmfuse.explanations import features as inside
from mmfuse.explanations.evaluate import Evaluator, modality_shapley
from mmfuse.explanations.explanation import Explanation
from mmfuse.explanations.quantity import Quantity, make_quantity
from mmfuse.multi_output import has_outputs

__all__ = ["explain"]

_ROWS = 1024  # explained together, so that copies stay small
_METHODS = {
    "modality": ("auto", "shapley", "evidence"),
    "feature": ("auto", "gradients", "occlusion"),
}
_ALONE = "without any modality"
_AT_MEAN = "all features at the training mean"


def explain(
    model: Any,
    X: Any,
    *,
    level: str = "modality",
    method: str = "auto",
    output: str = "auto",
    classes: Any = None,
    baseline: str = "mean",
    groups: Mapping[str, Mapping[str, Any]] | None = None,
    n_steps: int = 16,
    tolerance: float = 1e-3,
    max_modalities: int = 12,
) -> Any:
    """Say for every row what each modality, or each feature, adds to the model's answer.

    Parameters
    ----------
    model : FusionClassifier or FusionRegressor
        Fitted.
    X : ModalityTable, DataFrame, dict, array or Blocks
        n rows; modalities may be absent in any of them, and then get exactly zero.
    level : {"modality", "feature"}, default="modality"
        Features are the columns of the blocks, under the names that the encoders give them.
    method : str, default="auto"
        For modalities ``"shapley"``, which is ``"auto"``: exact, over all subsets of what the row
        has, with the others absent, which every head knows; or ``"evidence"``, the additive terms
        of `FusionClassifier.evidence`, for heads that are sums over modalities. For features
        ``"gradients"``, integrated gradients, which need the extra ``explain``; or
        ``"occlusion"``, the change of the answer when a feature is put at its training mean.
        ``"auto"`` takes gradients where the head has them, else occlusion.
    output : {"auto", "log_odds", "probability", "expected", "value"}, default="auto"
        What is explained, always calibrated. ``"log_odds"``, the default of classifiers, is the
        logarithm of a class's probability over that of all others, in nats; ``"expected"`` is the
        mean of the scale of ordered classes; ``"value"``, the default of regressors, is what
        ``predict`` gives, in the unit of y.
    classes : label or list of labels, optional
        Explain these alone.
    baseline : {"mean", "absent"}, default="mean"
        For features. ``"mean"``: contributions lead from the answer for a row that has the same
        modalities, with all features at the training mean. ``"absent"`` starts from the answer
        without any modality: each modality gets one part more, ``"<name>: present"``, what it adds
        that it is there with average features, in the place of the head's learned token of
        absence. Presence is no quantity that can be half there, so this step is a Shapley value.
    groups : dict of modality to dict of name to features, optional
        For features: names or numbers of columns that share one contribution, such as all
        statistics of a mel band. Features that no group names stand alone.
    n_steps : int, default=16
        For gradients: points of the Gauss-Legendre rule; doubled, up to four times, until
        contributions add up.
    tolerance : float, default=1e-3
        For gradients: how far contributions may miss the change of the answer, in units of the
        largest change among 1,024 rows.
    max_modalities : int, default=12
        Limit for ``"shapley"``, since M modalities have 2**M subsets.

    Returns
    -------
    Explanation
        Or, for a classifier of several targets, a dict of output name to `Explanation`.

    Raises
    ------
    TypeError
        If ``model`` is no estimator of mmfuse.
    ValueError
        For an unknown option, class, group or quantity; for too many modalities; for evidence of
        a head that is no sum; for gradients of a head that has none, or whose answer jumps.
    ModuleNotFoundError
        For gradients, if captum is missing; names ``pip install 'mmfuse[explain]'``.

    Notes
    -----
    Evidence is in nats of the centred log probability: of two classes it is doubled, and is then
    what each modality adds to the log odds; with more classes ``prediction`` and ``base`` are log
    probabilities less their mean over the classes.

    Contributions say what the model uses, not what causes the outcome. A modality's Shapley
    value takes all subsets for equally likely reasons to ask; it is not the change on removing it.
    Occlusion takes features away one at a time, so that two which say the same can both get
    nothing, and contributions do not add up: `Explanation.gap` is what is left.

    References
    ----------
    L. S. Shapley, "A value for n-person games", Contributions to the Theory of Games II, 1953.
    M. Sundararajan, A. Taly and Q. Yan, "Axiomatic attribution for deep networks", ICML 2017. What
    differs: the path is in standardised features of all present modalities, the steps follow a
    Gauss-Legendre rule, and completeness is checked.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse import FusionClassifier, explain
    >>> from mmfuse.heads import EarlyFusion
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(60) % 2
    >>> X = {"a": 2 * y[:, None] + rng.normal(size=(60, 2)), "b": rng.normal(size=(60, 3))}
    >>> model = FusionClassifier(EarlyFusion(C=1.0), random_state=0).fit(X, y)
    >>> explanation = explain(model, {"a": X["a"]}, classes=1)  # b is missing
    >>> explanation
    Explanation by shapley: 60 rows x 2 modalities x 1 outputs, log odds (nats)
    >>> bool((explanation.values[:, 1] == 0).all())
    True
    >>> bool(np.abs(explanation.gap).max() < 1e-9)
    True
    """
    if not isinstance(model, FusionEstimator):
        raise TypeError(
            "explain: model must be a fitted FusionClassifier or FusionRegressor; got "
            f"{type(model).__name__}."
        )
    check_is_fitted(model, "head_")
    _check(level, method, baseline, groups, n_steps, tolerance)
    blocks = model.encode(X)
    options = {
        "level": level,
        "method": method,
        "output": output,
        "classes": classes,
        "baseline": baseline,
        "groups": groups,
        "n_steps": n_steps,
        "tolerance": tolerance,
        "max_modalities": max_modalities,
    }
    names = inside.feature_names(model, X) if level == "feature" else {}
    if has_outputs(model):
        parts = zip(model.output_names_, model.outputs_, strict=True)
        return {key: _explain_one(part, blocks, names, **options) for key, part in parts}
    return _explain_one(model, blocks, names, **options)


def _check(
    level: str, method: str, baseline: str, groups: Any, n_steps: Any, tolerance: float
) -> None:
    if level not in _METHODS:
        raise ValueError(f"explain: level must be 'modality' or 'feature'; got {level!r}.")
    if method not in _METHODS[level]:
        raise ValueError(
            f"explain: method must be one of {', '.join(map(repr, _METHODS[level]))} for "
            f"level={level!r}; got {method!r}."
        )
    if baseline not in ("mean", "absent"):
        raise ValueError(f"explain: baseline must be 'mean' or 'absent'; got {baseline!r}.")
    if level == "modality" and (groups is not None or baseline != "mean"):
        raise ValueError("explain: groups and baseline are for level='feature'; leave them out.")
    if not isinstance(n_steps, (int, np.integer)) or n_steps < 1:
        raise ValueError(f"explain: n_steps must be an integer of at least 1; got {n_steps!r}.")
    if not tolerance > 0:
        raise ValueError(f"explain: tolerance must be above 0; got {tolerance!r}.")


def _explain_one(
    model: Any, blocks: Blocks, names: dict[str, list[str]], **options: Any
) -> Explanation:
    quantity = make_quantity(model, options["output"], options["classes"])
    if options["level"] == "feature":
        return _by_feature(quantity, blocks, names, options)
    if options["method"] == "evidence":
        return _by_evidence(quantity, blocks, options["output"])
    count, most = len(model.modalities_), options["max_modalities"]
    if count > most:
        raise ValueError(
            f"explain: {count} modalities have {2**count} subsets, and max_modalities={most}. Pass "
            f"max_modalities={count} to go ahead."
        )
    found = [modality_shapley(Evaluator(quantity, part)) for part in _parts(blocks)]
    return _result(quantity, blocks, _joined(found), "shapley", "modality")


def _parts(blocks: Blocks) -> list[Blocks]:
    starts = range(0, max(len(blocks), 1), _ROWS)
    return [blocks[start : start + _ROWS] for start in starts]


def _joined(found: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(np.concatenate(arrays) for arrays in zip(*found, strict=True))


def _result(
    quantity: Quantity,
    blocks: Blocks,
    found: tuple[np.ndarray, ...],
    method: str,
    level: str,
    names: tuple[str, ...] | None = None,
    modality: tuple[str, ...] | None = None,
    base_label: str = _ALONE,
    label: str | None = None,
) -> Explanation:
    values, base, prediction = found
    known = quantity.model.modalities_
    modality = known if modality is None else modality
    place = [known.index(name) for name in modality]
    return Explanation(
        values=values,
        base=base,
        prediction=prediction,
        names=known if names is None else names,
        modality=modality,
        outputs=tuple(quantity.names),
        states=np.array(blocks.presence)[:, place],
        quantity=quantity.label if label is None else label,
        method=method,
        level=level,
        base_label=base_label,
    )


def _by_evidence(quantity: Quantity, blocks: Blocks, output: str) -> Explanation:
    """The additive terms of the head."""
    model = quantity.model
    if not is_classifier(model) or output not in ("auto", "log_odds"):
        raise ValueError(
            "explain: method='evidence' is about the log odds of classes; take method='shapley' "
            "for probabilities, expected classes and values."
        )
    values = model.evidence(blocks)
    prior = np.log(np.maximum(model.prior_, 1e-12))
    base = np.tile(prior - prior.mean(), (len(blocks), 1))
    log_p = model.predict_log_proba(blocks)
    prediction = log_p - log_p.mean(axis=1, keepdims=True)
    two = len(model.classes_) == 2
    found = [a * (2.0 if two else 1.0) for a in (values, base, prediction)]
    found = [a[..., quantity.columns] for a in found]
    label = "log odds (nats)" if two else "log probability less its mean over classes (nats)"
    return _result(
        quantity, blocks, tuple(found), "evidence", "modality", label=label, base_label="the prior"
    )


def _by_feature(
    quantity: Quantity, blocks: Blocks, names: dict[str, list[str]], options: dict[str, Any]
) -> Explanation:
    groups = inside.feature_groups(names, options["groups"])
    parts = [Evaluator(quantity, part) for part in _parts(blocks)]
    why_not = inside.differentiable(parts[0])
    method = options["method"]
    if method == "gradients" and why_not:
        raise ValueError(
            f"explain: there are no gradients, for {why_not}; take method='occlusion', which works "
            "for every head."
        )
    if method == "auto":
        method = "occlusion" if why_not else "gradients"
    found = [_features_of(part, groups, method, options) for part in parts]
    modality = tuple(m for m, _, _ in groups)
    labels = tuple(label for _, label, _ in groups)
    if len(set(labels)) < len(labels):  # the same name in two modalities
        labels = tuple(f"{m}: {label}" for m, label, _ in groups)
    base_label = _AT_MEAN
    if options["baseline"] == "absent":
        known = quantity.model.modalities_
        labels += tuple(f"{name}: present" for name in known)
        modality += tuple(known)
        base_label = _ALONE
    return _result(
        quantity, blocks, _joined(found), method, "feature", labels, modality, base_label
    )


def _features_of(
    evaluator: Evaluator, groups: list[inside.Group], method: str, options: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if method == "occlusion":
        values, base, full = inside.occlusion(evaluator, groups)
    else:
        columns, base, full = inside.gradients(evaluator, options["n_steps"], options["tolerance"])
        starts = np.cumsum([0, *evaluator.dims.values()])
        first = dict(zip(evaluator.dims, starts[:-1], strict=True))
        places = [first[m] + own for m, _, own in groups]
        values = np.stack([columns[:, p].sum(axis=1) for p in places], axis=1)
    if options["baseline"] == "absent":
        there, base = inside.tokens(evaluator)
        values = np.concatenate([values, there], axis=1)
    return values, base, full
