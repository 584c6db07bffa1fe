"""Whether stated risks come true: bins, a smooth curve with a band, intercept and slope."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from mmfuse.clinical.draws import draw_counts
from mmfuse.metrics.resampling import bootstrap_means, percentile_interval
from mmfuse.metrics.thresholds import wilson_interval

__all__ = ["CalibrationCurve", "calibration_curve"]

_GRID = 41
_ROWS_A_BIN = 15
_MOST_BINS = 10
_LEAST_MASS = 8.0  # rows under the kernel below which the smooth curve stops
_CLIP = 1e-6
_STEEPEST = 50.0
_STEPS = 50


@dataclass(frozen=True, eq=False)
class CalibrationCurve:
    """Observed against predicted risk of one event.

    Attributes
    ----------
    event : str
    bins : DataFrame
        ``predicted`` (mean), ``observed`` (share), ``low``, ``high``, ``rows``; about the same
        number of rows each.
    smooth : DataFrame
        ``predicted``, ``observed``, ``low``, ``high``: a local linear fit and its pointwise
        bootstrap band, where enough rows are near.
    summary : DataFrame
        ``value``, ``low``, ``high`` of: ``observed / expected`` number of events, 1 is right;
        ``intercept``, the shift in log odds that would set the mean right, 0 is right; ``slope``
        of the log odds, 1 is right and below 1 means that risks are too extreme.
    """

    event: str
    bins: pd.DataFrame
    smooth: pd.DataFrame
    summary: pd.DataFrame


def calibration_curve(
    risk: np.ndarray,
    event: np.ndarray,
    groups: np.ndarray | None,
    weight: np.ndarray | None = None,
    *,
    name: str,
    n_bootstrap: int,
    confidence: float,
    seed: int,
) -> CalibrationCurve:
    """Compare the predicted risk (n,) of an event with what happened (n,).

    With ``weight`` (n,) all but the cuts of the bins, and their ``rows``, is weighted.

    References
    ----------
    B. Van Calster et al., "Calibration: the Achilles heel of predictive analytics", BMC Medicine,
    2019, for intercept and slope. The smooth curve is a local linear fit where they use loess.
    """
    options = {"n_bootstrap": n_bootstrap, "confidence": confidence, "seed": seed}
    truth = event.astype(np.float64)
    return CalibrationCurve(
        event=name,
        bins=_bins(risk, truth, groups, weight, **options),
        smooth=_smooth(risk, truth, groups, weight, **options),
        summary=_summary(risk, truth, groups, weight, **options),
    )


def _bins(
    risk: np.ndarray,
    truth: np.ndarray,
    groups: np.ndarray | None,
    weight: np.ndarray | None,
    *,
    n_bootstrap: int,
    confidence: float,
    seed: int,
) -> pd.DataFrame:
    count = int(np.clip(len(risk) // _ROWS_A_BIN, 1, _MOST_BINS))
    cuts = np.unique(np.quantile(risk, np.linspace(0, 1, count + 1)[1:-1]))
    place = np.searchsorted(cuts, risk, side="left")
    inside = np.eye(len(cuts) + 1)[place]
    inside = inside[:, inside.any(axis=0)]
    rows = inside.sum(axis=0)
    counted = inside if weight is None else inside * weight[:, None]
    mass = counted.sum(axis=0)
    if groups is None and weight is None:
        low, high = wilson_interval(truth @ inside, rows, confidence=confidence)
    else:
        draws = bootstrap_means(
            np.concatenate([inside * truth[:, None], inside], axis=1),
            n_bootstrap=n_bootstrap,
            rng=np.random.default_rng(seed),
            weight=weight,
            groups=groups,
        )
        hits, total = np.split(draws, 2, axis=1)
        with np.errstate(invalid="ignore"):
            low, high = percentile_interval(hits / total, confidence)
    return pd.DataFrame(
        {
            "predicted": risk @ counted / mass,
            "observed": truth @ counted / mass,
            "low": low,
            "high": high,
            "rows": rows.astype(int),
        }
    )


def _smooth(
    risk: np.ndarray,
    truth: np.ndarray,
    groups: np.ndarray | None,
    weight: np.ndarray | None,
    *,
    n_bootstrap: int,
    confidence: float,
    seed: int,
) -> pd.DataFrame:
    """Local linear regression, whose moments are means, so that its resamples are too."""
    grid = np.linspace(risk.min(), risk.max(), _GRID)
    masses = np.ones(len(risk)) if weight is None else weight
    spread = np.average((risk - np.average(risk, weights=masses)) ** 2, weights=masses) ** 0.5
    worth = masses.sum() ** 2 / (masses**2).sum()  # rows of equal weight
    width = max(1.06 * spread * worth**-0.2, 0.02) * 2.0
    apart = risk[:, None] - grid
    near = np.exp(-0.5 * np.square(apart / width))
    grid_ok = near.sum(axis=0) >= min(_LEAST_MASS, len(risk) / 2)
    near, apart, grid = near[:, grid_ok], apart[:, grid_ok], grid[grid_ok]
    told = truth[:, None]
    parts = [near, near * apart, near * apart**2, near * told, near * apart * told]
    moments = np.concatenate(parts, axis=1)
    draws = bootstrap_means(
        moments,
        n_bootstrap=n_bootstrap,
        rng=np.random.default_rng(seed),
        weight=weight,
        groups=groups,
    )
    low, high = percentile_interval(_local(draws, width), confidence)
    value = _local(np.average(moments, axis=0, weights=masses)[None], width)[0]
    return pd.DataFrame({"predicted": grid, "observed": value, "low": low, "high": high})


def _local(moments: np.ndarray, width: float) -> np.ndarray:
    s0, s1, s2, t0, t1 = np.split(moments, 5, axis=1)
    ridge = 1e-3 * width**2 * s0  # where all rows near a point have one risk: a local mean
    with np.errstate(invalid="ignore", divide="ignore"):
        found = ((s2 + ridge) * t0 - s1 * t1) / ((s2 + ridge) * s0 - s1**2)
    return np.clip(found, 0.0, 1.0)


def _summary(
    risk: np.ndarray,
    truth: np.ndarray,
    groups: np.ndarray | None,
    weight: np.ndarray | None,
    *,
    n_bootstrap: int,
    confidence: float,
    seed: int,
) -> pd.DataFrame:
    x = logit(np.clip(risk, _CLIP, 1 - _CLIP))
    masses = np.ones(len(risk)) if weight is None else weight
    value = _measures(x, risk, truth, masses[None])[0]
    parts = [
        _measures(x, risk, truth, counts)
        for counts in draw_counts(groups, len(risk), n_bootstrap, seed, weight)
    ]
    low, high = percentile_interval(np.concatenate(parts), confidence)
    columns = {"value": value, "low": low, "high": high}
    names = pd.Index(["observed / expected", "intercept", "slope"], name="measure")
    return pd.DataFrame(columns, index=names)


def _measures(x: np.ndarray, risk: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Observed over expected, intercept, slope: (B, 3), NaN where there is none."""
    hits = counts @ truth
    mixed = (hits > 0) & (hits < counts.sum(axis=1))
    found = np.column_stack([hits / (counts @ risk), _shifts(x, truth, counts)])
    found[~mixed, 1] = np.nan
    slopes = np.where(mixed, _slopes(x, truth, counts), np.nan)
    return np.column_stack([found, slopes])


