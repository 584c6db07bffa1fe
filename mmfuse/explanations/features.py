"""Contributions of the features inside a modality: integrated gradients, or occlusion."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from mmfuse._require import require
from mmfuse.explanations.evaluate import Evaluator, subset_values
from mmfuse.report.shapley import shapley_values

__all__ = [
    "Group",
    "differentiable",
    "feature_groups",
    "feature_names",
    "gradients",
    "integrate",
    "occlusion",
    "tokens",
]

_PASS = 4096  # rows of the path that pass the head together
_DOUBLINGS = 4
_MOST_GROUPS = 2048

Group = tuple[str, str, np.ndarray]
"""Modality, name, and the columns of the block."""


def feature_names(model: Any, X: Any = None) -> dict[str, list[str]]:
    """Names of the columns of every block.

    Those of the encoder, else of the DataFrame that the modality is in ``X``, else the modality
    and a number.
    """
    names = {}
    for name, width in model.block_dims_.items():
        own: Any = None
        if name in model.encoders_ and hasattr(model.encoders_[name], "get_feature_names_out"):
            own = model.encoders_[name].get_feature_names_out()
        elif not model.from_matrix_:
            try:
                own = X[name].columns
            except (TypeError, KeyError, ValueError, AttributeError, IndexError):
                own = None
        known = own is not None and len(own) == width
        names[name] = [str(n) for n in own] if known else [f"{name}_{j}" for j in range(width)]
    return names


def feature_groups(names: Mapping[str, list[str]], groups: Any) -> list[Group]:
    """The parts that share a contribution: single features, unless ``groups`` names others.

    Raises
    ------
    ValueError
        For an unknown modality or feature, or a feature in two groups.
    """
    groups = {} if groups is None else groups
    unknown = [name for name in groups if name not in names]
    if unknown:
        raise ValueError(
            f"explain: groups has the modality {unknown[0]!r}; the model knows {', '.join(names)}."
        )
    found: list[Group] = []
    for modality, columns in names.items():
        taken = np.zeros(len(columns), dtype=bool)
        for label, members in groups.get(modality, {}).items():
            place = _places(modality, label, members, columns)
            if taken[place].any() or len(set(place)) < len(place):
                raise ValueError(
                    f"explain: a feature of {modality!r} is in two places of groups, the second "
                    f"of them in {label!r}; put every feature in one group."
                )
            taken[place] = True
            found.append((modality, str(label), np.array(place)))
        found += [(modality, columns[j], np.array([j])) for j in np.flatnonzero(~taken)]
    return found


def _places(modality: str, label: Any, members: Any, columns: list[str]) -> list[int]:
    places = []
    for member in members:
        if isinstance(member, str) and member in columns:
            places.append(columns.index(member))
        elif isinstance(member, (int, np.integer)) and 0 <= member < len(columns):
            places.append(int(member))
        else:
            raise ValueError(
                f"explain: group {label!r} of modality {modality!r} has the feature {member!r}; "
                f"features are names such as {columns[0]!r} or numbers from 0 to "
                f"{len(columns) - 1}."
            )
    if not places:
        raise ValueError(f"explain: group {label!r} of modality {modality!r} has no features.")
    return places


def differentiable(evaluator: Evaluator) -> str:
    """Why there is no gradient; empty where there is one."""
    estimators = evaluator.model.head_.all_estimators()
    if estimators:
        kinds = sorted({type(one).__name__ for one in estimators.values()})
        return f"the head holds scikit-learn estimators ({', '.join(kinds)})"
    if not evaluator.quantity.by_scores:
        return f"output={evaluator.model.output_!r} is read from a density"
    return ""


def integrate(
    function: Any,
    inputs: tuple[Any, ...],
    baselines: tuple[Any, ...],
    extra: tuple[Any, ...],
    n_outputs: int,
    *,
    n_steps: int,
    tolerance: float,
    batch: int = _PASS,
) -> list[list[np.ndarray]]:
    """Integrated gradients of every output for every input; steps double until they add up.

    Raises
    ------
    ValueError
        If they do not add up to the change of the answer.
    """
    require("captum", extra="explain", caller="Integrated gradients")
    captum = import_module("captum.attr")
    import torch

    method = captum.IntegratedGradients(function, multiply_by_inputs=True)
    with torch.no_grad():
        change = (function(*inputs, *extra) - function(*baselines, *extra)).cpu().numpy()
    found = []
    for k in range(n_outputs):
        allowed = tolerance * max(float(np.abs(change[:, k]).max(initial=0.0)), 1e-6)
        for doubling in range(_DOUBLINGS + 1):
            parts = method.attribute(
                inputs,
                baselines=baselines,
                additional_forward_args=extra,
                target=k,
                n_steps=n_steps * 2**doubling,
                method="gausslegendre",
                internal_batch_size=max(batch, len(inputs[0])),
            )
            arrays = [part.detach().cpu().numpy().astype(np.float64) for part in parts]
            total = sum(a.reshape(len(a), -1).sum(axis=1) for a in arrays)
            worst = float(np.abs(total - change[:, k]).max(initial=0.0))
            if worst <= allowed:
                break
        else:
            raise ValueError(
                f"explain: integrated gradients miss the change of the answer by {worst:.3g} where "
                f"{allowed:.3g} is allowed, after {n_steps * 2**_DOUBLINGS} steps: the head's "
                "answer jumps or has no gradient. Take method='occlusion', or a larger tolerance."
            )
        found.append(arrays)
    return found


def gradients(
    evaluator: Evaluator, n_steps: int, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attributions of every column (n, D, K), and the answers at the means and as they are.

    All present modalities go together on a straight line from the training mean.
    """
    import torch

    model, quantity = evaluator.model, evaluator.quantity
    names = list(evaluator.dims)
    place = {"device": model.device_}
    there = torch.as_tensor(evaluator.present, **place)
    widths = list(evaluator.dims.values())

    def answer(joint: Any, present: Any) -> Any:
        blocks = dict(zip(names, joint.split(widths, dim=1), strict=True))
        output = quantity.of_scores(model.head_(blocks, present).scores, present.cpu().numpy())
        return output + 0.0 * joint.sum(dim=1, keepdim=True)  # a head may use no feature at all

    cells = [
        torch.where(there[:, m, None], evaluator.data[name], 0.0) for m, name in enumerate(names)
    ]
    joint = torch.cat(cells, dim=1)
    mean = torch.zeros_like(joint)
    found = integrate(
        answer,
        (joint,),
        (mean,),
        (there,),
        len(quantity.names),
        n_steps=n_steps,
        tolerance=tolerance,
    )
    values = np.stack([arrays[0] for arrays in found], axis=2)
    with torch.no_grad():
        base, full = (answer(at, there).cpu().numpy() for at in (mean, joint))
    return values, base, full


