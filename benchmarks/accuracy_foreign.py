"""Peers that live in an environment of their own; run by ``accuracy.py --peers``.

    PYTHON benchmarks/accuracy_foreign.py multiviewstacking task.npz answer.npz

Imports nothing of mmfuse. The task holds the features ``X`` (n, d) of the rows as they are, one
array ``X_<k>`` for each condition, class numbers ``y``, the fold ``fold`` of each row, ``spans``
(M, 2) of the views, and ``group`` (-1 where there are none). The answer holds ``p_<k>`` (n, K) and
``seconds`` per fold.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings

import numpy as np

SECONDS = float(sys.argv[4]) if len(sys.argv) > 4 else 60.0  # of AutoGluon, per fold


def impute(train: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Means of the training rows in the place of NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column without a value
        mean = np.nan_to_num(np.nanmean(train, axis=0))
    return np.where(np.isnan(rows), mean, rows)


def multiviewstacking(task: dict, train: np.ndarray) -> object:
    """Forests on both levels, its defaults; absent values are the means of the training rows."""
    from multiviewstacking import MultiViewStacking
    from sklearn.ensemble import RandomForestClassifier

    X, spans = task["X"][train], task["spans"]
    learners = [RandomForestClassifier(random_state=123) for _ in spans]
    model = MultiViewStacking(
        views_indices=[list(range(start, stop)) for start, stop in spans],
        first_level_learners=learners,
    )
    model.fit(impute(X, X), task["y"][train])
    return model.classes_, lambda rows: model.predict_proba(impute(X, rows))


def autogluon(task: dict, train: np.ndarray) -> object:
    """Defaults, log loss as the metric; NaN as it comes; held-out rows of other groups."""
    import pandas as pd
    from autogluon.tabular import TabularPredictor

    names = [f"x{j}" for j in range(task["X"].shape[1])]
    frame = pd.DataFrame(task["X"][train], columns=names)
    frame["label"] = task["y"][train]
    tuning, group = None, task["group"][train]
    if (group >= 0).all():
        held = np.isin(group, np.unique(group)[:: max(2, min(5, len(np.unique(group))))])
        frame, tuning = frame[~held], frame[held]
    kind = "binary" if len(np.unique(task["y"])) == 2 else "multiclass"
    folder = tempfile.mkdtemp()
    model = TabularPredictor(
        "label", problem_type=kind, eval_metric="log_loss", path=folder, verbosity=0
    ).fit(frame, tuning_data=tuning, time_limit=SECONDS, num_cpus=1)

    def answer(rows: np.ndarray) -> np.ndarray:
        return model.predict_proba(pd.DataFrame(rows, columns=names)).to_numpy()

    return np.asarray(model.class_labels), answer


PEERS = {"multiviewstacking": multiviewstacking, "autogluon": autogluon}


def main() -> None:
    warnings.filterwarnings("ignore")
    name, source, target = sys.argv[1:4]
    with np.load(source, allow_pickle=False) as file:
        task = {key: file[key] for key in file.files}
    n, n_classes = len(task["y"]), int(task["y"].max()) + 1
    keys = [key for key in task if key.startswith("X_")]
    out = {key.replace("X_", "p_"): np.zeros((n, n_classes)) for key in keys}
    seconds = []
    for fold in np.unique(task["fold"]):
        train, test = task["fold"] != fold, task["fold"] == fold
        start = time.process_time()
        classes, predict = PEERS[name](task, train)
        seconds.append(time.process_time() - start)
        for key in keys:
            out[key.replace("X_", "p_")][np.ix_(test, classes)] = predict(task[key][test])
    np.savez_compressed(target, cpu_seconds=np.mean(seconds), **out)


if __name__ == "__main__":
    main()
