"""scikit-learn's own checks over both estimators, once per head."""

from __future__ import annotations

from sklearn.base import is_classifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from mmfuse import FusionClassifier, FusionRegressor
from tests.head_list import CLASSIFIER_HEADS, HEADS

STOCHASTIC = {
    "check_sample_weight_equivalence_on_dense_data": (
        "mini-batches of a network are drawn by row, so a weight of two is not two rows"
    )
}
ROUNDING = {
    "check_methods_subset_invariance": (
        "float32 matrix products of a network differ in the last digit with the number of rows"
    )
}
NO_SCALE = {
    "check_classifiers_train": (
        "three blobs that stand on no line: one latent score cannot tell them apart"
    )
}
NETWORKS = {"early-mlp", "late-mlp", "text-centric"}


def excused(estimator) -> dict[str, str]:
    """Expected failures of one estimator: check name to reason."""
    heads = {**HEADS, **CLASSIFIER_HEADS}
    if getattr(estimator, "target", None) == "ordinal":
        return NO_SCALE
    name = next(n for n, head in heads.items() if repr(head) == repr(estimator.head))
    if name not in NETWORKS:
        return {}
    return STOCHASTIC | ROUNDING if is_classifier(estimator) else STOCHASTIC


ESTIMATORS = [
    kind(head, random_state=0)
    for kind in (FusionClassifier, FusionRegressor)
    for head in HEADS.values()
]
ESTIMATORS += [FusionClassifier(head, random_state=0) for head in CLASSIFIER_HEADS.values()]
ESTIMATORS += [FusionClassifier(HEADS["early-linear"], target="ordinal", random_state=0)]


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=excused)
def test_contract(estimator, check) -> None:
    check(estimator)