def occlusion(
    evaluator: Evaluator, groups: list[Group]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the answer loses when one group is put at its training mean: (n, P, K).

    Raises
    ------
    ValueError
        If there are more groups than passes anybody would wait for.
    """
    if len(groups) > _MOST_GROUPS:
        raise ValueError(
            f"explain: occlusion needs a pass for each of {len(groups)} features, and at most "
            f"{_MOST_GROUPS} are allowed; pass groups={{modality: {{name: features}}}} so that "
            "several go together."
        )
    n = len(evaluator.present)
    rows, present = np.arange(n), evaluator.present
    full = evaluator.run(rows, present)
    nothing = {name: np.zeros((n, d), dtype=bool) for name, d in evaluator.dims.items()}
    base = evaluator.run(rows, present, nothing)
    values = np.zeros((n, len(groups), full.shape[1]))
    names = list(evaluator.dims)
    for p, (modality, _, columns) in enumerate(groups):
        own = np.flatnonzero(present[:, names.index(modality)])
        keep = np.ones((len(own), evaluator.dims[modality]), dtype=bool)
        keep[:, columns] = False
        values[own, p] = full[own] - evaluator.run(own, present[own], {modality: keep})
    return values, base, full


def tokens(evaluator: Evaluator) -> tuple[np.ndarray, np.ndarray]:
    """What it adds that a modality is there at all, with features at the mean: (n, M, K).

    Shapley values from the answer without any modality, which is returned too, to that at the
    means. They depend on the pattern alone.
    """
    patterns, pattern_of = np.unique(evaluator.present, axis=0, return_inverse=True)

    def run(rows: np.ndarray, present: np.ndarray) -> np.ndarray:
        nothing = {n: np.zeros((len(rows), d), dtype=bool) for n, d in evaluator.dims.items()}
        return evaluator.run(np.zeros(len(rows), dtype=int), present, nothing)

    values = subset_values(run, patterns)
    shares = np.moveaxis(shapley_values(values), 0, 1)
    shares[~patterns] = 0.0
    pattern_of = pattern_of.ravel()
    return shares[pattern_of], values[0][pattern_of]
