"""Weights of an encoder's own, after fine-tuning: what changed against the pretrained ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["TunedWeights", "copy_module", "with_tuned"]


class TunedWeights:
    """The tensors that fine-tuning changed, and what is known of how.

    The rest comes from the pretrained module, so a model whose last block was trained stays small.
    The module that is built from both is neither copied nor pickled.

    Parameters
    ----------
    tensors : dict of str to Tensor
        On the CPU, under the names of the module's ``state_dict``.
    report : dict
        JSON-able: the mode and the numbers of parameters.
    """

    def __init__(self, tensors: Mapping[str, Tensor], report: Mapping[str, Any]) -> None:
        self.tensors = dict(tensors)
        self.report = dict(report)
        self._made: tuple[str, nn.Module] | None = None

    @classmethod
    def between(cls, base: nn.Module, tuned: nn.Module, report: Mapping[str, Any]) -> TunedWeights:
        """What ``tuned`` has that differs from ``base``; both have the same names."""
        before = base.state_dict()
        changed = {
            name: value.detach().cpu().clone()
            for name, value in tuned.state_dict().items()
            if not torch.equal(value.detach().cpu(), before[name].detach().cpu())
        }
        return cls(changed, report)

    def write(self, path: Path) -> None:
        """Write the tensors as safetensors."""
        from safetensors.torch import save_file

        save_file({name: value.contiguous().clone() for name, value in self.tensors.items()}, path)

    @classmethod
    def read(cls, path: Path, report: Mapping[str, Any]) -> TunedWeights:
        """What `write` wrote."""
        from safetensors.torch import load_file

        return cls(load_file(path), report)

    def module(self, device: str, base: Callable[[], nn.Module]) -> nn.Module:
        """The tuned module in evaluation mode, built once for a device from ``base()``."""
        if self._made is None or self._made[0] != device:
            module = copy_module(base())
            unknown = module.load_state_dict(self.tensors, strict=False).unexpected_keys
            if unknown:
                raise ValueError(f"Tuned weights name tensors that the module lacks: {unknown[:3]}")
            self._made = (device, module.eval().to(device))
        return self._made[1]

    def digest(self) -> str:
        """SHA-256 over the names and values."""
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            values = self.tensors[name].contiguous()
            digest.update(f"{name}\0{values.dtype}\0{tuple(values.shape)}\0".encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}


def copy_module(module: nn.Module) -> nn.Module:
    """Copy of a module of its own, without the hash that was kept of the original."""
    copied = deepcopy(module)
    copied.__dict__.pop("_mmfuse_state_hash", None)
    return copied


def with_tuned(weights_hash: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
    """Make a ``weights_hash`` method say so where an encoder has weights of its own."""

    @wraps(weights_hash)
    def hash_of_all(self: Any) -> str | None:
        base, tuned = weights_hash(self), vars(self).get("tuned_")
        if tuned is None:
            return base
        return hashlib.sha256(f"{base}\0{tuned.digest()}".encode()).hexdigest()

    return hash_of_all
