"""What a fitted model remembers of its training rows: digests, never the rows."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfuse.digests import group_digests, row_digests
from mmfuse.exceptions import LeakageError, LeakageWarning

if TYPE_CHECKING:
    from mmfuse.blocks import Blocks

__all__ = ["OVERLAP", "TrainingRecord", "check_held_out", "record_training", "shown_ids"]

OVERLAP = ("auto", "raise", "warn", "ignore")
"""What may be asked for training rows and groups among those of an evaluation."""
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class TrainingRecord:
    """Digests of 8 bytes of the training rows and groups, sorted, each once.

    Attributes
    ----------
    rows : int64 ndarray
        Of the encoded rows, all modalities together.
    groups : int64 ndarray or None
        Of the labels of the groups; None if the model was fitted without.
    """

    rows: np.ndarray
    groups: np.ndarray | None = None

    def get_arrays(self) -> dict[str, np.ndarray]:
        """Arrays by name, for saving."""
        return {"rows": self.rows} | ({} if self.groups is None else {"groups": self.groups})


def record_training(blocks: Blocks, groups: np.ndarray | None) -> TrainingRecord:
    """Make the record of encoded training rows and their groups (n,)."""
    rows = np.unique(row_digests(blocks))
    known = None if groups is None else np.unique(group_digests(np.asarray(groups)))
    return TrainingRecord(rows[rows != 0], known)


def check_held_out(
    model: Any, blocks: Blocks, groups: Any = None, *, overlap: str = "auto", caller: str
) -> None:
    """Refuse, or warn of, an evaluation or calibration on what the model was fitted on.

    Parameters
    ----------
    model : estimator
        One without a record, such as of another library, passes.
    blocks : Blocks
        Encoded rows of the evaluation or calibration.
    groups : array-like of shape (n,), optional
        Their groups.
    overlap : {"auto", "raise", "warn", "ignore"}, default="auto"
        ``"auto"`` refuses groups that the model was fitted on and warns of identical rows, since
        rows of few or discrete features may be equal by chance.
    caller : str
        Name that messages start with.

    Raises
    ------
    ValueError
        If ``overlap`` is unknown.
    LeakageError
        If training groups, or with "raise" training rows, are among these.

    Warns
    -----
    LeakageWarning
        Where they are not refused.
    """
    if overlap not in OVERLAP:
        raise ValueError(f"{caller}: overlap must be one of {', '.join(OVERLAP)}; got {overlap!r}.")
    one = model.outputs_[0] if hasattr(model, "outputs_") else model  # all have the same rows
    record = getattr(one, "training_record_", None)
    if record is None or overlap == "ignore":
        return
    if groups is not None and record.groups is not None:
        labels = np.asarray(groups)
        inside = np.isin(group_digests(labels), record.groups)
        if inside.any():
            message = (
                f"{caller}: the model was fitted on {shown_ids(labels[inside])}, which "
                f"{'is' if len(np.unique(labels[inside].astype(str))) == 1 else 'are'} also among "
                "these rows; scores would be too good. Leave these groups out, or pass "
                "overlap='warn' to go on."
            )
            _tell(message, overlap in ("auto", "raise"))
    if set(blocks.names) == set(getattr(model, "modalities_", ())):
        found = row_digests(blocks.select(model.modalities_))
        inside = np.isin(found, record.rows) & (found != 0)
        if inside.any():
            rows = np.flatnonzero(inside)
            listed = ", ".join(map(str, rows[:_SHOWN])) + (", ..." if len(rows) > _SHOWN else "")
            message = (
                f"{caller}: {len(rows)} of {len(blocks)} rows are identical to rows that the model "
                f"was fitted on (rows {listed}); scores are too good. Use other rows, or "
                "pass overlap='ignore' if they are equal by chance."
            )
            _tell(message, overlap == "raise")


def shown_ids(labels: np.ndarray) -> str:
    """The first few of some labels, in words."""
    distinct = list(dict.fromkeys(np.asarray(labels).tolist()))
    listed = ", ".join(map(repr, distinct[:_SHOWN]))
    if len(distinct) == 1:
        return f"the group {listed}"
    more = f" and {len(distinct) - _SHOWN} more" if len(distinct) > _SHOWN else ""
    return f"{len(distinct)} groups ({listed}{more})"


def _tell(message: str, refuse: bool) -> None:
    if refuse:
        raise LeakageError(message)
    warnings.warn(message, LeakageWarning, stacklevel=4)
