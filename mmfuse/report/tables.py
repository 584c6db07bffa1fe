"""The tables and the warnings of a modality report."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from mmfuse.blocks import Blocks
from mmfuse.metrics.resampling import bootstrap_means, percentile_interval
from mmfuse.presence import Presence
from mmfuse.report.shapley import shapley_values
from mmfuse.report.subsets import SubsetScores, Task
from mmfuse.report.text import EMPTY_SUBSET, figure, interval, metric_name, percent

__all__ = [
    "baseline_entry",
    "baseline_note",
    "cell_states",
    "draw_scores",
    "fusion_note",
    "loss_change",
    "modality_frame",
    "neglect_note",
    "part_note",
    "rounding",
    "subset_frame",
]

_IGNORED = 1e-3  # of the probability, or of a standard deviation, that a modality moves
_REPEATED = 10.0  # per cent of the gain that a modality which can be removed may still share


def draw_scores(
    scores: SubsetScores,
    task: Task,
    groups: np.ndarray | None,
    n_bootstrap: int,
    rng: np.random.Generator,
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Loss and score of each compared subset in the same replicates: mask -> (B,), (B,)."""
    parts = [*scores.moments.values(), task.shared]
    edges = np.cumsum([part.shape[1] for part in parts])[:-1]
    means = bootstrap_means(
        np.column_stack(parts), n_bootstrap=n_bootstrap, rng=rng, weight=task.weight, groups=groups
    )
    *moments, shared = np.split(means, edges, axis=1)
    pairs = zip(scores.moments, moments, strict=True)
    return {mask: task.measure(part, shared) for mask, part in pairs}


def cell_states(blocks: Blocks, names: tuple[str, ...]) -> np.ndarray:
    """States in the order of the model's modalities; what is not in the blocks is absent."""
    states = np.full((len(blocks), len(names)), Presence.ABSENT, dtype=np.int8)
    for column, name in enumerate(names):
        if name in blocks.names:
            states[:, column] = blocks.presence[:, blocks.names.index(name)]
    return states


def subset_frame(
    names: tuple[str, ...], present: np.ndarray, task: Task, scores: SubsetScores
) -> tuple[pd.DataFrame, list[tuple[str, ...]]]:
    chosen = [c for size in range(len(names) + 1) for c in combinations(range(len(names)), size)]
    masks = [sum(1 << i for i in members) for members in chosen]
    members = [tuple(names[i] for i in columns) for columns in chosen]
    frame = pd.DataFrame(
        {
            "n_modalities": [len(columns) for columns in chosen],
            "n_rows": [int(present[:, list(c)].any(axis=1).sum()) for c in chosen],
            task.score: scores.score[masks],
            task.loss: scores.loss[masks],
            scores.third_name: scores.third[masks],
        },
        index=pd.Index([" + ".join(m) or EMPTY_SUBSET for m in members], name="subset"),
    )
    return frame, members


def modality_frame(
    names: tuple[str, ...],
    states: np.ndarray,
    task: Task,
    scores: SubsetScores,
    samples: dict[int, tuple[np.ndarray, np.ndarray]],
    confidence: float,
) -> pd.DataFrame:
    full = len(scores.loss) - 1
    single = [1 << i for i in range(len(names))]
    without = [full ^ mask for mask in single]
    frame = pd.DataFrame(index=pd.Index(names, name="modality"))
    for state in (Presence.PRESENT, Presence.ABSENT, Presence.FAILED, Presence.EMPTY):
        frame[state.name.lower()] = (states == state).sum(axis=0)
    metrics = ((task.score, scores.score, 1), (task.loss, scores.loss, 0))
    for name, values, _ in metrics:
        frame[f"{name}_alone"] = values[single]
    for name, values, _ in metrics:
        frame[f"{name}_without"] = values[without]
    for name, values, which in reversed(metrics):
        change = np.column_stack([samples[m][which] - samples[full][which] for m in without])
        frame[f"{name}_change"] = values[without] - values[full]
        low, high = percentile_interval(change, confidence)
        frame[f"{name}_change_low"], frame[f"{name}_change_high"] = low, high
    shares = shapley_values(np.column_stack([-scores.loss, scores.score]))
    gain = scores.loss[0] - scores.loss[full]
    frame[f"shapley_{task.loss}"] = shares[:, 0]
    frame[f"shapley_{task.loss}_percent"] = 100 * shares[:, 0] / (gain if gain > 0 else np.nan)
    frame[f"shapley_{task.score}"] = shares[:, 1]
    frame["prediction_change"] = scores.movement
    frame["contributes"] = frame[f"{task.loss}_change_low"] > rounding(scores)
    return frame


