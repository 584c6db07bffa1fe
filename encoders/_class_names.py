"""Names of classes and the texts that stand for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["check_class_names", "check_templates", "names_in_order", "prompts"]


def names_in_order(class_names: Any) -> list[str]:
    """Return the names in the order of the sorted labels."""
    if isinstance(class_names, Mapping):
        return [str(class_names[label]) for label in sorted(class_names)]
    return [str(name) for name in class_names]


def check_class_names(owner: object, class_names: Any) -> None:
    """Raise unless `class_names` gives different texts, in the order that ``classes_`` will have.

    A list in another order would silently give one class the logits of another.
    """
    who = type(owner).__name__
    must = f"{who}: class_names must be a list of names or a dict from label to name"
    if isinstance(class_names, Mapping):
        labels, names = list(class_names), list(class_names.values())
        try:
            sorted(labels)
        except TypeError:
            raise TypeError(f"{must} whose labels can be sorted, got {labels!r}.") from None
    elif isinstance(class_names, (Sequence, np.ndarray)) and not isinstance(class_names, str):
        names = list(class_names)
    else:
        raise TypeError(f"{must}, got {class_names!r}.")
    wrong = [name for name in names if not isinstance(name, str) or not name.strip()]
    if wrong:
        raise TypeError(f"{must}; a name must be a text with characters, got {wrong[0]!r}.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if len(names) < 2 or twice:
        got = f"{twice[0]!r} twice" if twice else f"{len(names)}"
        raise ValueError(f"{must}, two different names or more, got {got}.")
    if not isinstance(class_names, Mapping) and names != sorted(names):
        first = next(b for a, b in zip(names, names[1:], strict=False) if b < a)
        raise ValueError(
            f"{must}; a list must be sorted, as classes_ of an estimator is, but {first!r} comes "
            "late. Sort it, or give {label: name}."
        )


def check_templates(owner: object, templates: Sequence[str]) -> None:
    """Raise unless each template is a text with one place for the name."""
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ValueError(
                f"{type(owner).__name__}: each of templates must be a text with {{}} in place of "
                f"the class name, got {template!r}."
            )
    if not templates:
        raise ValueError(f"{type(owner).__name__}: templates must hold one text at least, got [].")


def prompts(name: str, templates: Sequence[str]) -> list[str]:
    """Put a name into each template."""
    return [template.replace("{}", name) for template in templates]
