"""Heads of mmfuse and their peers on real multimodal sets, complete and with views missing.

Run from the root of the repository, with the development data beside it or in ``MMFUSE_DATA``::

    python benchmarks/accuracy.py                      # all sets; writes docs/benchmarks.md
    python benchmarks/accuracy.py htad --dry-run       # print only
    python benchmarks/accuracy.py --cache DIR          # keep out-of-fold probabilities
    python benchmarks/accuracy.py --cache DIR --again mmfuse    # only these anew
    python benchmarks/accuracy.py --peers multiviewstacking=PYTHON autogluon=PYTHON

``PYTHON`` is the interpreter of an environment that has the peer. Peers without one are left out,
unless the cache has their answers, and the page says so.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_peers import ABSENT, PEERS
from accuracy_run import GAPS, Answer, Plan, Store, evaluate, evaluate_elsewhere
from accuracy_sets import SETS
from accuracy_tables import DEFAULT, DRAWS, SUMMARY_HEAD, losses, set_section, summary_rows
from page import write_section

from mmfuse import Blocks, FusionClassifier
from mmfuse.heads import AutoFusion, EarlyFusion, LateFusion, TextCentricFusion

FOREIGN = ("multiviewstacking", "autogluon")
HOW = (
    f"Every method sees the same folds. *30 % absent*: each view of a test row is hidden with "
    f"chance {ABSENT} (a row that would lose all keeps all); *no x*: view x is hidden in all test "
    "rows; training rows stay as they are. Where a view is absent, peers get NaN if they take it, "
    "leave it out of votes and sums, and otherwise get the means of the training rows; *views "
    "hidden* adds a copy of the training rows with gaps. Folds inside a method respect groups. "
    "Out-of-fold predictions are pooled and floored at 1e-6. **Bold**: first of its column; ≈: no "
    "more than one standard error of the paired difference behind the first (over rows, or over "
    f"groups where there are groups; for ECE from {DRAWS} bootstrap draws). *fit s*: CPU seconds "
    "per fold, empty where they were not measured. Made by `benchmarks/accuracy.py`."
)


class Fused:
    """FusionClassifier with a head."""

    def __init__(self, head: Any = "auto") -> None:
        self.model = FusionClassifier(head, random_state=0)

    def fit(self, X: Blocks, y: np.ndarray, groups: np.ndarray | None) -> Fused:
        self.model.fit(X, y, groups=groups)
        self.classes_ = self.model.classes_
        return self

    def predict_proba(self, X: Blocks) -> np.ndarray:
        return self.model.predict_proba(X)


def our_methods(anchor: str | None) -> dict[str, Callable[[], Any]]:
    """The rows of mmfuse; text-centric fusion only where there is an anchor."""
    found = {
        "mmfuse EarlyFusion()": lambda: Fused(EarlyFusion()),
        "mmfuse LateFusion()": lambda: Fused(LateFusion()),
        "mmfuse AutoFusion()": lambda: Fused(AutoFusion()),
    }
    if anchor is not None:
        found[f"mmfuse TextCentricFusion({anchor!r})"] = lambda: Fused(TextCentricFusion(anchor))
    return found | {DEFAULT: lambda: Fused()}


class Runner:
    """Answers of all methods on a set: from the store where it has them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.store = Store(arguments.cache)
        self.only = re.compile(arguments.methods)
        self.again = re.compile(arguments.again) if arguments.again else None
        self.kept = arguments.kept
        self.pythons = dict(pair.split("=", 1) for pair in arguments.peers)

    def run(self, name: str, plan: Plan) -> tuple[dict[str, Answer], list[str]]:
        """Answers by method in the order of the page, and the methods that have none."""
        answers, missing = {}, []
        ours = our_methods(plan.data.anchor)
        for method in (*PEERS, *FOREIGN, *ours):
            if not self.only.search(method):
                continue
            answer = None
            if self.again is None or not self.again.search(method):
                answer = self.store.get(name, method, plan)
            elsewhere = method in FOREIGN and method not in self.pythons
            if answer is None and (self.kept or elsewhere):
                missing.append(method)
                continue
            if answer is None:
                answer = self._compute(method, plan, PEERS | ours, answers)
                self.store.put(name, method, plan, answer)
            answers[method] = answer
            means = [
                f"{part} {losses(plan, {method: answer}, part)[method].mean():.3f}"
                for part in plan.conditions
            ]
            print(f"{name} | {method} | {', '.join(means)} | {answer.seconds:.1f} s", flush=True)
        return answers, missing

    def _compute(
        self,
        method: str,
        plan: Plan,
        known: dict[str, Callable[[], Any]],
        answers: dict[str, Answer],
    ) -> Answer:
        if method in FOREIGN:
            return evaluate_elsewhere(plan, method, self.pythons[method])
        if method == DEFAULT:  # one of the heads above, as a rule: one fold tells which
            trial = evaluate(plan, known[method], n_folds=1).rows[GAPS][plan.fold == 0]
            for answer in answers.values():
                if np.allclose(answer.rows[GAPS][plan.fold == 0], trial, atol=1e-9):
                    return answer
        return evaluate(plan, known[method])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", default=list(SETS), help=", ".join(SETS))
    parser.add_argument("--cache", type=Path, help="folder of out-of-fold probabilities")
    parser.add_argument("--methods", default="", help="pattern: only the methods that match")
    parser.add_argument("--again", help="pattern: methods to compute although they are kept")
    parser.add_argument("--kept", action="store_true", help="compute nothing that is not kept")
    parser.add_argument(
        "--peers", nargs="*", default=[], metavar="PEER=PYTHON", help=", ".join(FOREIGN)
    )
    parser.add_argument("--dry-run", action="store_true", help="print only")
    return parser.parse_args()


def main() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning, module="sklearn")
    arguments = parse()
    runner, summary = Runner(arguments), []
    for name in arguments.sets:
        plan = Plan(SETS[name]())
        answers, missing = runner.run(name, plan)
        if arguments.dry_run or DEFAULT not in answers:
            continue
        about = (SETS[name].__doc__ or "").strip()
        write_section(f"accuracy {name}", set_section(name, about, plan, answers, missing))
        summary += summary_rows(name, plan, answers)
    if summary and set(arguments.sets) == set(SETS):
        text = ["## Accuracy against peers", "", SUMMARY_HEAD, *summary, ""]
        text += ["Log loss. In bold where the default of mmfuse is first or no more than one "]
        text[-1] += (
            "standard error behind the best peer of that condition; *one view absent* is the "
        )
        text[-1] += (
            "mean over the views. The best peer is the one that these scores show to be best. "
            + HOW
        )
        write_section("accuracy summary", "\n".join(text))


if __name__ == "__main__":
    main()
