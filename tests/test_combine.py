"""Decision rules of late fusion, against references written here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, ndtri, softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import mean_pinball_loss

from mmfuse.heads.combination import PoolData
from mmfuse.heads.combine import COMBINATIONS
from mmfuse.heads.pool import GaussianPool, LogPool
from mmfuse.objectives import Pinball

CLASS_RULES, VALUE_RULES = COMBINATIONS["classification"], COMBINATIONS["regression"]
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
EXACT_ALONE = ("log-pool", "product", "mean", "best")


def experts(n: int = 300, *, absent: float = 0.3, seed: int = 0) -> PoolData:
    """Three modalities of falling quality, four classes of unequal frequency."""
    rng = np.random.default_rng(seed)
    y = rng.choice(4, size=n, p=[0.4, 0.3, 0.2, 0.1])
    quality = np.array([2.0, 1.2, 0.4])
    scores = quality[:, None] * np.eye(4)[y][:, None] + rng.normal(size=(n, 3, 4))
    presence = rng.random((n, 3)) >= absent
    presence[~presence.any(axis=1), 0] = True
    folds = [(np.flatnonzero(np.arange(n) % 3 != f), np.arange(f, n, 3)) for f in range(3)]
    return PoolData(
        torch.as_tensor(log_softmax(1.5 * scores, axis=2)),
        torch.as_tensor(presence),
        torch.as_tensor(y),
        torch.as_tensor(rng.uniform(0.5, 2, n)),
        folds,
    )


def predictions(n: int = 300, *, absent: float = 0.3, seed: int = 0) -> PoolData:
    """Three predictions of two standardised values."""
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(n, 2))
    noise = np.array([0.3, 0.6, 2.0])[:, None] * rng.normal(size=(n, 3, 2))
    presence = rng.random((n, 3)) >= absent
    presence[~presence.any(axis=1), 0] = True
    return PoolData(
        torch.as_tensor(target[:, None] + noise),
        torch.as_tensor(presence),
        torch.as_tensor(target),
        torch.ones(n, dtype=torch.float64),
    )


def quantiles(n: int = 300, *, absent: float = 0.3, seed: int = 0) -> PoolData:
    """Three modalities' quantiles of one standardised value, of falling quality."""
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(n, 1))
    noise = np.array([0.3, 0.6, 2.0])
    view = target + noise * rng.normal(size=(n, 3))
    shrink = 1 / (1 + noise**2)  # exact posteriors
    expert = (shrink * view)[..., None] + (noise * np.sqrt(shrink))[:, None] * ndtri(LEVELS)
    presence = rng.random((n, 3)) >= absent
    presence[~presence.any(axis=1), 0] = True
    return PoolData(
        torch.as_tensor(expert),
        torch.as_tensor(presence),
        torch.as_tensor(target),
        torch.as_tensor(rng.uniform(0.5, 2, n)),
    )


DATA = {
    "classification": experts,
    "ordinal": experts,
    "regression": predictions,
    "quantiles": quantiles,
}


def fitted(name: str, data: PoolData, *, task: str = "classification", dropout: float = 0.2):
    rule = COMBINATIONS[task][name](data.expert.shape[1], data.expert.shape[2])
    if task == "quantiles":
        rule.learn(Pinball(LEVELS))
    with torch.no_grad():
        rule.fit(data, dropout)
    return rule.eval()


def answers(rule, data: PoolData) -> np.ndarray:
    with torch.no_grad():
        return rule(data.expert, data.presence).numpy()


def arrays(data: PoolData):
    return (x.numpy() for x in (data.expert, data.presence, data.target, data.weight))


# -- classification --------------------------------------------------------------------------------


def test_product_is_naive_bayes_with_the_prior_counted_once() -> None:
    data = experts()
    log_p, present, y, w = arrays(data)
    prior = np.bincount(y, weights=w) / w.sum()
    expected = np.log(prior) + ((log_p - np.log(prior)) * present[..., None]).sum(axis=1)
    found = answers(fitted("product", data), data)
    np.testing.assert_allclose(softmax(found, axis=1), softmax(expected, axis=1), atol=1e-4)


