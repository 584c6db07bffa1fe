"""What the modality report refuses, and how it says so."""

from __future__ import annotations

import re

import numpy as np
import pytest
from report_models import SumRegressor, report_case
from sklearn.exceptions import NotFittedError

from mmfuse import Blocks, modality_report

pytestmark = pytest.mark.filterwarnings("ignore::mmfuse.exceptions.ModalityNeglectWarning")


def _call(model, blocks, y, **options):
    return modality_report(model, blocks, y, n_bootstrap=options.pop("n_bootstrap", 5), **options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"y": ["a"] * 9}, "modality_report: X has 10 rows and y has 9."),
        ({"y": "a"}, "X has 10 rows and y has no rows."),
        ({"y": ["a"] * 8 + ["z", "q"]}, "does not know: 'z', 'q', in 2 rows (8, 9). It knows 'a'"),
        ({"y": [*"abcdefghij"]}, "'c', 'd', 'e', 'f', 'g' and 3 more, in 8 rows (2, 3, 4, 5, 6, ."),
        ({"y": ["a"] * 9 + [None]}, "y is missing in row 9; leave these rows out"),
        ({"y": [["a", "b"]] * 10}, "y must hold one class per row for a classifier; got the shape"),
        ({"groups": [1] * 4}, "X has 10 rows and groups has 4."),
        ({"groups": [1] * 10}, "groups must hold at least two groups, since the bootstrap draws"),
        ({"groups": [1.0] * 9 + [np.nan]}, "groups is missing in row 9; give every row a group"),
        ({"groups": np.ones((10, 2))}, "groups must have one label per row; got the shape (10, 2)"),
        ({"sample_weight": [1] * 3}, "X has 10 rows and sample_weight has 3."),
        ({"sample_weight": [-1] * 10}, "sample_weight must be one finite, non-negative number"),
        ({"sample_weight": [0] * 10}, "not zero everywhere"),
        ({"n_bootstrap": 0}, "n_bootstrap must be an integer of at least 1; got 0"),
        ({"n_bootstrap": 1.5}, "n_bootstrap must be an integer of at least 1; got 1.5"),
        ({"confidence": 95}, "confidence must lie between 0 and 1; got 95"),
        ({"max_modalities": 1}, "2 modalities have 4 subsets to predict, and max_modalities=1."),
    ],
)
def test_bad_arguments_of_a_classifier_are_named(options, message):
    model, blocks, y = report_case(n_rows=10)
    with pytest.raises(ValueError, match=re.escape(message)):
        _call(model, blocks, **({"y": y} | options))


@pytest.mark.parametrize(
    "y, message",
    [
        ([1.0, np.nan, 2.0], "y is missing in row 1"),
        ([[1.0, np.nan], [1, 1], [2, np.nan]], "y is missing in 2 rows (0, 2)"),
        ([1.0, np.inf, 2.0], "y must hold finite numbers in the shape (n_samples,) or"),
        (["a", "b", "c"], "y must hold numbers for a regressor (could not convert"),
        (np.ones((3, 2)), "predicts an array of shape (3, 1) and y has the shape (3, 2)"),
    ],
)
def test_bad_targets_of_a_regressor_are_named(y, message):
    class Column(SumRegressor):
        def predict(self, X):
            return super().predict(X)[:, None]

    blocks = Blocks({"image": [[1.0], [2.0], [3.0]]})
    with pytest.raises(ValueError, match=re.escape(message)):
        _call(Column(("image",)), blocks, y)


def test_no_rows_and_no_fit_are_named():
    model, blocks, y = report_case(n_rows=10)
    with pytest.raises(ValueError, match="X has no rows; there is nothing to report on"):
        _call(model, blocks[:0], y[:0])

    class Unfitted(SumRegressor):
        modalities_ = property()

    with pytest.raises(NotFittedError, match="Unfitted instance is not fitted yet"):
        _call(Unfitted(), blocks, y)
