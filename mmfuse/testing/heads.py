"""The contract of a head, as checks that anybody can run on a head of their own.

They go through the estimators, on small tables with known truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import clone

from mmfuse.estimators.classifier import FusionClassifier
from mmfuse.estimators.regressor import FusionRegressor
from mmfuse.heads.base import BaseHead
from mmfuse.testing._run import Check, demand, demand_close, run_checks
from mmfuse.testing.tables import two_values, two_views

__all__ = ["HEAD_CHECKS", "HeadSubject", "check_head"]

TASKS = ("classification", "regression")


@dataclass(frozen=True)
class HeadSubject:
    """A head to check, cloned for each model."""

    head: BaseHead

    def classifier(self, X: Any, y: Any, seed: int = 0) -> FusionClassifier:
        """A fitted classifier with a clone of the head."""
        return FusionClassifier(clone(self.head), random_state=seed).fit(X, y)

    def regressor(self, X: Any, y: Any) -> FusionRegressor:
        """A fitted regressor with a clone of the head."""
        return FusionRegressor(clone(self.head), random_state=0).fit(X, y)


def check_head(head: BaseHead, *, task: str = "classification") -> None:
    """Check that a head keeps every contract.

    Parameters
    ----------
    head : BaseHead
        Quick to fit: it is cloned and fitted about twenty times on 120 rows.
    task : {"classification", "regression"}, default="classification"

    Raises
    ------
    AssertionError
        Names each check that failed and the contract that is broken.
    ValueError
        If `task` is not one of the two.

    Notes
    -----
    `HEAD_CHECKS` holds the checks of each task by name, to run one at a time (on a
    `HeadSubject`), as with ``pytest.mark.parametrize``.

    Examples
    --------
    >>> from mmfuse.heads import EarlyFusion
    >>> from mmfuse.testing import check_head
    >>> check_head(EarlyFusion(C=1.0))
    """
    if task not in TASKS:
        raise ValueError(f"check_head: task must be one of {TASKS}, got {task!r}.")
    run_checks(HEAD_CHECKS[task], HeadSubject(head), who=type(head).__name__)


def check_parameters(subject: HeadSubject) -> None:
    """Constructor arguments are stored untouched, and fitting leaves the head alone."""
    head = subject.head
    names = head.get_params(deep=False)
    demand(
        all(getattr(head, name) is value for name, value in names.items()),
        "__init__ must store its arguments untouched, under their names",
    )
    before = repr(head.get_params())
    X, y = two_views(60)
    FusionClassifier(head, random_state=0).fit(X, y)
    demand(repr(head.get_params()) == before, "fitting must not change the head's parameters")


def check_any_subset(subject: HeadSubject) -> None:
    """Any subset of modalities in any row is answered, and every modality is read."""
    X, y = two_views(absent=0.3)
    model = subject.classifier(X, y)
    proba = model.predict_proba(X)
    demand(np.isfinite(proba).all(), "probabilities must be finite whatever is absent")
    demand_close(proba.sum(axis=1), np.ones(len(y)), "the probabilities of a row must sum to one")
    score = model.score(X, y)
    demand(score > 0.6, f"an easy task must be learned: accuracy {score:.2f} on training rows")
    for hidden, other in (("a", "b"), ("b", "a")):
        score = model.score(X.hide(hidden), y)
        demand(
            score > 0.45,  # chance is one third
            f"with {hidden!r} absent, {other!r} must still be read: accuracy {score:.2f}, by "
            "chance 0.33",
        )


def check_prior(subject: HeadSubject) -> None:
    """A row with nothing present gets the training prior."""
    X, y = two_views()
    y[:20] = 0
    model = subject.classifier(X, y)
    proba = model.predict_proba(X[:3].hide(["a", "b"]))
    demand_close(
        proba,
        np.tile(model.prior_, (3, 1)),
        "a row with nothing present must get the training prior",
        within=1e-9,
    )


def check_rows_alone(subject: HeadSubject) -> None:
    """A row's answer does not depend on the rows beside it, nor on their order."""
    X, y = two_views(absent=0.3)
    model = subject.classifier(X, y)
    together = model.predict_proba(X)
    alone = np.vstack([model.predict_proba(X[i : i + 1]) for i in range(10)])
    demand_close(
        alone, together[:10], "a row must get the same answer alone as in a batch", within=2e-6
    )
    turned = np.arange(len(y))[::-1]
    demand_close(
        model.predict_proba(X[turned]),
        together[turned],
        "the order of rows must not change an answer",
        within=2e-6,
    )


def check_absent_values(subject: HeadSubject) -> None:
    """What stands in a cell that is absent is never read, in fit or predict."""
    X, y = two_views()
    a = np.array(X["a"])
    hidden = np.arange(len(y)) % 2 == 0
    first = X.hide("a", hidden)
    a[hidden] = 1e6
    second = type(X)({"a": a, "b": X["b"]}).hide("a", hidden)
    p = [subject.classifier(table, y).predict_proba(table) for table in (first, second)]
    demand_close(p[0], p[1], "the values of absent cells must never be read", within=0)
    _check_module(subject, X, y, hidden)


