"""Scores, paired standard errors and markdown tables of the accuracy benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from accuracy_run import COMPLETE, GAPS, Answer, Plan

from mmfuse.metrics import expected_calibration_error, log_loss_per_row

__all__ = ["DEFAULT", "DRAWS", "mean_and_error", "set_section", "summary_rows", "SUMMARY_HEAD"]

DRAWS = 200
OURS = "mmfuse"
DEFAULT = "mmfuse, default head"
SUMMARY_HEAD = (
    "| set | condition | best peer | its log loss | mmfuse default | difference ± s.e. "
    "| best mmfuse head |\n| --- | --- | --- | --- | --- | --- | --- |"
)


def mean_and_error(rows: np.ndarray, groups: np.ndarray | None) -> tuple[float, float]:
    """Mean of n numbers and its standard error, over groups where rows belong together."""
    mean, n = rows.mean(), len(rows)
    part = rows - mean
    if groups is not None:
        part = np.bincount(np.unique(groups, return_inverse=True)[1], weights=part)
    correction = len(part) / max(len(part) - 1, 1)
    return float(mean), float(np.sqrt(correction * (part**2).sum()) / n)


@dataclass(frozen=True)
class Column:
    """One column of a table: a score of every method and which of them are level with the first.

    Attributes
    ----------
    title : str
    scores : dict of str to float
    level : set of str
        Methods no more than one standard error of the difference behind the first.
    higher : bool
        Whether a higher score is better.
    """

    title: str
    scores: dict[str, float]
    level: set[str]
    higher: bool

    @property
    def first(self) -> str:
        pick = max if self.higher else min
        return pick(self.scores, key=self.scores.__getitem__)

    def cell(self, method: str) -> str:
        text = f"{self.scores[method]:.3f}"
        if method == self.first:
            return f"**{text}**"
        return f"≈ {text}" if method in self.level else text


def by_rows(
    title: str, rows: dict[str, np.ndarray], groups: np.ndarray | None, higher: bool = False
) -> Column:
    """A column of means over rows."""
    scores = {method: float(part.mean()) for method, part in rows.items()}
    first = (max if higher else min)(scores, key=scores.__getitem__)
    level = set()
    for method, part in rows.items():
        behind, error = mean_and_error(part - rows[first], groups)
        if abs(behind) <= error:
            level.add(method)
    return Column(title, scores, level, higher)


def by_draws(
    title: str,
    score: Callable[[np.ndarray, np.ndarray], float],
    proba: dict[str, np.ndarray],
    groups: np.ndarray | None,
) -> Column:
    """A column of scores that are no means over rows; errors by a paired bootstrap of groups."""
    n = len(next(iter(proba.values())))
    codes = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    members = [np.flatnonzero(codes == g) for g in range(codes.max() + 1)]
    rng = np.random.default_rng(0)
    scores = {method: score(p, np.arange(n)) for method, p in proba.items()}
    first = min(scores, key=scores.__getitem__)
    drawn = {method: np.empty(DRAWS) for method in proba}
    for draw in range(DRAWS):
        rows = np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])
        for method, p in proba.items():
            drawn[method][draw] = score(p, rows)
    level = {
        method
        for method in proba
        if scores[method] - scores[first] <= (drawn[method] - drawn[first]).std(ddof=1)
    }
    return Column(title, scores, level, higher=False)


def seconds_cell(answer: Answer) -> str:
    return "" if np.isnan(answer.seconds) else f"{answer.seconds:.1f}"


def table(
    methods: list[str],
    columns: list[Column],
    extra: dict[str, str] | None = None,
    last: str = "fit s",
) -> str:
    """A markdown table; ``extra`` holds the cells of the columns that ``last`` names."""
    titles = [column.title for column in columns] + (last.split(" | ") if extra else [])
    lines = ["| method | " + " | ".join(titles) + " |", "| --- " * (len(titles) + 1) + "|"]
    for method in methods:
        cells = [column.cell(method) for column in columns]
        cells += [extra[method]] if extra else []
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def losses(plan: Plan, answers: dict[str, Answer], condition: str) -> dict[str, np.ndarray]:
    return {
        method: log_loss_per_row(plan.data.y, answer.rows[condition], classes=plan.classes)
        for method, answer in answers.items()
    }


def hits(plan: Plan, answers: dict[str, Answer], condition: str) -> dict[str, np.ndarray]:
    return {
        method: (plan.classes[answer.rows[condition].argmax(axis=1)] == plan.data.y).astype(float)
        for method, answer in answers.items()
    }


def calibration(plan: Plan, answers: dict[str, Answer], condition: str, title: str) -> Column:
    y, classes = plan.data.y, plan.classes

    def score(p: np.ndarray, rows: np.ndarray) -> float:
        return float(expected_calibration_error(y[rows], p[rows], classes=classes))

    proba = {method: answer.rows[condition] for method, answer in answers.items()}
    return by_draws(title, score, proba, plan.data.groups)


def set_section(
    name: str, about: str, plan: Plan, answers: dict[str, Answer], missing: list[str]
) -> str:
    """Two tables for one set: log loss by condition; accuracy, calibration error and seconds."""
    data, methods, groups = plan.data, list(answers), plan.data.groups
    views = ", ".join(
        f"{view} {array.shape[1]}"
        + ("" if (there := plan.blocks.present[:, j].mean()) == 1 else f" (in {there:.0%} of rows)")
        for j, (view, array) in enumerate(data.views.items())
    )
    folds = f"{data.n_folds} stratified folds"
    if groups is not None:
        folds += f", disjoint in {len(np.unique(groups))} groups"
    loss = [by_rows(c, losses(plan, answers, c), groups) for c in plan.conditions]
    right = [
        by_rows(f"accuracy {c}", hits(plan, answers, c), groups, higher=True)
        for c in (COMPLETE, GAPS)
    ]
    ece = [calibration(plan, answers, c, f"ECE {c}") for c in (COMPLETE, GAPS)]
    seconds = {method: seconds_cell(answer) for method, answer in answers.items()}
    lines = [f"### {name}: {about}", ""]
    lines += [f"{len(data.y)} rows; features: {views}; {folds}.", ""]
    lines += ["Log loss:", "", table(methods, loss), "", "Accuracy and calibration error:", ""]
    lines += [table(methods, right + ece, seconds)]
    if missing:
        lines += ["", f"Not run: {', '.join(missing)}."]
    return "\n".join(lines)


def summary_rows(name: str, plan: Plan, answers: dict[str, Answer]) -> list[str]:
    """Rows of the summary: the default of mmfuse against the best peer of each condition."""
    if DEFAULT not in answers or all(method.startswith(OURS) for method in answers):
        return []
    lines = []
    single = [c for c in plan.conditions if c not in (COMPLETE, GAPS)]
    for title, parts in ((COMPLETE, [COMPLETE]), (GAPS, [GAPS]), ("one view absent", single)):
        per_part = [losses(plan, answers, part) for part in parts]
        rows = {method: np.mean([part[method] for part in per_part], axis=0) for method in answers}
        score = {method: part.mean() for method, part in rows.items()}
        peer = min((m for m in score if not m.startswith(OURS)), key=score.__getitem__)
        ours = min((m for m in score if m.startswith(OURS) and m != DEFAULT), key=score.__getitem__)
        behind, error = mean_and_error(rows[DEFAULT] - rows[peer], plan.data.groups)
        mark = "**" if behind <= error else ""
        lines.append(
            f"| {name} | {title} | {peer} | {score[peer]:.3f} | {mark}{score[DEFAULT]:.3f}{mark} "
            f"| {behind:+.3f} ± {error:.3f} "
            f"| {ours.removeprefix(OURS).strip()} {score[ours]:.3f} |"
        )
    return lines
