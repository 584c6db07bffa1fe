"""Parts of the linear solver: columns, preconditioners, the minimiser, and the way of many rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mmfuse.objectives import Multinomial
from mmfuse.patterns import dropout_masks
from mmfuse.solver import LinearProblems
from mmfuse.solver.lbfgs import minimise
from mmfuse.solver.preconditioner import Axes, ByScorePreconditioner
from mmfuse.standardize import StandardisedBlocks, Standardizer


def correlated(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) @ (np.eye(d) + rng.normal(size=(d, d)) / 2)
    return (X * np.exp(rng.normal(size=d)) + 3 * rng.normal(size=d)).astype(np.float32)


def scaled(X: np.ndarray, dtype=torch.float32) -> tuple[StandardisedBlocks, np.ndarray]:
    """A block as the estimators give it, and its standardised form by scikit-learn."""
    raw = {"x": torch.from_numpy(X)}
    weight = torch.ones(len(X), dtype=torch.float64)
    scaler = Standardizer({"x": X.shape[1]}).fit(raw, weight)
    return StandardisedBlocks(raw, scaler, dtype), StandardScaler().fit_transform(X.astype(float))


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_a_column_multiplies_as_its_standardised_form(missing: bool, offset: float) -> None:
    """Folded where nothing is missing and means are near, else made chunk by chunk."""
    X = correlated(500, 7)
    X[:, 0] += offset
    if missing:
        X[3] = np.nan
    blocks, _ = scaled(X)
    column = blocks.column("x")
    assert column.folded == (not missing and offset == 0)
    expected = np.nan_to_num((X - np.nanmean(X, 0, np.float64)) / np.nanstd(X, 0, np.float64))
    coef = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    product, constant = column.forward(coef)
    forward = product @ column.chunk(slice(None)).T
    forward = forward if constant is None else forward + constant
    np.testing.assert_allclose(forward, coef.numpy() @ expected.T, atol=3e-3)
    back = torch.randn(4, 500, generator=torch.Generator().manual_seed(1))
    total = back.sum(1).double()
    ours = column.backward((back @ column.chunk(slice(None))).double(), total)
    np.testing.assert_allclose(ours, back.numpy() @ expected, atol=0.05)
    np.testing.assert_allclose(column.rows(torch.arange(9)), expected[:9], atol=2e-3)


@pytest.mark.parametrize("n", [50, 5000, 700_000])
def test_moments_made_in_parts_are_those_of_the_whole(n: int) -> None:
    X = correlated(n, 6)
    blocks, Z = scaled(X)
    mean, scale = blocks.scaler.statistics("x")
    np.testing.assert_allclose(mean, X.mean(0, dtype=np.float64), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scale, X.std(0, dtype=np.float64), rtol=1e-4)
    np.testing.assert_allclose(blocks["x"][:100], Z[:100], atol=2e-3)
    assert blocks["x"] is blocks["x"]  # made once


def test_minimiser_solves_quadratics_each_to_its_own_threshold() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 8, 8, dtype=torch.float64, generator=generator)
    matrix = root @ root.transpose(1, 2) + torch.eye(8, dtype=torch.float64)
    target = torch.randn(3, 8, dtype=torch.float64, generator=generator)

    def function(z, rows):
        away = z - target[rows]
        slope = torch.einsum("bij,bj->bi", matrix[rows], away)
        return 0.5 * (away * slope).sum(1), slope

    start, threshold = torch.zeros(3, 8, dtype=torch.float64), torch.tensor([1e-9, 1e-9, 1e9])
    z, done, n_iter = minimise(function, lambda g, rows: g, start, threshold, max_iter=200)
    assert done.all() and n_iter < 100
    torch.testing.assert_close(z[:2], target[:2], atol=1e-7, rtol=0)
    assert (z[2] == 0).all()  # was near enough from the start

    def exact(gradient, rows):
        return torch.linalg.solve(matrix[rows], gradient[..., None])[..., 0]

    z, _, n_iter = minimise(function, exact, start, threshold, max_iter=200)
    assert n_iter <= 2  # one step with the true curvature
    torch.testing.assert_close(z[:2], target[:2], atol=1e-7, rtol=0)


@pytest.mark.parametrize("shape", [(60, 5), (5, 12)])
def test_axes_preconditioner_inverts_where_features_share_their_axes(shape) -> None:
    """With one curvature for all rows the diagonal along the axes is the whole of it."""
    m, d = shape
    rows = torch.as_tensor(correlated(m, d)).double()
    bend = torch.full((m, 2, 3), 0.3, dtype=torch.float64)
    bend[:, 1] *= 2
    penalty = torch.linspace(0.5, 2.0, d, dtype=torch.float64).expand(2, d)
    inverse = Axes(rows, torch.ones(m, dtype=torch.float64), penalty).preconditioner(bend, penalty)
    gradient = torch.randn(2, d, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for b, c in ((0, 0.3), (1, 0.6)):
        curvature = c * rows.T @ rows + torch.diag(penalty[b])
        expected = torch.linalg.solve(curvature, gradient[b])
        ours = inverse(gradient[b : b + 1], torch.tensor([b]))[0]
        torch.testing.assert_close(ours, expected, atol=1e-8, rtol=1e-6)


def test_preconditioner_by_score_inverts_and_leaves_out() -> None:
    d = 6
    rows = torch.as_tensor(correlated(40, d)).double()
    moments = torch.stack([rows.T @ rows, 2 * rows.T @ rows + torch.eye(d)])
    scale = torch.full((3,), 0.8, dtype=torch.float64)
    penalty = torch.full((3, d), 0.7, dtype=torch.float64)
    free = torch.ones(3, d, dtype=torch.float64)
    free[2, :2] = 0
    inverse = ByScorePreconditioner(moments, scale, penalty, free)
    gradient = torch.randn(3, d, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = inverse(gradient, torch.arange(3))
    for b, first in enumerate((0, 0, 2)):
        for k in range(2):
            curvature = (0.8 * moments[k] + 0.7 * torch.eye(d))[first:, first:]
            expected = torch.linalg.solve(curvature, gradient[b, first:, k])
            torch.testing.assert_close(ours[b, first:, k], expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_many_rows_come_close_to_the_optimum(rate: float) -> None:
    """The way of many rows, which stops early, against the exact one."""
    rng = np.random.default_rng(0)
    n = 40_000
    y = rng.integers(0, 4, n)
    X = [correlated(n, 12, seed=s) for s in (1, 2)]
    for block in X:
        block[:, :4] += 1.5 * block[:, :4].std(0) * np.eye(4, dtype=np.float32)[y]
    presence = torch.ones(n, 2, dtype=torch.bool)
    masks, chances = dropout_masks(presence, rate)
    target, weight = torch.as_tensor(y), torch.ones(n, 1, dtype=torch.float64)
    strength = torch.tensor([[1.0, 0.1]], dtype=torch.float64)
    values = []
    for dtype, tol in ((torch.float32, 0.02), (torch.float64, 1e-8)):
        blocks = [scaled(block, dtype)[0] for block in X]
        problems = LinearProblems(
            [b.column("x") for b in blocks],
            presence,
            target,
            Multinomial(4),
            masks=masks,
            mask_weight=chances,
            dtype=dtype,
        )
        if dtype == torch.float64:
            problems.loss.uneven = False  # by the axes, to the end
        assert problems.by_score == (dtype == torch.float32)
        theta, converged, _ = problems.solve(weight, strength, tol=tol)
        assert converged.all()
        values.append(float(problems.objective(theta, weight, strength).value) / n)
    assert values[1] - 1e-6 < values[0] < values[1] + 1.5e-3
    if rate == 0:
        Z = np.hstack([StandardScaler().fit_transform(b.astype(float)) for b in X])
        Z[:, 12:] *= 0.1**0.5  # a weaker strength is a smaller feature
        model = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(Z, y)
        log_p = model.predict_log_proba(Z)
        loss = -log_p[np.arange(n), y].sum() + 0.5 * (model.coef_**2).sum()
        assert values[1] == pytest.approx(loss / n, rel=1e-5)


def test_a_subset_is_a_problem_of_its_blocks_alone() -> None:
    X = [torch.as_tensor(scaled(correlated(90, d, seed=d))[1]) for d in (4, 3)]
    y = torch.as_tensor(np.random.default_rng(0).integers(0, 3, 90))
    weight = torch.ones(90, 2, dtype=torch.float64)
    strength = torch.full((2, 2), 0.5, dtype=torch.float64)
    chance = torch.ones(1, dtype=torch.float64)

    def problems(blocks):
        there = torch.ones(90, len(blocks), dtype=torch.bool)
        masks = there[:, None]
        return LinearProblems(blocks, there, y, Multinomial(3), masks=masks, mask_weight=chance)

    kept = torch.tensor([[True, True], [False, True]])
    both = problems(X)
    theta, *_ = both.solve(weight, strength, kept=kept)
    alone = problems(X[1:])
    other, *_ = alone.solve(weight[:, :1], strength[:1, :1])
    torch.testing.assert_close(
        both.scores(theta)[:, 1], alone.scores(other)[:, 0], atol=1e-6, rtol=0
    )
    assert (both.solution(theta, None, 0).coef[0][1] == 0).all()