def test_product_is_the_pool_with_equal_weights_and_full_independence() -> None:
    for task, pool, data in [
        ("classification", LogPool(3, 4), experts()),
        ("regression", GaussianPool(3, 2), predictions()),
    ]:
        product = fitted("product", data, task=task)
        pool.load_state_dict(product.state_dict(), strict=False)
        torch.nn.init.constant_(pool.raw_independence, 60.0)
        np.testing.assert_allclose(answers(pool, data), answers(product, data), atol=1e-9)


def test_mean_is_the_mean_of_what_is_present() -> None:
    data = experts()
    log_p, present, _, _ = arrays(data)
    expected = [p[there].mean(axis=0) for p, there in zip(np.exp(log_p), present, strict=True)]
    np.testing.assert_allclose(np.exp(answers(fitted("mean", data), data)), expected, atol=1e-12)


def test_best_is_the_lowest_loss_that_is_present() -> None:
    data = experts()
    log_p, present, y, w = arrays(data)
    true = -log_p[np.arange(len(y)), :, y]
    loss = [np.average(true[there, m], weights=w[there]) for m, there in enumerate(present.T)]
    order = np.argsort(loss)
    expected = [
        p[next(m for m in order if there[m])] for p, there in zip(log_p, present, strict=True)
    ]
    rule = fitted("best", data)
    np.testing.assert_allclose(answers(rule, data), expected, atol=1e-12)
    assert rule.describe(["a", "b", "c"])["loss"] == pytest.approx(
        dict(zip("abc", loss, strict=True))
    )


def test_best_asks_a_modality_that_was_never_scored_last() -> None:
    data = experts()
    data.presence[:, 0] = False  # it has the lowest loss, but nobody knows
    rule = fitted("best", data)
    everything = torch.ones(300, 3, dtype=torch.bool)
    assert rule.shares(everything)[:, 1].min() == 1
    assert rule.shares(everything & torch.tensor([True, False, False]))[:, 0].min() == 1
    assert rule.describe(["a", "b", "c"])["loss"]["a"] is None


def vote_reference(data: PoolData, fitted_on: PoolData) -> np.ndarray:
    log_p, present, y, w = arrays(fitted_on)
    weights = []
    for m, there in enumerate(present.T):
        right = w[there] @ (log_p[there, m].argmax(axis=1) == y[there])
        accuracy = (right + 1) / (w[there].sum() + 4)
        weights.append(max(np.log(accuracy * 3 / (1 - accuracy)), 0.01))
    weights = np.array(weights) / np.mean(weights)
    log_p, present, _, _ = arrays(data)
    shares = []
    for p, there in zip(log_p, present, strict=True):
        votes = np.full(4, 1 / 4)
        for m in np.flatnonzero(there):
            votes += weights[m] * ((1 - 1e-6) * np.eye(4)[p[m].argmax()] + 1e-6 * np.exp(p[m]))
        shares.append(votes / (1 + weights[there].sum()))
    return np.array(shares)


def test_vote_is_the_share_of_the_weighted_votes() -> None:
    data = experts()
    found = np.exp(answers(fitted("vote", data), data))
    np.testing.assert_allclose(found, vote_reference(data, data), atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_vote_of_two_against_one_and_of_a_tie() -> None:
    rule = CLASS_RULES["vote"](3, 3)  # equal weights before it learns
    p = np.array(
        [
            [[0.98, 0.01, 0.01], [0.3, 0.4, 0.3], [0.3, 0.4, 0.3]],  # two weak against one sure
            [[0.5, 0.4, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]],  # one vote each: 1 is likeliest
        ]
    )
    share = rule(torch.as_tensor(np.log(p)), torch.ones(2, 3, dtype=torch.bool)).exp().numpy()
    assert share.argmax(axis=1).tolist() == [1, 1]
    np.testing.assert_allclose(share[0], [(1 + 1 / 3) / 4, (2 + 1 / 3) / 4, 1 / 12], atol=1e-5)
    np.testing.assert_allclose(share[1], 1 / 3, atol=1e-5)


def test_vote_of_a_useless_modality_hardly_counts() -> None:
    n = 3000  # of 300, one shuffle in fourteen comes out better than chance by enough to fail
    data = experts(n, absent=0.0)
    shuffled = torch.as_tensor(np.random.default_rng(0).permutation(n))
    data.expert[:, 2] = data.expert[shuffled, 2]
    weight = fitted("vote", data).weight
    assert weight[2] < 0.1 * weight[0] and weight[0] > weight[1] > 0


def centred(data: PoolData) -> list[np.ndarray]:
    log_p = data.expert.numpy()
    return list(np.moveaxis(log_p - log_p.mean(axis=2, keepdims=True), 1, 0))


def test_stack_is_logistic_regression_on_centred_log_probabilities() -> None:
    data = experts(absent=0.0)
    data.folds.clear()  # nothing to choose by: C is 1
    rule = fitted("stack", data, dropout=0.0)
    joined = np.hstack(centred(data))
    reference = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)
    reference.fit(joined, data.target.numpy(), sample_weight=data.weight.numpy())
    expected = reference.predict_log_proba(joined)
    np.testing.assert_allclose(log_softmax(answers(rule, data), axis=1), expected, atol=1e-4)