def _check_module(subject: HeadSubject, X: Any, y: Any, hidden: np.ndarray) -> None:
    """The same of the module itself, which is handed tensors by others as well."""
    model = subject.classifier(X, y)
    dims = {name: X[name].shape[1] for name in X.modalities}
    presence = torch.ones(len(y), len(dims), dtype=torch.bool)
    presence[torch.as_tensor(hidden), 0] = False
    blocks = {name: torch.as_tensor(np.asarray(X[name], dtype=np.float32)) for name in dims}
    if not hasattr(model.head_, "forward") or model.head_.all_estimators():
        return  # an estimator inside reads NaN, which only the estimators' door puts there
    raw = model.fusion_head_.raw_blocks(dims)
    scores = []
    for filling in (0.0, 7.0):
        one = {name: block.clone() for name, block in blocks.items()}
        one["a"][torch.as_tensor(hidden)] = filling
        with torch.inference_mode():
            scores.append(model.head_(one, presence).scores.numpy())
    demand_close(
        scores[0],
        scores[1],
        f"the module must not read blocks{raw or ''} where presence is False, whatever stands "
        "there",
    )


def check_seed(subject: HeadSubject) -> None:
    """The same random_state gives the same model, whatever the global generators' state."""
    X, y = two_views(absent=0.2)
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()
    try:
        p, touched = [], False
        for seed in (5, 6):
            torch.manual_seed(seed)
            np.random.seed(seed)
            before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
            p.append(subject.classifier(X, y).predict_proba(X))
            touched = touched or not torch.equal(before[0], torch.random.get_rng_state())
            touched = touched or bool((np.random.get_state()[1] != before[1]).any())
    finally:
        torch.random.set_rng_state(state)
        np.random.set_state(numpy_state)
    demand_close(p[0], p[1], "the same random_state must give the same model", within=0)
    demand(not touched, "fitting must leave the global random generators as they were")


def check_modality_order(subject: HeadSubject) -> None:
    """Modalities are told apart by name, not by place."""
    X, y = two_views()
    model = subject.classifier(X, y)
    swapped = {"b": X["b"], "a": X["a"]}
    demand_close(
        model.predict_proba(swapped),
        model.predict_proba(X),
        "the order in which modalities are handed over must not matter",
        within=1e-9,
    )


def check_noise(subject: HeadSubject) -> None:
    """A modality of noise does no great harm."""
    X, y = two_views(240)
    half = np.arange(len(y)) < 120
    noise = np.random.default_rng(1).normal(size=(len(y), 4))
    loss = {}
    for name, blocks in (("alone", {"a": X["a"]}), ("noise", {"a": X["a"], "noise": noise})):
        model = subject.classifier({k: v[half] for k, v in blocks.items()}, y[half])
        p = model.predict_log_proba({k: v[~half] for k, v in blocks.items()})
        loss[name] = -p[np.arange(120), y[~half]].mean()
    demand(
        loss["noise"] < loss["alone"] + 0.12,
        "a modality of noise must do no great harm: log loss "
        f"{loss['noise']:.2f} with it, {loss['alone']:.2f} without",
    )


def check_regression(subject: HeadSubject) -> None:
    """Values are learned, every modality is read, and a row with nothing gets the mean."""
    X, y = two_values()
    model = subject.regressor(X[:200], y[:200])
    test, y_test = X[200:], y[200:]
    score = model.score(test, y_test)
    demand(score > 0.55, f"an easy task must be learned: R2 {score:.2f} on new rows")
    half = model.score(test.hide("b"), y_test)
    demand(
        0.2 < half < 0.65,
        f"half of the variance is in each modality: with 'b' absent R2 must be near 0.5, is "
        f"{half:.2f}",
    )
    nothing = model.predict(test[:2].hide(["a", "b"]))
    demand_close(
        nothing, np.full(2, y[:200].mean()), "a row with nothing present must get the mean"
    )


def check_regression_rows_alone(subject: HeadSubject) -> None:
    """A row's value does not depend on the rows beside it."""
    X, y = two_values(120)
    model = subject.regressor(X, y)
    alone = np.concatenate([model.predict(X[i : i + 1]) for i in range(5)])
    demand_close(alone, model.predict(X)[:5], "a row must get the same value alone as in a batch")


HEAD_CHECKS: dict[str, dict[str, Check]] = {
    "classification": {
        "parameters": check_parameters,
        "any_subset": check_any_subset,
        "prior": check_prior,
        "rows_alone": check_rows_alone,
        "absent_values": check_absent_values,
        "seed": check_seed,
        "modality_order": check_modality_order,
        "noise": check_noise,
    },
    "regression": {
        "regression": check_regression,
        "regression_rows_alone": check_regression_rows_alone,
    },
}
"""Checks of the contract of heads, by task and name."""
