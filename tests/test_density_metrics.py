"""Scores of values and densities, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest, norm

from mmfuse import Density
from mmfuse.metrics import bias, cde_loss, crps, nmad, outlier_fraction, pit

RNG = np.random.default_rng(0)
Z = RNG.uniform(0.05, 1.5, 400)
GUESS = Z + 0.05 * RNG.normal(size=400) * (1 + Z)


def spike(at: np.ndarray, width: float = 1e-7) -> list[Density]:
    """One density per value, all of it within ``width`` around the value."""
    return [Density([-5.0, x - width / 2, x + width / 2, 5.0], [[0.0, 1.0, 0.0]]) for x in at]


# -- values -----------------------------------------------------------------------------------


def test_value_scores_by_hand() -> None:
    truth, guess = [0.0, 1.0, 3.0], [0.1, 1.0, 1.0]  # delta: 0.1, 0, -0.5
    assert bias(truth, guess) == pytest.approx(-0.4 / 3)
    assert nmad(truth, guess) == pytest.approx(1.4826 * 0.1)
    assert outlier_fraction(truth, guess) == pytest.approx(1 / 3)
    assert bias(truth, guess, scale="none") == pytest.approx(-1.9 / 3)
    assert outlier_fraction(truth, guess, threshold=0.1, scale="none") == pytest.approx(2 / 3)


def test_nmad_invariances() -> None:
    error = RNG.normal(size=501)
    zero = np.zeros(501)
    plain = nmad(zero, error)
    assert nmad(zero, error + 7.0) == pytest.approx(plain)
    assert nmad(zero, 3.0 * error) == pytest.approx(3.0 * plain)
    assert nmad(zero, -error) == pytest.approx(plain)
    assert plain == pytest.approx(1.0, abs=0.1)  # the standard deviation of normal errors
    wild = np.where(np.arange(501) < 100, 1e6, error)
    assert nmad(zero, wild) < 2.0


def test_photo_z_scale_divides_by_one_plus_z() -> None:
    scaled = (GUESS - Z) / (1 + Z)
    for score in (bias, nmad, outlier_fraction):
        other = score(np.zeros(400), scaled, scale="none")
        assert score(Z, GUESS) == pytest.approx(other)


def test_lower_threshold_means_more_outliers() -> None:
    shares = [outlier_fraction(Z, GUESS, threshold=t) for t in (0.0, 0.05, 0.15, 1.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1.0 and shares[1] > shares[2] and shares[3] == 0.0


@pytest.mark.parametrize("score", [bias, nmad, outlier_fraction])
def test_integer_weights_are_repeated_rows(score) -> None:
    times = RNG.integers(0, 4, 400)
    repeated = score(np.repeat(Z, times), np.repeat(GUESS, times))
    assert score(Z, GUESS, sample_weight=times) == pytest.approx(repeated)
    assert score(Z, GUESS, sample_weight=np.full(400, 0.3)) == pytest.approx(score(Z, GUESS))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bias([0.0], [0.0, 1.0]), r"bias: y_pred must have the shape \(1,\); got \(2,\)"),
        (lambda: bias([], []), "bias: at least one row"),
        (lambda: nmad([-1.0], [0.0]), "must be above 0; the lowest y_true is -1"),
        (lambda: nmad([np.nan], [0.0]), "nmad: y must be finite; row 0 is nan"),
        (lambda: bias([0.0], [0.0], scale="z"), "scale must be 'photo-z' or 'none'; got 'z'"),
        (lambda: outlier_fraction([0.0], [0.0], threshold=-1), "threshold must not be negative"),
        (lambda: pit(spike([0.0])[0], [0.0, 1.0]), r"pit: y must have the shape \(1,\)"),
        (lambda: crps(spike([0.0])[0], [np.inf]), "crps: y must be finite"),
        (lambda: cde_loss(spike([0.0])[0], [0.0], sample_weight=[-1.0]), "must not be negative"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# -- densities ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def normals() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, standard deviations, and a value drawn from each normal."""
    rng = np.random.default_rng(1)
    mean, std = rng.normal(size=3000), rng.uniform(0.3, 1.5, 3000)
    return mean, std, rng.normal(mean, std)


EDGES = np.linspace(-9, 9, 361)


