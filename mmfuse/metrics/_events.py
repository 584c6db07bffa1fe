"""What counts as an event where there are several classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["event_probability", "event_sets"]


def event_sets(events: Any, classes: np.ndarray, caller: str) -> dict[str, np.ndarray]:
    """The classes of every event, as a mask over ``classes``.

    ``"classes"`` is every class against the others (of two classes, the second), ``"at_least"``
    every class but the lowest and all above it. A list names events: a class, or ``">= "`` and a
    class. A mapping gives any set of classes a name.
    """
    names = [str(label) for label in classes.tolist()]
    if isinstance(events, str) and events == "classes":
        chosen = range(len(classes)) if len(classes) > 2 else [1]
        return {names[k]: _mask([k], len(classes)) for k in chosen}
    if isinstance(events, str) and events == "at_least":
        steps = range(1, len(classes))
        return {f">= {names[k]}": np.arange(len(classes)) >= k for k in steps}
    if isinstance(events, Mapping):
        found = {str(name): _set(members, classes, caller) for name, members in events.items()}
    else:
        listed = [events] if isinstance(events, str) or np.ndim(events) == 0 else list(events)
        found = dict(_one(event, classes, names, caller) for event in listed)
    if not found:
        raise ValueError(f"{caller}: events is empty; name at least one event.")
    for name, mask in found.items():
        if mask.all() or not mask.any():
            raise ValueError(
                f"{caller}: the event {name!r} must hold some of the classes and not all; it holds "
                f"{int(mask.sum())} of {len(classes)}."
            )
    return found


def event_probability(proba: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Probability of the event in every row, (n,)."""
    # rows may sum to 1 only within rounding; a share above 1 would be flagged at no threshold less
    return np.minimum(proba[:, mask].sum(axis=1), 1.0)


def _one(event: Any, classes: np.ndarray, names: list[str], caller: str) -> tuple[str, np.ndarray]:
    label = event.item() if isinstance(event, np.generic) else event
    if label in classes.tolist():
        return str(label), _mask([classes.tolist().index(label)], len(classes))
    if isinstance(label, str) and label.startswith(">="):
        lowest = label[2:].strip()
        if lowest in names:
            return f">= {lowest}", np.arange(len(classes)) >= names.index(lowest)
    raise ValueError(
        f"{caller}: there is no event {label!r}; name a class of {classes.tolist()}, '>= ' and a "
        "class, 'classes', 'at_least', or a mapping of names to lists of classes."
    )


def _set(members: Any, classes: np.ndarray, caller: str) -> np.ndarray:
    known = classes.tolist()
    labels = [members] if isinstance(members, str) or np.ndim(members) == 0 else list(members)
    unknown = [label for label in labels if label not in known]
    if unknown:
        raise ValueError(f"{caller}: events names {unknown[0]!r}, which is not among {known}.")
    return _mask([known.index(label) for label in labels], len(classes))


def _mask(places: list[int], size: int) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[places] = True
    return mask
