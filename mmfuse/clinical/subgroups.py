"""Scores by subgroup; small subgroups are not shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mmfuse.clinical.inputs import in_order
from mmfuse.clinical.scores import Scored, score_interval, score_names
from mmfuse.metrics._events import event_probability

__all__ = ["subgroup_scores", "subgroup_table"]


def subgroup_scores(scored: Scored) -> list[str]:
    """Which scores are given for subgroups."""
    names = score_names(scored)
    wanted = ("AUC", "mean AUC", "accuracy", "balanced accuracy", "quadratic kappa", "log loss")
    return [name for name in names if name in wanted]


def subgroup_table(
    scored: Scored,
    by: Mapping[str, np.ndarray],
    *,
    min_rows: int,
    n_bootstrap: int,
    confidence: float,
    seed: int,
) -> tuple[pd.DataFrame, list[str]]:
    """A row for every subgroup that may be shown, and notes on those that may not.

    A subgroup with fewer than ``min_rows`` rows, or groups where there are any, is left out with
    its count. Where one subgroup of a column is left out, its count would follow from the others
    by subtraction, so the count of the smallest of these is left out too.

    Returns
    -------
    frame : DataFrame
        ``column``, ``subgroup``, ``rows`` and ``groups`` (NaN where withheld), ``observed`` and
        ``predicted`` share of every event, and every score with ``low`` and ``high``.
    notes : list of str
    """
    lines: list[dict[str, Any]] = []
    notes = []
    options = {"n_bootstrap": n_bootstrap, "confidence": confidence, "seed": seed}
    for column, labels in by.items():
        members = {value: np.flatnonzero(labels == value) for value in in_order(labels)}
        parts = {value: scored.take(rows) for value, rows in members.items()}
        shown = [v for v, part in parts.items() if part.n_units >= max(min_rows, 2)]
        hidden = [v for v in parts if v not in shown]
        found = [{"column": column, "subgroup": v, **_line(parts[v], options)} for v in shown]
        if hidden:
            notes.append(_note(column, hidden, min_rows, scored.groups is not None))
        if len(hidden) == 1 and found:
            smallest = min(found, key=lambda line: line["rows"])
            smallest["rows"] = smallest["groups"] = np.nan
            notes.append(
                f"{column}: the count of {smallest['subgroup']!r} is withheld too, since the "
                "suppressed count would follow from it."
            )
        lines += found
    return pd.DataFrame(lines), notes


def _note(column: str, hidden: list[str], min_rows: int, grouped: bool) -> str:
    unit = "groups" if grouped else "rows"
    named = ", ".join(map(repr, hidden))
    return f"{column}: {named} suppressed, with fewer than {min_rows} {unit}."


def _line(part: Scored, options: Mapping[str, Any]) -> dict[str, Any]:
    """Counts, shares of the events and scores of one subgroup."""
    groups = np.nan if part.groups is None else float(part.n_units)
    line: dict[str, Any] = {"rows": float(len(part)), "groups": groups}
    for event, mask in part.events.items():
        line[f"observed {event}"] = part.mean(mask[part.codes])
        line[f"predicted {event}"] = part.mean(event_probability(part.proba, mask))
    scores = score_interval(part, subgroup_scores(part), **options)
    for name, row in scores.iterrows():
        line[str(name)] = row["value"]
        line[f"{name} low"], line[f"{name} high"] = row["low"], row["high"]
    return line
