"""What every head must do, through the estimators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from mmfuse import FusionClassifier, FusionRegressor
from mmfuse import heads as heads_package
from mmfuse.heads import BaseHead, EarlyFusion, LateFusion, LogitBiasFusion
from mmfuse.heads.combination import PoolData
from mmfuse.heads.pool import GaussianPool, LogPool, fit_pool
from mmfuse.patterns import draw_presence, dropout_masks
from mmfuse.testing import HEAD_CHECKS, HeadSubject
from tests.head_list import heads_for
from tests.samples import digit_halves, two_views

CLASSIFIERS = heads_for("classification")
REGRESSORS = heads_for("regression")
every_head = pytest.mark.parametrize("name", CLASSIFIERS)


def fitted(name: str, X, y, **params) -> FusionClassifier:
    return FusionClassifier(clone(CLASSIFIERS[name]), random_state=0, **params).fit(X, y)


def test_every_head_is_on_the_list() -> None:
    public = {
        item
        for item in vars(heads_package).values()
        if isinstance(item, type) and issubclass(item, BaseHead) and item is not BaseHead
    }
    assert public == {type(head) for head in CLASSIFIERS.values()}


@pytest.mark.parametrize("check", HEAD_CHECKS["classification"])
@every_head
def test_contract(name: str, check: str) -> None:
    HEAD_CHECKS["classification"][check](HeadSubject(CLASSIFIERS[name]))


@pytest.mark.parametrize("check", HEAD_CHECKS["regression"])
@pytest.mark.parametrize("name", REGRESSORS)
def test_contract_for_values(name: str, check: str) -> None:
    HEAD_CHECKS["regression"][check](HeadSubject(REGRESSORS[name]))


@pytest.mark.parametrize("name", ["early-linear", "early-mlp", "late-linear", "late-mlp"])
def test_out_of_fold_scores_are_honest(name: str) -> None:
    """On labels that mean nothing, no head may look better out of fold than the prior."""
    rng = np.random.default_rng(0)
    X = {"a": rng.normal(size=(90, 30)), "b": rng.normal(size=(90, 5))}
    y = rng.integers(0, 2, 90)
    p = fitted(name, X, y).predict_proba(X)
    assert np.abs(p - 0.5).mean() < 0.35


@pytest.mark.parametrize("name", REGRESSORS)
def test_two_targets(name: str) -> None:
    if name.endswith("trees"):
        return  # histogram gradient boosting has one target; its error is scikit-learn's own
    rng = np.random.default_rng(0)
    X = {"a": rng.normal(size=(90, 3)), "b": rng.normal(size=(90, 2))}
    Y = np.stack([X["a"][:, 0], 100 * X["b"][:, 1]], axis=1)
    model = FusionRegressor(clone(REGRESSORS[name]), random_state=0).fit(X, Y)
    assert model.predict(X).shape == (90, 2)
    assert model.score(X, Y) > 0.5


# -- early fusion ------------------------------------------------------------------------------


def test_linear_early_fusion_is_logistic_regression_on_the_joined_features() -> None:
    X, y = digit_halves()
    joined = np.hstack([X["upper"], X["lower"]]).astype(np.float32)
    head = EarlyFusion(C=0.1, modality_dropout=0.0)
    model = FusionClassifier(head, calibration=None).fit(X, y)
    scaled = StandardScaler().fit_transform(joined.astype(float))
    reference = LogisticRegression(C=0.1, tol=1e-10, max_iter=10_000).fit(scaled, y)
    np.testing.assert_allclose(model.predict_proba(X), reference.predict_proba(scaled), atol=1e-4)


def test_chosen_strengths_are_no_worse_than_any_single_one() -> None:
    X, y = digit_halves()
    test = np.arange(600) % 3 == 0

    def loss(C) -> float:
        part = {k: v[~test] for k, v in X.items()}
        model = FusionClassifier(EarlyFusion(C=C), random_state=0).fit(part, y[~test])
        p = model.predict_log_proba({k: v[test] for k, v in X.items()})
        return -p[np.arange(test.sum()), y[test]].mean()

    assert loss("cv") < min(loss(C) for C in (1e-4, 1e-2, 1.0, 100.0)) + 0.03


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (EarlyFusion("forest"), "model must be 'linear', 'mlp' or a scikit-learn estimator"),
        (EarlyFusion(C=-1), "C must be 'cv' or a positive number; got -1"),
        (EarlyFusion(C="auto"), "C must be 'cv'"),
        (EarlyFusion(modality_dropout=1.0), r"modality_dropout must be in \[0, 1\)"),
        (EarlyFusion("mlp", batch_size=0), "batch_size must be at least 1"),
        (EarlyFusion(LinearSVC()), "LinearSVC is not a classifier with predict_proba"),
        (EarlyFusion(3), "must be 'linear', 'mlp' or a scikit-learn estimator"),
        (LateFusion(calibrate="platt"), "calibrate must be one of 'temperature', .*; got 'platt'"),
        (LateFusion(base=7), "base must be 'linear', 'mlp', a scikit-learn estimator or a head"),
        (LateFusion(LogitBiasFusion("a")), "base LogitBiasFusion reads the logits of a prior"),
        (LateFusion(C=0), "C must be 'cv' or a positive number"),
        ("late", "head must be 'auto' or a head from mmfuse.heads; got 'late'"),
    ],
)
def test_bad_parameters_are_named(head, message: str) -> None:
    X, y = two_views(30)
    with pytest.raises(ValueError, match=message):
        FusionClassifier(head).fit(X, y)


def test_a_regressor_needs_a_regressor() -> None:
    X, y = two_views(30)
    with pytest.raises(ValueError, match="FusionRegressor needs a regressor"):
        FusionRegressor(EarlyFusion(LogisticRegression())).fit(X, y)


def test_weights_reach_estimators_or_are_refused() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    X, y = two_views(60)
    with pytest.raises(ValueError, match="KNeighborsClassifier takes no sample_weight"):
        FusionClassifier(EarlyFusion(KNeighborsClassifier())).fit(
            X, y, sample_weight=1.0 + np.arange(60)
        )


# -- late fusion ------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["linear", "mlp"])
def test_one_modality_says_what_its_own_model_says(base: str) -> None:
    X, y = two_views()
    head = LateFusion(base, C=1.0) if base == "linear" else LateFusion(CLASSIFIERS["early-mlp"])
    both = FusionClassifier(head, calibration=None, random_state=0).fit(X, y)
    alone = FusionClassifier(head, calibration=None, random_state=0).fit({"b": X["b"]}, y)
    only_b = {"b": X["b"]}
    np.testing.assert_allclose(both.predict_proba(only_b), alone.predict_proba(only_b), atol=1e-6)


def test_evidence_sums_to_the_answer() -> None:
    X, y = two_views(absent=0.3)
    model = FusionClassifier(LateFusion(), calibration=None, random_state=0).fit(X, y)
    blocks = model.encode(X)
    with torch.inference_mode():
        present = torch.as_tensor(blocks.present)
        tensors = {name: torch.tensor(blocks[name]) for name in blocks.names}
        output = model.head_(model.scaler_(tensors), present)
    evidence = output.extras["evidence"].numpy()
    assert (evidence[~blocks.present] == 0).all()
    total = np.log(model.prior_) + evidence.sum(axis=1)
    np.testing.assert_allclose(softmax(total, axis=1), model.predict_proba(X), atol=1e-4)


def pool_data(n: int = 4000, *, copies: bool) -> PoolData:
    """Two experts: independent views of the class, or the same view twice."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n)
    centre = 1.2 * np.eye(3)[y]
    views = [centre + rng.normal(size=(n, 3)) for _ in range(2)]
    if copies:
        views[1] = views[0]
    expert = np.stack([log_softmax(1.2 * v, axis=1) for v in views], axis=1)  # exact posteriors
    return PoolData(
        torch.as_tensor(expert),
        torch.ones(n, 2, dtype=torch.bool),
        torch.as_tensor(y),
        torch.ones(n, dtype=torch.float64),
    )


