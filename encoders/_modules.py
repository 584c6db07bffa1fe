"""Loaded torch modules, shared in the process so that clones do not load them again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import RLock

from torch import nn

__all__ = ["clear_modules", "shared_module"]

_KEPT = 8
_loaded: OrderedDict[Hashable, nn.Module] = OrderedDict()
_lock = RLock()


def shared_module(key: Hashable, build: Callable[[], nn.Module]) -> nn.Module:
    """Return the module kept under `key`, or build and keep it.

    The eight modules that were used last are kept.
    """
    with _lock:
        if key not in _loaded:
            _loaded[key] = build()
        _loaded.move_to_end(key)
        while len(_loaded) > _KEPT:
            _loaded.popitem(last=False)
        return _loaded[key]


def clear_modules() -> None:
    """Forget all loaded modules, to free their memory."""
    with _lock:
        _loaded.clear()
