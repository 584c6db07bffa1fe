"""Temperature scaling and the folds it is fitted on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from mmfuse.calibration import TemperatureScaling, make_calibrator
from mmfuse.splits import make_folds


def overconfident(factor: float = 3.0, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are ``factor`` times too large for labels drawn from them."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(n, 4)) * 1.5
    y = np.array([rng.choice(4, p=p) for p in softmax(logits, axis=1)])
    return logits * factor, y


def test_temperature_is_recovered() -> None:
    scores, y = overconfident(3.0)
    assert TemperatureScaling().fit(scores, y).temperature_ == pytest.approx(3.0, rel=0.06)


def test_temperature_minimises_the_log_loss() -> None:
    scores, y = overconfident(2.0, n=20_000)
    best = TemperatureScaling().fit(scores, y).temperature_

    def loss(t: float) -> float:
        return -log_softmax(scores / t, axis=1)[np.arange(len(y)), y].mean()

    grid = np.exp(np.linspace(-1, 2, 301))
    assert loss(best) <= min(map(loss, grid)) + 1e-8


def test_classes_keep_their_order() -> None:
    scores, y = overconfident()
    out = TemperatureScaling().fit(scores, y).transform(scores)
    np.testing.assert_array_equal(out.argmax(1), scores.argmax(1))


def test_a_few_separable_rows_do_not_become_certain() -> None:
    y = np.array([0, 1] * 5)
    scores = np.eye(2)[y]
    t = TemperatureScaling().fit(scores, y).temperature_
    assert 0.15 < t < 1.0


def test_weights_are_repetitions() -> None:
    scores, y = overconfident(n=300)
    weight = np.arange(300) % 3
    a = TemperatureScaling().fit(scores, y, weight).temperature_
    rows = np.repeat(np.arange(300), weight)
    b = TemperatureScaling().fit(scores[rows], y[rows]).temperature_
    assert a == pytest.approx(b, rel=1e-10)


def test_calibrator_choice() -> None:
    scores, y = overconfident(n=50)
    weight = np.ones(50)
    assert make_calibrator(None, scores, y, weight) is None
    assert make_calibrator("auto", None, y, weight) is None
    assert make_calibrator("auto", scores[:5], y[:5], weight[:5]) is None
    assert make_calibrator("auto", scores, y, weight) is not None
    with pytest.raises(ValueError, match="needs out-of-fold rows"):
        make_calibrator("temperature", None, y, weight)
    with pytest.raises(ValueError, match="must be 'auto', 'temperature' or None; got 'platt'"):
        make_calibrator("platt", scores, y, weight)


def test_folds_never_split_a_group() -> None:
    y, groups = np.arange(60) % 3, np.repeat(np.arange(12), 5)
    for train, test in make_folds(5, y, groups, classification=True, seed=0):
        assert not set(groups[train]) & set(groups[test])


def test_given_folds_that_split_a_group_are_refused() -> None:
    y, groups = np.arange(10) % 2, np.repeat([0, 1], 5)
    with pytest.raises(ValueError, match=r"puts groups \[0, 1\] on both sides"):
        make_folds(
            [(np.arange(0, 10, 2), np.arange(1, 10, 2))], y, groups, classification=True, seed=0
        )


def test_one_group_cannot_be_split() -> None:
    with pytest.warns(UserWarning, match="one group"):
        assert make_folds(5, np.arange(20) % 2, np.zeros(20), classification=True, seed=0) == []


def test_folds_shrink_to_the_rarest_class() -> None:
    y = np.array([0] * 30 + [1] * 3)
    folds = make_folds(5, y, None, classification=True, seed=0)
    assert len(folds) == 3
    assert all((y[test] == 1).sum() == 1 for _, test in folds)


@pytest.mark.parametrize("cv", [1, "five", 2.5])
def test_bad_cv(cv) -> None:
    with pytest.raises(ValueError, match="cv must be"):
        make_folds(cv, np.arange(20) % 2, None, classification=True, seed=0)
