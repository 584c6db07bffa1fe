"""Whatever calibrates a fitted model further refuses, or warns of, rows that it was fitted on."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from tuning import classifier, pictures, plan

import mmfuse
from mmfuse import FusionClassifier, FusionRegressor
from mmfuse.exceptions import LeakageError, LeakageWarning
from mmfuse.guards import forget_training
from mmfuse.heads import EarlyFusion


def people(n: int = 240) -> tuple[dict, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n)
    X = {"a": rng.normal(size=(n, 3)) + y[:, None], "b": rng.normal(size=(n, 2))}
    X["b"][rng.random(n) < 0.3] = np.nan
    return X, y, np.repeat(np.arange(n // 4), 4)


def rows(X: dict, kept: slice) -> dict:
    return {name: block[kept] for name, block in X.items()}


X, Y, GROUPS = people()
TRAIN, HALF, REST = slice(0, 120), slice(60, 180), slice(120, 240)


def fit(kind: str, **options):
    if kind == "regressor":
        return FusionRegressor(EarlyFusion(C=1.0), cv=3).fit(rows(X, TRAIN), Y[TRAIN], **options)
    target = np.c_[Y, 1 - Y] if kind == "outputs" else Y
    return FusionClassifier(EarlyFusion(C=1.0), cv=3).fit(rows(X, TRAIN), target[TRAIN], **options)


def calls(model, kind: str, method: str):
    target = np.c_[Y, 1 - Y] if kind == "outputs" else Y
    name = f"{type(model).__name__}.{method}"
    return lambda kept, **o: getattr(model, method)(rows(X, kept), target[kept], **o), name


CASES = [
    ("classifier", "conformalize"),
    ("classifier", "control_risk"),
    ("regressor", "conformalize"),
    ("outputs", "conformalize"),
]


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_training_rows_are_warned_of_and_training_groups_refused(kind, method, tmp_path: Path):
    fitted = fit(kind, groups=GROUPS[TRAIN])
    for model in (fitted, mmfuse.load(fitted.save(tmp_path / "model"))):
        calibrate, name = calls(model, kind, method)
        with pytest.warns(LeakageWarning, match=rf"{name}: 60 of 120 rows are identical"):
            calibrate(HALF)
        with pytest.raises(LeakageError, match=rf"{name}: 60 of 120 rows are identical"):
            calibrate(HALF, overlap="raise")
        with pytest.raises(LeakageError, match=rf"{name}: .* fitted on 15 groups .* among these r"):
            calibrate(HALF, groups=GROUPS[HALF])
        with pytest.raises(ValueError, match=f"{name}: overlap must be one of auto, raise, warn"):
            calibrate(REST, overlap="never")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            calibrate(REST, groups=GROUPS[REST])
            calibrate(HALF, groups=GROUPS[HALF], overlap="ignore")


def test_a_refusal_leaves_the_model_as_it_was():
    model = fit("classifier", groups=GROUPS[TRAIN])
    calibrate, _ = calls(model, "classifier", "conformalize")
    before = model.conformal_
    with pytest.raises(LeakageError):
        calibrate(HALF, groups=GROUPS[HALF])
    assert model.conformal_ is before


def test_one_warning_for_all_outputs():
    calibrate, _ = calls(fit("outputs"), "outputs", "conformalize")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        calibrate(HALF)
    assert len([w for w in caught if w.category is LeakageWarning]) == 1


def test_a_model_that_forgot_its_rows_passes():
    model = fit("classifier")
    forget_training(model)
    calibrate, _ = calls(model, "classifier", "conformalize")
    with warnings.catch_warnings():
        warnings.simplefilter("error", LeakageWarning)
        calibrate(HALF)


def test_rows_that_encoders_were_tuned_on_are_known_too():
    samples, y = pictures()
    model = classifier(finetune=plan(epochs=1)).fit(samples[:120], y[:120])
    for method in ("conformalize", "control_risk"):
        with pytest.warns(LeakageWarning, match=rf"{method}: 60 of 120 rows are identical"):
            getattr(model, method)(samples[60:180], y[60:180])
