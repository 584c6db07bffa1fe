"""Logit bias: closed forms of the factor and the branches, and what alpha may and may not do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler, normalize

from mmfuse import FusionClassifier, FusionRegressor, load
from mmfuse.heads import FitData, LogitBiasFusion
from mmfuse.heads.logit_bias import KINDS, standardise_rows, uncertainty_factor
from mmfuse.heads.logit_bias_fit import training_loss
from mmfuse.objectives import Multinomial
from mmfuse.patterns import dropout_masks


def shots(per_class: int = 16, *, classes: int = 5, seed: int = 0):
    """Honest logits, which hardly tell class 0 from 1 where there are more, and another view."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), per_class)
    prior = 1.5 * (1.5 * np.eye(classes)[y] + rng.normal(size=(len(y), classes)))
    if classes > 2:
        prior[:, :2] = 0.9 * prior[:, :2].mean(axis=1, keepdims=True) + 0.1 * prior[:, :2]
    centre = np.random.default_rng(99).normal(size=(classes, 12))
    aux = centre[y] + 1.2 * rng.normal(size=(len(y), 12))
    return {"aux": aux, "prior": prior}, y


def fitted(X, y, **params) -> FusionClassifier:
    head = LogitBiasFusion("prior", **{"max_steps": 40, **params})
    return FusionClassifier(head, calibration=None, random_state=0).fit(X, y)


def log_loss(model: FusionClassifier, X, y) -> float:
    return float(-model.predict_log_proba(X)[np.arange(len(y)), y].mean())


# -- the factor ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3, 10, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_factor_is_one_for_a_certain_row(kind: str, n_classes: int) -> None:
    certain = torch.eye(n_classes, dtype=torch.float64)[:1]
    factor = uncertainty_factor(certain, kind, 0.4)
    assert float(factor) == pytest.approx(1.0)
    uniform = torch.full((1, n_classes), 1 / n_classes, dtype=torch.float64)
    assert 1.0 <= float(uncertainty_factor(uniform, kind, 0.4)) < np.inf


