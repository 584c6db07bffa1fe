"""FusionRegressor and its peers on real and simulated values: point estimates and densities.

Run from the root of the repository; options as in ``accuracy.py``::

    python benchmarks/accuracy_values.py photoz --cache DIR
"""

from __future__ import annotations

import argparse
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from accuracy_run import COMPLETE, GAPS, Answer, Plan, Store
from accuracy_sets import DATA, Set, with_and_without_text
from accuracy_tables import Column, by_rows, seconds_cell, table
from accuracy_value_peers import VALUE_PEERS
from page import write_section
from sklearn.model_selection import KFold

from mmfuse import Blocks, FusionRegressor
from mmfuse.datasets import load_photoz
from mmfuse.heads import AutoFusion, EarlyFusion
from mmfuse.metrics import crps, nmad, outlier_fraction

BINS = 30
COVERAGE = 0.9
HOW = (
    f"Five folds, the same for every method; conditions and marks as in the tables of accuracy. "
    "CRPS in the unit of the target, the mean absolute error of a density; *inside*: share of "
    f"values in the central {COVERAGE:.0%} interval. Densities of ridge and boosting are normal, "
    "as wide as their out-of-fold errors; those of neighbours and forest are the training targets "
    f"that they average. Binned models have {BINS} bins. Made by `benchmarks/accuracy_values.py`."
)


@dataclass(frozen=True)
class ValuePlan(Plan):
    """The plan of a set whose target is a number."""

    @cached_property
    def fold(self) -> np.ndarray:
        fold = np.empty(len(self.data.y), dtype=np.int64)
        splitter = KFold(self.data.n_folds, shuffle=True, random_state=0)
        for number, (_, test) in enumerate(splitter.split(self.data.y)):
            fold[test] = number
        return fold


def photoz() -> Set:
    """Redshifts of simulated galaxies from magnitudes and colours in two groups of bands."""
    galaxies = load_photoz()
    views = {name: galaxies.X[name] for name in galaxies.X.modalities}
    colours = {name: np.diff(view[:, :3], axis=1) for name, view in views.items()}
    return Set({name: np.hstack([views[name], colours[name]]) for name in views}, galaxies.y)


def galaxy_sim() -> Set:
    """Redshifts of simulated galaxies from a coarse picture and a table of five magnitudes."""
    frame = pd.read_csv(DATA / "galaxy_sim" / "catalog.csv")
    images = np.load(DATA / "galaxy_sim" / "cutouts.npz", allow_pickle=False)["images"]
    n, bands = images.shape[:2]
    coarse = images.astype(np.float32).reshape(n, bands, 8, 4, 8, 4).sum(axis=(3, 5))
    magnitudes = frame[[f"{kind}_{band}" for kind in ("mag", "magerr") for band in "ugrzy"]]
    views = {
        "image": np.arcsinh(coarse / 10).reshape(n, -1),
        "table": magnitudes.to_numpy(np.float32),
    }
    return Set(views, frame["redshift"].to_numpy())


def mmmo_score() -> Set:
    """Scores (1 to 5) of film reviews on video, text in 80 of 300 rows."""
    views, score = with_and_without_text("mmmo")
    return Set(views, score.astype(np.float64))


VALUE_SETS: dict[str, Callable[[], Set]] = {
    "photoz": photoz,
    "galaxy_sim": galaxy_sim,
    "mmmo_score": mmmo_score,
}
REDSHIFTS = ("photoz", "galaxy_sim")
OURS: dict[str, Callable[[], Any]] = {
    "mmfuse, default head": lambda: FusionRegressor(random_state=0),
    "mmfuse EarlyFusion('mlp')": lambda: FusionRegressor(EarlyFusion("mlp"), random_state=0),
    "mmfuse AutoFusion()": lambda: FusionRegressor(AutoFusion(), random_state=0),
    "mmfuse binned, default head": lambda: FusionRegressor(
        output="binned", bins=BINS, random_state=0
    ),
    "mmfuse binned, EarlyFusion('mlp')": lambda: FusionRegressor(
        EarlyFusion("mlp"), output="binned", bins=BINS, random_state=0
    ),
}


