"""The linear solver against scikit-learn, which minimises the same objective."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression, Ridge

from mmfuse import FusionRegressor
from mmfuse.heads import EarlyFusion
from mmfuse.heads.linear import LinearModule
from mmfuse.objectives import Absolute, Huber, Multinomial, Pinball, Squared
from mmfuse.patterns import dropout_masks
from mmfuse.solver import LinearProblems


def problem(seed: int) -> tuple:
    rng = np.random.default_rng(seed)
    n, d, k = int(rng.integers(30, 200)), int(rng.integers(2, 60)), int(rng.integers(2, 6))
    mix = np.eye(d) + 0.3 * rng.normal(size=(d, d)) / np.sqrt(d)
    X = rng.normal(size=(n, d)) @ mix
    y = np.argmax(X[:, : min(k, d)] + 2 * rng.gumbel(size=(n, min(k, d))), axis=1)
    return X, y, rng.uniform(0.1, 3, n), 10.0 ** rng.uniform(-3, 2)


def solve(blocks, target, outputs, weight, strength, loss=Multinomial, presence=None, rate=0.0):
    n = len(target)
    presence = torch.ones(n, len(blocks), dtype=torch.bool) if presence is None else presence
    masks, chances = dropout_masks(presence, rate)
    problems = LinearProblems(
        [torch.as_tensor(b) for b in blocks],
        presence,
        torch.as_tensor(target),
        loss(outputs),
        masks=masks,
        mask_weight=chances,
    )
    strength = torch.as_tensor(strength, dtype=torch.float64).reshape(-1, len(blocks))
    weight = torch.as_tensor(weight).reshape(n, -1)
    return problems, problems.solve(weight, strength)


@pytest.mark.parametrize("seed", range(50))
def test_equals_logistic_regression(seed: int) -> None:
    X, y, w, C = problem(seed)
    classes, y = np.unique(y, return_inverse=True)
    k = len(classes)
    reference = LogisticRegression(C=C, tol=1e-12, max_iter=100_000).fit(X, y, sample_weight=w)
    problems, (theta, converged, n_iter) = solve([X], y, k, w, C)
    solution = problems.solution(theta, converged, n_iter)
    ours = solution.coef[0][0].T.numpy()
    theirs = reference.coef_ - reference.coef_.mean(axis=0)
    ours = ours - ours.mean(axis=0)
    if k == 2:
        ours, theirs = ours[1:] - ours[:1], reference.coef_
    assert converged.all()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())
    proba = torch.softmax(problems.scores(theta)[:, 0], dim=1).numpy()
    np.testing.assert_allclose(proba, reference.predict_proba(X), atol=1e-5)


def test_equals_ridge() -> None:
    rng = np.random.default_rng(0)
    X, Y, w = rng.normal(size=(80, 7)), rng.normal(size=(80, 2)), rng.uniform(0.1, 2, 80)
    reference = Ridge(alpha=1 / 0.3).fit(X, Y, sample_weight=w)
    problems, (theta, converged, n_iter) = solve([X], Y, 2, w, 0.3, loss=Squared)
    solution = problems.solution(theta, converged, n_iter)
    np.testing.assert_allclose(solution.coef[0][0].numpy(), reference.coef_.T, atol=1e-8)
    np.testing.assert_allclose(solution.intercept[0].numpy(), reference.intercept_, atol=1e-8)


def test_problems_solved_together_equal_each_alone() -> None:
    X, y, w, _ = problem(3)
    k = len(np.unique(y))
    weights = np.stack([w, w * (np.arange(len(y)) % 3 > 0)], axis=1)
    strengths = [0.01, 10.0]
    together = solve([X], y, k, weights, strengths)[1][0]
    for b in range(2):
        alone = solve([X], y, k, weights[:, b], strengths[b])[1][0]
        torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-6, atol=1e-8)


def test_dropout_objective_equals_training_on_masked_copies() -> None:
    """Every pattern as a weighted copy of the rows, tokens as indicator features."""
    rng = np.random.default_rng(1)
    n, rate, C = 60, 0.3, 0.7
    a, b = rng.normal(size=(n, 3)), rng.normal(size=(n, 2))
    y = (a[:, 0] + b[:, 0] + 0.5 * rng.normal(size=n) > 0).astype(int)
    presence = torch.as_tensor(rng.random((n, 2)) < 0.8)
    presence[~presence.any(1)] = True
    has = presence.numpy()
    a, b = a * has[:, :1], b * has[:, 1:]
    problems, (theta, *_) = solve([a, b], y, 2, np.ones(n), [C, C], presence=presence, rate=rate)
    masks, chances = dropout_masks(presence, rate)
    rows, weight = [], []
    for s in range(masks.shape[1]):
        kept = masks[:, s].numpy()
        rows.append(np.hstack([a * kept[:, :1], b * kept[:, 1:], ~kept]))
        weight.append(np.full(n, float(chances[s])))
    reference = LogisticRegression(C=C, tol=1e-12, max_iter=100_000)
    reference.fit(np.vstack(rows), np.tile(y, len(rows)), sample_weight=np.concatenate(weight))
    ours = problems.scores(theta)[:, 0]
    expected = reference.decision_function(np.hstack([a, b, ~has]))
    np.testing.assert_allclose((ours[:, 1] - ours[:, 0]).numpy(), expected, atol=1e-5)


def test_gradient_matches_finite_differences() -> None:
    X, y, w, C = problem(5)
    k = len(np.unique(y))
    problems, _ = solve([X], y, k, w, C)
    weight, strength = torch.as_tensor(w)[:, None], torch.tensor([[C]], dtype=torch.float64)
    theta = torch.randn(1, problems.n_parameters, dtype=torch.float64) * 0.1
    gradient = problems.objective(theta, weight, strength).gradient
    for i in range(0, problems.n_parameters, 7):
        step = torch.zeros_like(theta)
        step[0, i] = 1e-6
        up = problems.objective(theta + step, weight, strength).value
        down = problems.objective(theta - step, weight, strength).value
        assert float((up - down) / 2e-6) == pytest.approx(float(gradient[0, i]), rel=1e-4, abs=1e-5)


def test_no_lower_point_is_found_by_another_method() -> None:
    X, y, w, C = problem(8)
    k = len(np.unique(y))
    problems, (theta, *_) = solve([X], y, k, w, C)
    weight, strength = torch.as_tensor(w)[:, None], torch.tensor([[C]], dtype=torch.float64)

    def function(flat: np.ndarray) -> tuple[float, np.ndarray]:
        found = problems.objective(torch.as_tensor(flat)[None], weight, strength)
        return float(found.value), found.gradient[0].numpy()

    ours = float(problems.objective(theta, weight, strength).value)
    other = minimize(function, np.zeros(theta.shape[1]), jac=True, method="BFGS")
    assert ours <= other.fun + 1e-9 * abs(other.fun)


@pytest.mark.parametrize("loss", [Squared(1), Absolute(1), Huber([0.8]), Pinball([0.1, 0.5, 0.9])])
def test_values_are_learned_in_float32(loss) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 5))
    y = torch.as_tensor(X[:, :1] + 0.3 * rng.normal(size=(300, 1)))
    everything = torch.ones(300, 1, dtype=torch.bool)
    masks, chances = dropout_masks(everything, 0.0)
    scores = []
    for dtype in (torch.float64, torch.float32):
        problems = LinearProblems(
            [torch.as_tensor(X).to(dtype)],
            everything,
            y,
            loss,
            masks=masks,
            mask_weight=chances,
            dtype=dtype,
        )
        theta, _, _ = problems.solve(torch.ones(300, 1), torch.ones(1, 1), tol=1e-6)
        scores.append(problems.scores(theta)[:, 0].double().numpy())
    np.testing.assert_allclose(scores[1], scores[0], atol=2e-3 * scores[0].std())


def test_regression_on_many_numbers_equals_ridge() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5001, 100))  # more than are kept in float64
    y = X[:, 0] - X[:, 1] + rng.normal(size=5001)
    model = FusionRegressor(EarlyFusion(C=0.01), random_state=0, calibration=None).fit(X, y)
    assert isinstance(model.head_, LinearModule)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    reference = Ridge(alpha=100.0).fit(Z, y).predict(Z)
    np.testing.assert_allclose(model.predict(X), reference, atol=1e-3)