@pytest.mark.parametrize("n_classes", [3, 10, 1000])
def test_kurtosis_of_one_hot(n_classes: int) -> None:
    p = np.eye(n_classes)[0]
    kurtosis = np.mean(((p - p.mean()) / p.std()) ** 4)
    assert kurtosis == pytest.approx(n_classes - 2 + 1 / (n_classes - 1))
    published = kurtosis * ((n_classes - 1) / n_classes) ** 2  # unbiased deviation
    assert published == pytest.approx({3: 2 / 3, 10: 6.57, 1000: 996.0}[n_classes], rel=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_sharper_prior_has_a_smaller_factor(kind: str) -> None:
    logits = torch.tensor([[3.0, 1.0, 0.5, 0.2, 0.1, -0.5]], dtype=torch.float64)
    factors = [
        float(uncertainty_factor((t * logits).softmax(dim=1), kind, 0.4))
        for t in (0.8, 1.0, 2.0, 4.0)
    ]
    assert all(a > b for a, b in zip(factors, factors[1:], strict=False))
    assert float(uncertainty_factor(logits.softmax(dim=1), kind, 0.0)) == 1.0


# -- the branches ----------------------------------------------------------------------------------


def test_standardised_logits() -> None:
    u = torch.randn(20, 7, dtype=torch.float64)
    s = standardise_rows(u)
    torch.testing.assert_close(s.mean(dim=1), torch.zeros(20, dtype=torch.float64))
    torch.testing.assert_close(s.std(dim=1), torch.ones(20, dtype=torch.float64))
    torch.testing.assert_close(standardise_rows(3.0 * u - 5.0), s)
    assert (standardise_rows(torch.full((2, 4), 0.3)) == 0).all()


def test_without_steps_a_branch_is_the_nearest_class_mean() -> None:
    X, y = shots()
    model = fitted(X, y, max_steps=0)
    unit = normalize(StandardScaler().fit_transform(X["aux"].astype(np.float32)))
    means = np.stack([unit[y == k].mean(axis=0) for k in range(5)])
    np.testing.assert_allclose(model.head_.weight[0].detach(), means, atol=1e-6)
    alone = model.predict({"aux": X["aux"]})
    np.testing.assert_array_equal(alone, np.argmax(unit @ means.T, axis=1))


@pytest.mark.parametrize("share", [0.0, 0.35, 1.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_gradient_of_the_loss_is_that_of_differences(share: float, classes: int) -> None:
    X, y = shots(3, classes=classes)
    blocks = {name: torch.as_tensor(block) for name, block in X.items()}
    presence = torch.ones(len(y), 2, dtype=torch.bool)
    presence[0, 0] = presence[4, 1] = False
    weight = torch.linspace(0.5, 2.0, len(y), dtype=torch.float64)
    data = FitData(blocks, presence, torch.as_tensor(y), weight, [], Multinomial(classes), seed=0)
    head = LogitBiasFusion("prior", fused_share=share)
    module = head.build(data.dims, classes, "classification")
    W = module.weight[0]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        W.copy_(torch.randn(W.shape, generator=generator, dtype=torch.float64))
    masks, chances = dropout_masks(presence, 0.2)

    def loss() -> torch.Tensor:
        return training_loss(head, module, data, module.features(blocks), masks, chances)

    loss().backward()
    for index in ((0, 0), (1, 5), (classes - 1, 11)):
        with torch.no_grad():
            W[index] += 1e-6
            up = float(loss())
            W[index] -= 2e-6
            down = float(loss())
            W[index] += 1e-6
        assert float(W.grad[index]) == pytest.approx((up - down) / 2e-6, abs=1e-7)


def test_loss_is_the_papers_in_the_plain_case() -> None:
    """Complete rows, one branch, no dropout: a cross-entropy of each, by numpy."""
    X, y = shots(4)
    blocks = {name: torch.as_tensor(block) for name, block in X.items()}
    presence = torch.ones(len(y), 2, dtype=torch.bool)
    weight = torch.ones(len(y), dtype=torch.float64)
    data = FitData(blocks, presence, torch.as_tensor(y), weight, [], Multinomial(5), seed=0)
    W = np.random.default_rng(0).normal(size=(5, 12))
    u = normalize(X["aux"]) @ W.T
    s = (u - u.mean(axis=1, keepdims=True)) / u.std(axis=1, ddof=1, keepdims=True)
    rows = np.arange(len(y))
    single = -log_softmax(s, axis=1)[rows, y].mean()
    fused = -log_softmax(X["prior"] + 0.5 * s, axis=1)[rows, y].mean()
    head = LogitBiasFusion("prior", uncertainty="none")
    module = head.build(data.dims, 5, "classification")
    with torch.no_grad():
        module.weight[0].copy_(torch.as_tensor(W))
        got = training_loss(
            head, module, data, module.features(blocks), *dropout_masks(presence, 0.0)
        )
    assert float(got) == pytest.approx(0.35 * fused + 0.65 * single)


# -- the fitted model ------------------------------------------------------------------------------


def test_alpha_zero_is_the_prior_itself() -> None:
    X, y = shots()
    model = fitted(X, y, alpha=0.0)
    expected = log_softmax(X["prior"].astype(np.float32), axis=1)
    np.testing.assert_allclose(model.predict_log_proba(X), expected, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 5])
def test_fused_beats_both_on_new_rows(classes: int) -> None:
    X, y = shots(classes=classes)
    X_new, y_new = shots(100, classes=classes, seed=1)
    model = fitted(X, y)
    fused = log_loss(model, X_new, y_new)
    assert fused < log_loss(model, {"prior": X_new["prior"]}, y_new)
    assert fused < log_loss(model, {"aux": X_new["aux"]}, y_new)


def test_useless_branches_get_no_weight() -> None:
    X, y = shots()
    X["prior"] = 6.0 * np.eye(5)[y] + np.random.default_rng(0).normal(size=(80, 5))
    X["aux"] = np.random.default_rng(5).normal(size=(80, 12))
    model = fitted(X, y)
    assert model.history_["alpha"]["aux"] < 0.4


def test_absence_falls_back_as_documented() -> None:
    X, y = shots()
    model = fitted(X, y)
    only_prior = model.predict_log_proba({"prior": X["prior"]})
    expected = log_softmax(X["prior"].astype(np.float32), axis=1)
    np.testing.assert_allclose(only_prior, expected, atol=1e-6)
    module = model.head_
    blocks = model.encode({"aux": X["aux"]})
    with torch.inference_mode():
        scaled = model.scaler_({name: torch.tensor(blocks[name]) for name in blocks.names})
        branch = module.branches(module.features(scaled))[:, 0].numpy()
    expected = np.log(0.2) + float(module.alpha_alone) * branch
    got = model.predict_log_proba({"aux": X["aux"]})
    np.testing.assert_allclose(got, log_softmax(expected, axis=1), atol=1e-6)


def test_order_of_classes_only_permutes() -> None:
    X, y = shots()
    order = np.array([3, 0, 4, 1, 2])  # class k gets the new number order[k]
    swapped = {"aux": X["aux"], "prior": np.empty_like(X["prior"])}
    swapped["prior"][:, order] = X["prior"]
    # labels choose the folds, so the same folds are given to both
    folds = [(np.flatnonzero(np.arange(80) % 4 != f), np.arange(f, 80, 4)) for f in range(4)]
    head = LogitBiasFusion("prior", max_steps=40)
    first, second = (
        FusionClassifier(head, cv=folds, random_state=0).fit(table, labels).predict_proba(table)
        for table, labels in ((X, y), (swapped, order[y]))
    )
    np.testing.assert_allclose(second[:, order], first, atol=1e-5)


@pytest.mark.parametrize("per_class", [1, 2, 4])
def test_few_shots(per_class: int) -> None:
    X, y = shots(per_class, classes=8)
    X_new, y_new = shots(60, classes=8, seed=1)
    model = FusionClassifier(LogitBiasFusion("prior"), random_state=0).fit(X, y)
    prior_score = (X_new["prior"].argmax(axis=1) == y_new).mean()
    assert model.score(X_new, y_new) > prior_score
    if per_class == 1:  # no fold holds a class that it has seen
        assert model.history_["alpha"] == {"aux": 0.5} and model.history_["steps"] == 0


def test_two_real_digits_a_class_help_a_weak_model() -> None:
    """A model that sees the upper 3 of 8 lines, and the rest of the picture as the other view."""
    pictures, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    pictures, labels = pictures[order], labels[order]
    weak = LogisticRegression(C=0.001, max_iter=2000).fit(pictures[1000:, :24], labels[1000:])

    def table(rows):
        return {
            "logits": weak.decision_function(pictures[rows, :24]),
            "rest": pictures[rows, 24:],
        }

    few = np.concatenate([np.flatnonzero(labels[:600] == k)[:2] for k in range(10)])
    test = np.arange(600, 1000)
    model = FusionClassifier(LogitBiasFusion("logits"), random_state=0).fit(table(few), labels[few])
    fused = model.score(table(test), labels[test])
    assert fused > model.score({"logits": table(test)["logits"]}, labels[test]) + 0.1
    assert fused > model.score({"rest": table(test)["rest"]}, labels[test]) + 0.1


def test_several_branches_and_gaps() -> None:
    X, y = shots()
    rng = np.random.default_rng(3)
    X["more"] = np.eye(5)[y] + 0.5 * rng.normal(size=(80, 5))
    for name in X:
        X[name] = X[name].copy()
        X[name][rng.random(80) < 0.2] = np.nan
    for prior in ("prior", None):
        model = FusionClassifier(LogitBiasFusion(prior, max_steps=20), random_state=0).fit(X, y)
        assert model.score(X, y) > 0.7


def test_a_prior_alone_is_calibrated_and_nothing_else() -> None:
    X, y = shots()
    only = {"prior": 3.0 * X["prior"]}
    model = FusionClassifier(LogitBiasFusion("prior")).fit(only, y)
    assert model.calibrator_.temperature_ > 1.5  # three times too sure
    np.testing.assert_array_equal(model.predict(only), X["prior"].argmax(axis=1))


def test_prior_is_not_rescaled_also_after_loading(tmp_path) -> None:
    X, y = shots()
    model = fitted(X, y, alpha=0.0)
    again = load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    scaler = model.scaler_
    assert (scaler.mean_1 == 0).all() and (scaler.scale_1 == 1).all()
    assert not (scaler.mean_0 == 0).any()


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"prior": "clip"}, "prior must be one of the modalities aux, prior, or None; got 'clip'"),
        ({"prior": "aux"}, "must hold one logit per class.*it has 12 columns for 5 classes"),
        ({"alpha": -1.0}, "alpha must be 'cv' or a number from 0 on; got -1.0"),
        ({"alpha": "auto"}, "alpha must be 'cv'"),
        ({"uncertainty": "var"}, "uncertainty must be one of kurtosis, entropy"),
        ({"power": -0.1}, "power must be from 0 on"),
        ({"fused_share": 1.5}, r"fused_share must be in \[0, 1\]"),
        ({"modality_dropout": 1}, r"modality_dropout must be in \[0, 1\)"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"max_steps": 1.5}, "max_steps must be an integer"),
    ],
)
def test_bad_parameters_are_named(params: dict, message: str) -> None:
    X, y = shots(3)
    with pytest.raises(ValueError, match=message):
        FusionClassifier(LogitBiasFusion(**{"prior": "prior", **params})).fit(X, y)