def test_pool_learns_independence() -> None:
    """Independent exact posteriors multiply (naive Bayes); a copy adds nothing."""
    found = {}
    for copies in (False, True):
        data = pool_data(copies=copies)
        pool = LogPool(2, 3)
        fit_pool(pool, data, 0.2)
        found[copies] = float(pool.independence.detach())
        np.testing.assert_allclose(pool.weight.detach(), [0.5, 0.5], atol=0.03)
    assert found[False] > 0.9
    assert found[True] < 0.1


def test_pool_with_one_expert_is_that_expert() -> None:
    data = pool_data(50, copies=False)
    pool = LogPool(2, 3)
    fit_pool(pool, data, 0.2)
    one = data.presence.clone()
    one[:, 1] = False
    out = torch.log_softmax(pool(data.expert, one), dim=1)
    torch.testing.assert_close(out, data.expert[:, 0])


def test_gaussian_pool_is_the_product_of_densities() -> None:
    """With equal weights and full independence: Bayes' rule for two Gaussian experts."""
    pool = GaussianPool(2, 1)
    with torch.no_grad():
        pool.raw_independence.fill_(60.0)
        pool.variance.copy_(torch.tensor([[0.2], [0.5]]))
    expert = torch.tensor([[[0.8], [-0.4]]], dtype=torch.float64)
    mean, variance = pool.moments(expert, torch.ones(1, 2, dtype=torch.bool))
    precision = 1 / 0.2 + 1 / 0.5 - 1  # the prior is in both experts and counts once
    assert float(variance.detach()) == pytest.approx(1 / precision)
    assert float(mean.detach()) == pytest.approx((0.8 / 0.2 - 0.4 / 0.5) / precision)


# -- modality dropout ----------------------------------------------------------------------------


@pytest.mark.parametrize("n_modalities", [1, 2, 3, 6])
def test_dropout_masks(n_modalities: int) -> None:
    generator = torch.Generator().manual_seed(0)
    presence = torch.rand(400, n_modalities, generator=generator) < 0.7
    masks, weight = dropout_masks(presence, 0.25)
    assert float(weight.sum()) == pytest.approx(1)
    assert not (masks & ~presence[:, None]).any()  # nothing appears
    assert (masks.any(2) == presence.any(1)[:, None]).all()  # nobody loses the last one
    assert torch.equal(masks[:, 0], presence)


def test_drawn_presence_has_the_asked_rate() -> None:
    presence = torch.ones(20_000, 4, dtype=torch.bool)
    drawn = draw_presence(presence, 0.3, torch.Generator().manual_seed(0))
    assert drawn.any(1).all()
    assert float(drawn.float().mean()) == pytest.approx(0.7 + 0.3**4 / 4, abs=0.01)
