"""People, patients or sites must stand on one side of a split only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mmfuse.digests import group_digests
from mmfuse.exceptions import LeakageError
from mmfuse.training_record import shown_ids

__all__ = ["check_disjoint", "forget_training"]


def check_disjoint(*groups: ArrayLike, names: tuple[str, ...] | None = None) -> None:
    """Refuse groups that are in two parts of the data.

    Labels are compared as text, so that patient 7 of one file is patient "7" of another.

    Parameters
    ----------
    *groups : array-like of shape (n_rows,)
        Group of each row of each part: training and test, or training, calibration and test.
    names : tuple of str, optional
        What the parts are called in the message; by default "training" and "test", or "part 1",
        "part 2", ...

    Raises
    ------
    LeakageError
        If two parts share a group; names the parts and the first five of the groups.
    ValueError
        If there are fewer than two parts, a part is not one label per row, or a label is missing.

    Examples
    --------
    >>> from mmfuse.guards import check_disjoint
    >>> check_disjoint(["ann", "ben", "ben"], ["cleo", "dan"])
    >>> check_disjoint(["ann", "ben", "ben"], ["ben", "dan"])
    Traceback (most recent call last):
        ...
    mmfuse.exceptions.LeakageError: check_disjoint: the group 'ben' of training is also in test; \
keep all rows of a group in one part, for example with GroupShuffleSplit.
    """
    if len(groups) < 2:
        raise ValueError(
            f"check_disjoint needs the groups of two parts or more; got {len(groups)}."
        )
    if names is None:
        both = ("training", "test")
        names = both if len(groups) == 2 else tuple(f"part {i + 1}" for i in range(len(groups)))
    if len(names) != len(groups):
        raise ValueError(f"check_disjoint: {len(groups)} parts have {len(names)} names.")
    parts = [_labels(labels, name) for labels, name in zip(groups, names, strict=True)]
    digests = [group_digests(labels) for labels in parts]
    for second in range(1, len(parts)):
        for first in range(second):
            inside = np.isin(digests[second], digests[first])
            if inside.any():
                found = shown_ids(parts[second][inside])
                verb = "is" if found.startswith("the group") else "are"
                raise LeakageError(
                    f"check_disjoint: {found} of {names[first]} {verb} also in {names[second]}; "
                    "keep all rows of a group in one part, for example with GroupShuffleSplit."
                )


def forget_training(model: Any) -> Any:
    """Take the digests of training rows and groups out of a fitted model, and return it.

    Who has a list of possible labels can find out from their digests which of them a model was
    fitted on. Forget them before giving away a model whose patients must not be known; it can then
    not tell any more when it is evaluated on its training rows.

    Parameters
    ----------
    model : FusionClassifier or FusionRegressor

    Examples
    --------
    >>> from mmfuse import FusionClassifier
    >>> from mmfuse.guards import forget_training
    >>> from mmfuse.heads import EarlyFusion
    >>> X = {"a": [[0.0], [1.0], [2.0], [3.0]]}
    >>> model = FusionClassifier(EarlyFusion()).fit(X, [0, 0, 1, 1], groups=["p", "q", "r", "s"])
    >>> len(model.training_record_.groups)
    4
    >>> hasattr(forget_training(model), "training_record_")
    False
    """
    for one in [model, *getattr(model, "outputs_", [])]:
        vars(one).pop("training_record_", None)
    return model


def _labels(groups: ArrayLike, name: str) -> np.ndarray:
    labels = np.asarray(groups)
    if labels.ndim != 1:
        raise ValueError(
            f"check_disjoint: the groups of {name} must be one label per row; got the shape "
            f"{labels.shape}."
        )
    missing = np.flatnonzero(pd.isna(labels))
    if len(missing):
        raise ValueError(
            f"check_disjoint: the group of row {missing[0]} of {name} is missing; give every row "
            "a group."
        )
    return labels
