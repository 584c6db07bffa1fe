"""Ordered classes: the cumulative link, its solver, its module and Frank-Hall clones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from mmfuse.cumulative import class_thresholds, log_probabilities, uniform_thresholds
from mmfuse.heads.cumulative import CumulativeModule, module_for
from mmfuse.heads.frank_hall import FrankHallModule
from mmfuse.heads.linear import LinearModule
from mmfuse.objectives import Cumulative
from mmfuse.patterns import dropout_masks
from mmfuse.solver.ordinal import OrdinalProblems


def graded(n: int = 150, classes: int = 4, seed: int = 0):
    """Two blocks, the second with gaps, and ordered classes of a latent score."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, 3)), rng.normal(size=(n, 2))
    latent = a @ [1.0, -0.5, 0.0] + b @ [0.8, 0.2] + rng.logistic(size=n)
    edges = np.quantile(latent, np.linspace(0, 1, classes + 1)[1:-1])
    presence = np.ones((n, 2), dtype=bool)
    presence[::4, 1] = False
    b[::4] = 0.0
    blocks = [torch.as_tensor(a), torch.as_tensor(b)]
    return blocks, torch.as_tensor(presence), torch.as_tensor(np.digitize(latent, edges))


def problems(blocks, presence, y, classes: int, rate: float = 0.2) -> OrdinalProblems:
    masks, chances = dropout_masks(presence, rate)
    return OrdinalProblems(
        blocks, presence, y, Cumulative(classes), masks=masks, mask_weight=chances
    )


# -- the link ----------------------------------------------------------------------------------


def test_probabilities_are_differences_of_sigmoids() -> None:
    rng = np.random.default_rng(0)
    latent, threshold = rng.normal(size=20), np.array([-1.0, 0.2, 2.0])
    p = log_probabilities(torch.as_tensor(latent), torch.as_tensor(threshold)).exp().numpy()
    below = np.hstack([expit(threshold - latent[:, None]), np.ones((20, 1))])
    np.testing.assert_allclose(p, np.diff(below, axis=1, prepend=0.0), atol=1e-14)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-14)


def test_cumulative_probabilities_fall_with_the_latent_score() -> None:
    latent = torch.linspace(-50, 50, 200, dtype=torch.float64)
    log_p = log_probabilities(latent, torch.tensor([-1.0, 0.0, 0.5], dtype=torch.float64))
    assert torch.isfinite(log_p).all()  # also where plain differences are zero
    below = log_p.exp().cumsum(dim=1)
    assert (below.diff(dim=0) <= 1e-15).all()
    assert torch.autograd.gradcheck(
        log_probabilities,
        (
            torch.tensor([0.3, -2.0], dtype=torch.float64, requires_grad=True),
            torch.tensor([-1.0, 0.4], dtype=torch.float64, requires_grad=True),
        ),
    )


def test_thresholds_give_back_the_shares() -> None:
    share = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    zero = torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(log_probabilities(zero, class_thresholds(7 * share)).exp(), share)
    torch.testing.assert_close(
        log_probabilities(zero, uniform_thresholds(5)).exp(), torch.full((5,), 0.2).double()
    )


# -- the solver ----------------------------------------------------------------------------------


def reference_fit(X, y, weight, classes: int, strength: float):
    """Penalised maximum likelihood by scipy, with the gaps as logarithms."""

    def unpack(theta):
        cut = theta[X.shape[1] :]
        return theta[: X.shape[1]], np.cumsum([cut[0], *np.exp(cut[1:])])

    def cost(theta) -> float:
        w, cut = unpack(theta)
        below = np.hstack([expit(cut - (X @ w)[:, None]), np.ones((len(X), 1))])
        p = np.diff(below, axis=1, prepend=0.0)[np.arange(len(X)), y]
        return -(weight @ np.log(p)) + w @ w / (2 * strength)

    start = np.concatenate([np.zeros(X.shape[1] + 1), np.zeros(classes - 2)])
    best = minimize(cost, start, method="BFGS", options={"gtol": 1e-7, "maxiter": 2000})
    return unpack(best.x)