def test_stack_puts_a_token_in_place_of_an_absent_modality() -> None:
    data = experts()
    rule = fitted("stack", data)
    assert float(rule.strength) in (0.01, 0.1, 1.0)
    linear, blocks = rule.linear, centred(data)
    expected = np.tile(linear.intercept.detach().numpy(), (300, 1))
    for m, there in enumerate(data.presence.numpy().T):
        part = blocks[m] @ linear.coef[m].detach().numpy()
        expected += np.where(there[:, None], part, linear.token[m].detach().numpy())
    np.testing.assert_allclose(answers(rule, data), expected, atol=1e-9)


@pytest.mark.parametrize("name", CLASS_RULES)
def test_every_rule_beats_the_prior_on_any_subset(name: str) -> None:
    rule, test = fitted(name, experts()), experts(seed=1)
    y, w = test.target.numpy(), test.weight.numpy()
    entropy = -np.log(np.bincount(y, weights=w) / w.sum()) @ (np.bincount(y, weights=w) / w.sum())
    for shown in ([0, 1, 2], [0, 1], [0, 2], [0], [1]):
        test.presence[:] = False
        test.presence[:, shown] = True
        log_p = log_softmax(answers(rule, test), axis=1)
        assert -np.average(log_p[np.arange(len(y)), y], weights=w) < entropy - 0.05, shown


def test_learned_rules_are_no_worse_than_the_references() -> None:
    train, test = experts(600), experts(2000, seed=1)
    loss = {}
    for name in CLASS_RULES:
        log_p = log_softmax(answers(fitted(name, train), test), axis=1)
        loss[name] = -log_p[np.arange(2000), test.target.numpy()].mean()
    references = min(loss[name] for name in ("product", "mean", "best"))
    assert loss["log-pool"] < references + 0.01
    assert loss["stack"] < references + 0.03


# -- all -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXACT_ALONE)
def test_one_modality_gives_its_own_answer(name: str) -> None:
    for task, make in DATA.items():
        data = make()
        rule = fitted(name, data, task=task)
        for m in range(3):
            data.presence[:] = False
            data.presence[:, m] = True
            found = answers(rule, data)
            np.testing.assert_allclose(found, data.expert[:, m], atol=1e-9)


@pytest.mark.parametrize("name", CLASS_RULES)
def test_nothing_present_is_the_prior(name: str) -> None:
    data = experts()
    rule = fitted(name, data)
    data.presence[:] = False
    found = softmax(answers(rule, data), axis=1)
    assert np.isfinite(found).all()
    if name != "stack":  # its tokens were never seen all together; the estimator has the prior
        y, w = data.target.numpy(), data.weight.numpy()
        np.testing.assert_allclose(found[0], np.bincount(y, weights=w) / w.sum(), atol=1e-4)


@pytest.mark.parametrize("task", COMBINATIONS)
@pytest.mark.parametrize("name", CLASS_RULES)
def test_what_is_absent_is_not_read(name: str, task: str) -> None:
    if name not in COMBINATIONS[task]:
        return
    data = DATA[task]()
    found = []
    for value in (0.0, -1e9, torch.nan):
        data.expert[~data.presence] = value
        found.append(answers(fitted(name, data, task=task), data))
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


@pytest.mark.parametrize("task", COMBINATIONS)
def test_without_held_out_rows_every_rule_still_answers(task: str) -> None:
    data = DATA[task]()
    full = data.presence.clone()
    data.presence[:] = False
    for name in COMBINATIONS[task]:
        rule = fitted(name, data, task=task)
        with torch.no_grad():
            assert torch.isfinite(rule(data.expert, full)).all(), name


