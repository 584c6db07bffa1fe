"""Densities and their recalibration."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy.stats import kstest, norm
from sklearn.exceptions import NotFittedError

from mmfuse import Density
from mmfuse.density.recalibration import PITRecalibrator
from mmfuse.metrics import cde_loss, crps, pit

EDGES = np.array([0.0, 1.0, 2.0, 4.0, 4.5])


def random_density(n: int = 6, seed: int = 0) -> Density:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(4), n)
    p[0], p[1] = [0, 1, 0, 0], [0.5, 0, 0.5, 0]
    return Density(EDGES, p)


# -- Density ----------------------------------------------------------------------------------


def test_pdf_integrates_to_the_cdf() -> None:
    density = random_density()
    grid = np.linspace(-1, 5, 60_001)
    height = density.pdf(grid)
    np.testing.assert_allclose(np.trapezoid(height, grid, axis=1), 1.0, atol=1e-3)
    running = np.cumsum(height, axis=1) * (grid[1] - grid[0])
    np.testing.assert_allclose(running, density.cdf(grid), atol=2e-3)
    np.testing.assert_array_equal(density.cdf([-1.0, 0.0, 4.5, 9.0])[0], [0, 0, 1, 1])
    assert density.pdf(-0.1).tolist() == [0.0] * 6 == density.pdf(4.6).tolist()
    assert (density.pdf(4.5) == density.pdf(4.4)).all()  # the last bin has its right edge


def test_quantile_inverts_the_cdf() -> None:
    density = random_density()
    q = np.linspace(0, 1, 101)
    x = density.quantile(q)
    np.testing.assert_allclose(density.cdf(x), np.tile(q, (6, 1)), atol=1e-12)
    assert (np.diff(x, axis=1) >= 0).all()
    np.testing.assert_allclose(density.quantile([0.0, 0.5, 1.0])[0], [1.0, 1.5, 2.0])
    np.testing.assert_allclose(density.quantile([0.5, 0.500001, 1.0])[1], [1, 2, 4], atol=1e-4)


def test_shapes_of_points() -> None:
    density = random_density()
    for method in (density.pdf, density.cdf, density.quantile):
        assert method(0.5).shape == (6,)
        assert method([0.1, 0.5]).shape == (6, 2)
        own = method(np.linspace(0, 1, 6)[:, None])
        assert own.shape == (6, 1)
        np.testing.assert_array_equal(own[:, 0], np.diag(method(np.linspace(0, 1, 6))))
        with pytest.raises(ValueError, match=r"points of shape \(6, m\); got \(5, 2\)"):
            method(np.full((5, 2), 0.5))
    assert np.isnan(density.pdf(np.nan)).all() and np.isnan(density.cdf([np.nan, 1.0])[:, 0]).all()


def test_summaries_agree_with_many_draws() -> None:
    density = random_density()
    draws = density.sample(100_000, random_state=0)
    assert draws.shape == (6, 100_000)
    np.testing.assert_allclose(draws.mean(axis=1), density.mean(), atol=0.02)
    np.testing.assert_allclose(draws.std(axis=1), density.std(), atol=0.02)
    inside = density.interval(0.8)
    share = (draws > inside[:, :1]) & (draws < inside[:, 1:])
    np.testing.assert_allclose(share.mean(axis=1), 0.8, atol=0.01)
    np.testing.assert_allclose(np.median(draws, axis=1)[2:], density.median()[2:], atol=0.03)
    np.testing.assert_array_equal(density.sample(3, 1), density.sample(3, 1))


def test_mode_is_of_the_density_not_of_the_bin_mass() -> None:
    assert Density([0.0, 1.0, 4.0], [[0.4, 0.6]]).mode().tolist() == [0.5]


def test_normals_on_a_grid() -> None:
    grid = np.linspace(-8, 8, 801)
    density = Density.from_normal([0.0, 1.0], [1.0, 0.5], grid)
    np.testing.assert_allclose(density.mean(), [0, 1], atol=1e-9)
    np.testing.assert_allclose(density.std(), [1, 0.5], atol=1e-3)
    np.testing.assert_allclose(density.interval(0.9)[0], norm.interval(0.9), atol=1e-3)
    beyond = Density.from_normal([9.0], 0.1, [0.0, 1.0, 2.0])
    np.testing.assert_allclose(beyond.probabilities, [[0, 1]])
    with pytest.raises(ValueError, match="std above 0"):
        Density.from_normal([0.0], 0.0, grid)


def test_rows_are_densities() -> None:
    density = random_density()
    assert len(density) == 6 and len(density[2:]) == 4 and len(density[[]]) == 0
    np.testing.assert_array_equal(density[[3, 1]].probabilities, density.probabilities[[3, 1]])
    assert repr(density[:1]) == "Density(1 row, 4 bins from 0 to 4.5)"
    with pytest.raises(TypeError, match="Density keeps its row axis"):
        density[2]
    with pytest.raises(ValueError, match="read-only"):
        density.probabilities[0, 0] = 1.0
    empty = density[[]]
    assert empty.mean().shape == empty.median().shape == (0,) and empty.interval().shape == (0, 2)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(density)).mean(), density.mean())


@pytest.mark.parametrize(
    ("edges", "probabilities", "message"),
    [
        ([0.0], [[1.0]], "at least two numbers"),
        ([0.0, 0.0, 1.0], [[0.5, 0.5]], "strictly increasing"),
        ([0.0, np.inf], [[1.0]], "finite and strictly increasing"),
        ([0.0, 1.0], [1.0], r"must have the shape \(n, 1\).*got \(1,\)"),
        ([0.0, 1.0, 2.0], [[0.5, 0.5], [0.4, 0.4]], "row 1 has values .* with the sum 0.8"),
        ([0.0, 1.0, 2.0], [[-0.5, 1.5]], "non-negative and sum to 1; row 0"),
        ([0.0, 1.0], [[np.nan]], "row 0 has values from nan"),
    ],
)
def test_bad_densities(edges: list, probabilities: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Density(edges, probabilities)


def test_bad_levels() -> None:
    with pytest.raises(ValueError, match=r"levels must lie in \[0, 1\]"):
        random_density().quantile(1.1)
    with pytest.raises(ValueError, match=r"coverage must be in \(0, 1\]; got 90"):
        random_density().interval(90)


def test_qp_ensemble_has_the_same_densities() -> None:
    pytest.importorskip("qp", reason="qp-prob, of the extra astro, is not installed")
    density = random_density()
    grid = np.array([0.3, 1.7, 2.9, 4.2])
    ensemble = density.to_qp()
    np.testing.assert_allclose(ensemble.pdf(grid), density.pdf(grid), atol=1e-12)
    np.testing.assert_allclose(ensemble.cdf(grid), density.cdf(grid), atol=1e-12)


# -- recalibration ----------------------------------------------------------------------------


def narrow(n: int, factor: float, seed: int = 0) -> tuple[Density, np.ndarray]:
    """Normal densities whose standard deviation is ``factor`` of the true one, and the truth."""
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=n), rng.uniform(0.5, 1.0, n)
    return Density.from_normal(mean, factor * std, np.linspace(-8, 8, 321)), rng.normal(mean, std)


@pytest.mark.parametrize("factor", [0.4, 2.0])
def test_recalibration_makes_the_transform_uniform(factor: float) -> None:
    recalibrator = PITRecalibrator().fit(*narrow(4000, factor))
    density, y = narrow(2000, factor, seed=1)
    again = recalibrator.transform(density)
    before, after = (kstest(pit(d, y), "uniform").statistic for d in (density, again))
    assert before > 0.1 and after < 0.05
    assert crps(again, y) < crps(density, y) and cde_loss(again, y) < cde_loss(density, y)
    ratio = again.std().mean() / density.std().mean()
    assert ratio > 1.8 if factor < 1 else ratio < 0.65


def test_recalibration_leaves_right_densities_alone() -> None:
    recalibrator = PITRecalibrator().fit(*narrow(4000, 1.0))
    density, y = narrow(2000, 1.0, seed=1)
    assert crps(recalibrator.transform(density), y) == pytest.approx(crps(density, y), rel=0.01)
    assert np.abs(recalibrator.level_ - recalibrator.pit_).max() < 0.03


def test_the_map_increases_and_few_rows_hardly_bend_it() -> None:
    density, y = narrow(500, 0.3)
    bend = []
    for n in (1, 5, 50, 500):
        fitted = PITRecalibrator().fit(density[:n], y[:n])
        assert (np.diff(fitted.pit_) > 0).all() and (np.diff(fitted.level_) > 0).all()
        assert fitted.pit_[[0, -1]].tolist() == fitted.level_[[0, -1]].tolist() == [0, 1]
        bend.append(np.abs(fitted.level_ - fitted.pit_).max())
    assert bend[0] < 0.05 and bend[-1] > 0.15
    weighted = PITRecalibrator().fit(density, y, sample_weight=np.full(500, 7.0))
    np.testing.assert_allclose(weighted.pit_, fitted.pit_)


def test_truths_beyond_the_grid_do_not_break_recalibration() -> None:
    density = Density(EDGES, np.tile([0.0, 0.5, 0.5, 0.0], (30, 1)))
    y = np.r_[np.full(15, -3.0), np.full(15, 9.0)]
    again = PITRecalibrator().fit(density, y).transform(density)
    assert np.isfinite(again.probabilities).all()
    assert (again.std() > density.std()).all()


def test_recalibrator_refuses_bad_parameters() -> None:
    density, y = narrow(20, 1.0)
    for options, message in (
        ({"n_knots": 0}, "n_knots must be at least 1"),
        ({"shrinkage": 0.0}, "shrinkage must be above 0"),
        ({"floor": 1.0}, r"floor must be in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            PITRecalibrator(**options).fit(density, y)
    with pytest.raises(NotFittedError):
        PITRecalibrator().transform(density)
