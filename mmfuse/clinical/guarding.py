"""The cheap guards, run on the rows of a sheet: what they find is said on the sheet."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from mmfuse.blocks import Blocks
from mmfuse.clinical.inputs import CALLER
from mmfuse.digests import row_digests
from mmfuse.exceptions import LeakageWarning
from mmfuse.guards import find_leaks
from mmfuse.training_record import check_held_out

__all__ = ["guard_findings", "held_out_findings"]

_FEWEST = 40
_DRAWS = 200


def held_out_findings(
    model: Any, blocks: Blocks, groups: np.ndarray | None, overlap: str
) -> list[str]:
    """What `check_held_out` warns of.

    Raises
    ------
    LeakageError
        As it does.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_held_out(model, blocks, groups, overlap=overlap, caller=CALLER)
    for one in caught:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    leaks = [one for one in caught if issubclass(one.category, LeakageWarning)]
    return [str(one.message).removeprefix(f"{CALLER}: ") for one in leaks]


def guard_findings(
    blocks: Blocks, codes: np.ndarray, groups: np.ndarray | None, seed: int
) -> list[str]:
    """Repeated rows, and modalities that are implausibly good alone."""
    return _copies(blocks, groups) + _leaks(blocks, codes, groups, seed)


def _copies(blocks: Blocks, groups: np.ndarray | None) -> list[str]:
    digests = row_digests(blocks)
    there = np.flatnonzero(digests != 0)
    _, place, count = np.unique(digests[there], return_inverse=True, return_counts=True)
    again = there[count[place] > 1]
    if not len(again):
        return []
    found = [
        f"{len(again)} of {len(blocks)} rows are exact copies of one another (rows "
        f"{', '.join(map(str, again[:5]))}{', ...' if len(again) > 5 else ''} of those analysed); "
        "a copy is no witness of its own, and intervals are too narrow by it."
    ]
    if groups is not None:
        owners: dict[int, set] = {}
        for row in again:
            owners.setdefault(int(digests[row]), set()).add(groups[row])
        shared = sum(len(names) > 1 for names in owners.values())
        if shared:
            found.append(f"{shared} of these contents are in rows of more than one group.")
    return found


def _leaks(blocks: Blocks, codes: np.ndarray, groups: np.ndarray | None, seed: int) -> list[str]:
    if len(blocks) < _FEWEST:
        return [f"Leaking modalities were not looked for: that needs {_FEWEST} rows."]
    options = {"task": "classification", "cv": 3, "n_bootstrap": _DRAWS, "random_state": seed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sheet says it
        try:
            report = find_leaks(blocks, codes, groups=groups, **options)
        except ValueError as exc:
            return [f"Leaking modalities could not be looked for: {exc}"]
    return report.warnings
