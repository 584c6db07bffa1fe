"""The accuracy benchmark: its standard errors, marks, cache and hand-made peers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mmfuse import Blocks

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _scripts():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def data():
    from accuracy_sets import Set

    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 20)
    views = {"a": rng.normal(y[:, None], 1, (60, 3)), "b": rng.normal(y[:, None], 1, (60, 2))}
    views["b"][::6] = np.nan
    return Set(views, y, groups=np.arange(60) // 2, n_folds=3)


def test_standard_error():
    from accuracy_tables import mean_and_error

    rows = np.random.default_rng(1).normal(size=50)
    mean, error = mean_and_error(rows, None)
    assert mean == pytest.approx(rows.mean())
    assert error == pytest.approx(rows.std(ddof=1) / np.sqrt(50))
    assert mean_and_error(rows, np.arange(50))[1] == pytest.approx(error)
    # rows that say the same as their twin say nothing new
    assert mean_and_error(np.repeat(rows, 2), np.repeat(np.arange(50), 2))[1] == pytest.approx(
        error
    )


def test_marks():
    from accuracy_tables import by_rows, table

    base = np.random.default_rng(2).normal(1, 1, 400)
    noise = np.random.default_rng(3).normal(0, 1, 400)
    rows = {"first": base, "level": base + noise - noise.mean() + 0.01, "behind": base + 0.01}
    column = by_rows("log loss", rows, None)
    assert column.first == "first"
    assert column.level == {"first", "level"}
    lines = table(list(rows), [column]).splitlines()
    assert "**" in lines[2] and "≈" in lines[3]
    assert "**" not in lines[4] and "≈" not in lines[4]


def test_conditions_and_folds(data):
    from accuracy_run import COMPLETE, GAPS, Plan

    plan = Plan(data)
    assert list(plan.conditions) == [COMPLETE, GAPS, "no a", "no b"]
    sparse = plan.conditions[GAPS]
    assert sparse.present.any(axis=1).all()
    assert not (sparse.present & ~plan.blocks.present).any()
    assert 0 < (plan.blocks.present & ~sparse.present).mean() < 0.4
    assert not plan.conditions["no a"].present[:, 0].any()
    for group in np.unique(data.groups):
        assert len(np.unique(plan.fold[data.groups == group])) == 1


def test_prior_corrected_sum_is_bayes(data):
    from accuracy_peers import PerView, logistic

    X, y = Blocks(data.views), data.y
    model = PerView(logistic, "sum").fit(X, y, data.groups)
    alone = PerView(logistic, "mean").fit(X, y, data.groups)
    only_a, only_b = X.hide("b"), X.hide("a")
    both = X.present.all(axis=1)
    product = alone.predict_proba(only_a) * alone.predict_proba(only_b)  # equal priors
    product /= product.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(X)[both], product[both], atol=1e-9)
    np.testing.assert_allclose(model.predict_proba(only_a), alone.predict_proba(only_a))
    nothing = model.predict_proba(X.hide(["a", "b"]))
    np.testing.assert_allclose(nothing, 1 / 3)


@pytest.mark.parametrize("name", ["best single view", "stacking, linear", "concat, boosting"])
def test_peers_answer_every_condition(data, name):
    from accuracy_peers import PEERS
    from accuracy_run import Plan, evaluate

    answer = evaluate(Plan(data), PEERS[name], n_folds=1)
    rows = Plan(data).fold == 0
    for p in answer.rows.values():
        np.testing.assert_allclose(p[rows].sum(axis=1), 1)
        assert (p[rows] > 0).all()


def test_what_is_kept_is_for_the_same_rows(data, tmp_path):
    from accuracy_peers import PEERS
    from accuracy_run import Plan, Store, evaluate
    from accuracy_sets import Set

    plan, store = Plan(data), Store(tmp_path)
    answer = evaluate(plan, PEERS["concat, logistic regression"])
    store.put("toy", "concat, logistic regression", plan, answer)
    kept = store.get("toy", "concat, logistic regression", plan)
    assert kept.seconds == answer.seconds
    for condition, p in answer.rows.items():
        np.testing.assert_array_equal(kept.rows[condition], p)
    assert store.get("toy", "concat, extra trees", plan) is None
    other = Plan(Set(data.views, data.y[::-1].copy(), data.groups, n_folds=3))
    assert store.get("toy", "concat, logistic regression", other) is None


def test_sequences_without_steps_are_absent():
    from accuracy_sets import sequence_mean

    steps = np.zeros((2, 4, 3))
    steps[0, :2] = [[1, 2, 3], [3, 2, 1]]
    found = sequence_mean(steps)
    np.testing.assert_allclose(found[0], 2)
    assert np.isnan(found[1]).all()
