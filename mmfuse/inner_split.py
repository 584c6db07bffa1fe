"""Estimators that hold rows out by themselves know nothing of groups."""

from __future__ import annotations

import warnings
from typing import Any

from mmfuse.exceptions import LeakageWarning

__all__ = ["warn_inner_split"]

_AUTO_ABOVE = 10_000
_SWITCHES = ("early_stopping", "n_iter_no_change")


def warn_inner_split(head: Any, groups: Any, owner: str) -> None:
    """Warn where an estimator inside a head stops early on rows that it draws regardless of groups.

    The folds of mmfuse, by which its own heads stop early, choose and calibrate, keep groups
    together. An estimator of scikit-learn with ``early_stopping=True``, or a gradient boosting with
    ``n_iter_no_change``, splits its training rows at random.

    Warns
    -----
    LeakageWarning
        Names the estimator and the parameter.
    """
    if groups is None:
        return
    for name, value in head.get_params(deep=True).items():
        parent, _, switch = name.rpartition("__")
        if switch not in _SWITCHES or not parent:
            continue
        estimator = head.get_params(deep=True)[parent]
        own = estimator.get_params(deep=False) if hasattr(estimator, "get_params") else {}
        on = value is True if "early_stopping" in own else value is not None
        if isinstance(value, str) and value == "auto":  # as scikit-learn decides
            on = len(groups) > _AUTO_ABOVE
        if switch == "n_iter_no_change" and "early_stopping" in own:
            continue
        if on:
            off = "False" if switch == "early_stopping" else "None"
            warnings.warn(
                f"{owner}: {type(estimator).__name__} stops early ({switch}={value!r}) on rows "
                "that it draws without regard to groups, so that a group may stand on both "
                f"sides; turn it off with {switch}={off}.",
                LeakageWarning,
                stacklevel=4,
            )
