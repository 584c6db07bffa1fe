"""The network that MultiBandEncoder's arguments ask for, for any number of bands."""

from __future__ import annotations

from math import prod
from pathlib import Path

from torch import nn

from mmfuse._random import seeded
from mmfuse.encoders import _backbones
from mmfuse.encoders._band_networks import SmallCNN, Symmetric, input_side, widen_stem

__all__ = ["make_network", "network_width"]


def make_network(
    n_bands: int,
    features: str,
    *,
    weights: str | Path | None,
    image_size: int | None,
    symmetric: bool,
    random_state: int,
) -> tuple[nn.Module, int | None]:
    """Return a network, and the side of the pictures that it takes; None for any side.

    Parameters
    ----------
    n_bands : int
    features : str
        "cnn" or the name of a timm model.
    weights, image_size, symmetric, random_state
        See `MultiBandEncoder`.
    """
    if features == "cnn":
        with seeded(random_state):
            network: nn.Module = SmallCNN(n_bands)
        side = image_size
    else:
        network = _backbones.load_backbone(
            features,
            weights=weights,
            size=_size(image_size),
            features=_backbones.Features(),
            random_state=random_state,
        )
        widen_stem(network.model, n_bands)
        side = image_size or input_side(features)
    return (Symmetric(network) if symmetric else network), side


def network_width(features: str, image_size: int | None) -> int:
    """Return the number of features of a network, without loading weights."""
    if features == "cnn":
        return SmallCNN.width
    layout = _backbones.backbone_layout(features, _size(image_size), _backbones.Features())
    return prod(layout.shape)


def _size(side: int | None) -> tuple[int, int] | None:
    return None if side is None else (side, side)
