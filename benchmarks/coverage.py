"""Coverage of conformal sets and intervals for every availability pattern.

Simulated cohorts have a grade of severity (four classes, or its value) and three modalities that
show it, each missing in a share of the rows: at random, or more often the worse the grade. A few
models are fitted; every seed then draws calibration and test rows anew from a large population, so
that what varies over seeds is what the guarantee speaks of. The out-of-fold calibration of ``fit``
is measured with a fit for every seed. Run from the root of the repository, with the development
data beside it or in ``MMFUSE_DATA``::

    python benchmarks/coverage.py [--seeds 200] [--fits 40]
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from page import write_section
from tqdm.auto import tqdm

from mmfuse import Blocks, FusionClassifier, FusionRegressor
from mmfuse.conformal import intervals as conformal_intervals
from mmfuse.conformal import name_pattern
from mmfuse.conformal import sets as conformal_sets
from mmfuse.conformal.sets import METHODS, class_scores
from mmfuse.heads import EarlyFusion, LateFusion

DATA = Path(os.environ.get("MMFUSE_DATA", Path(__file__).parents[2] / "shared" / "data"))
RATES = (0.05, 0.2, 0.4, 0.6)
COVERAGE = 0.9
POPULATION, TRAIN, CALIBRATE, TEST = 30_000, 600, 2000, 3000
CALIBRATE_FEW_GAPS = 3000  # at 5 % absence: patterns with one gap then have 100 rows in most draws
ENOUGH = 100  # calibration rows from which a pattern is held to 1.5 points


def cohort(
    n: int, rate: float, informative: bool, rng: np.random.Generator
) -> tuple[Blocks, np.ndarray, np.ndarray]:
    """Three modalities of unequal worth, the grade 0 to 3, and the severity behind it."""
    severity = rng.normal(size=n)
    grade = np.digitize(severity, [-0.8, 0.0, 0.8])
    noise = {"voice": 0.6, "face": 1.0, "text": 1.5}
    odds = np.log(rate / (1 - rate)) + (0.8 * (grade - 1.5) if informative else 0.0)
    arrays = {}
    for name, spread in noise.items():
        signs = severity[:, None] + spread * rng.normal(size=(n, 1))
        arrays[name] = np.hstack([signs, rng.normal(size=(n, 2))])
        arrays[name][rng.random(n) < 1 / (1 + np.exp(-odds))] = np.nan
    return Blocks(arrays), grade, severity


def draws(n_rows: int, sizes: tuple[int, int], seeds: int) -> Iterator[tuple]:
    """Calibration and test rows of every seed, disjoint."""
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(n_rows)
        yield order[: sizes[0]], order[sizes[0] : sum(sizes)]


class Scored:
    """A population that a fitted model has scored once, so that a draw costs no prediction."""

    def __init__(self, model: object, X: Blocks, y: np.ndarray, method: str = "lac") -> None:
        self.X, self.store = X, model.conformalize(X, y).conformal_
        if hasattr(model, "classes_"):
            scores = class_scores(
                model.predict_proba(X), method, ordinal=model.head_.task == "ordinal"
            )
            self.scores = self.store.values[:, METHODS.index(method)]
            self.size = lambda rows, limit: (scores[rows] <= limit[:, None] + 1e-12).sum(axis=1)
        else:
            self.scores = conformal_intervals._scores(model, self.store, COVERAGE)
            wide = np.zeros(len(y))
            if model.output_ == "quantiles":
                ends = model.predict_quantiles(X, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
                wide = ends[:, 1] - ends[:, 0]
            self.size = lambda rows, limit: wide[rows] + 2 * limit
        self.own = self.scores[~self.store.hidden]  # in the order of the rows

    def measure(self, fit: np.ndarray, test: np.ndarray, empty: bool = True) -> pd.DataFrame:
        """What `conformalize` on some rows gives on others, a line for every pattern."""
        kept = np.isin(self.store.unit, fit)
        parts = {name: array[kept] for name, array in self.store.arrays().items()}
        present, drawn = self.X.present[test], self.X.present[fit]
        limit, source = replace(self.store, **parts).thresholds(
            self.scores[kept], COVERAGE, present, np.full(len(test), -1)
        )
        inside, size = self.own[test] <= limit + 1e-12, self.size(test, limit)
        if not empty and self.best is not None:
            inside, size = inside | ((size == 0) & self.best[test]), np.maximum(size, 1)
        lines = []
        for pattern in np.unique(present, axis=0):
            rows = (present == pattern).all(axis=1)
            line = {"pattern": name_pattern(pattern, self.X.names), "source": source[rows][0]}
            sums = {"covered": inside[rows].sum(), "size": size[rows].sum()}
            count = {"test_rows": rows.sum(), "rows": (drawn == pattern).all(axis=1).sum()}
            lines.append(line | sums | count)
        return pd.DataFrame(lines)

    best: np.ndarray | None = None


def measure(model, X: Blocks, y: np.ndarray, **options) -> pd.DataFrame:
    """Share covered, size, calibration rows and source of every pattern, from the model itself."""
    sources = model.conformal_table(COVERAGE).set_index("pattern")
    sets = model.predict_set(X, COVERAGE, **options)
    inside, size = sets[np.arange(len(y)), np.searchsorted(model.classes_, y)], sets.sum(axis=1)
    lines = []
    for pattern in np.unique(X.present, axis=0):
        rows, name = (X.present == pattern).all(axis=1), name_pattern(pattern, X.names)
        known = sources.loc[name] if name in sources.index else {"rows": 0, "source": "unseen"}
        sums = {"covered": inside[rows].sum(), "size": size[rows].sum(), "test_rows": rows.sum()}
        lines.append({"pattern": name, **sums, "rows": known["rows"], "source": known["source"]})
    return pd.DataFrame(lines)


def pooled(frames: list[pd.DataFrame]) -> dict[str, str]:
    """Coverage over seeds: all rows, and the patterns by how they were calibrated.

    A pattern has enough rows if it has them on average, and then counts in all seeds: only those
    in which it happens to have many would be few seeds, and noise.
    """
    every = pd.concat(frames)
    named = every["pattern"] != "nothing"
    own = named & (every["source"] == "own")
    enough = every.groupby("pattern")["rows"].transform("mean") >= ENOUGH
    parts = {
        "enough": every[named & enough],
        "few": every[own & ~enough],
        "hidden": every[named & ~enough & (every["source"] == "hidden")],
        "nothing": every[~named],
    }
    out = {"all rows": _share(every)}
    low_high = parts["enough"].groupby("pattern")[["covered", "test_rows"]].sum()
    shares = low_high["covered"] / low_high["test_rows"]
    out["patterns with 100 rows: lowest"] = f"{100 * shares.min():.1f}" if len(shares) else ""
    out["highest"] = f"{100 * shares.max():.1f}" if len(shares) else ""
    out["s.e."] = f"{100 * _error(parts['enough']):.1f}" if len(shares) else ""
    out["30 to 99 rows"] = _share(parts["few"])
    out["hidden"] = _share(parts["hidden"])
    out["nothing present"] = _share(parts["nothing"])
    out["size"] = f"{every['size'].sum() / every['test_rows'].sum():.2f}"
    return out


def _error(part: pd.DataFrame) -> float:
    """Largest standard error of the coverage of a pattern, over seeds."""
    share = part["covered"] / part["test_rows"]
    spread = share.groupby(part["pattern"]).agg(["std", "count"])
    return float((spread["std"] / spread["count"] ** 0.5).max())


def _share(part: pd.DataFrame) -> str:
    rows = part["test_rows"].sum()
    return f"{100 * part['covered'].sum() / rows:.1f}" if rows else ""


def models(head: object, rate: float) -> dict[str, object]:
    return {
        "sets": FusionClassifier(head, random_state=0),
        "intervals, point": FusionRegressor(head, random_state=0),
        "intervals, quantiles": FusionRegressor(head, output="quantiles", random_state=0),
    }


def simulated(seeds: int, bar: tqdm) -> list[dict]:
    """Split conformal on populations: a line for every rate, mechanism and kind of answer."""
    lines = []
    for informative in (False, True):
        for r, rate in enumerate(RATES):
            rng = np.random.default_rng([r, informative])
            head = EarlyFusion(C=1.0) if r % 2 else LateFusion(C=1.0)
            train, grade, value = cohort(TRAIN, rate, informative, rng)
            X, grades, values = cohort(POPULATION, rate, informative, rng)
            calibrate = CALIBRATE_FEW_GAPS if rate == RATES[0] else CALIBRATE
            for name, model in models(head, rate).items():
                classes = name == "sets"
                model.fit(train, grade if classes else value)
                y = grades if classes else values
                people, frames = Scored(model, X, y), []
                for fit, test in draws(POPULATION, (calibrate, TEST), seeds):
                    frames.append(people.measure(fit, test))
                    bar.update()
                lines.append(
                    {
                        "answer": name,
                        "head": type(head).__name__,
                        "absent": f"{rate:.0%}, " + ("by severity" if informative else "random"),
                    }
                    | pooled(frames)
                )
    return lines


def out_of_fold(fits: int, bar: tqdm) -> list[dict]:
    """The calibration that ``fit`` makes by itself, with a fit for every seed."""
    lines = []
    for informative in (False, True):
        for head in (LateFusion(C=1.0), EarlyFusion(C=1.0)):
            frames = []
            for seed in range(fits):
                rng = np.random.default_rng([seed, informative, 7])
                train, grade, _ = cohort(TRAIN, 0.3, informative, rng)
                X, y, _ = cohort(TEST, 0.3, informative, rng)
                model = FusionClassifier(head, random_state=seed).fit(train, grade)
                frames.append(measure(model, X, y, allow_empty=True))
                bar.update()
            lines.append(
                {"answer": "sets, out of fold", "head": type(head).__name__}
                | {"absent": "30%, " + ("by severity" if informative else "random")}
                | pooled(frames)
            )
    return lines


def compare_scores(seeds: int) -> list[dict]:
    """Size of sets, and coverage of the worst grade, by kind of score."""
    rng = np.random.default_rng(5)
    train, grade, _ = cohort(TRAIN, 0.3, False, rng)
    X, y, _ = cohort(POPULATION, 0.3, False, rng)
    lines = []
    for target in ("nominal", "ordinal"):
        model = FusionClassifier(LateFusion(C=1.0), target=target, random_state=0)
        model.fit(train, grade)
        for method in ("lac", "aps", "raps"):
            people, frames, by_grade = Scored(model, X, y, method), [], np.zeros((2, 4))
            for fit, test in draws(POPULATION, (CALIBRATE, TEST), seeds):
                frames.append(people.measure(fit, test))
                sets = model.conformalize(X[fit], y[fit]).predict_set(X[test], method=method)
                hit = sets[np.arange(TEST), y[test]]
                by_grade += [
                    np.bincount(y[test], weights=w, minlength=4) for w in (hit, np.ones(TEST))
                ]
            every = pd.concat(frames)
            every = every[every["pattern"] != "nothing"].groupby("pattern")
            shares = every["covered"].sum() / every["test_rows"].sum()
            size = sum(f["size"].sum() for f in frames) / (TEST * seeds)
            lines.append(
                {
                    "target": target,
                    "method": method,
                    "classes in a set": f"{size:.2f}",
                    "lowest pattern": f"{100 * shares.min():.1f}",
                    "highest pattern": f"{100 * shares.max():.1f}",
                    "lowest grade": f"{100 * (by_grade[0] / by_grade[1]).min():.1f}",
                }
            )
    return lines


def real(splits: int, seeds: int) -> list[dict]:
    """Real sets; cells are hidden at random with chance 0.3."""
    frame = pd.read_csv(DATA / "htad_audio_motion" / "htad.csv")
    htad = {n: frame.filter(like=p).to_numpy() for n, p in (("audio", "v1_"), ("motion", "v2_"))}
    z = np.load(DATA / "mfeat_six_views" / "views.npz", allow_pickle=False)
    sets = {
        "htad": (htad, frame["class"].to_numpy(dtype=str)),
        "mfeat (fou, mor, zer)": ({n: z[n] for n in ("fou", "mor", "zer")}, z["label"]),
    }
    lines = []
    for name, (arrays, y) in sets.items():
        frames: dict[str, list] = {"get the best class": [], "allowed": []}
        third = len(y) // 3
        for split in range(splits):
            rng = np.random.default_rng(split)
            gaps = {n: np.array(a, dtype=np.float64) for n, a in arrays.items()}
            for block in gaps.values():
                block[rng.random(len(y)) < 0.3] = np.nan
            X, order = Blocks(gaps), rng.permutation(len(y))
            model = FusionClassifier(LateFusion(C=1.0), random_state=0)
            model.fit(X[order[:third]], y[order[:third]])
            rest = order[third:]
            people = Scored(model, X[rest], y[rest])
            people.best = model.predict(X[rest]) == y[rest]
            for fit, test in draws(len(rest), (third, third), seeds):
                for kind, found in frames.items():
                    found.append(people.measure(fit, test, kind == "allowed"))
        for kind, found in frames.items():
            lines.append({"set": name, "empty sets": kind} | pooled(found))
    return lines


def table(lines: list[dict]) -> str:
    head = list(lines[0])
    rows = [head, ["---"] * len(head), *([str(v) for v in line.values()] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--fits", type=int, default=40)
    options = parser.parse_args()
    with tqdm(total=2 * len(RATES) * 3 * options.seeds + 4 * options.fits) as bar:
        split = simulated(options.seeds, bar)
        folds = out_of_fold(options.fits, bar)
    few, some = max(options.seeds // 20, 2), max(options.seeds // 5, 2)
    scores, sets = compare_scores(few), real(5, some)
    text = f"""## Coverage of conformal sets and intervals

