"""Explanations by modality of every head and of every output of a regressor."""

from __future__ import annotations

import numpy as np
import pytest
from explain_heads import table
from head_list import heads_for
from scipy.special import logit

from mmfuse import FusionClassifier, FusionRegressor, explain
from mmfuse.heads import EarlyFusion


@pytest.mark.parametrize("name", list(heads_for("classification")))
def test_every_head_adds_up_and_absent_is_exactly_zero(name):
    X, y = table()
    model = FusionClassifier(heads_for("classification")[name], cv=2, random_state=0).fit(X, y)
    blocks = model.encode(X)
    found = explain(model, blocks)
    assert np.abs(found.gap).max() < 1e-6
    p = np.clip(model.predict_proba(blocks), 1e-300, 1 - 1e-16)
    np.testing.assert_allclose(found.prediction, logit(p), atol=1e-6)
    assert (found.values[~blocks.present] == 0.0).all()
    np.testing.assert_allclose(found.values[0], 0.0)
    np.testing.assert_allclose(found.base[1], logit(model.prior_), atol=1e-9)


@pytest.mark.parametrize("output", ["point", "binned", "quantiles", "mixture"])
def test_every_output_of_a_regressor_adds_up_to_its_prediction(output):
    X, y = table(n=45)
    head = EarlyFusion(C=1.0) if output != "mixture" else EarlyFusion("mlp", max_epochs=2)
    options = {"bins": 5} if output == "binned" else {"quantiles": (0.2, 0.5)}
    options = {} if output in ("point", "mixture") else options
    model = FusionRegressor(head, output=output, cv=2, random_state=0, **options).fit(X, y + 0.1)
    found = explain(model, X)
    np.testing.assert_allclose(found.prediction[:, 0], model.predict(X), atol=1e-5)
    assert np.abs(found.gap).max() < 1e-6
    assert (found.values[~model.encode(X).present] == 0.0).all()
    assert np.abs(found.values).max() > 0.05
