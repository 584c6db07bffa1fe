"""Choosing a head: candidates scored out of fold, then one of them or a blend."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax, logsumexp
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from torch import Tensor, nn

from mmfuse.calibration.temperature import TemperatureScaling
from mmfuse.exceptions import UnsupportedObjectiveError
from mmfuse.heads.base import BaseHead, FitData, FitResult, FusionModule, HeadOutput
from mmfuse.heads.early import EarlyFusion
from mmfuse.heads.late import LateFusion
from mmfuse.objectives import Objective, of_classes
from mmfuse.patterns import hidden

__all__ = ["AutoFusion"]

_CONDITIONS = ("complete", "incomplete")
_STEPS = 12  # members that a greedy blend may draw, with repetition
_CLOSE = 3.0  # standard errors behind the best within which the order of candidates is chance
_GAIN = 0.003  # relative fall of the loss that a further member must bring
_TREES_UP_TO = 1000  # features; beyond, they are embeddings, where trees were never near the best
_BOOSTING_UP_TO = 300  # features times classes; beyond, it costs more than it was seen to bring
_COMPLETE = 0.01  # share of missing cells up to which absence is simulated
_HEAVY = 5_000_000  # numbers in the table, beyond which linear candidates alone are tried
_LIGHT = ("early-linear", "late-linear")


class AutoFusion(BaseHead):
    """Try several heads on the training rows and keep the best, or a blend of the best.

    Every candidate is scored by its out-of-fold loss, separately on complete rows and on rows with
    a modality missing. Where the training table is complete, absence is simulated in held-out rows.
    For each of the two conditions a greedy blend starts from the mean of all candidates that are
    not clearly worse than the best one (within three standard errors of the paired difference:
    on few rows their order is chance, and a mean is safer than a choice) and draws another only
    while that lowers the loss; candidates that neither blend uses are dropped. The
    estimator's ``head_report_`` shows every candidate's losses and weights. Candidates that cannot
    learn what is asked for, such as trees without quantiles, are skipped, and
    ``history_["skipped"]`` says why. Parameters of mixtures are not averaged: one candidate is kept
    for each condition.

    Parameters
    ----------
    candidates : dict of str to head, default=None
        None means linear early and late fusion, a multilayer perceptron, and trees up to 1000
        features: extra trees early and late, and gradient boosting where features times classes
        are at most 300. Tables of more than five million numbers get the linear ones only.
    absence : float, default=0.3
        Chance that a modality is hidden from a held-out row where the training table is complete.

    Notes
    -----
    Blending follows Caruana, Niculescu-Mizil, Crew and Ksikes (2004), "Ensemble selection from
    libraries of models": a mean of probabilities over members drawn with repetition. Splitting it
    by what is present, tempering each member first, and the start by standard errors are ours.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse import FusionClassifier
    >>> from mmfuse.heads import AutoFusion, EarlyFusion, LateFusion
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], 30)
    >>> X = {"a": rng.normal(y[:, None], 1, (60, 3)), "b": rng.normal(y[:, None], 1, (60, 2))}
    >>> head = AutoFusion({"early": EarlyFusion(), "late": LateFusion()})
    >>> model = FusionClassifier(head, random_state=0).fit(X, y)
    >>> sorted(model.head_report_.index)
    ['early', 'late']
    """

    def __init__(
        self, candidates: Mapping[str, BaseHead] | None = None, *, absence: float = 0.3
    ) -> None:
        self.candidates = candidates
        self.absence = absence

    def _candidates(
        self, block_dims: dict[str, int], n_outputs: int, task: str
    ) -> dict[str, BaseHead]:
        if self.candidates is not None:
            return dict(self.candidates)
        classes = of_classes(task)
        trees: Any = ExtraTreesClassifier if classes else ExtraTreesRegressor
        boosting: Any = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
        forest = trees(200, min_samples_leaf=2)
        width, several = sum(block_dims.values()), len(block_dims) > 1
        found: dict[str, BaseHead] = {"early-linear": EarlyFusion()}
        if several:
            found["late-linear"] = LateFusion()
        found["early-mlp"] = EarlyFusion("mlp")
        if width <= _TREES_UP_TO:
            found["early-trees"] = EarlyFusion(forest)
            if several:
                found["late-trees"] = LateFusion(forest)
        one_value = task != "regression" or n_outputs == 1  # scikit-learn's boosting has no more
        if width * (n_outputs if classes else 1) <= _BOOSTING_UP_TO and one_value:
            few_leaves = boosting(max_iter=60, max_leaf_nodes=15, early_stopping=False)
            found["early-boosting"] = EarlyFusion(few_leaves)
        return found

    def check_parameters(self, block_dims: dict[str, int], objective: Objective) -> None:
        if not 0 < self.absence < 1:
            raise ValueError(f"AutoFusion: absence must be in (0, 1); got {self.absence!r}.")
        candidates = self._candidates(block_dims, objective.n_outputs, objective.task)
        if not candidates:
            raise ValueError("AutoFusion: candidates must hold at least one head.")
        able, refused = self._able(block_dims, objective)
        if not able:
            raise UnsupportedObjectiveError(
                f"AutoFusion: no candidate can learn {objective.name}. "
                + " ".join(f"{name}: {reason}" for name, reason in refused.items())
            )
        for name, head in able.items():
            if head.raw_blocks(block_dims):
                raise ValueError(
                    f"AutoFusion: candidate {name!r} reads the logits of a prior block, and all "
                    "candidates share standardised blocks; use that head by itself."
                )

    def _able(
        self, block_dims: dict[str, int], objective: Objective
    ) -> tuple[dict[str, BaseHead], dict[str, str]]:
        """Candidates that can learn the objective, and why the others cannot."""
        able, refused = {}, {}
        known = self._candidates(block_dims, objective.n_outputs, objective.task)
        for name, head in known.items():
            if not isinstance(head, BaseHead):
                raise ValueError(
                    f"AutoFusion: candidate {name!r} must be a head from mmfuse.heads; "
                    f"got {head!r}."
                )
            try:
                head.check_parameters(block_dims, objective)
            except UnsupportedObjectiveError as reason:
                refused[name] = str(reason)
            else:
                able[name] = head
        return able, refused

    def build(self, block_dims: dict[str, int], n_outputs: int, task: str) -> BlendModule:
        members = {
            name: head.make_module(block_dims, n_outputs, task)
            for name, head in self._candidates(block_dims, n_outputs, task).items()
        }
        return BlendModule(block_dims, n_outputs, task, members)

    def make_module(self, block_dims: dict[str, int], n_outputs: int, task: str) -> BlendModule:
        """As ``build``: every member has its own form for ordered classes."""
        return self.build(block_dims, n_outputs, task)

    def fit_module(self, data: FitData) -> FitResult:
        """Fit every candidate, choose on out-of-fold scores, keep what is used."""
        candidates, refused = self._able(data.dims, data.objective)
        if not data.folds:  # nothing to choose by
            name = "late-linear" if "late-linear" in candidates else next(iter(candidates))
            candidates = {name: candidates[name]}
        elif self.candidates is None and len(data.weight) * sum(data.dims.values()) > _HEAVY:
            light = {n: h for n, h in candidates.items() if n in _LIGHT}
            candidates = light or candidates
        complete = float((~data.presence).float().mean()) <= _COMPLETE
        masked = hidden(data.presence, data.seed, self.absence) if complete else data.masked
        asked = replace(data, need_oof=True, masked=masked)
        results, seconds = {}, {}
        for name, head in candidates.items():
            start = time.perf_counter()
            results[name] = head.fit_module(asked)
            seconds[name] = time.perf_counter() - start
        choice = _Choice(asked, results, simulated=complete)
        report = choice.report(seconds)
        kept = [name for name in results if choice.used(name)]
        module = BlendModule(
            data.dims, data.n_outputs, data.task, {name: results[name].module for name in kept}
        )
        module.to(data.presence.device)
        choice.fill(module, kept)
        chosen = AutoFusion({name: candidates[name] for name in kept}, absence=self.absence)
        history = {
            "candidates": report,
            "skipped": refused,
            **{name: results[name].history for name in kept},
        }
        oof, gone = None, None
        if data.need_oof:
            oof = choice.blended(choice.observed, choice.complete)
            if data.masked is not None and masked is not None and masked.equal(data.masked):
                gone = choice.blended(choice.masked, data.masked.all(dim=1).cpu().numpy())
        return FitResult(module.eval(), oof, history, gone, head=chosen)


class BlendModule(FusionModule):
    """A weighted mean of tempered probabilities, or of values; weights depend on the condition."""

    weights: Tensor
    log_temperature: Tensor

    def __init__(
        self, block_dims: dict[str, int], n_outputs: int, task: str, members: dict[str, Any]
    ) -> None:
        super().__init__(block_dims, n_outputs, task)
        self.members = nn.ModuleList(members.values())
        self.names = list(members)
        equal = torch.full((2, len(members)), 1 / len(members), dtype=torch.float64)
        self.register_buffer("weights", equal)
        self.register_buffer("log_temperature", torch.zeros(len(members), dtype=torch.float64))
        # of the errors out of fold, where nothing is missing and where something is
        self.register_buffer("variance", torch.ones(2, n_outputs, dtype=torch.float64))

    def forward(self, blocks: dict[str, Tensor], presence: Tensor) -> HeadOutput:
        parts = torch.stack([m(blocks, presence).scores.double() for m in self.members], dim=1)
        complete = presence.all(dim=1)
        weights = torch.where(complete[:, None], self.weights[0], self.weights[1])  # (n, members)
        if not of_classes(self.task):
            values = (weights[..., None] * parts).sum(dim=1)
            spread = torch.where(complete[:, None], self.variance[0], self.variance[1])
            return HeadOutput(values, {"variance": spread} if self.task == "regression" else {})
        log_p = torch.log_softmax(parts * (-self.log_temperature).exp()[None, :, None], dim=-1)
        scores = torch.logsumexp(log_p + weights.clamp(min=1e-300).log()[..., None], dim=1)
        return HeadOutput(scores, {"members": log_p})


class _Choice:
    """Losses of the candidates under both conditions, and the blend that follows from them."""

    def __init__(self, data: FitData, results: dict[str, FitResult], *, simulated: bool) -> None:
        self.names = list(results)
        self.simulated = simulated  # whether rows with modalities hidden count in the choice
        self.objective = data.objective
        self.classification = of_classes(data.task)
        self.target = data.target.cpu().numpy()
        self.weight = data.weight.cpu().numpy()
        self.complete = data.presence.all(dim=1).cpu().numpy()
        self.temperature = np.ones(len(self.names))
        self.observed = self._tempered([r.oof_scores for r in results.values()], fit=True)
        masked = [r.oof_masked for r in results.values()]
        usable = data.masked is not None and all(m is not None for m in masked)
        self.masked = self._tempered(masked, fit=False) if usable else None
        self.masked_rows = (
            ~data.masked.all(dim=1).cpu().numpy() if usable and data.masked is not None else None
        )
        self.weights = {c: self._greedy(c) for c in _CONDITIONS}

    def _tempered(self, scores: list, *, fit: bool) -> np.ndarray | None:
        """Log probabilities or values of every candidate: (members, n, K)."""
        if any(s is None for s in scores):
            return None
        stacked = np.stack(scores)
        if not self.classification:
            return stacked
        for i, s in enumerate(stacked):
            held = np.isfinite(s).all(axis=1)
            if fit and held.any():
                scaling = TemperatureScaling()
                scaling.fit(s[held], self.target[held], self.weight[held])
                self.temperature[i] = scaling.temperature_
        return log_softmax(stacked / self.temperature[:, None, None], axis=2)

    def _rows(self, condition: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Predictions (members, r, K), targets and weights of the rows of a condition."""
        if self.observed is None:
            return None
        held = np.isfinite(self.observed).all(axis=(0, 2)) & (self.weight > 0)
        parts = []
        rows = held & (self.complete if condition == "complete" else ~self.complete)
        parts.append((self.observed[:, rows], self.target[rows], self.weight[rows]))
        if condition == "incomplete" and self.simulated and self.masked is not None:
            rows = held & self.masked_rows
            parts.append((self.masked[:, rows], self.target[rows], self.weight[rows]))
        if sum(len(part[1]) for part in parts) < 5:
            return None
        predictions = np.concatenate([part[0] for part in parts], axis=1)
        return predictions, *(np.concatenate([part[i] for part in parts]) for i in (1, 2))

    def _row_loss(self, mix: np.ndarray, rows: tuple) -> np.ndarray:
        """Loss (r,) of the blend ``mix`` (members,) in every row."""
        predictions, target, _ = rows
        if not self.classification:
            mixed = torch.as_tensor(np.tensordot(mix, predictions, axes=1))
            return self.objective.row_loss(mixed, torch.as_tensor(target)).numpy()
        true = predictions[:, np.arange(len(target)), target]
        used = mix > 0
        return -logsumexp(true[used] + np.log(mix[used])[:, None], axis=0)

    def _loss(self, mix: np.ndarray, rows: tuple) -> float:
        """Weighted mean loss of a blend."""
        return float(np.average(self._row_loss(mix, rows), weights=rows[2]))

    def _close_to_best(self, rows: tuple) -> np.ndarray:
        """Which members are behind the best one by no more than chance would have it."""
        losses = np.stack([self._row_loss(unit, rows) for unit in np.eye(len(self.names))])
        weight = rows[2] / rows[2].sum()
        behind = losses - losses[int(np.argmin(losses @ weight))]
        mean = behind @ weight
        error = np.sqrt(((behind - mean[:, None]) ** 2) @ weight**2)
        return mean <= _CLOSE * error

    def _greedy(self, condition: str) -> np.ndarray:
        rows = self._rows(condition) or self._rows("complete") or self._rows("incomplete")
        count = len(self.names)
        if rows is None or count == 1:
            return np.eye(count)[0]
        if not self.objective.blends:
            return np.eye(count)[int(np.argmin([self._loss(u, rows) for u in np.eye(count)]))]
        drawn = self._close_to_best(rows).astype(float)
        best = self._loss(drawn / drawn.sum(), rows)
        for _ in range(_STEPS):
            options = [
                self._loss((drawn + unit) / (drawn.sum() + 1), rows) for unit in np.eye(count)
            ]
            if min(options) > best * (1 - _GAIN):
                break
            best = min(options)
            drawn[int(np.argmin(options))] += 1
        return drawn / drawn.sum()

    def used(self, name: str) -> bool:
        """Whether either blend draws the candidate."""
        i = self.names.index(name)
        return any(self.weights[c][i] > 0 for c in _CONDITIONS)

    def report(self, seconds: dict[str, float]) -> dict[str, dict[str, float | None]]:
        """Losses, weights and seconds of every candidate."""
        found: dict[str, dict[str, float | None]] = {}
        for i, name in enumerate(self.names):
            found[name] = {}
            for c in _CONDITIONS:
                rows, unit = self._rows(c), np.eye(len(self.names))[i]
                found[name][f"loss_{c}"] = None if rows is None else self._loss(unit, rows)
                found[name][f"weight_{c}"] = float(self.weights[c][i])
            found[name]["seconds"] = round(seconds[name], 3)
        return found

    def fill(self, module: BlendModule, kept: list[str]) -> None:
        """Write weights and temperatures of the kept candidates into the module."""
        places = [self.names.index(name) for name in kept]
        weights = np.stack([self.weights[c][places] for c in _CONDITIONS])
        module.weights.copy_(torch.as_tensor(weights))
        module.log_temperature.copy_(torch.as_tensor(np.log(self.temperature[places])))
        if module.task == "regression":
            module.variance.copy_(torch.as_tensor(self._variance()))

    def _variance(self) -> np.ndarray:
        """Mean squared error of the blend under both conditions: (2, T)."""
        found = np.ones((2, self.target.shape[1]))
        for i, condition in enumerate(_CONDITIONS):
            rows = self._rows(condition)
            if rows is None and i:
                found[i] = found[0]
            elif rows is not None:
                predictions, target, weight = rows
                error = np.tensordot(self.weights[condition], predictions, axes=1) - target
                found[i] = np.average(error**2, axis=0, weights=weight)
        return found

    def blended(self, scores: np.ndarray | None, complete: np.ndarray) -> np.ndarray | None:
        """Scores of the blend (n, K) from those of the members, for rows that are complete or not.

        Parameters
        ----------
        scores : ndarray of shape (members, n, K) or None
        complete : ndarray of shape (n,), bool
        """
        if scores is None:
            return None
        mix = np.where(complete[:, None], self.weights["complete"], self.weights["incomplete"])
        mix = mix.T[..., None]
        if not self.classification:
            return (mix * scores).sum(axis=0)
        return logsumexp(scores, axis=0, b=mix)
