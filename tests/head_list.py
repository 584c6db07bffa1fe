"""The list that the common tests iterate: every head, in every form that has its own code."""

from __future__ import annotations

from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from mmfuse.heads import (
    AutoFusion,
    BaseHead,
    ContextualFusion,
    EarlyFusion,
    LateFusion,
    LogitBiasFusion,
    TextCentricFusion,
)

FAST = {"max_epochs": 30, "patience": 5, "hidden": (16,), "learning_rate": 0.01}
FAST_TEXT = {**FAST, "hidden": 16, "projection": 16, "n_members": 4}

HEADS: dict[str, BaseHead] = {
    "auto": AutoFusion({"early": EarlyFusion(C=1.0), "late": LateFusion(C=1.0)}),
    "early-linear": EarlyFusion(),
    "early-mlp": EarlyFusion("mlp", **FAST),
    "late-linear": LateFusion(),
    "late-mlp": LateFusion(EarlyFusion("mlp", **FAST)),
    "late-stack": LateFusion(C=1.0, combine="stack"),
    "late-mean": LateFusion(C=1.0, combine="mean", calibrate="vector"),
    "late-isotonic": LateFusion(C=1.0, combine="product", calibrate="isotonic"),
    "contextual": ContextualFusion(),
    "text-centric": TextCentricFusion(**FAST_TEXT),
}

# heads that have no form for regression; they run on any table
CLASSIFIER_HEADS: dict[str, BaseHead] = {
    "logit-bias": LogitBiasFusion(max_steps=20),
    "late-vote": LateFusion(C=1.0, combine="vote", calibrate="sigmoid"),
}

# of heads_for("classification"), those that have no form for ordered classes either
NOMINAL = ("logit-bias", "logit-bias-prior")

TREES = {
    "classification": HistGradientBoostingClassifier(max_iter=15, min_samples_leaf=3),
    "regression": HistGradientBoostingRegressor(max_iter=15, min_samples_leaf=3),
}


def heads_for(task: str) -> dict[str, BaseHead]:
    """Every head of the list, and those that wrap a scikit-learn estimator of the task."""
    trees = TREES[task]
    only = {}
    if task == "classification":  # block "a" of the common tables has a column per class
        only = {**CLASSIFIER_HEADS, "logit-bias-prior": LogitBiasFusion("a", max_steps=20)}
    return {**HEADS, **only, "early-trees": EarlyFusion(trees), "late-trees": LateFusion(trees)}
