"""Losses of point regression: against scikit-learn, under wild targets, and in every head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
)
from sklearn.linear_model import HuberRegressor, QuantileRegressor, Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from mmfuse import FusionRegressor, load
from mmfuse.exceptions import UnsupportedObjectiveError
from mmfuse.heads import AutoFusion, ContextualFusion, EarlyFusion, LateFusion
from mmfuse.objectives import Absolute, Huber, Pinball
from tests.head_list import FAST

HEADS = {
    "late": LateFusion(C=1.0),
    "early": EarlyFusion(C=1.0),
    "mlp": EarlyFusion("mlp", **FAST),
    "contextual": ContextualFusion(C=1.0),
    "trees": EarlyFusion(GradientBoostingRegressor(n_estimators=30)),
    "auto": AutoFusion({"early": EarlyFusion(C=1.0), "late": LateFusion(C=1.0)}),
}


def wild_views(n: int = 250, wild: float = 0.1, seed: int = 0) -> tuple[dict, np.ndarray]:
    """Two views of a value with normal noise; a share of the targets is far too high."""
    rng = np.random.default_rng(seed)
    X = {"a": rng.normal(size=(n, 3)), "b": rng.normal(size=(n, 2))}
    y = X["a"][:, 0] + 2 * X["b"][:, 0] + 0.3 * rng.normal(size=n)
    return X, y + np.where(rng.random(n) < wild, 30 * rng.random(n), 0.0)


def part(X: dict, rows: slice) -> dict:
    return {name: block[rows] for name, block in X.items()}


@pytest.mark.parametrize("objective", [Absolute(2), Huber([0.3, 1.0]), Pinball([0.1, 0.5, 0.8])])
def test_gradients_match_the_loss(objective) -> None:
    rng = np.random.default_rng(0)
    scores = torch.as_tensor(rng.normal(size=(50, 1, objective.n_outputs))).requires_grad_()
    width = 1 if objective.task == "quantiles" else objective.n_outputs
    target = torch.as_tensor(rng.normal(size=(50, width)))
    loss = objective.row_loss(scores[:, 0], target)
    (expected,) = torch.autograd.grad(loss.sum(), scores)
    value, gradient = objective.row_gradient(scores.detach(), target)
    torch.testing.assert_close(value[:, 0], loss.detach())
    torch.testing.assert_close(gradient, expected)
    assert (objective.bend(scores) > 0).all()


def one_block(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(500, 6)) @ (np.eye(6) + 0.4 * rng.normal(size=(6, 6)))
    return X.astype(np.float32), X[:, 0] - X[:, 1] + rng.standard_t(2, size=500)


def test_absolute_error_is_median_regression() -> None:
    X, y = one_block()
    model = FusionRegressor(EarlyFusion(C=1e4), loss="absolute").fit({"x": X}, y)
    reference = QuantileRegressor(quantile=0.5, alpha=0.0).fit(X, y)
    ours, theirs = (np.abs(y - m).mean() for m in (model.predict({"x": X}), reference.predict(X)))
    assert theirs <= ours < theirs * (1 + 2e-4)
    spread = 1.4826 * np.median(np.abs(y - np.median(y)))
    assert np.abs(model.predict({"x": X}) - reference.predict(X)).max() < 0.05 * spread


def test_huber_is_the_regression_of_scikit_learn() -> None:
    """With its threshold at the same place: scikit-learn's is epsilon times its own scale."""
    X, y = one_block()
    scaled = StandardScaler().fit_transform(X.astype(float))
    reference = HuberRegressor(epsilon=1.35, alpha=0.0, tol=1e-10, max_iter=5000).fit(scaled, y)
    model = FusionRegressor(EarlyFusion(C=1e6), loss="huber", random_state=0).fit({"x": X}, y)
    unit = model.residual_std_[0]
    assert np.abs(model.predict({"x": X}) - reference.predict(scaled)).max() < 0.1 * unit
    # exactly, with the threshold given
    centre, scale = model.prior_[0], model.target_scale_[0]
    from tests.test_solver import solve

    cut = 1.35 * reference.scale_ / scale
    target = (y - centre)[:, None] / scale
    problems, (theta, *_) = solve(
        [scaled], target, 1, np.ones(500), 1e8, loss=lambda _: Huber([cut])
    )
    found = centre + scale * problems.scores(theta)[:, 0, 0].numpy()
    np.testing.assert_allclose(found, reference.predict(scaled), atol=1e-4)