def test_pit_is_uniform_under_the_truth_only(normals) -> None:
    mean, std, y = normals
    assert kstest(pit(Density.from_normal(mean, std, EDGES), y), "uniform").pvalue > 0.01
    for wrong in (0.7 * std, 1.4 * std):
        assert kstest(pit(Density.from_normal(mean, wrong, EDGES), y), "uniform").pvalue < 1e-6
    assert kstest(pit(Density.from_normal(mean + 0.2, std, EDGES), y), "uniform").pvalue < 1e-6


def test_pit_has_no_offset_with_coarse_bins() -> None:
    y = np.random.default_rng(0).uniform(0, 4, 4000)
    coarse = Density([0.0, 1.0, 2.0, 3.0, 4.0], np.full((4000, 4), 0.25))
    np.testing.assert_allclose(pit(coarse, y), y / 4)
    outside = Density([0.0, 1.0], [[1.0], [1.0]])
    np.testing.assert_array_equal(pit(outside, [-1.0, 2.0]), [0.0, 1.0])


def test_crps_of_a_point_mass_is_the_absolute_error() -> None:
    for x, truth in ((0.0, 0.0), (0.4, -1.1), (-2.0, 3.0), (1.0, 9.0), (1.0, -7.5)):
        assert crps(spike([x])[0], [truth]) == pytest.approx(abs(x - truth), abs=1e-6)


def test_crps_of_normals_and_uniforms(normals) -> None:
    mean, std, y = normals
    z = (y - mean) / std
    exact = std * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    fine = Density.from_normal(mean, std, np.linspace(-9, 9, 1801))
    assert crps(fine, y) == pytest.approx(exact.mean(), rel=1e-3)
    uniform = Density([0.0, 0.3, 1.0], [[0.3, 0.7]])
    for at in (0.0, 0.3, 0.62, 1.0):
        assert crps(uniform, [at]) == pytest.approx((at**3 + (1 - at) ** 3) / 3)


def test_crps_matches_a_numerical_integral() -> None:
    rng = np.random.default_rng(2)
    edges = np.sort(rng.uniform(-3, 3, 12))
    density = Density(edges, rng.dirichlet(np.ones(11), 5))
    y = np.array([-3.5, -1.0, float(edges[4]), 1.3, 3.4])
    grid = np.linspace(-4, 4, 400_001)
    gap = (density.cdf(grid) - (grid >= y[:, None])) ** 2
    assert crps(density, y) == pytest.approx(np.trapezoid(gap, grid, axis=1).mean(), rel=1e-4)
    assert crps(density, y) >= 0


def test_cde_loss_by_hand_and_outside_the_grid() -> None:
    density = Density([0.0, 1.0, 3.0], [[0.5, 0.5], [1.0, 0.0]])
    rows = [0.25 + 0.125 - 2 * 0.25, 1.0 - 2 * 0.0]
    assert cde_loss(density, [2.0, 2.0]) == pytest.approx(np.mean(rows))
    assert cde_loss(density, [2.0, 2.0], sample_weight=[1, 0]) == pytest.approx(rows[0])
    assert cde_loss(density[:1], [9.0]) == pytest.approx(0.375)


@pytest.mark.parametrize("score", [cde_loss, crps])
def test_the_truth_has_the_lowest_expected_score(score) -> None:
    """Expectations are exact: a value in each bin, weighted by the true probability."""
    rng = np.random.default_rng(3)
    edges = np.array([0.0, 0.5, 1.0, 2.0, 2.5, 4.0])
    true = rng.dirichlet(np.full(5, 2.0))
    inside = (np.arange(400) + 0.5) / 400
    y = (edges[:-1, None] + np.diff(edges)[:, None] * inside).ravel()
    weight = np.repeat(true, 400)

    def expected(p: np.ndarray) -> float:
        return score(Density(edges, np.tile(p, (len(y), 1))), y, sample_weight=weight)

    best = expected(true)
    for _ in range(20):
        other = true * np.exp(0.5 * rng.normal(size=5))
        assert expected(other / other.sum()) > best


def test_weights_of_density_scores(normals) -> None:
    mean, std, y = (part[:50] for part in normals)
    density = Density.from_normal(mean, std, EDGES)
    times = np.random.default_rng(0).integers(0, 3, 50)
    for score in (crps, cde_loss):
        rows = np.repeat(np.arange(50), times)
        assert score(density, y, sample_weight=times) == pytest.approx(
            score(density[rows], y[rows])
        )
