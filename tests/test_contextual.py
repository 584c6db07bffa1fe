"""Contextual fusion: closed forms of the penalty, its limit, and what it buys."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from mmfuse import FusionClassifier, FusionRegressor
from mmfuse.heads import ContextualFusion, EarlyFusion, contextual_path
from tests.samples import two_views

ALPHAS = [0.0, 1e-3, 1e-2, 1e-1, 1.0, 100.0]


def plain(alpha: float, **params) -> ContextualFusion:
    """The published objective: no modality dropout."""
    return ContextualFusion("a", "b", alpha=alpha, **{"C": 1.0, "modality_dropout": 0.0, **params})


def fitted(head: ContextualFusion, X, y) -> FusionClassifier:
    return FusionClassifier(head, calibration=None, random_state=0).fit(X, y)


@pytest.mark.parametrize("classes", [2, 3])
def test_penalty_is_scikit_learns_on_scaled_features(classes: int) -> None:
    """Dividing features by s multiplies the penalty of their weights by s squared."""
    X, y = two_views(classes=classes)
    n, C, alpha = len(y), 0.7, 0.05
    model = fitted(plain(alpha, C=C), X, y)
    a, b = (StandardScaler().fit_transform(X[name].astype(np.float32)) for name in ("a", "b"))
    # |w|^2 / (2C) + n alpha (|W|^2 over both columns, which is |w|^2 / 2 for the binary model)
    share = 0.5 if classes == 2 else 1.0
    scale = np.sqrt(1 + 2 * C * n * alpha * share)
    reference = LogisticRegression(C=C, tol=1e-10, max_iter=10_000)
    joined = np.hstack([a / scale, b])
    reference.fit(joined, y)
    np.testing.assert_allclose(model.predict_proba(X), reference.predict_proba(joined), atol=1e-5)


def test_ridge_with_a_suspect_block() -> None:
    rng = np.random.default_rng(0)
    X = {"a": rng.normal(size=(80, 3)), "b": rng.normal(size=(80, 2))}
    y = X["a"][:, 0] + X["b"][:, 0] + 0.1 * rng.normal(size=80)
    model = FusionRegressor(plain(0.5, C=2.0), random_state=0).fit(X, y)
    a, b = (StandardScaler().fit_transform(X[name].astype(np.float32)) for name in ("a", "b"))
    joined = np.hstack([a / np.sqrt(1 + 2 * 2.0 * 80 * 0.5), b])
    reference = Ridge(alpha=0.5).fit(joined, (y - y.mean()) / y.std())
    expected = reference.predict(joined) * y.std() + y.mean()
    np.testing.assert_allclose(model.predict(X), expected, atol=1e-5)


@pytest.mark.parametrize("suspect", ["foreground", "background"])
def test_limit_is_the_classifier_of_the_other_block(suspect: str) -> None:
    X, y = two_views()
    other = "b" if suspect == "foreground" else "a"
    limit = fitted(plain(1e9, suspect=suspect), X, y)
    alone = FusionClassifier(
        EarlyFusion(C=1.0, modality_dropout=0.0), calibration=None, random_state=0
    ).fit({other: X[other]}, y)
    expected = alone.predict_proba({other: X[other]})
    np.testing.assert_allclose(limit.predict_proba(X), expected, atol=1e-6)
    norms = limit.history_["norms"]
    assert norms.pop(other) > 0.1 and max(norms.values()) < 1e-6


def test_alpha_zero_is_early_fusion() -> None:
    X, y = two_views(absent=0.3)
    early, model = (
        FusionClassifier(head, calibration=None, random_state=0).fit(X, y)
        for head in (EarlyFusion(C=0.3), ContextualFusion("a", "b", alpha=0.0, C=0.3))
    )
    np.testing.assert_allclose(model.predict_proba(X), early.predict_proba(X), atol=1e-6)


def test_path_leaves_the_suspect() -> None:
    X, y = two_views(absent=0.2)
    model = FusionClassifier(plain(0.0), random_state=0)
    path = contextual_path(model, X, y, ALPHAS)
    assert isinstance(path, pd.DataFrame) and path.index.tolist() == ALPHAS
    assert path.columns.tolist() == ["held_out_loss", "norm_a", "norm_b"]
    assert (np.diff(path["norm_a"]) <= 1e-9).all()
    assert path["norm_a"].iloc[-1] < 0.05 * path["norm_a"].iloc[0]
    assert path["held_out_loss"].iloc[-1] > path["held_out_loss"].iloc[0]
    assert not hasattr(model, "head_")


def test_path_is_the_separate_fits() -> None:
    X, y = two_views(absent=0.2)
    head = ContextualFusion("a", "b")
    model = FusionClassifier(head, random_state=0)
    path = contextual_path(model, X, y, [1.0, 0.001])
    for alpha in path.index:
        alone = FusionClassifier(ContextualFusion("a", "b", alpha=alpha), random_state=0).fit(X, y)
        assert path["norm_a"][alpha] == pytest.approx(alone.history_["norms"]["a"], rel=1e-4)
        loss = alone.history_["held_out_loss"]
        assert path["held_out_loss"][alpha] == pytest.approx(loss, rel=1e-6)


def test_path_of_a_regressor_without_folds() -> None:
    X, y = two_views(40)
    model = FusionRegressor(plain(0.0), random_state=0)
    with pytest.warns(UserWarning, match="one group"):
        path = contextual_path(model, X, y * 1.0, [0.0, 1.0], groups=np.zeros(40))
    assert path["held_out_loss"].isna().all()
    assert path["norm_a"][1.0] < path["norm_a"][0.0]


def test_an_attack_on_the_suspect_does_less_harm() -> None:
    """The exact worst case within a box for a linear layer: a step along the sign of the slope."""
    X, y = two_views(300)
    scores = []
    for alpha in (0.0, 1e6):
        model = fitted(plain(alpha), X, y)
        blocks = model.encode(X)
        a = torch.tensor(blocks["a"], dtype=torch.float64, requires_grad=True)
        tensors = {"a": a, "b": torch.tensor(blocks["b"])}
        logits = model.head_(model.scaler_(tensors), torch.as_tensor(blocks.present)).scores
        torch.nn.functional.cross_entropy(logits, torch.as_tensor(y)).backward()
        attacked = {"a": X["a"] + 1.5 * a.grad.sign().numpy(), "b": X["b"]}
        scores.append((model.score(X, y), model.score(attacked, y)))
    (clean, hurt), (robust_clean, robust_hurt) = scores
    assert hurt < clean - 0.2
    assert robust_hurt == robust_clean > hurt


def test_further_blocks_and_roles() -> None:
    X, y = two_views(60)
    table = {"c": X["a"][:, :1], "a": X["a"], "b": X["b"]}
    head = ContextualFusion("a", suspect="c", alpha=1e6)
    assert head.roles(dict.fromkeys(table, 1)) == {"foreground": "a", "background": "c"}
    model = FusionClassifier(head, random_state=0).fit(table, y)
    norms = model.history_["norms"]
    assert norms["c"] < 1e-4 < min(norms["a"], norms["b"])
    assert model.history_["suspect"] == "c"
    assert ContextualFusion(background="c").roles(dict.fromkeys(table, 1))["foreground"] == "a"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"foreground": "c"}, "foreground must be one of the modalities a, b, or None; got 'c'"),
        ({"background": "c"}, "background must be one of the modalities a, b, or None; got 'c'"),
        ({"foreground": "a", "background": "a"}, "foreground and background must differ"),
        ({"suspect": "c"}, "suspect must be 'foreground', 'background' or one of the modalities"),
        ({"alpha": -1}, "alpha must be a finite number from 0 on; got -1"),
        ({"alpha": "cv"}, "alpha must be a finite number"),
        ({"C": 0}, "C must be 'cv' or a positive number"),
        ({"modality_dropout": 1.0}, r"modality_dropout must be in \[0, 1\)"),
    ],
)
def test_bad_parameters_are_named(params: dict, message: str) -> None:
    X, y = two_views(30)
    with pytest.raises(ValueError, match=message):
        FusionClassifier(ContextualFusion(**params)).fit(X, y)


def test_path_needs_its_head_and_an_alpha() -> None:
    X, y = two_views(30)
    with pytest.raises(ValueError, match="needs an estimator with a ContextualFusion head"):
        contextual_path(FusionClassifier(), X, y, [1.0])
    with pytest.raises(ValueError, match="at least one alpha"):
        contextual_path(FusionClassifier(ContextualFusion()), X, y, [])