@pytest.mark.parametrize(("classes", "strength"), [(3, 1e6), (5, 1e6), (4, 0.3)])
def test_coefficients_and_thresholds_are_those_of_maximum_likelihood(classes, strength) -> None:
    blocks, presence, y = graded(classes=classes)
    everywhere = torch.ones_like(presence)
    weight = np.random.default_rng(1).integers(0, 3, len(y)).astype(float)
    solver = problems(blocks, everywhere, y, classes, rate=0.0)
    options = torch.full((1, 2), strength, dtype=torch.float64)
    theta, converged, n_iter = solver.solve(torch.as_tensor(weight)[:, None], options)
    found = solver.solution(theta, converged, n_iter)
    X = torch.cat(blocks, dim=1).numpy()
    coef, threshold = reference_fit(X, y.numpy(), weight, classes, strength)
    assert converged.all() and n_iter < 20
    np.testing.assert_allclose(torch.cat(found.coef, dim=1)[0, :, 0], coef, atol=1e-4)
    np.testing.assert_allclose(found.threshold[0], threshold, atol=1e-4)


def test_gradient_and_curvature_by_finite_differences() -> None:
    blocks, presence, y = graded()
    solver = problems(blocks, presence, y, 4)
    rng = np.random.default_rng(0)
    weight = torch.as_tensor(rng.random((len(y), 2)))
    weight[y == 2, 1] = 0.0  # the second problem lacks a class
    strength = torch.as_tensor(rng.random((2, 2)))
    theta = torch.as_tensor(0.3 * rng.normal(size=(2, solver.n_parameters)))
    theta[:, -3:] = torch.tensor([-1.0, 0.1, 1.5])
    extended, penalty = solver._all_weight(weight), 1.0 / strength
    point = solver._evaluate(theta, extended, penalty)
    diagonal = solver._diagonal(point, penalty)
    for j in range(solver.n_parameters):
        step = torch.zeros_like(theta)
        step[:, j] = 1e-6
        up, down = (solver._evaluate(theta + s, extended, penalty) for s in (step, -step))
        slope = (up.value - down.value) / 2e-6
        torch.testing.assert_close(slope, point.gradient[:, j], atol=1e-5, rtol=1e-6)
        curved = solver._curve(point, step / 1e-6, penalty)
        torch.testing.assert_close(
            (up.gradient - down.gradient) / 2e-6, curved, atol=1e-5, rtol=1e-6
        )
        torch.testing.assert_close(curved[:, j], diagonal[:, j])


def test_many_problems_are_many_single_ones() -> None:
    blocks, presence, y = graded()
    solver = problems(blocks, presence, y, 4)
    rng = np.random.default_rng(0)
    weight = torch.as_tensor(rng.integers(0, 2, (len(y), 3)).astype(float))
    strength = torch.tensor([[0.01, 1.0], [1.0, 1.0], [1e4, 1e3]], dtype=torch.float64)
    together, converged, _ = solver.solve(weight, strength)
    assert converged.all()
    for b in range(3):
        alone, _, _ = solver.solve(weight[:, b : b + 1], strength[b : b + 1])
        torch.testing.assert_close(alone[0], together[b], atol=1e-7, rtol=1e-7)
    again, _, n_iter = solver.solve(weight, strength, start=together)
    assert n_iter <= 1
    torch.testing.assert_close(again, together, atol=1e-7, rtol=1e-7)


