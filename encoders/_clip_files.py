"""Descriptions and weights of CLIP models, sought on the local disk and then on the hub.

Only what is not on the disk is sought on the hub, after one request with a short time limit, so
that a machine without a network gets an error at once.
"""

from __future__ import annotations

import json
import os
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmfuse import weights as packaged
from mmfuse.encoders._clip_source import CONFIG, SUFFIXES, ClipSource, cure, open_clip
from mmfuse.exceptions import WeightsNotFoundError

__all__ = ["describe", "weight_file"]

_PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_SECONDS = 5.0  # for the first answer of the hub


def describe(source: ClipSource) -> dict[str, Any]:
    """Return open_clip's description: "model_cfg" and "preprocess_cfg"."""
    if source.folder is not None:
        return deepcopy(_read_config(source.caller, source.folder / CONFIG))
    if source.repository is not None:
        return deepcopy(
            _read_config(source.caller, _from_hub(source, source.repository, (CONFIG,)))
        )
    model = open_clip(source.caller).get_model_config(source.name)
    if source.tag is None:
        return {"model_cfg": model, "preprocess_cfg": {}}
    facts = _tag_facts(source)
    # Weights know the activation that they were trained with; a name without it would be wrong.
    model["quick_gelu"] = bool(facts.get("quick_gelu", False))
    skipped = ("url", "hf_hub", "file", "quick_gelu")
    chosen = {k: v for k, v in facts.items() if k not in skipped and v is not None}
    return {"model_cfg": model, "preprocess_cfg": chosen}


def _tag_facts(source: ClipSource) -> dict[str, Any]:
    known = open_clip(source.caller, "open_clip.pretrained")
    return dict(known.get_pretrained_cfg(source.name, source.tag))


def _read_config(caller: str, path: Path) -> dict[str, Any]:
    return _parsed_config(caller, path, packaged.file_hash(path))


@lru_cache(maxsize=32)
def _parsed_config(caller: str, path: Path, digest: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        parts = {"model_cfg": found["model_cfg"], "preprocess_cfg": found.get("preprocess_cfg", {})}
        int(parts["model_cfg"]["embed_dim"])
    except (ValueError, KeyError, TypeError) as exc:
        raise ValueError(
            f"{caller}: {path} is not a description of a CLIP model "
            f"({type(exc).__name__}: {exc}); it must be JSON with a 'model_cfg' that has an "
            "'embed_dim'."
        ) from exc
    return parts


def weight_file(source: ClipSource) -> Path | None:
    """Return the weight file, fetched if need be; None for random weights.

    Raises
    ------
    WeightsNotFoundError
        If it is not on this machine and cannot be fetched.
    """
    if source.weights is None:
        return None
    if source.file is not None:
        return source.file
    if source.folder is not None:
        return _file_in(source, source.folder)
    if source.repository is not None:
        return _from_hub(source, source.repository, _PREFERRED)
    facts = _tag_facts(source)
    if facts.get("file"):
        return Path(facts["file"])
    if facts.get("hf_hub"):
        repository, named = os.path.split(facts["hf_hub"])
        return _from_hub(source, repository, _alternatives(named) if named else _PREFERRED)
    return _from_address(source, facts.get("url", ""))


def _alternatives(name: str) -> tuple[str, ...]:
    stem, suffix = os.path.splitext(name)
    return (f"{stem}.safetensors", name) if suffix in SUFFIXES[1:] else (name,)


def _file_in(source: ClipSource, folder: Path) -> Path:
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    preferred = [folder / name for name in _PREFERRED if folder / name in found]
    if preferred or len(found) == 1:
        return (preferred or found)[0]
    if found:
        raise ValueError(
            f"{source.caller}: weights must name one of the files in {folder} "
            f"({', '.join(path.name for path in found)}), got {source.weights!r}."
        )
    raise WeightsNotFoundError(
        f"{source.caller}: the folder {folder} has {CONFIG} but no weights "
        f"({', '.join(SUFFIXES)}). Put open_clip_model.safetensors beside it, or name a file with "
        "weights=..., or take random weights with weights=None."
    )


def _from_hub(source: ClipSource, repository: str, names: tuple[str, ...]) -> Path:
    """Return the first of the files that is in the local cache, or fetch the first there is."""
    hub = open_clip(source.caller, "huggingface_hub")
    for name in names:
        found = hub.try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    try:
        if hub.constants.HF_HUB_OFFLINE:
            raise ConnectionError("HF_HUB_OFFLINE is set")
        return Path(hub.hf_hub_download(repository, _on_hub(hub, repository, names)))
    except Exception as exc:  # the hub's errors have no common base
        raise WeightsNotFoundError(_not_found(source, repository, names, exc)) from exc


def _on_hub(hub: Any, repository: str, names: tuple[str, ...]) -> str:
    """Ask the hub for the first of the names that it has; hf_hub_download would retry for long."""
    for name in names[:-1]:
        try:
            hub.get_hf_file_metadata(hub.hf_hub_url(repository, name), timeout=_SECONDS)
        except hub.errors.EntryNotFoundError:
            continue
        return name
    hub.get_hf_file_metadata(hub.hf_hub_url(repository, names[-1]), timeout=_SECONDS)
    return names[-1]


def _from_address(source: ClipSource, url: str) -> Path:
    target = Path("~/.cache/clip").expanduser() / os.path.basename(url)
    if target.is_file():
        return target
    raise WeightsNotFoundError(
        f"{source.caller}: the weights {source.tag!r} of {source.name} were sought at {target}; "
        f"they are on no hub. {cure(source)}"
    )


def _not_found(source: ClipSource, repository: str, names: tuple[str, ...], exc: Exception) -> str:
    cache = open_clip(source.caller, "huggingface_hub").constants.HF_HUB_CACHE
    what = f"the model {str(source.model)!r}"
    if source.tag is not None:
        what = f"the weights {source.tag!r} of {source.name}"
    first = (str(exc).strip().splitlines() or [""])[0][:200]
    return (
        f"{source.caller}: {what} ({' or '.join(names)} of {repository}) were sought in {cache} "
        f"and on the hub ({type(exc).__name__}: {first}). {cure(source)}"
    )
