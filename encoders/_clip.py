"""Loading CLIP models of open_clip and their tokenizers."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

from torch import nn

from mmfuse._random import seeded
from mmfuse.encoders._clip_files import describe, weight_file
from mmfuse.encoders._clip_source import CONFIG, FOLDER, ClipSource, cure, open_clip
from mmfuse.exceptions import WeightsNotFoundError

__all__ = ["load_model", "load_tokenizer", "one_tower"]


def load_model(source: ClipSource) -> nn.Module:
    """Make the model with its weights, in float32 on the CPU.

    Every source is turned into a description of its own, so that nothing but the text towers and
    tokenizers that a description names on the hub can ask for a network.
    """
    library = open_clip(source.caller)
    described, path = describe(source), weight_file(source)
    with tempfile.TemporaryDirectory() as folder, _quiet(), seeded(source.random_state):
        Path(folder, CONFIG).write_text(json.dumps(described), encoding="utf-8")
        model = _guarded(
            source,
            lambda: library.create_model(
                f"{FOLDER}{folder}", load_weights=False, pretrained_text=False
            ),
        )
        if path is not None:
            _load_weights(source, library, model, path)
    return model


def _load_weights(source: ClipSource, library: Any, model: nn.Module, path: Path) -> None:
    try:
        library.load_checkpoint(model, str(path), strict=True, weights_only=True)
    except Exception as exc:  # torch's, pickle's, safetensors'
        first = " ".join(str(exc).split())[:300]
        raise ValueError(
            f"{source.caller}: {path} does not hold the weights of {str(source.model)!r} as "
            f"tensors ({type(exc).__name__}: {first}). Name the model that they were trained as."
        ) from exc


def one_tower(model: nn.Module, tower: str) -> nn.Module:
    """Return the model without what only its other tower needs; tensors are shared, not copied.

    Parameters
    ----------
    model : nn.Module
        Of open_clip; not changed.
    tower : {"image", "text"}
    """
    half = copy(model)  # its dicts are the model's own until they are replaced
    for kind in ("_modules", "_parameters"):
        parts = vars(model)[kind]
        names = set(parts) - {"logit_scale", "logit_bias", "text_decoder"}
        kept = names & {"visual"} if tower == "image" else names - {"visual"}
        vars(half)[kind] = {name: part for name, part in parts.items() if name in kept}
    if tower == "image":
        half._buffers = {}  # the mask of the text's attention
    return half


def load_tokenizer(source: ClipSource) -> Any:
    """Return the model's tokenizer: a list of texts to tokens (n_texts, context_length)."""
    library = open_clip(source.caller)
    name = source.name
    if source.folder is not None:
        name = f"{FOLDER}{source.folder}"
    elif source.repository is not None:
        name = str(source.model)
    with _quiet():
        return _guarded(source, lambda: library.get_tokenizer(name))


def _guarded(source: ClipSource, make: Any) -> Any:
    """Say what is missing where a part named by the description is not on this machine."""
    try:
        return make()
    except (ImportError, WeightsNotFoundError):
        raise
    except OSError as exc:  # of transformers and of the hub
        first = (str(exc).strip().splitlines() or [""])[0][:200]
        raise WeightsNotFoundError(
            f"{source.caller}: {str(source.model)!r} needs a text tower or tokenizer that is not "
            f"on this machine ({type(exc).__name__}: {first}). {cure(source)}"
        ) from exc


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what open_clip logs on the root logger while it loads, and undo its set-up of logging.

    Its warnings speak of random weights before ours are loaded.
    """
    root, empty = logging.getLogger(), logging.NullHandler()

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or "open_clip" not in record.pathname

    root.addHandler(empty)
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)
        root.removeHandler(empty)
