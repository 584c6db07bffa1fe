"""What decisions gain from ordered classes and from costs, on real ratings.

A model of words and table predicts ratings 1 to 5, and someone has to be called back after a bad
one. Writes its section of docs/benchmarks.md. Run from the root of the repository, with the
development data beside it or in ``MMFUSE_DATA``::

    python benchmarks/decisions.py
"""

from __future__ import annotations

import warnings

import numpy as np
from ordinal import reviews
from page import write_section

from mmfuse import Blocks, FusionClassifier, decision_curve
from mmfuse.heads import EarlyFusion
from mmfuse.metrics import (
    bootstrap,
    expected_calibration_error,
    operating_points,
    ranked_probability_score,
)
from mmfuse.metrics.costs import decide, expected_cost, linear_cost, quadratic_cost

SIZE = 300
DRAWS = 4
EVENT = "3 stars or fewer"
THRESHOLDS = [0.1, 0.2, 0.3, 0.5]
COSTS = {
    "squared steps": lambda k: quadratic_cost(k),
    "steps, too high costs 4": lambda k: linear_cost(k, over=4.0),
}


def gain(y: np.ndarray, first: np.ndarray, second: np.ndarray, *, classes: np.ndarray) -> float:
    """How much lower the ranked probability score of the second is."""
    scores = [ranked_probability_score(y, p, classes=classes) for p in (first, second)]
    return scores[0] - scores[1]


def predictions() -> tuple[np.ndarray, dict[str, list[np.ndarray]], np.ndarray]:
    """True ratings, probabilities of both kinds of model over all draws, and rows of reviews."""
    arrays, y = reviews()
    blocks, classes = Blocks(arrays), np.unique(y)
    found: dict[str, list[np.ndarray]] = {"nominal": [], "ordinal": []}
    rows = []
    for draw in range(DRAWS):
        order = np.random.default_rng(draw).permutation(len(y))
        train, test = order[:SIZE], order[SIZE:]
        rows.append(test)
        for target, parts in found.items():
            model = FusionClassifier(EarlyFusion(), target=target, random_state=0)
            model.fit(blocks[train], y[train])
            proba = np.zeros((len(test), len(classes)))
            proba[:, np.searchsorted(classes, model.classes_)] = model.predict_proba(blocks[test])
            parts.append(proba)
    return y[np.concatenate(rows)], found, np.concatenate(rows)


def row(name: str, y: np.ndarray, proba: np.ndarray, groups: np.ndarray) -> list[str]:
    """One line of the table."""
    classes = np.arange(1, 6)
    named = {"classes": classes}
    cells = [name, f"{ranked_probability_score(y, proba, **named):.3f}"]
    for debias in (False, True):
        cells.append(f"{expected_calibration_error(y, proba, debias=debias, **named):.3f}")
    for make in COSTS.values():
        cost = make(len(classes))
        likeliest = classes[proba.argmax(axis=1)]
        paid = [
            expected_cost(y, taken, cost, **named)
            for taken in (likeliest, decide(proba, cost, **named))
        ]
        cells += [f"{one:.3f}" for one in paid]
    events = {EVENT: [1, 2, 3]}
    point = operating_points(
        *(y, proba), events=events, sensitivity=0.9, groups=groups, n_bootstrap=200, **named
    ).iloc[0]
    ends = f"{point['specificity_low']:.2f} to {point['specificity_high']:.2f}"
    return [*cells, f"{point['specificity']:.2f} ({ends})"]


def benefit(name: str, y: np.ndarray, proba: np.ndarray, groups: np.ndarray) -> list[str]:
    """Net benefit over the better of acting on all and on none, with its interval."""
    curve = decision_curve(
        *(y, proba),
        classes=np.arange(1, 6),
        events={EVENT: [1, 2, 3]},
        thresholds=THRESHOLDS,
        groups=groups,
        n_bootstrap=200,
        random_state=0,
    )
    ends = (curve.advantage[0], curve.advantage_low[0], curve.advantage_high[0])
    return [name, *(f"{a:.3f} ({b:.3f} to {c:.3f})" for a, b, c in zip(*ends, strict=True))]


def main() -> None:
    y, found, rows = predictions()
    both = {target: np.concatenate(parts) for target, parts in found.items()}
    better = bootstrap(
        *(gain, y, both["nominal"], both["ordinal"]),
        classes=np.arange(1, 6),
        groups=rows,  # a review is predicted once a draw
        n_bootstrap=200,
        random_state=0,
    )
    costs = [f"{name}, {how}" for name in COSTS for how in ("likeliest", "least cost")]
    heads = ["target", "RPS", "ECE", "ECE, debiased", *costs, "specificity at sensitivity 0.9"]
    table = [heads, ["---"] * len(heads)]
    table += [row(target, y, proba, rows) for target, proba in both.items()]
    second = [["target", *(f"t = {t:g}" for t in THRESHOLDS)], ["---"] * (len(THRESHOLDS) + 1)]
    second += [benefit(target, y, proba, rows) for target, proba in both.items()]
    lines = [["| " + " | ".join(cells) + " |" for cells in one] for one in (table, second)]
    text = "\n".join(
        [
            "## Decisions from ratings",
            "",
            f"Ratings 1 to 5 of clothes from words and table; `EarlyFusion()`, {SIZE} training "
            f"rows, {DRAWS} draws, the other rows predicted. Costs are the mean over rows of the "
            "most probable class and of the decision of least expected cost. The event is a rating "
            f"of {EVENT}, a share of {np.mean(y <= 3):.2f}. Intervals of 95 %, reviews "
            "drawn whole.",
            "",
            *lines[0],
            "",
            "Ordered classes lower the ranked probability score by "
            f"{better.value:.3f} ({better.low:.3f} to {better.high:.3f}).",
            "",
            "Net benefit of acting from probability t on, above the better of acting on all and on "
            "none, in true positives a row:",
            "",
            *lines[1],
            "",
            "Made by `benchmarks/decisions.py`.",
        ]
    )
    write_section("decisions", text)
    print(text)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