def test_a_weight_of_two_is_a_row_twice() -> None:
    blocks, presence, y = graded(60)
    strength = torch.ones(1, 2, dtype=torch.float64)
    weight = torch.ones(60, 1, dtype=torch.float64)
    weight[:20] = 2.0
    once, _, _ = (s := problems(blocks, presence, y, 4)).solve(weight, strength)
    rows = torch.cat([torch.arange(60), torch.arange(20)])
    twice = problems([b[rows] for b in blocks], presence[rows], y[rows], 4)
    theta, _, _ = twice.solve(torch.ones(80, 1, dtype=torch.float64), strength)
    torch.testing.assert_close(s.scores(once), twice.scores(theta)[:60], atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_class_without_rows_is_unlikely_and_harms_nothing(lost: int) -> None:
    blocks, presence, y = graded()
    solver = problems(blocks, presence, y, 4)
    weight = (y != lost).double()[:, None]
    theta, converged, _ = solver.solve(weight, torch.ones(1, 2, dtype=torch.float64))
    log_p = solver.scores(theta)[:, 0]
    assert converged.all() and torch.isfinite(log_p).all()
    assert (theta[:, -3:].diff(dim=1) > 0).all()
    assert log_p[:, lost].exp().max() < 0.01
    kept = [k for k in range(4) if k != lost]
    rest = torch.searchsorted(torch.tensor(kept), y[y != lost])
    part = problems([b[y != lost] for b in blocks], presence[y != lost], rest, 3)
    fewer, _, _ = part.solve(
        torch.ones(len(rest), 1, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    )
    # the classes that are there are answered as by a model that never heard of the other
    torch.testing.assert_close(
        log_p[y != lost][:, kept].exp(), part.scores(fewer)[:, 0].exp(), atol=0.02, rtol=0
    )


def test_separable_classes_have_finite_answers() -> None:
    x = torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None]
    y = torch.arange(30) // 10
    solver = problems([x], torch.ones(30, 1, dtype=torch.bool), y, 3)
    weight = torch.ones(30, 1, dtype=torch.float64)
    theta, converged, _ = solver.solve(weight, torch.full((1, 1), 1e6, dtype=torch.float64))
    assert converged.all()
    assert (solver.scores(theta)[:, 0].argmax(dim=1) == y).all()


# -- modules -----------------------------------------------------------------------------------


def test_the_module_says_what_the_solver_says() -> None:
    blocks, presence, y = graded()
    solver = problems(blocks, presence, y, 4)
    weight, strength = torch.ones(len(y), 1).double(), torch.ones(1, 2).double()
    theta, converged, n_iter = solver.solve(weight, strength)
    module = module_for(LinearModule, {"a": 3, "b": 2}, 4, "ordinal")
    module.assign(solver.solution(theta, converged, n_iter), 0)
    output = module(dict(zip("ab", blocks, strict=True)), presence)
    torch.testing.assert_close(output.scores, solver.scores(theta)[:, 0])
    torch.testing.assert_close(module.threshold.detach(), theta[0, -3:])
    assert output.extras["latent"].shape == (len(y),)


def test_thresholds_stay_in_order_and_start_from_the_shares() -> None:
    module = CumulativeModule(LinearModule({"a": 2}, 1, "regression"), 4)
    y = torch.tensor([0, 0, 0, 3, 3, 2])
    module.start(y, torch.ones(6))
    p = module({"a": torch.zeros(1, 2)}, torch.ones(1, 1, dtype=torch.bool)).scores.exp()[0]
    np.testing.assert_allclose(p.detach(), [1 / 2, 0, 1 / 6, 1 / 3], atol=1e-3)
    with torch.no_grad():
        module.raw_threshold.copy_(torch.tensor([5.0, -3.0, -9.0]))
    assert (module.threshold.diff() > 0).all()


def test_other_tasks_get_the_plain_module() -> None:
    assert type(module_for(LinearModule, {"a": 2}, 3, "classification")) is LinearModule


# -- Frank and Hall ------------------------------------------------------------------------------


def test_clones_answer_their_thresholds() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2))
    y = np.digitize(X[:, 0] + 0.5 * rng.normal(size=200), [-0.5, 0.7])
    module = FrankHallModule({"x": 2}, 3, "ordinal")
    module.learn([LogisticRegression()] * 2, X, y, np.ones(200))
    present = torch.ones(200, 1, dtype=torch.bool)
    p = module({"x": torch.as_tensor(X)}, present).scores.exp().numpy()
    for k in range(2):
        alone = LogisticRegression().fit(X, y > k).predict_proba(X)[:, 1]
        even = 0.01 * (2 - k) / 3  # a hundredth is spread over the classes
        np.testing.assert_allclose(p[:, k + 1 :].sum(axis=1), 0.99 * alone + even, atol=1e-6)


class Stubborn:
    """Says one thing, whatever it sees."""

    def __init__(self, answer: float) -> None:
        self.answer = answer

    def predict_proba(self, X):
        return np.tile([1 - self.answer, self.answer], (len(X), 1))

    def __sklearn_tags__(self):
        return LogisticRegression().__sklearn_tags__()


def test_clones_that_contradict_each_other_are_brought_in_order() -> None:
    module = FrankHallModule({"x": 1}, 4, "ordinal")
    module.estimators = {f"above_{k}": Stubborn(p) for k, p in enumerate([0.5, 0.8, 0.1])}
    one = torch.ones(1, 1)
    p = module({"x": one}, one.bool()).scores.exp().numpy()[0]
    np.testing.assert_allclose(p, 0.99 * np.array([0.2, 0.3, 0.4, 0.1]) + 0.01 / 4)


def test_a_threshold_without_rows_on_one_side_is_constant() -> None:
    X = np.random.default_rng(0).normal(size=(40, 2))
    y = np.repeat([1, 2], 20)  # of four classes
    module = FrankHallModule({"x": 2}, 4, "ordinal")
    module.learn([LogisticRegression()] * 3, X, y, np.ones(40))
    assert set(module.estimators) == {"above_1"}
    np.testing.assert_array_equal(module.constant, [1.0, np.nan, 0.0])
    present = torch.ones(40, 1, dtype=torch.bool)
    p = module({"x": torch.as_tensor(X)}, present).scores.exp().numpy()
    assert p[:, [0, 3]].max() < 0.003
