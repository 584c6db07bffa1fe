"""CLIP models of open_clip: finding their description and weights, and loading them.

The local disk is asked first. Only what is not there is sought on the hub, after one request with
a short time limit, so that a machine without a network gets an error at once.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from mmfuse import weights as packaged
from mmfuse._random import seeded
from mmfuse._require import require
from mmfuse.exceptions import WeightsNotFoundError

__all__ = [
    "ClipSource",
    "describe",
    "load_model",
    "load_tokenizer",
    "one_tower",
    "open_clip",
    "weight_file",
]

CONFIG = "open_clip_config.json"
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
_FOLDER, _HUB = "local-dir:", "hf-hub:"
_DEFAULT_TAGS = {"ViT-B-32": "laion2b_s34b_b79k"}
_PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_SECONDS = 5.0  # for the first answer of the hub


@dataclass(frozen=True)
class ClipSource:
    """The arguments that name a CLIP model.

    Attributes
    ----------
    caller : str
        Name of the encoder; it opens messages.
    model : str or Path
    weights : str, Path or None
    random_state : int
    """

    caller: str
    model: str | Path
    weights: str | Path | None
    random_state: int

    @property
    def folder(self) -> Path | None:
        """The folder that holds the model, or None."""
        name = str(self.model)
        if name.startswith(_FOLDER):
            return Path(name.removeprefix(_FOLDER))
        return Path(name) if isinstance(self.model, Path) or Path(name).is_dir() else None

    @property
    def repository(self) -> str | None:
        """The hub's repository that holds the model, or None."""
        name = str(self.model)
        return name.removeprefix(_HUB) if name.startswith(_HUB) else None

    @property
    def name(self) -> str:
        """The model's name among open_clip's own."""
        return str(self.model).replace("/", "-")

    @property
    def file(self) -> Path | None:
        """The weight file that `weights` names, or None."""
        if self.weights is None or self.weights == "auto":
            return None
        named = Path(self.weights)
        return named if isinstance(self.weights, Path) or named.suffix in SUFFIXES else None

    @property
    def tag(self) -> str | None:
        """The tag of pretrained weights, for one of open_clip's own models."""
        if self.folder or self.repository or self.file or self.weights is None:
            return None
        return _DEFAULT_TAGS.get(self.name) if self.weights == "auto" else str(self.weights)

    def check(self) -> None:
        """Raise for a model, a tag or a file that cannot be."""
        if not isinstance(self.model, (str, Path)) or not str(self.model):
            raise TypeError(f"{self.caller}: model must be a name or a folder, got {self.model!r}.")
        if not isinstance(self.weights, (str, Path, type(None))) or self.weights == "":
            raise TypeError(
                f"{self.caller}: weights must be 'auto', a tag, a file ({', '.join(SUFFIXES)}) "
                f"or None, got {self.weights!r}."
            )
        if self.file is not None and not self.file.is_file():
            raise WeightsNotFoundError(f"{self.caller}: there is no weight file {self.file}.")
        if self.folder is not None:
            _check_folder(self, self.folder)
        elif self.repository is None:
            _check_name(self)
        if (self.folder or self.repository) and self.file is None and self.weights is not None:
            if self.weights != "auto":
                raise ValueError(
                    f"{self.caller}: weights must be 'auto', a file or None where model is a "
                    f"folder or a repository, got {self.weights!r}."
                )


def open_clip(caller: str, module: str = "open_clip") -> Any:
    """Import open_clip or one of its modules."""
    return require(module, extra="clip", caller=caller)


def _check_folder(source: ClipSource, folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise WeightsNotFoundError(
            f"{source.caller}: the folder {folder} has no {CONFIG}; a folder of a CLIP model "
            f"holds that file and the weights, as open_clip.push_to_hf_hub.save_for_hf writes "
            f"them. Fetch one with: hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K "
            f"--local-dir {folder}"
        )


def _check_name(source: ClipSource) -> None:
    library = open_clip(source.caller)
    names = library.list_models()
    if source.name not in names:
        near = get_close_matches(source.name, names, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else "; see open_clip.list_models()."
        raise ValueError(
            f"{source.caller}: model must be a name that open_clip knows, a folder with "
            f"{CONFIG}, or 'hf-hub:owner/name'; got {str(source.model)!r}{hint}"
        )
    if source.file is not None or source.weights is None:
        return
    tags = library.list_pretrained_tags_by_model(source.name)
    if source.tag is None or not library.is_pretrained_cfg(source.name, source.tag):
        raise ValueError(
            f"{source.caller}: weights of {source.name} must be a file ({', '.join(SUFFIXES)}), "
            f"None, or a tag of open_clip ({', '.join(tags) or 'it has none'}); "
            f"got {str(source.weights)!r}."
        )


# Description.


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


# Weights.


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
        f"they are on no hub. {_cure(source)}"
    )


def _not_found(source: ClipSource, repository: str, names: tuple[str, ...], exc: Exception) -> str:
    cache = open_clip(source.caller, "huggingface_hub").constants.HF_HUB_CACHE
    what = f"the model {str(source.model)!r}"
    if source.tag is not None:
        what = f"the weights {source.tag!r} of {source.name}"
    first = (str(exc).strip().splitlines() or [""])[0][:200]
    return (
        f"{source.caller}: {what} ({' or '.join(names)} of {repository}) were sought in {cache} "
        f"and on the hub ({type(exc).__name__}: {first}). {_cure(source)}"
    )


def _cure(source: ClipSource) -> str:
    asked = f"'{source.model}'" + (f", '{source.tag}'" if source.tag else "")
    return (
        f'Fetch them where there is a network with: python -c "import open_clip; '
        f'open_clip.create_model({asked})", or name a folder that holds {CONFIG} and the weights '
        "as the model."
    )


# Loading.


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
                f"{_FOLDER}{folder}", load_weights=False, pretrained_text=False
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
        name = f"{_FOLDER}{source.folder}"
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
            f"on this machine ({type(exc).__name__}: {first}). {_cure(source)}"
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