def _shifts(x: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """What added to x (n,) sets the mean probability right, for every resample (B,)."""
    shift = np.zeros(len(counts))
    for _ in range(_STEPS):
        p = expit(x + shift[:, None])
        step = (counts * (truth - p)).sum(axis=1)
        step /= np.maximum((counts * p * (1 - p)).sum(axis=1), 1e-12)
        shift += np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-9:
            break
    return shift


def _slopes(x: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Slopes (B,) of a logistic regression on x (n,) alone, by Newton's method."""
    if np.ptp(x) < 1e-9:
        return np.full(len(counts), np.nan)
    scale = x.std()
    z = (x - x.mean()) / scale
    share = np.clip(counts @ truth / counts.sum(axis=1), 1e-3, 1 - 1e-3)
    beta = np.stack([logit(share), np.zeros(len(counts))], axis=1)
    for _ in range(_STEPS):
        p = expit(beta[:, :1] + beta[:, 1:] * z)
        weight, rest = counts * p * (1 - p), counts * (truth - p)
        s0, s1, s2 = (weight @ z**k for k in range(3))
        g0, g1 = rest.sum(axis=1), rest @ z
        area = np.maximum(s0 * s2 - s1**2, 1e-12)
        step = np.stack([s2 * g0 - s1 * g1, s0 * g1 - s1 * g0], axis=1) / area[:, None]
        beta += np.clip(step, -3.0, 3.0)
        open_ = np.abs(beta[:, 1] / scale) < _STEEPEST
        if not open_.any() or np.abs(step[open_]).max() < 1e-9:
            break
    slope = beta[:, 1] / scale
    return np.where(np.abs(slope) < _STEEPEST, slope, np.nan)  # else the classes can be separated