@pytest.mark.parametrize("loss", ["absolute", "huber"])
@pytest.mark.parametrize("name", HEADS)
def test_wild_targets_do_little_harm(name: str, loss: str) -> None:
    X, y = wild_views()
    clean_X, clean_y = wild_views(200, wild=0.0, seed=1)
    errors = {}
    for kind in ("squared", loss):
        model = FusionRegressor(HEADS[name], loss=kind, random_state=0).fit(X, y)
        errors[kind] = np.median(np.abs(model.predict(clean_X) - clean_y))
        assert np.isfinite(model.predict({"b": clean_X["b"]})).all()
    assert errors[loss] < 0.75 * errors["squared"]


def test_spread_and_density_stay_those_of_most_rows() -> None:
    X, y = wild_views(600)
    clean_X, clean_y = wild_views(400, wild=0.0, seed=1)
    for head in (EarlyFusion(C=1.0), LateFusion(C=1.0)):
        wide, model = (
            FusionRegressor(head, loss=loss, random_state=0).fit(X, y)
            for loss in ("squared", "absolute")
        )
        assert model.residual_std_[0] < 1.2 < 3.0 < wide.residual_std_[0]
        widths = [np.diff(m.predict_density(clean_X).interval()).mean() for m in (model, wide)]
        assert widths[0] < 0.4 * widths[1]
        ends = model.predict_density(clean_X).interval(0.8)
        inside = (ends[:, 0] < clean_y) & (clean_y < ends[:, 1])
        assert inside.mean() > 0.75
        assert model.score(clean_X, clean_y) > 0.8


def test_normal_errors_have_the_same_spread_under_every_loss() -> None:
    X, y = wild_views(1500, wild=0.0)
    for loss in ("squared", "absolute", "huber"):
        model = FusionRegressor(EarlyFusion(C=1.0), loss=loss, random_state=0).fit(X, y)
        assert model.residual_std_[0] == pytest.approx(0.3, abs=0.03)


def test_huber_with_a_wide_threshold_is_squared_error() -> None:
    X, y = wild_views(200, wild=0.0)
    model = FusionRegressor(
        EarlyFusion(C=1e6, modality_dropout=0), loss="huber", huber_threshold=1e4
    )
    joined = np.hstack([X["a"], X["b"]])
    reference = Ridge(alpha=1e-6).fit(joined, y).predict(joined)
    np.testing.assert_allclose(model.fit(X, y).predict(X), reference, atol=1e-4)


def test_two_targets_have_thresholds_of_their_own() -> None:
    X, y = wild_views(300)
    both = np.c_[y, 1000 * y]
    model = FusionRegressor(EarlyFusion(C=1.0), loss="huber", random_state=0).fit(X, both)
    found = model.predict(X)
    np.testing.assert_allclose(found[:, 1], 1000 * found[:, 0], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("loss", ["absolute", "huber"])
def test_losses_come_back_from_disk(loss: str, tmp_path: Path) -> None:
    X, y = wild_views(80)
    model = FusionRegressor(loss=loss, random_state=0).fit(X, y)
    again = load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    np.testing.assert_array_equal(again.predict_interval(X), model.predict_interval(X))
    assert again.loss == loss and again.output_ == "point"


def test_estimators_get_the_loss_or_are_refused() -> None:
    X, y = wild_views(100)
    forest = EarlyFusion(ExtraTreesRegressor(5))
    fitted = FusionRegressor(forest, loss="absolute").fit(X, y).head_.estimators["model"]
    assert fitted.criterion == "absolute_error"
    boosting = LateFusion(HistGradientBoostingRegressor(max_iter=5))
    module = FusionRegressor(boosting, loss="absolute").fit(X, y).head_
    assert {e.loss for e in module.all_estimators().values()} == {"absolute_error"}
    with pytest.raises(
        UnsupportedObjectiveError,
        match="HistGradientBoostingRegressor has no option for loss='huber'; .* {'loss': 'huber'}",
    ):
        FusionRegressor(boosting, loss="huber").fit(X, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "log"}, "loss must be 'squared', 'absolute' or 'huber'; got 'log'"),
        ({"loss": "huber", "huber_threshold": 0}, "huber_threshold must be a number above 0; got"),
        ({"loss": "huber", "output": "binned"}, "loss is for output='point', and output='binned'"),
    ],
)
def test_bad_parameters(options: dict, message: str) -> None:
    X, y = wild_views(40)
    with pytest.raises(ValueError, match=message):
        FusionRegressor(**options).fit(X, y)


@parametrize_with_checks(
    [
        FusionRegressor(LateFusion(C=1.0), loss="absolute", random_state=0),
        FusionRegressor(EarlyFusion(C=1.0), loss="huber", random_state=0),
    ]
)
def test_scikit_learn_contract(estimator, check) -> None:
    check(estimator)