{COVERAGE:.0%} asked; per cent of test rows covered, over all seeds together. Simulated cohorts: a
severity in four grades (sets) or as a value (intervals), three modalities with noise 0.6, 1 and 1.5
of its spread, each missing in the named share of the rows, independently of everything or, *by
severity*, with odds that grow by exp(0.8) per grade. One model per line is fitted on {TRAIN} rows;
each of {options.seeds} seeds draws {CALIBRATE} calibration rows ({CALIBRATE_FEW_GAPS} at 5 %;
`conformalize`) and {TEST} test rows from a population of {POPULATION}. *Patterns with 100 rows*:
the lowest and the highest coverage over all seeds of a pattern that has {ENOUGH} calibration rows
on average, without *nothing present*; *s.e.* is the largest standard error of these. *30 to 99
rows*: patterns calibrated by so few rows of their own. *hidden*:
patterns with fewer, calibrated by rows in which modalities were hidden, which is right only where
absence is random. *nothing present*: all such rows get one answer, and a set of classes can then
not hold exactly {COVERAGE:.0%}. Empty sets are allowed here, since coverage is otherwise too high
wherever the best class is right more often. *size*: mean number of classes, or mean width.

{table(split)}

The calibration that `fit` makes by itself from out-of-fold scores, with a new model, {TRAIN}
training rows and {TEST} new test rows for each of {options.fits} seeds:

{table(folds)}

By kind of score, 30 % absent at random, `LateFusion(C=1.0)`, {few} seeds; *lowest grade*: coverage
of the grade that is covered least:

{table(scores)}

Real sets, a third of the rows each to fit, calibrate and test, cells hidden at random with chance
0.3, 5 fits with {some} draws of calibration and test rows each; `LateFusion(C=1.0)`. Draws share
rows, so figures of rare patterns are less certain than their number suggests:

{table(sets)}

Made by `benchmarks/coverage.py`."""
    write_section("coverage", text)
    print(text)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for part in (conformal_sets, conformal_intervals):
        part._MOST_HIDDEN = POPULATION  # a population is scored once, and draws take of it
    main()
