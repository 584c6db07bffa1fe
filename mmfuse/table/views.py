"""Ways to look at a table: counts of states, patterns of availability, HTML."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from mmfuse._rows import count_states
from mmfuse.presence import Presence

__all__ = ["patterns", "summary", "to_html"]


def summary(names: tuple[str, ...], presence: np.ndarray, by: Any = None) -> pd.DataFrame:
    """Count states per modality, or give the share present per modality and group of ``by``."""
    index = pd.Index(names, name="modality")
    present = presence == Presence.PRESENT
    if by is not None:
        groups = _groups(by, len(presence))
        shares = pd.DataFrame(present, columns=index).groupby(groups, dropna=False).mean()
        return shares.T
    order = (Presence.PRESENT, Presence.ABSENT, Presence.FAILED, Presence.EMPTY)
    counts = {state.name.lower(): (presence == state).sum(axis=0) for state in order}
    share = present.mean(axis=0) if len(presence) else np.full(len(names), np.nan)
    return pd.DataFrame({**counts, "share": share}, index=index)


def patterns(names: tuple[str, ...], presence: np.ndarray) -> pd.DataFrame:
    """Count the rows of every pattern of availability, the most frequent first."""
    found, rows = np.unique(presence == Presence.PRESENT, axis=0, return_counts=True)
    order = np.lexsort((-found.sum(axis=1), -rows))  # ties: more modalities first
    flags = pd.DataFrame(found[order], columns=list(names))
    counts = pd.DataFrame({"rows": rows[order], "share": rows[order] / max(len(presence), 1)})
    return pd.concat([flags, counts], axis=1)


def to_html(title: str, kinds: Mapping[str, str], presence: np.ndarray) -> str:
    """Draw a small table with a bar per modality for the share of rows that have it."""
    cell = "padding:2px 10px;text-align:left"
    lines = []
    for j, (name, kind) in enumerate(kinds.items()):
        states = presence[:, j]
        share = float((states == Presence.PRESENT).mean()) if len(states) else 0.0
        bar = (
            '<div style="width:120px;height:0.7em;background:rgba(128,128,128,0.3)">'
            f'<div style="width:{100 * share:.1f}%;height:100%;background:#3b76af"></div></div>'
        )
        texts = (escape(name), escape(kind), bar, f"{100 * share:.1f} %", count_states(states))
        lines.append(
            "<tr>" + "".join(f'<td style="{cell}">{text}</td>' for text in texts) + "</tr>"
        )
    head = "".join(
        f'<th style="{cell}">{text}</th>' for text in ("modality", "kind", "present", "", "states")
    )
    return (
        f"<div><strong>{escape(title)}</strong><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _groups(by: Any, n_rows: int) -> pd.Series:
    """Check the group labels, one per row."""
    if isinstance(by, str) or not hasattr(by, "__len__"):
        raise TypeError(
            f"by must be an array with one group label per row, such as the site of each sample; "
            f"got {by!r}."
        )
    name = getattr(by, "name", None)
    labels = pd.Series(by.to_numpy() if hasattr(by, "to_numpy") else by, name=name)
    if len(labels) != n_rows:
        raise ValueError(f"by has {len(labels)} labels; the table has {n_rows} rows.")
    return labels
