"""Folds, conditions and the cache of out-of-fold probabilities of the accuracy benchmark."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_peers import ABSENT, joined
from accuracy_sets import Set
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from mmfuse import Blocks

__all__ = ["Answer", "Plan", "Store", "evaluate", "evaluate_elsewhere"]

COMPLETE, GAPS = "as recorded", "30 % absent"
FLOOR = 1e-6  # a method that says "impossible" of what happens is not punished without end


@dataclass(frozen=True)
class Plan:
    """What every method is asked on one set: the same folds and the same rows.

    Attributes
    ----------
    data : Set
    """

    data: Set

    @cached_property
    def blocks(self) -> Blocks:
        return Blocks(self.data.views)

    @cached_property
    def classes(self) -> np.ndarray:
        return np.unique(self.data.y)

    @cached_property
    def fold(self) -> np.ndarray:
        """Number of the fold of each row (n,)."""
        y, groups = self.data.y, self.data.groups
        kind = StratifiedKFold if groups is None else StratifiedGroupKFold
        fold = np.empty(len(y), dtype=np.int64)
        splitter = kind(self.data.n_folds, shuffle=True, random_state=0)
        for number, (_, test) in enumerate(splitter.split(y, y, groups)):
            fold[test] = number
        return fold

    @cached_property
    def conditions(self) -> dict[str, Blocks]:
        """Rows as they were recorded, with views hidden at random, without each of the views."""
        X = self.blocks
        gone = np.random.default_rng(0).random(X.shape) < ABSENT
        gone[~(X.present & ~gone).any(axis=1)] = False
        sparse = X
        for j, name in enumerate(X.names):
            sparse = sparse.hide(name, gone[:, j])
        single = {f"no {name}": X.hide(name) for name in X.names}
        return {COMPLETE: X, GAPS: sparse, **single}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that decides an answer besides the method."""
        found = hashlib.sha256()
        for part in self.conditions.values():
            found.update(np.nan_to_num(joined(part)).tobytes())
        for part in (np.unique(self.data.y, return_inverse=True)[1], self.fold):
            found.update(np.asarray(part, dtype=np.int64).tobytes())
        return found.hexdigest()[:16]


@dataclass(frozen=True)
class Answer:
    """What a method said out of fold, per condition, and its mean CPU seconds to fit a fold.

    ``rows`` holds probabilities (n, K).
    """

    rows: dict[str, np.ndarray]
    seconds: float


def tidy(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, FLOOR, 1.0)
    return p / p.sum(axis=1, keepdims=True)


def evaluate(plan: Plan, method: Callable[[], Any], n_folds: int | None = None) -> Answer:
    """Fit a method on every fold, or on the first ones, and ask it under every condition."""
    y, groups = plan.data.y, plan.data.groups
    found = {name: np.zeros((len(y), len(plan.classes))) for name in plan.conditions}
    seconds = []
    for number in range(plan.data.n_folds if n_folds is None else n_folds):
        train, test = plan.fold != number, plan.fold == number
        start = time.process_time()
        model = method().fit(
            plan.blocks[train], y[train], None if groups is None else groups[train]
        )
        seconds.append(time.process_time() - start + getattr(model, "shared_seconds", 0.0))
        places = np.searchsorted(plan.classes, model.classes_)
        for name, rows in plan.conditions.items():
            found[name][np.ix_(test, places)] = model.predict_proba(rows[test])
    return Answer({name: tidy(p) for name, p in found.items()}, float(np.mean(seconds)))


def evaluate_elsewhere(plan: Plan, peer: str, python: str) -> Answer:
    """The same by another interpreter; npz files go to and fro."""
    ends = np.cumsum(list(plan.blocks.dims.values()))
    spans = np.stack([ends - list(plan.blocks.dims.values()), ends], axis=1)
    groups = np.full(len(plan.fold), -1)
    if plan.data.groups is not None:
        groups = np.unique(plan.data.groups, return_inverse=True)[1]
    task = {f"X_{k}": joined(rows) for k, rows in enumerate(plan.conditions.values())}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "task.npz", Path(folder) / "answer.npz"
        np.savez(
            source,
            X=joined(plan.blocks),
            y=np.searchsorted(plan.classes, plan.data.y),
            fold=plan.fold,
            spans=spans,
            group=groups,
            **task,
        )
        script = Path(__file__).parent / "accuracy_foreign.py"
        subprocess.run([python, script, peer, source, target], check=True, cwd=folder)
        with np.load(target, allow_pickle=False) as file:
            found = {name: tidy(file[f"p_{k}"]) for k, name in enumerate(plan.conditions)}
            return Answer(found, _seconds(file))


def _seconds(file: Any) -> float:
    return float(file["cpu_seconds"]) if "cpu_seconds" in file.files else float("nan")


class Store:
    """A folder of npz files, one per set and method; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def _path(self, name: str, method: str) -> Path:
        return self.folder / name / (re.sub(r"[^a-zA-Z0-9]+", "-", method).strip("-") + ".npz")

    def get(self, name: str, method: str, plan: Plan) -> Answer | None:
        """What was kept for the same rows, folds and conditions, else None."""
        if self.folder is None or not self._path(name, method).exists():
            return None
        with np.load(self._path(name, method), allow_pickle=False) as file:
            if str(file["fingerprint"]) != plan.fingerprint:
                return None
            kept = {part: file[f"p_{k}"] for k, part in enumerate(plan.conditions)}
            return Answer(kept, _seconds(file))

    def put(self, name: str, method: str, plan: Plan, answer: Answer) -> None:
        if self.folder is None:
            return
        path = self._path(name, method)
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = {f"p_{k}": p for k, p in enumerate(answer.rows.values())}
        np.savez_compressed(path, fingerprint=plan.fingerprint, cpu_seconds=answer.seconds, **parts)
