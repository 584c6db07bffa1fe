"""Loaded torch modules, shared in the process so that clones do not load them again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from threading import Lock, RLock

import torch
from torch import nn

__all__ = ["clear_modules", "forked_rng", "shared_module", "state_hash"]

_KEPT = 8
_loaded: OrderedDict[Hashable, nn.Module] = OrderedDict()
_building: dict[Hashable, RLock] = {}
_lock = Lock()


def shared_module(key: Hashable, build: Callable[[], nn.Module]) -> nn.Module:
    """Return the module kept under `key`, or build and keep it.

    The eight modules that were used last are kept. While one is built, others can be had and built,
    for building may encode something with another module in threads of its own.
    """
    with _lock:
        if key in _loaded:
            _loaded.move_to_end(key)
            return _loaded[key]
        own = _building.setdefault(key, RLock())
    with own:
        with _lock:
            if key in _loaded:  # another thread was first
                return _loaded[key]
        with forked_rng():
            module = build()
        with _lock:
            _building.pop(key, None)
            _loaded[key] = module
            while len(_loaded) > _KEPT:
                _loaded.popitem(last=False)
        return module


def forked_rng() -> AbstractContextManager[None]:
    """Give the caller's torch generators back afterwards; loaders draw numbers."""
    used = torch.cuda.is_initialized()
    return torch.random.fork_rng(devices=list(range(torch.cuda.device_count())) if used else [])


def clear_modules() -> None:
    """Forget all loaded modules, to free their memory."""
    with _lock:
        _loaded.clear()


def state_hash(module: nn.Module) -> str:
    """Return a SHA-256 over the names and values of a module's tensors; computed once."""
    known = module.__dict__.get("_mmfuse_state_hash")
    if known is None:
        digest = hashlib.sha256()
        for name, tensor in module.state_dict().items():
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{name}\0{values.dtype}\0{tuple(values.shape)}\0".encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
        known = module.__dict__["_mmfuse_state_hash"] = digest.hexdigest()
    return str(known)
