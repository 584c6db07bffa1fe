"""Heads and scikit-learn baselines on real multimodal sets, with and without gaps.

Run from the root of the repository, with the development data beside it or in ``MMFUSE_DATA``::

    python benchmarks/accuracy.py              # all sets; writes docs/benchmarks.md
    python benchmarks/accuracy.py htad --dry-run
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from page import write_section
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import GroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmfuse import Blocks, FusionClassifier
from mmfuse.heads import AutoFusion, EarlyFusion, LateFusion
from mmfuse.metrics import expected_calibration_error, log_loss

Set = tuple[dict[str, np.ndarray], np.ndarray, "np.ndarray | None"]
DATA = Path(os.environ.get("MMFUSE_DATA", Path(__file__).parents[2] / "shared" / "data"))
ABSENT = 0.3


def htad() -> Set:
    """Home tasks: sound and wrist motion, 7 activities."""
    frame = pd.read_csv(next((DATA / "htad_audio_motion").glob("*.csv")))
    views = {"audio": frame.filter(like="v1_"), "motion": frame.filter(like="v2_")}
    return (
        {name: view.to_numpy(np.float32) for name, view in views.items()},
        frame["class"].to_numpy(),
        None,
    )


def mosi() -> Set:
    """Opinions in videos: text, sound and picture features, two sentiments, grouped by video."""
    z = np.load(DATA / "mosi" / "clean.npz", allow_pickle=False)
    return {name: z[name] for name in ("text", "audio", "video")}, z["label"], z["video_id"]


def mfeat() -> Set:
    """Handwritten numerals described in six ways."""
    z = np.load(DATA / "mfeat_six_views" / "views.npz", allow_pickle=False)
    return {name: z[name] for name in z.files if z[name].ndim == 2}, z["label"], None


def av_digits() -> Set:
    """Spoken and handwritten digits, grouped by speaker."""
    from av_digits import encode

    blocks, y, speakers = encode()
    return {name: blocks[name] for name in blocks.names}, y, speakers


SETS: dict[str, Callable[[], Set]] = {
    "htad": htad,
    "mosi": mosi,
    "mfeat": mfeat,
    "av_digits": av_digits,
}


class Joined:
    """A scikit-learn classifier over concatenated views; its pipeline imputes where it must."""

    def __init__(self, classifier: object) -> None:
        self.classifier = classifier

    def fit(self, X: Blocks, y: np.ndarray, groups: np.ndarray | None) -> Joined:
        self.classifier.fit(self._join(X), y)
        self.classes_ = self.classifier.classes_
        return self

    @staticmethod
    def _join(X: Blocks) -> np.ndarray:
        return np.hstack([X[name] for name in X.names])

    def predict_proba(self, X: Blocks) -> np.ndarray:
        return self.classifier.predict_proba(self._join(X))


class PerView:
    """One pipeline per view: mean of probabilities, sum of logarithms, or the best view alone."""

    def __init__(self, combine: str) -> None:
        self.combine = combine

    def fit(self, X: Blocks, y: np.ndarray, groups: np.ndarray | None) -> PerView:
        self.models = {name: linear(cv=False).fit(X[name], y) for name in X.names}
        self.classes_, counts = np.unique(y, return_counts=True)
        self.log_prior = np.log(counts / counts.sum())
        codes = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
        half = codes % 2 == 0
        trial = {
            n: linear(cv=False).fit(X[n][half], y[half]).score(X[n][~half], y[~half])
            for n in X.names
        }
        self.best = max(trial, key=trial.__getitem__)
        return self

    def predict_proba(self, X: Blocks) -> np.ndarray:
        names = [self.best] if self.combine == "best" else list(X.names)
        out = np.zeros((len(X), len(self.classes_)))
        count = np.zeros((len(X), 1))
        for name in names:
            there = X.present[:, X.names.index(name)]
            p = np.clip(self.models[name].predict_proba(np.nan_to_num(X[name])), 1e-12, 1)
            part = p if self.combine == "mean" else np.log(p) - self.log_prior
            out += np.where(there[:, None], part, 0)
            count += there[:, None]
        if self.combine == "mean":
            return np.where(count > 0, out / np.maximum(count, 1), np.exp(self.log_prior))
        out = np.exp(out + self.log_prior - (out + self.log_prior).max(axis=1, keepdims=True))
        return out / out.sum(axis=1, keepdims=True)


class Fused:
    """FusionClassifier with a head."""

    def __init__(self, head: object) -> None:
        self.model = FusionClassifier(head, random_state=0)

    def fit(self, X: Blocks, y: np.ndarray, groups: np.ndarray | None) -> Fused:
        self.model.fit(X, y, groups=groups)
        self.classes_ = self.model.classes_
        return self

    def predict_proba(self, X: Blocks) -> np.ndarray:
        return self.model.predict_proba(X)


def linear(*, cv: bool) -> object:
    """Impute, scale, logistic regression."""
    last = (
        LogisticRegressionCV(Cs=np.logspace(-4, 2, 7), cv=3, scoring="neg_log_loss", max_iter=300)
        if cv
        else LogisticRegression(max_iter=1000)
    )
    return make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), last)


def trees() -> object:
    return make_pipeline(
        SimpleImputer(keep_empty_features=True), ExtraTreesClassifier(300, random_state=0)
    )


METHODS: dict[str, Callable[[], object]] = {
    "best single view": lambda: PerView("best"),
    "mean of view probabilities": lambda: PerView("mean"),
    "prior-corrected sum of log probabilities": lambda: PerView("sum"),
    "concat + logistic regression": lambda: Joined(linear(cv=False)),
    "concat + tuned logistic regression": lambda: Joined(linear(cv=True)),
    "concat + extra trees": lambda: Joined(trees()),
    "concat + gradient boosting": lambda: Joined(HistGradientBoostingClassifier(random_state=0)),
    "mmfuse EarlyFusion()": lambda: Fused(EarlyFusion()),
    "mmfuse LateFusion() (default)": lambda: Fused(LateFusion()),
    "mmfuse AutoFusion()": lambda: Fused(AutoFusion()),
}


def measure(data: Set, method: Callable[[], object]) -> dict[str, float]:
    """Out-of-fold scores over five folds, complete and with views missing at random."""
    views, y, groups = data
    X, classes = Blocks(views), np.unique(y)
    full, gaps = np.empty((len(y), len(classes))), np.empty((len(y), len(classes)))
    rng = np.random.default_rng(0)
    gone = rng.random(X.shape) < ABSENT
    gone[gone.all(axis=1)] = False
    sparse = X
    for j, name in enumerate(X.names):
        sparse = sparse.hide(name, gone[:, j])
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    if groups is not None:
        folds = GroupKFold(min(5, len(np.unique(groups))))
    seconds = 0.0
    for train, test in folds.split(y, y, groups):
        start = time.perf_counter()
        model = method().fit(X[train], y[train], None if groups is None else groups[train])
        seconds += time.perf_counter() - start
        places = np.searchsorted(classes, model.classes_)
        for out, rows in ((full, X[test]), (gaps, sparse[test])):
            out[test] = 1e-12
            out[np.ix_(test, places)] = model.predict_proba(rows)
    scores = {}
    for name, p in (("", full), (" with gaps", gaps)):
        p /= p.sum(axis=1, keepdims=True)
        scores[f"log loss{name}"] = float(log_loss(y, p, classes=classes))
        scores[f"accuracy{name}"] = float((classes[p.argmax(axis=1)] == y).mean())
        scores[f"ECE{name}"] = float(expected_calibration_error(y, p, classes=classes))
    return scores | {"fit s": seconds / folds.get_n_splits()}


def section(name: str, data: Set, methods: dict[str, Callable[[], object]]) -> str:
    """Measure every method on one set; a markdown table."""
    views, y, groups = data
    shapes = ", ".join(f"{view} {block.shape[1]}" for view, block in views.items())
    kind = "5 stratified folds" if groups is None else "group-disjoint folds"
    lines = [f"### {name}: {SETS[name].__doc__}", ""]
    lines += [f"{len(y)} rows; {shapes} features; {len(np.unique(y))} classes; {kind}.", ""]
    for i, (label, method) in enumerate(methods.items()):
        scores = measure(data, method)
        if i == 0:
            lines += ["| method | " + " | ".join(scores) + " |", "| --- " * 8 + "|"]
        lines.append(f"| {label} | " + " | ".join(f"{v:.3f}" for v in scores.values()) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning, module="sklearn")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", default=list(SETS), help=", ".join(SETS))
    parser.add_argument("--dry-run", action="store_true", help="print only")
    arguments = parser.parse_args()
    for name in arguments.sets:
        text = section(name, SETS[name](), METHODS)
        if not arguments.dry_run:
            text += (
                f"\n\nWith gaps: each view hidden from a test row with chance {ABSENT} (a row that "
                "would lose all keeps all), training complete; baselines that cannot take NaN get "
                "mean imputation. Out-of-fold predictions pooled. Made by "
                "`benchmarks/accuracy.py`."
            )
            write_section(f"accuracy {name}", text)


if __name__ == "__main__":
    main()
