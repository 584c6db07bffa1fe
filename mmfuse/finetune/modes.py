"""Which parameters of a module are trained: all, those of the last layers, or adapters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmfuse._require import require

__all__ = [
    "count",
    "last_parameters",
    "lora_targets",
    "merge_adapters",
    "prepare",
    "trained",
    "training_mode",
]

_ATTENTION = frozenset(
    "qkv q k v kv query key value q_proj k_proj v_proj qkv_proj in_proj q_lin k_lin v_lin Wqkv "
    "to_q to_k to_v to_qkv c_attn query_key_value".split()
)
_PROJECTIONS = ("proj", "text_projection", "visual_projection")  # kept as bare parameters
_LARGE = 0.3  # share of all parameters that the list of blocks must hold to count as the trunk


def prepare(
    module: nn.Module,
    mode: bool | str,
    *,
    owner: str,
    rank: int,
    alpha: float,
    targets: Sequence[str] | None,
) -> None:
    """Let gradients reach what ``mode`` says, and nothing else; adapters are put in place.

    Parameters
    ----------
    module : nn.Module
        Changed in place.
    mode : True, "head" or "lora"
    owner : str
        Opens messages.
    rank, alpha, targets
        Of the adapters.

    Raises
    ------
    ValueError
        If the module has no parameters, or no layer that adapters know.
    """
    floating = [(n, p) for n, p in module.named_parameters() if p.is_floating_point()]
    if not floating:
        raise ValueError(
            f"{owner}: trainable={mode!r}, but its module has no weights to train; leave "
            "trainable=False."
        )
    if mode == "lora":
        _add_adapters(module, owner, rank, alpha, targets)
        return
    chosen = {name for name, _ in floating}
    if mode == "head":
        chosen &= set(last_parameters(module))
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in chosen)


def training_mode(module: nn.Module, mode: bool | str) -> None:
    """As ``module.train()``, but batch normalisation keeps its statistics.

    Where the last layers alone are trained, the layers before them do not drop anything either.
    """
    module.train(mode != "head")
    for part in module.modules():
        if mode == "head" and any(p.requires_grad for p in part.parameters(recurse=False)):
            part.train()
        if isinstance(part, _BatchNorm):
            part.eval()


def last_parameters(module: nn.Module) -> list[str]:
    """Names of the parameters of the last block of a network, and of what follows it.

    Blocks are the children of the largest `ModuleList` or `Sequential` with children of one kind,
    if it holds much of the network; else stages that are numbered, such as ``layer1`` to
    ``layer4``; else every layer is a block of its own.
    """
    names = [name for name, _ in module.named_parameters()]
    trunk, last = _blocks(module, names)
    end = max(i for i, name in enumerate(names) if name.startswith(trunk))
    found = [name for name in names[: end + 1] if name.startswith(last)]
    bare = [n for n in names[:end] if n.rpartition(".")[2] in _PROJECTIONS]
    return [*bare, *found, *names[end + 1 :]]


def _blocks(module: nn.Module, names: list[str]) -> tuple[str, str]:
    """Prefixes of the names in all blocks together, and in the last block."""
    total = sum(p.numel() for p in module.parameters())
    best, trunk, last = _LARGE * total, "", ""
    for name, part in module.named_modules():
        if not isinstance(part, (nn.ModuleList, nn.Sequential)):
            continue
        children = [(n, c) for n, c in part.named_children() if _size(c)]
        alike = len({type(c) for _, c in children}) < len(children)
        if alike and _size(part) > best:
            best, trunk = _size(part), f"{name}." if name else ""
            last = f"{trunk}{children[-1][0]}."
    if last:
        return trunk, last
    for name, part in module.named_modules():
        stages = [n for n, c in part.named_children() if re.search(r"\d$", n) and _size(c)]
        alike = [n for n in stages if n.rstrip("0123456789") == stages[-1].rstrip("0123456789")]
        if len(alike) > 1 and sum(_size(getattr(part, n)) for n in alike) > _LARGE * total:
            prefix = f"{name}." if name else ""
            return prefix + alike[-1], f"{prefix}{alike[-1]}."
    weighty = [n for n, p in module.named_parameters() if p.ndim > 1] or names
    owner = weighty[-1].rpartition(".")[0]
    layer = f"{owner}." if owner else ""
    return layer, layer


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def lora_targets(module: nn.Module, asked: Sequence[str] | None = None) -> list[str]:
    """Full names of the layers to adapt.

    Those that end in one of ``asked``; without it attention projections, or where there are none
    all linear and ungrouped convolution layers.
    """
    layers = dict(_layers(module))
    if asked is not None:
        return [n for n in layers if any(n == a or n.endswith(f".{a}") for a in asked)]
    attention = [
        name
        for name, layer in layers.items()
        if isinstance(layer, nn.MultiheadAttention)
        or (isinstance(layer, nn.Linear) and name.rpartition(".")[2] in _ATTENTION)
    ]
    plain = [n for n, layer in layers.items() if not isinstance(layer, nn.MultiheadAttention)]
    return attention or plain


def _layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    inside = ()
    for name, layer in module.named_modules():
        if isinstance(layer, nn.MultiheadAttention):
            inside = (*inside, f"{name}.")  # its output layer is adapted with it
            yield name, layer
        elif name.startswith(inside) and inside:
            continue
        elif isinstance(layer, nn.Linear) or (
            isinstance(layer, (nn.Conv1d, nn.Conv2d)) and layer.groups == 1
        ):
            yield name, layer


def _add_adapters(
    module: nn.Module, owner: str, rank: int, alpha: float, asked: Sequence[str] | None
) -> None:
    peft = require("peft", extra="lora", caller=f"{owner}(trainable='lora')")
    targets = lora_targets(module, asked)
    if not targets:
        named = f" named {', '.join(map(repr, asked))}" if asked else ""
        raise ValueError(
            f"{owner}: trainable='lora', but its module has no attention, linear or convolution "
            f"layer{named}; use trainable=True or 'head'"
            + (", or other lora_targets in FineTuning." if asked else ".")
        )
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0)
    peft.inject_adapter_in_model(config, module)


def merge_adapters(module: nn.Module) -> None:
    """Add what adapters learned to the weights and take the adapters out, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = [(n, part) for n, part in module.named_modules() if isinstance(part, BaseTunerLayer)]
    inside: tuple[str, ...] = ()
    for name, layer in found:
        if inside and name.startswith(inside):
            continue
        if hasattr(layer, "unload_and_optionally_merge_module"):  # attention, with its output layer
            inside = (*inside, f"{name}.")
            plain = layer.unload_and_optionally_merge_module(
                merge=True, safe_merge=True, adapter_names=None
            )
        else:
            layer.merge(safe_merge=True)
            plain = layer.get_base_layer()
        owner, _, last = name.rpartition(".")
        setattr(module.get_submodule(owner), last, plain)
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())


def trained(module: nn.Module) -> dict[str, Tensor]:
    """Parameters that gradients reach, by name."""
    return {n: p for n, p in module.named_parameters() if p.requires_grad}


def count(parameters: dict[str, Any]) -> int:
    return sum(p.numel() for p in parameters.values())
