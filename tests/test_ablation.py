"""Ablation: the batched problems against single ones, its frames and its errors."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from mmfuse import ablate
from mmfuse.heads import LateFusion
from tests.samples import two_views


def views(n: int = 150, absent: float = 0.0):
    X, y = two_views(n, absent=absent)
    return {name: np.array(X[name]) for name in ("a", "b")}, y


def test_each_problem_is_logistic_regression_on_its_subset() -> None:
    X, y = views()
    folds = list(StratifiedKFold(4, shuffle=True, random_state=0).split(y, y))
    found = ablate(X, y, cv=folds, strengths=[0.03, 1.0])
    joined = {"a": X["a"], "b": X["b"], "a + b": np.hstack([X["a"], X["b"]])}
    assert len(found.frame) == 3 * 4 * 2
    for row in found.frame.itertuples():
        Z = StandardScaler().fit_transform(joined[row.subset])
        train, test = folds[row.fold]
        model = LogisticRegression(C=row.strength, tol=1e-10, max_iter=10_000)
        model.fit(Z[train], y[train])
        log_p = model.predict_log_proba(Z[test])
        assert row.loss == pytest.approx(-log_p[np.arange(len(test)), y[test]].mean(), abs=1e-3)
        assert row.score == pytest.approx(model.score(Z[test], y[test]), abs=0.06)


def test_values_are_ridge_regression_in_their_unit() -> None:
    X, _ = views()
    y = 50 + 10 * X["a"][:, 0] + np.random.default_rng(0).normal(size=150)
    folds = [(np.arange(100), np.arange(100, 150))]
    found = ablate(X, y, cv=folds, strengths=[0.1], subsets="single")
    Z = StandardScaler().fit_transform(X["a"])
    scale = y.std()
    model = Ridge(alpha=10.0).fit(Z[:100], (y[:100] - y.mean()) / scale)
    error = ((model.predict(Z[100:]) * scale + y.mean() - y[100:]) ** 2).mean()
    row = found.frame.set_index("subset").loc["a"]
    assert row["loss"] == pytest.approx(error, rel=1e-3)
    assert row["score"] == pytest.approx(1 - error / y[100:].var(), rel=1e-3)


def test_intervals_are_wider_over_groups_that_agree() -> None:
    X, y = views(120)
    X = {name: np.repeat(block, 3, axis=0) for name, block in X.items()}
    y, groups = np.repeat(y, 3), np.repeat(np.arange(120), 3)
    cv = [(np.flatnonzero(groups % 2 == i), np.flatnonzero(groups % 2 != i)) for i in (0, 1)]
    plain, grouped = (ablate(X, y, cv=cv, groups=g).summary for g in (None, groups))
    width = [s["loss_high"] - s["loss_low"] for s in (plain, grouped)]
    np.testing.assert_allclose(width[1] / width[0], 3**0.5)  # three copies say one thing


def test_gaps_and_other_heads_and_seeds() -> None:
    X, y = views(absent=0.3)
    options = {"heads": {"late": LateFusion(C=0.1)}, "cv": 3, "random_state": 0}
    first, second = (ablate(X, y, **options) for _ in range(2))
    assert first.frame.equals(second.frame)
    assert set(first.frame["head"]) == {"linear", "late"}
    assert np.isfinite(first.summary["loss"]).all()
    for head in ("linear", "late"):
        part = first.summary.loc[head]
        assert part.loc["a + b", "loss"] < min(part.loc["a", "loss"], part.loc["b", "loss"])
    assert "a + b" in repr(first)


def test_subsets() -> None:
    X, y = views(60)
    X["c"] = X["a"][:, :2]

    def names(subsets) -> set:
        return set(ablate(X, y, subsets=subsets, cv=2, strengths=[0.1]).frame["subset"])

    assert len(names("all")) == 7
    assert names("single") == {"a", "b", "c"}
    assert names("leave-one-out") == {"a + b", "a + c", "b + c", "a + b + c"}
    assert names([["c", "a"], ["b"]]) == {"a + c", "b"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subsets": "pairs"}, "subsets must be 'all', 'single', 'leave-one-out' or sets"),
        ({"subsets": [["a", "z"]]}, r"subset \['a', 'z'\] must hold some of the modalities a, b"),
        ({"subsets": [[]]}, "must hold some of the modalities"),
        ({"strengths": [0.0]}, r"strengths must be positive numbers; got \[0.0\]"),
        ({"strengths": []}, "strengths must be positive"),
        ({"task": "ranking"}, "task must be 'auto', 'classification' or 'regression'"),
        ({"groups": np.zeros(60)}, "cannot be split into folds"),
    ],
)
@pytest.mark.filterwarnings("ignore:All training rows belong to one group")
def test_bad_arguments_are_named(options, message: str) -> None:
    X, y = views(60)
    with pytest.raises(ValueError, match=message):
        ablate(X, y, **options)


def test_picture() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    X, y = views(60)
    display = ablate(X, y, cv=2, heads={"late": LateFusion(C=0.1)}).plot()
    labels = {label.get_text() for label in display.ax_.get_yticklabels()}
    assert labels == {"a", "b", "a + b"}
    assert display.ax_.get_xlabel() == "log loss of held-out rows, 95% interval"
    matplotlib.pyplot.close(display.figure_)
