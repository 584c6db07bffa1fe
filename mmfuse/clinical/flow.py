"""How many rows there were, how many were left out and why, and what the others had."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mmfuse.blocks import Blocks
from mmfuse.clinical.scores import Scored, score_interval
from mmfuse.conformal.thresholds import name_pattern
from mmfuse.presence import Presence

__all__ = ["flow_table", "modality_table", "pattern_table"]


def flow_table(
    reasons: np.ndarray,
    codes: np.ndarray,
    classes: np.ndarray,
    groups: np.ndarray | None,
    present: np.ndarray,
) -> pd.DataFrame:
    """Rows, and groups, at every step: ``step``, ``kind``, ``rows``, ``groups``.

    ``kind`` is ``"given"``, ``"excluded"``, ``"analysed"``, or ``"of these"`` for parts of what
    was analysed. A row that is excluded is not counted again as one without an outcome.
    """
    out = reasons != ""
    lacking = ~out & (codes < 0)
    kept = ~out & ~lacking
    steps = [("rows given", "given", np.ones(len(codes), dtype=bool))]
    for reason in sorted(set(reasons[out])):
        steps.append((f"left out: {reason}", "excluded", reasons == reason))
    steps.append(("left out: outcome missing", "excluded", lacking))
    steps.append(("analysed", "analysed", kept))
    for k, label in enumerate(classes.tolist()):
        steps.append((f"outcome {label}", "of these", kept & (codes == k)))
    nothing = kept & ~present.any(axis=1)
    steps.append(("nothing recorded, answered by the prior", "of these", nothing))
    lines = []
    for step, kind, rows in steps:
        units = None if groups is None else len(pd.unique(groups[rows]))
        lines.append({"step": step, "kind": kind, "rows": int(rows.sum()), "groups": units})
    return pd.DataFrame(lines)


def modality_table(
    blocks: Blocks, names: tuple[str, ...], weight: np.ndarray | None = None
) -> pd.DataFrame:
    """Cells of every modality by state, and the share that is present, by weight."""
    states = {name: np.full(len(blocks), int(Presence.ABSENT)) for name in names}
    for m, name in enumerate(blocks.names):
        states[name] = blocks.presence[:, m]
    order = (Presence.PRESENT, Presence.ABSENT, Presence.FAILED, Presence.EMPTY)
    lines = {
        name: {state.name.lower(): int((cells == state).sum()) for state in order}
        for name, cells in states.items()
    }
    frame = pd.DataFrame.from_dict(lines, orient="index").rename_axis("modality")
    there = [np.average(states[name] == Presence.PRESENT, weights=weight) for name in names]
    frame["share"] = there
    return frame


def pattern_table(
    scored: Scored,
    present: np.ndarray,
    names: tuple[str, ...],
    *,
    min_rows: int,
    n_bootstrap: int,
    confidence: float,
    seed: int,
) -> pd.DataFrame:
    """Rows of every availability pattern, the most frequent first, and how it fares.

    All but ``rows`` is by weight where rows have weights.

    ``accuracy`` with ``low`` and ``high``; ``confidence``, the mean probability of the predicted
    class, which equals the accuracy where probabilities of the pattern can be taken at their word;
    ``gap``, confidence less accuracy. NaN for a pattern with fewer than ``min_rows`` rows.
    """
    found, place, rows = np.unique(present, axis=0, return_inverse=True, return_counts=True)
    place = place.reshape(-1)
    order = np.lexsort((-found.sum(axis=1), -rows))
    lines = []
    for p in order:
        members = np.flatnonzero(place == p)
        part = scored.take(members)
        ends = [np.nan] * 3
        sure = np.nan
        if len(members) >= min_rows and part.enough_units():
            options = {"n_bootstrap": n_bootstrap, "confidence": confidence, "seed": seed}
            ends = score_interval(part, ["accuracy"], **options).loc["accuracy"].tolist()[:3]
            sure = part.mean(part.proba.max(axis=1))
        line = {"pattern": name_pattern(found[p], names), "rows": len(members)}
        shares = {"share": scored.mean(place == p), "accuracy": ends[0]}
        tail = {"low": ends[1], "high": ends[2], "confidence": sure, "gap": sure - ends[0]}
        lines.append(line | shares | tail)
    return pd.DataFrame(lines)
