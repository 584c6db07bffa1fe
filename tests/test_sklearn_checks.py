"""scikit-learn's own checks over both estimators, once per head."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from mmfuse import FusionClassifier, FusionRegressor
from tests.head_list import HEADS

STOCHASTIC = "mini-batches of a network are drawn by row, so a weight of two is not two rows"
ROUNDING = "float32 matrix products of a network differ in the last digit with the number of rows"

EXPECTED: dict[str, dict[str, str]] = {}

CLASSIFIERS = {FusionClassifier(head, random_state=0): name for name, head in HEADS.items()}
REGRESSORS = {FusionRegressor(head, random_state=0): name for name, head in HEADS.items()}


def excused(estimator) -> dict[str, str]:
    """Expected failures of one estimator: check name to reason."""
    name = next(n for n, head in HEADS.items() if repr(head) == repr(estimator.head))
    return EXPECTED.get(name, {})


@parametrize_with_checks(
    [*CLASSIFIERS, *REGRESSORS],
    expected_failed_checks=excused,
)
def test_contract(estimator, check) -> None:
    check(estimator)