def judge(model: Any, rows: Blocks, y: np.ndarray) -> np.ndarray:
    """Point estimate, CRPS, and whether the interval holds the value: (n, 3)."""
    density = model.predict_density(rows)
    interval = density.interval(COVERAGE)
    score = [crps(density[i : i + 1], y[i : i + 1]) for i in range(len(y))]
    inside = (interval[:, 0] <= y) & (y <= interval[:, 1])
    return np.stack([model.predict(rows), score, inside], axis=1)


def evaluate(plan: Plan, method: Callable[[], Any]) -> Answer:
    """Fit a method on every fold and judge it under every condition."""
    found = {name: np.empty((len(plan.data.y), 3)) for name in plan.conditions}
    seconds = []
    for number in range(plan.data.n_folds):
        train, test = plan.fold != number, plan.fold == number
        start = time.process_time()
        model = method().fit(plan.blocks[train], plan.data.y[train])
        seconds.append(time.process_time() - start)
        for name, rows in plan.conditions.items():
            found[name][test] = judge(model, rows[test], plan.data.y[test])
    return Answer(found, float(np.mean(seconds)))


def plain(title: str, scores: dict[str, float]) -> Column:
    """A column without marks for level methods."""
    return Column(title, scores, set(), higher=False)


def set_section(name: str, plan: Plan, answers: dict[str, Answer]) -> str:
    """Tables of one set: CRPS by condition; point scores complete and with gaps."""
    y, methods = plan.data.y, list(answers)
    views = ", ".join(f"{view} {array.shape[1]}" for view, array in plan.data.views.items())
    scores = [
        by_rows(c, {m: answer.rows[c][:, 1] for m, answer in answers.items()}, None)
        for c in plan.conditions
    ]
    points = []
    for c in (COMPLETE, GAPS):
        guess = {m: answer.rows[c][:, 0] for m, answer in answers.items()}
        if name in REDSHIFTS:
            points.append(plain(f"NMAD {c}", {m: nmad(y, p) for m, p in guess.items()}))
            outliers = {m: outlier_fraction(y, p) for m, p in guess.items()}
            points.append(plain(f"outliers {c}", outliers))
        else:
            points.append(by_rows(f"MAE {c}", {m: abs(p - y) for m, p in guess.items()}, None))
    extra = {
        m: f"{answer.rows[COMPLETE][:, 2].mean():.2f}, {answer.rows[GAPS][:, 2].mean():.2f} | "
        f"{seconds_cell(answer)}"
        for m, answer in answers.items()
    }
    about = (VALUE_SETS[name].__doc__ or "").strip()
    lines = [f"### {name}: {about}", "", f"{len(y)} rows; features: {views}.", "", "CRPS:", ""]
    lines += [table(methods, scores), "", "Point estimates:", ""]
    last = f"inside {COMPLETE}, {GAPS} | fit s"
    return "\n".join([*lines, table(methods, points, extra, last)])


def main() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning, module="sklearn")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", default=list(VALUE_SETS), help=", ".join(VALUE_SETS))
    parser.add_argument("--cache", type=Path, help="folder of out-of-fold predictions")
    parser.add_argument("--methods", default="", help="pattern: only the methods that match")
    parser.add_argument("--again", help="pattern: methods to compute although they are kept")
    parser.add_argument("--dry-run", action="store_true", help="print only")
    arguments = parser.parse_args()
    store, texts = Store(arguments.cache), []
    for name in arguments.sets:
        plan, answers = ValuePlan(VALUE_SETS[name]()), {}
        for method, make in (VALUE_PEERS | OURS).items():
            if not re.search(arguments.methods, method):
                continue
            again = arguments.again and re.search(arguments.again, method)
            answer = None if again else store.get(name, method, plan)
            if answer is None:
                answer = evaluate(plan, make)
                store.put(name, method, plan, answer)
            answers[method] = answer
            means = [f"{c} {rows[:, 1].mean():.4f}" for c, rows in answer.rows.items()]
            print(f"{name} | {method} | {', '.join(means)} | {answer.seconds:.1f} s", flush=True)
        texts.append(set_section(name, plan, answers))
    if not arguments.dry_run and set(arguments.sets) == set(VALUE_SETS):
        write_section("values", "\n\n".join(["## Values and densities", HOW, *texts]))


if __name__ == "__main__":
    main()
