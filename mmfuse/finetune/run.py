"""Fine-tuning as the estimators call it: from a table to blocks of encoders that have learned."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from mmfuse._device import resolve_device
from mmfuse._random import seeded, spawn_seed
from mmfuse._version import __version__
from mmfuse.blocks import Blocks
from mmfuse.door import encode_table, fit_encoders
from mmfuse.encoders import BaseEncoder
from mmfuse.encoders._columns import as_cells
from mmfuse.encoders._keys import content_key
from mmfuse.encoders._tuned import TunedWeights, copy_module
from mmfuse.exceptions import SampleError
from mmfuse.finetune.checkpoint import Store
from mmfuse.finetune.joint import JointModel, Target
from mmfuse.finetune.loop import Trainer
from mmfuse.finetune.modes import count, merge_adapters, prepare, trained
from mmfuse.finetune.params import FineTuning
from mmfuse.finetune.ranks import Ranks
from mmfuse.finetune.rows import Samples
from mmfuse.finetune.split import RowSplit, split_rows
from mmfuse.heads import EarlyFusion
from mmfuse.splits import make_folds

__all__ = ["Tuned", "tune"]


@dataclass(frozen=True)
class Tuned:
    """What fine-tuning gives.

    Attributes
    ----------
    blocks : Blocks
        All rows, by encoders that have learned.
    rows : RowSplit
    report : dict
        JSON-able; becomes ``history_["finetune"]``.
    """

    blocks: Blocks
    rows: RowSplit
    report: dict[str, Any]


def tune(
    model: Any, table: Any, targets: list[Target], groups: np.ndarray | None, *, by_class: bool
) -> Tuned:
    """Fit the encoders of an estimator, train those that are trainable, and encode.

    Parameters
    ----------
    model : FusionClassifier or FusionRegressor
        ``encoders_`` is set; the encoders in it that have learned have ``tuned_``.
    table : ModalityTable
    targets : list of Target
    groups : ndarray of shape (n,) or None
    by_class : bool
        Whether the parts of the rows have about the same share of each class.

    Raises
    ------
    ValueError
        If the rows are blocks already, a parameter is wrong, or rows or groups are too few.
    """
    owner = type(model).__name__
    plan, seed = _plan(model, table, owner)
    ranks = Ranks(owner, resolve_device(model.device))
    if ranks.count > 1 and model.random_state is None:
        raise ValueError(
            f"{owner}: processes of one training must draw the same numbers; set random_state to "
            "an integer."
        )
    classes = targets[0].values if by_class and len(targets) == 1 else None
    rows = split_rows(
        len(table), classes, groups, validation=plan.validation, held_out=plan.held_out, seed=seed
    )
    model.encoders_ = fit_encoders(table, model.encoders, model.verbose)
    chosen = {n: e for n, e in model.encoders_.items() if getattr(e, "trainable", False)}
    before = encode_table(table, model.encoders_, None)
    fit_encoders(before.to_table(), None, 0)  # encoding may have failed in all rows
    began = time.perf_counter()
    joint, report = _joint(model, chosen, before, targets, rows, groups, plan, seed, by_class)
    store = None
    if plan.checkpoint is not None:
        store = Store(Path(plan.checkpoint), _identity(model, plan, table, targets, rows, seed))
    modes = {name: encoder.trainable for name, encoder in chosen.items()}
    samples = Samples(table, chosen, before.names)
    trainer = Trainer(joint, samples, rows, plan, modes, ranks, store, seed, model.verbose)
    trainer.run()
    _settle(chosen, joint, modes, report)
    report |= _summary(trainer, rows, time.perf_counter() - began)
    if report["best_epoch"] == 0:
        warnings.warn(
            f"{owner}: no epoch of fine-tuning lowered the loss of the {len(rows.stop)} validation "
            "rows, so the encoders stay as they were; try another encoder_lr, fewer trained "
            "weights ('head' or 'lora') or more rows.",
            UserWarning,
            stacklevel=5,
        )
    after = encode_table(table.select(list(chosen)), {n: model.encoders_[n] for n in chosen}, None)
    return Tuned(_merged(before, after), rows, report)


def _plan(model: Any, table: Any, owner: str) -> tuple[FineTuning, int]:
    """The parameters, once they are checked, and the seed."""
    plan = FineTuning() if model.finetune is None else model.finetune
    if not isinstance(plan, FineTuning):
        raise ValueError(f"{owner}: finetune must be mmfuse.FineTuning(...) or None; got {plan!r}.")
    plan.check()
    if isinstance(table, Blocks):
        raise ValueError(
            f"{owner}: an encoder is trainable, and X is Blocks, which are encoded already; pass "
            "the raw samples, or set trainable=False."
        )
    if plan.checkpoint is not None and plan.random_state is None and model.random_state is None:
        raise ValueError(
            f"{owner}: a training goes on from its checkpoint with the same random numbers only; "
            "set random_state to an integer."
        )
    drawn = plan.random_state if plan.random_state is not None else spawn_seed(model.random_state)
    return plan, int(drawn)


def _joint(
    model: Any,
    chosen: dict[str, BaseEncoder],
    blocks: Blocks,
    targets: list[Target],
    rows: RowSplit,
    groups: np.ndarray | None,
    plan: FineTuning,
    seed: int,
    by_class: bool,
) -> tuple[JointModel, dict[str, Any]]:
    """The joint model with its head fitted on the frozen blocks, and the numbers of parameters."""
    head = EarlyFusion() if plan.joint_head is None else plan.joint_head
    for target in targets:
        head.check_parameters(blocks.dims, target.objective)
    modules: dict[str, nn.Module] = {}
    parameters: dict[str, dict[str, int]] = {}
    with seeded(seed):  # adapters start at random
        for name, encoder in chosen.items():
            module = copy_module(encoder.module())
            whole = count(dict(module.named_parameters()))
            prepare(
                module,
                encoder.trainable,
                owner=f"{type(encoder).__name__} of modality {name!r}",
                rank=plan.lora_rank,
                alpha=plan.lora_alpha,
                targets=plan.lora_targets,
            )
            modules[name] = module
            parameters[name] = {"trained": count(trained(module)), "all": whole}
    device = resolve_device(model.device)
    joint = JointModel(chosen, modules, blocks, targets, head, device).to(device)
    inner = make_folds(
        3,
        targets[0].values[rows.train],
        None if groups is None else groups[rows.train],
        classification=by_class and len(targets) == 1,
        seed=seed,
    )
    joint.start(rows.train, inner, seed)
    if not any(True for _ in joint.heads.parameters()):
        raise ValueError(
            f"FineTuning: joint_head {type(head).__name__} has a module without parameters, so no "
            "gradient passes it; use a linear head, a network, or None."
        )
    return joint, {"parameters": parameters}


def _settle(
    chosen: Mapping[str, BaseEncoder],
    joint: JointModel,
    modes: Mapping[str, bool | str],
    report: dict[str, Any],
) -> None:
    """Give every encoder what its module learned."""
    for (name, encoder), module in zip(chosen.items(), joint.parts, strict=True):
        if modes[name] == "lora":
            merge_adapters(module)
        facts = {"trainable": modes[name], **report["parameters"][name]}
        learned = TunedWeights.between(encoder.module(), module, facts)
        if learned.tensors:
            encoder.tuned_ = learned


def _summary(trainer: Trainer, rows: RowSplit, seconds: float) -> dict[str, Any]:
    progress = trainer.progress
    return {
        "epochs": progress.epoch,
        "best_epoch": progress.best,
        "train_loss": progress.train_loss,
        "validation_loss": progress.validation_loss,
        "rows": {
            "train": len(rows.train),
            "validation": len(rows.stop),
            "held_out": len(rows.held),
        },
        "rows_per_step": trainer.per_step,
        "processes": trainer.ranks.count,
        "amp": trainer.amp,
        "seconds": seconds,
    }


def _merged(before: Blocks, after: Blocks) -> Blocks:
    """``before`` with the blocks of ``after`` in place of its own."""
    states = before.presence.copy()
    for j, name in enumerate(after.names):
        states[:, before.names.index(name)] = after.presence[:, j]
    arrays = {n: after[n] if n in after.names else before[n] for n in before.names}
    return Blocks(arrays, states)


def _identity(
    model: Any,
    plan: FineTuning,
    table: Any,
    targets: list[Target],
    rows: RowSplit,
    seed: int,
) -> dict[str, Any]:
    """All that the result of a training depends on, as hashes of what is long."""
    params = plan.get_params(deep=False)
    for name in ("checkpoint", "checkpoint_every", "random_state"):
        del params[name]
    digest = hashlib.blake2b(digest_size=16)
    for part in (rows.train, rows.stop, table.presence):
        digest.update(np.ascontiguousarray(part).tobytes())
    for target in targets:
        digest.update(repr((type(target.objective).__name__, target.objective.n_outputs)).encode())
        digest.update(np.ascontiguousarray(target.values).tobytes())
        digest.update(np.ascontiguousarray(target.weight).tobytes())
    for name in table.modalities:
        _feed_column(digest, table[name], model.encoders_.get(name))
    encoders = {
        name: [
            encoder.cache_config() if hasattr(encoder, "cache_config") else repr(encoder),
            repr(getattr(encoder, "trainable", False)),
        ]
        for name, encoder in model.encoders_.items()
    }
    return {
        "mmfuse": __version__,
        "finetune": {name: repr(value) for name, value in sorted(params.items())},
        "encoders": encoders,
        "modalities": list(table.modalities),
        "rows": digest.hexdigest(),
        "seed": seed,
    }


def _feed_column(digest: Any, column: Any, encoder: Any) -> None:
    if isinstance(column, pd.DataFrame):
        digest.update(pd.util.hash_pandas_object(column, index=False).to_numpy().tobytes())
        return
    cells, _ = as_cells(column, caller="FineTuning")
    text = getattr(encoder, "text_cells", False)
    for cell in cells:
        try:
            digest.update(content_key(cell, text_cells=text) or b"unknown")
        except SampleError:  # marked as FAILED when it was encoded
            digest.update(b"unreadable")