def test_regression_and_missing_classes_are_refused() -> None:
    X, y = shots(3)
    with pytest.raises(ValueError, match="no form for regression"):
        FusionRegressor(LogitBiasFusion("prior")).fit(X, y)
    X["aux"][y == 2] = np.nan
    with pytest.raises(ValueError, match=r"no training row of class 2 .* has the modality 'aux'"):
        FusionClassifier(LogitBiasFusion("prior")).fit(X, y)


def test_held_out_rows_are_scored_under_a_second_presence_too() -> None:
    X, y = shots()
    blocks = {name: torch.as_tensor(block) for name, block in X.items()}
    everything = torch.ones(len(y), 2, dtype=torch.bool)
    masked = everything.clone()
    masked[::2, 0] = False
    folds = [(np.flatnonzero(np.arange(80) % 4 != f), np.arange(f, 80, 4)) for f in range(4)]
    weight = torch.ones(len(y), dtype=torch.float64)
    target = torch.as_tensor(y)
    data = FitData(blocks, everything, target, weight, folds, Multinomial(5), seed=0, masked=masked)
    result = LogitBiasFusion("prior", max_steps=20).fit_module(data)
    np.testing.assert_allclose(result.oof_masked[::2], X["prior"][::2])
    np.testing.assert_array_equal(result.oof_masked[1::2], result.oof_scores[1::2])
    assert (result.oof_masked[::2] != result.oof_scores[::2]).any()
