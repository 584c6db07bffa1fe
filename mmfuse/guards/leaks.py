"""Modalities that know the target in training, and will not when it counts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mmfuse._random import spawn_seed
from mmfuse.blocks import Blocks
from mmfuse.door import as_table, encode_table, fit_encoders
from mmfuse.exceptions import LeakageWarning
from mmfuse.guards._single import (
    Judge,
    best_column,
    held_out_predictions,
    linear_model,
    principal_model,
)
from mmfuse.guards.groups import check_disjoint
from mmfuse.metrics.resampling import percentile_interval
from mmfuse.presence import Presence
from mmfuse.splits import folds_within, make_folds
from mmfuse.targets import check_class_target, check_groups, check_value_target

__all__ = ["LeakReport", "find_leaks"]

GAP = 0.1
"""Skill that must be lost between training and validation, by the whole interval."""
CEILING, SURE = 0.9, 0.95
"""Skill near perfection, and skill that a single column should never have."""
AHEAD = 0.3
"""Skill by which a modality is far above all others."""
_COLLAPSED = 0.02
_FEWEST = 10


@dataclass(frozen=True, eq=False, repr=False)
class LeakReport:
    """What `find_leaks` measured.

    Skill is 0 for a prediction that knows nothing and 1 for a perfect one: balanced accuracy above
    chance as a share of what is possible, or R2.

    Attributes
    ----------
    frame : DataFrame
        By modality: ``n_rows`` present; ``skill`` of it alone on training rows that were held out,
        ``skill_low``, ``skill_high``; ``principal``, the skill from its first K - 1 principal
        components; ``column`` and ``column_skill``, the best single feature; ``presence_skill``,
        from whether it is there; with a validation part ``validation_skill``, its interval,
        ``gap``, ``gap_low`` and ``gap_high``; ``flagged``, and ``reasons`` (list of str).
    warnings : list of str
        One sentence for each reason.
    """

    frame: pd.DataFrame
    warnings: list[str]

    @property
    def flagged(self) -> list[str]:
        """Modalities that are not to be trusted."""
        return self.frame.index[self.frame["flagged"]].tolist()

    def __repr__(self) -> str:
        shown = self.frame.drop(columns="reasons").round(3).to_string()
        return "\n".join(["Leak report", shown, *[f"- {note}" for note in self.warnings]])


def find_leaks(
    X: Any,
    y: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    validation: tuple[Any, ArrayLike] | None = None,
    validation_groups: ArrayLike | None = None,
    task: str = "auto",
    encoders: Mapping[str, Any] | None = None,
    cv: Any = 5,
    n_bootstrap: int = 500,
    confidence: float = 0.95,
    random_state: int | np.random.RandomState | None = 0,
    verbose: int = 0,
) -> LeakReport:
    """Ask every modality alone what it knows of the target, and whether that can be true.

    Features that were computed with the labels, such as by a network trained on them, predict the
    training rows better than they will predict any other, in every fold and every group of the
    training part. Only rows that were never part of that computation show it: give them as
    ``validation``.

    Parameters
    ----------
    X : ModalityTable, Blocks or dict of columns
        Training rows.
    y : array-like of shape (n_rows,)
        Classes or values.
    groups : array-like of shape (n_rows,), optional
        Kept together by folds and bootstrap.
    validation : (X, y), optional
        Rows of honest origin.
    validation_groups : array-like, optional
        Their groups; refused if one of them is in ``groups``.
    task : {"auto", "classification", "regression"}, default="auto"
        ``"auto"`` takes floats with fractions for values.
    encoders : dict of encoders, optional
        For raw columns, as in `FusionClassifier`.
    cv : int or splitter, default=5
        Folds of the training part.
    n_bootstrap : int, default=500
    confidence : float, default=0.95
        Of all intervals of one table together (Bonferroni over its modalities).
    random_state : int, RandomState or None, default=0
    verbose : int, default=0
        Above 0, a bar is shown.

    Returns
    -------
    LeakReport

    Warns
    -----
    LeakageWarning
        For every reason to distrust a modality.

    Raises
    ------
    LeakageError
        If ``validation_groups`` shares a group with ``groups``.
    ValueError
        If the parts do not fit each other, rows are fewer than 10, or an option is out of range.

    Notes
    -----
    With validation a modality is flagged where the interval of (skill held out in training) -
    (skill on validation) lies above 0.1. It has then leaked the target or comes from another
    distribution; nothing but its origin can tell which.

    With or without validation it is flagged as implausible where

    - its skill is above 0.9 by the whole interval, and so is that of its first K - 1 principal
      components, which lose at most 0.02: classes that lie along the main axes of the features are
      the mark of a network that was trained on these labels (the neural collapse of Papyan, Han and
      Donoho, PNAS 2020), and hardly ever of a sensor;
    - its skill is above 0.95 by the whole interval, and above that of every other by 0.3;
    - one of its several columns alone, in a small tree, has skill above 0.95 by the whole interval:
      the target itself, or something computed from it;
    - whether it is present has skill above 0.5 by the whole interval.

    These are signs, and easy problems of honest sensors can show them; no sign is no proof of
    honesty either. A linear model is asked, so that a leak which only a network can read goes
    unnoticed.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse.guards import find_leaks
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(200) % 2
    >>> sound = y[:, None] + rng.normal(size=(200, 4))
    >>> chart = np.column_stack([rng.normal(size=200), y])  # holds the diagnosis
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     find_leaks({"sound": sound, "chart": chart}, y).flagged
    ['chart']
    """
    _check_options(n_bootstrap, confidence, task, validation, validation_groups)
    fitted, blocks = _encode(X, encoders)
    codes, n_classes = _target(y, len(blocks), task)
    groups = check_groups(groups, len(blocks))
    seed = spawn_seed(random_state)
    judge = Judge(codes, groups, n_classes, n_bootstrap, seed)
    folds = make_folds(cv, codes, groups, classification=n_classes > 0, seed=seed)
    if not folds:
        raise ValueError("find_leaks: the rows cannot be split into folds; give more rows.")
    tail = 1.0 - (1.0 - confidence) / len(blocks.names)
    other = None
    if validation is not None:
        other = _validation(validation, validation_groups, fitted, blocks, y, groups, task)
        other = (*other[:2], Judge(other[1], other[2], n_classes, n_bootstrap, seed + 1))
    from tqdm.auto import tqdm

    rows: dict[str, dict[str, Any]] = {}
    for name in tqdm(blocks.names, desc="find_leaks", disable=not verbose):
        rows[name] = _measure(name, blocks, judge, folds, tail)
        if other is not None:
            rows[name] |= _compare(name, blocks, judge, rows[name], other, tail)
    notes = _reasons(rows)
    for name, row in rows.items():
        row["flagged"], row["reasons"] = bool(notes[name]), notes[name]
        row.pop("draws")
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("modality")
    found = [f"modality {name!r} {reason}" for name in rows for reason in notes[name]]
    for message in found:
        warnings.warn(f"find_leaks: {message}", LeakageWarning, stacklevel=2)
    return LeakReport(frame, found)


def _check_options(n_bootstrap, confidence, task, validation, validation_groups) -> None:
    if not isinstance(n_bootstrap, Integral) or n_bootstrap < 1:
        raise ValueError(
            f"find_leaks: n_bootstrap must be an integer of at least 1; got {n_bootstrap!r}."
        )
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"find_leaks: confidence must lie between 0 and 1; got {confidence!r}.")
    if task not in ("auto", "classification", "regression"):
        raise ValueError(
            f"find_leaks: task must be 'auto', 'classification' or 'regression'; got {task!r}."
        )
    if validation is not None and (not isinstance(validation, tuple) or len(validation) != 2):
        raise ValueError("find_leaks: validation must be a pair (X, y).")
    if validation is None and validation_groups is not None:
        raise ValueError("find_leaks: validation_groups are given without validation=(X, y).")


def _encode(X: Any, encoders: Mapping[str, Any] | None) -> tuple[dict[str, Any], Blocks]:
    table = as_table(X, modalities=None, has_encoders=bool(encoders))
    if table is None:
        raise ValueError(
            "find_leaks: X must have named modalities: a ModalityTable, Blocks or a dict."
        )
    if isinstance(table, Blocks):
        return {}, table
    fitted = fit_encoders(table, encoders, 0)
    return fitted, encode_table(table, fitted, None)


def _target(y: ArrayLike, n_rows: int, task: str) -> tuple[np.ndarray, int]:
    """Codes of classes and their number, or values and 0."""
    if task == "auto":
        values = np.asarray(y)
        fractions = values.dtype.kind == "f" and (values != np.round(values)).any()
        task = "regression" if fractions else "classification"
    if n_rows < _FEWEST:
        raise ValueError(f"find_leaks: {n_rows} rows say nothing; at least {_FEWEST} are needed.")
    if task == "regression":
        values = check_value_target(y, n_rows, "find_leaks").reshape(n_rows, -1)
        if values.shape[1] > 1:
            raise ValueError("find_leaks: y must be one column; ask for each target by itself.")
        return values[:, 0], 0
    classes, codes = check_class_target(y, n_rows, "find_leaks")
    return codes, len(classes)


def _validation(validation, groups, fitted, blocks, y, train_groups, task) -> tuple:
    """Blocks, codes in the order of training, and groups of the validation part."""
    table = as_table(validation[0], modalities=None, has_encoders=bool(fitted), names=blocks.names)
    if table is None:
        raise ValueError("find_leaks: the X of validation must have named modalities, as X has.")
    other = encode_table(table, fitted, blocks.dims)
    labels = np.asarray(validation[1])
    if len(labels) != len(other):
        raise ValueError(
            f"find_leaks: the X of validation has {len(other)} rows and its y has {len(labels)}."
        )
    groups = check_groups(groups, len(other))
    if groups is not None and train_groups is not None:
        check_disjoint(train_groups, groups, names=("training", "validation"))
    codes, n_classes = _target(y, len(blocks), task)
    if not n_classes:
        return other, labels.astype(np.float64), groups
    place = pd.Index(np.unique(np.asarray(y))).get_indexer(pd.Index(labels))
    if (place < 0).any():
        unknown = labels[place < 0].tolist()[0]
        raise ValueError(
            f"find_leaks: the y of validation holds {unknown!r}, which is no class of training."
        )
    return other, place, groups


def _measure(name: str, blocks: Blocks, judge: Judge, folds: list, tail: float) -> dict:
    """What a modality says alone about held-out rows of the training part."""
    by_class = judge.n_classes > 0
    there = np.flatnonzero(blocks.presence[:, blocks.names.index(name)] == Presence.PRESENT)
    row: dict[str, Any] = {"n_rows": len(there)}
    presence = np.isin(np.arange(len(blocks)), there)[:, None].astype(float)
    if 0 < len(there) < len(blocks):
        said = held_out_predictions(linear_model(by_class), presence, judge.y, folds)
        row["presence_skill"], draws = judge.skill(said, np.arange(len(blocks)))
        row["presence_low"] = percentile_interval(draws, tail)[0]
    else:
        row["presence_skill"] = row["presence_low"] = 0.0
    inner = folds_within(folds, there, len(blocks))
    x, y = blocks[name][there].astype(np.float64), judge.y[there]
    few = any(len(np.unique(y[train])) < 2 for train, _ in inner)
    if len(there) < _FEWEST or not inner or few:
        gone = ("skill", "skill_low", "skill_high", "principal", "column_skill", "column_low")
        return row | dict.fromkeys(gone, np.nan) | {"column": -1, "draws": np.array([np.nan])}

    def judged(said: np.ndarray) -> tuple[float, np.ndarray]:
        whole = np.zeros(len(blocks), dtype=said.dtype)
        whole[there] = said
        return judge.skill(whole, there)

    row["skill"], row["draws"] = judged(held_out_predictions(linear_model(by_class), x, y, inner))
    row["skill_low"], row["skill_high"] = percentile_interval(row["draws"], tail)
    most = min(max(judge.n_classes - 1, 1), x.shape[1], min(len(train) for train, _ in inner))
    said = held_out_predictions(principal_model(by_class, most), x, y, inner)
    row["principal"] = judged(said)[0] if x.shape[1] > 2 * most else np.nan
    row["column"], said = best_column(x, y, inner, by_class)
    row["column_skill"], draws = judged(said)
    row["column_low"] = percentile_interval(draws, tail)[0] if x.shape[1] > 1 else np.nan
    return row


def _compare(name: str, blocks: Blocks, judge: Judge, row: dict, other: tuple, tail: float) -> dict:
    """Skill of the same model on the validation part, and what was lost."""
    names = ("validation_skill", "gap", "gap_low", "gap_high")
    valid, y, judge_there = other
    column = blocks.names.index(name)
    train = np.flatnonzero(blocks.presence[:, column] == Presence.PRESENT)
    test = np.flatnonzero(valid.presence[:, column] == Presence.PRESENT)
    if np.isnan(row["skill"]) or len(test) < _FEWEST:
        return dict.fromkeys(names, np.nan)
    whole = [(np.arange(len(train)), np.arange(len(train), len(train) + len(test)))]
    x = np.concatenate([blocks[name][train], valid[name][test]]).astype(np.float64)
    both = np.concatenate([judge.y[train], y[test]])
    said = held_out_predictions(linear_model(judge.n_classes > 0), x, both, whole)[len(train) :]
    full = np.zeros(len(y), dtype=said.dtype)
    full[test] = said
    skill, draws = judge_there.skill(full, test)
    low, high = percentile_interval(row["draws"] - draws, tail)
    return dict(zip(names, (skill, row["skill"] - skill, low, high), strict=True))


def _reasons(rows: dict[str, dict]) -> dict[str, list[str]]:
    """Why each modality is not to be trusted; the rules are in the notes of `find_leaks`."""
    found: dict[str, list[str]] = {}
    for name, row in rows.items():
        others = [r["skill"] for n, r in rows.items() if n != name and np.isfinite(r["skill"])]
        said = []
        if row.get("gap_low", -1.0) > GAP:
            said.append(
                f"knows the target in training and not in validation: skill {row['skill']:.2f} on "
                f"held-out training rows and {row['validation_skill']:.2f} on validation, a loss "
                f"of at least {row['gap_low']:.2f}; it has leaked the target or comes from "
                "elsewhere. Compute its features without these labels, or leave it out."
            )
        if row["skill_low"] > CEILING and row["principal"] >= row["skill"] - _COLLAPSED:
            said.append(
                f"is implausibly good: skill {row['skill']:.2f} alone, and {row['principal']:.2f} "
                "from its main axes, which is the mark of features learned from these labels; test "
                "it on rows that its features never saw, as validation=(X, y)."
            )
        if others and row["skill_low"] > SURE and row["skill"] > max(others) + AHEAD:
            said.append(
                f"is implausibly good: skill {row['skill']:.2f} alone, far above all others (at "
                f"most {max(others):.2f}); test it as validation=(X, y)."
            )
        if row["column_low"] > SURE:
            said.append(
                f"holds the target in its column {row['column']}, which alone has skill "
                f"{row['column_skill']:.2f}; leave that column out or show that it is known "
                "before the target is."
            )
        if row["presence_low"] > 0.5:
            said.append(
                f"tells the target by being there (skill {row['presence_skill']:.2f}); it may have "
                "been collected because of the outcome."
            )
        found[name] = said
    return found