# -- regression ------------------------------------------------------------------------------------


def test_mean_and_best_of_values() -> None:
    data = predictions()
    value, present, _, _ = arrays(data)
    both = list(zip(value, present, strict=True))
    mean = [v[there].mean(axis=0) for v, there in both]
    best = [v[np.flatnonzero(there)[0]] for v, there in both]  # quality falls with the number
    for name, expected in (("mean", mean), ("best", best)):
        found = answers(fitted(name, data, task="regression"), data)
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_product_of_values_weighs_by_precision() -> None:
    data = predictions(absent=0.0)
    value, _, target, _ = arrays(data)
    spread = target.var(axis=0)
    error = ((value - target[:, None]) ** 2).mean(axis=0)
    precision = 1 / np.minimum(error, 0.999 * spread)
    prior = 1 / spread
    total = prior + (precision - prior).sum(axis=0)
    centre = target.mean(axis=0)
    expected = centre * prior + (value * precision - centre * prior).sum(axis=1)
    found = answers(fitted("product", data, task="regression"), data)
    np.testing.assert_allclose(found, expected / total, atol=1e-9)


def test_stack_of_values_is_ridge_regression() -> None:
    data = predictions(absent=0.0)
    rule = fitted("stack", data, task="regression", dropout=0.0)
    joined = data.expert.numpy().reshape(300, 6)
    expected = Ridge(alpha=1.0).fit(joined, data.target.numpy()).predict(joined)
    np.testing.assert_allclose(answers(rule, data), expected, atol=1e-6)


# -- quantiles -------------------------------------------------------------------------------------


def pinball(y: np.ndarray, found: np.ndarray, weight: np.ndarray) -> float:
    parts = zip(LEVELS, found.T, strict=True)
    return sum(mean_pinball_loss(y, q, alpha=p, sample_weight=weight) for p, q in parts)


def test_mean_and_best_of_quantiles() -> None:
    data = quantiles()
    value, present, target, weight = arrays(data)
    loss = [
        pinball(target[there], value[there, m], weight[there]) for m, there in enumerate(present.T)
    ]
    order = np.argsort(loss)
    both = list(zip(value, present, strict=True))
    mean = [v[there].mean(axis=0) for v, there in both]
    best = [v[next(m for m in order if there[m])] for v, there in both]
    for name, expected in (("mean", mean), ("best", best)):
        found = answers(fitted(name, data, task="quantiles"), data)
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_product_of_quantiles_is_bayes_rule_for_independent_modalities() -> None:
    data = quantiles(4000, absent=0.0)
    rule = fitted("product", data, task="quantiles")
    found = answers(rule, data)
    precise = 1 / np.array([0.3, 0.6, 2.0]) ** 2
    width = 1 / np.sqrt(1 + precise.sum())
    spread = (found[:, -1] - found[:, 0]) / (ndtri(0.9) - ndtri(0.1))
    np.testing.assert_allclose(spread, width, rtol=0.03)
    target = data.target.numpy()
    for column, level in zip(found.T, LEVELS, strict=True):
        assert np.mean(target[:, 0] < column) == pytest.approx(level, abs=0.03)


def test_nothing_present_is_the_distribution_of_the_target() -> None:
    data = quantiles(2000)
    data.weight[:] = 1.0
    for name in COMBINATIONS["quantiles"]:
        rule = fitted(name, data, task="quantiles")
        with torch.no_grad():
            found = rule(data.expert[:1], torch.zeros(1, 3, dtype=torch.bool))[0].numpy()
        np.testing.assert_allclose(found, np.quantile(data.target, LEVELS), atol=0.01)


def test_learned_quantiles_are_no_worse_than_the_references() -> None:
    train, test = quantiles(600), quantiles(2000, seed=1)
    _, _, target, weight = arrays(test)
    loss = {
        name: pinball(target, answers(fitted(name, train, task="quantiles"), test), weight)
        for name in COMBINATIONS["quantiles"]
    }
    assert loss["log-pool"] < min(loss.values()) * 1.02
    assert loss["log-pool"] < 0.97 * min(loss["mean"], loss["best"])