def rounding(scores: SubsetScores) -> float:
    """A difference of losses that may come from float32 arithmetic alone."""
    return 1e-6 * float(scores.loss[0])


def neglect_note(row: pd.Series, task: Task, n_rows: int, confidence: float) -> str:
    if row["contributes"]:
        return ""
    if row["present"] == 0:
        return (
            f"modality {row.name!r} is present in none of the {n_rows} rows, so its contribution "
            "cannot be measured."
        )
    ends = [float(row[f"{task.loss}_change{end}"]) for end in ("", "_low", "_high")]
    share = row[f"shapley_{task.loss}_percent"]
    remark = ""
    if ends[2] < 0:
        remark = "; the model is better without it"
    elif share >= _REPEATED:
        remark = f"; the others repeat what it says, as its Shapley share is {percent(share)}"
    elif row["prediction_change"] < _IGNORED:
        remark = "; predictions stay as they are without it, so the model ignores it"
    return (
        f"modality {row.name!r} contributes nothing: removing it changes "
        f"{metric_name(task.loss)} by {interval(*ends)} ({100 * confidence:.4g}% interval; present "
        f"in {row['present']} of {n_rows} rows){remark}."
    )


def fusion_note(
    best: str,
    task: Task,
    scores: SubsetScores,
    change: tuple[float, float, float],
    mask: int,
    confidence: float,
) -> str:
    return (
        f"the fusion is worse than its best single modality {best!r}: {metric_name(task.loss)} "
        f"{figure(scores.loss[-1])} against {figure(scores.loss[mask])}, a difference of "
        f"{interval(*change)} ({100 * confidence:.4g}% interval)."
    )


def part_note(
    members: tuple[str, ...], task: Task, scores: SubsetScores, change: tuple, confidence: float
) -> str:
    return (
        f"the fusion is worse than its part {' + '.join(members)}: {metric_name(task.loss)} "
        f"{figure(scores.loss[-1])} against {figure(scores.loss[scores.best_part])}, a difference "
        f"of {interval(*change)} ({100 * confidence:.4g}% interval, widened for the choice among "
        f"{len(scores.loss) - 2} parts)."
    )


def baseline_note(task: Task, scores: SubsetScores, change: tuple, confidence: float) -> str:
    name, loss, *_ = scores.baseline
    verb = "is worse than" if change[1] > 0 else "is not measurably better than"
    return (
        f"the model {verb} the {name}: {metric_name(task.loss)} {figure(scores.loss[-1])} against "
        f"{figure(loss)}, a difference of {interval(*change)} ({100 * confidence:.4g}% interval)."
    )


def loss_change(
    scores: SubsetScores,
    samples: dict[int, tuple[np.ndarray, np.ndarray]],
    mask: int,
    loss: float,
    confidence: float,
) -> tuple[float, float, float]:
    """Loss of the full set less that of another prediction, and its interval."""
    full = len(scores.loss) - 1
    low, high = percentile_interval(samples[full][0] - samples[mask][0], confidence)
    return float(scores.loss[full] - loss), float(low), float(high)


def baseline_entry(task: Task, scores: SubsetScores, change: tuple) -> dict[str, Any]:
    name, loss, score, third = scores.baseline
    ends = [f"{task.loss}_change{end}" for end in ("", "_low", "_high")]
    found = {"name": name, task.score: score, task.loss: loss, scores.third_name: third}
    return found | dict(zip(ends, change, strict=True))
