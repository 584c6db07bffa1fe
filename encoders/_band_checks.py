"""Checks of the arguments of MultiBandEncoder, besides its instruments."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from mmfuse.encoders import _backbones, _checks
from mmfuse.exceptions import WeightsNotFoundError

__all__ = ["check_band_parameters"]


def check_band_parameters(encoder: Any) -> None:
    """Raise for an argument of a MultiBandEncoder that is not allowed."""
    _checks.check_choice(encoder, "fusion", ("late", "early"))
    for name in ("field", "pixel_scale"):
        _checks.check_number(encoder, name, above=0, or_none=True)
    _checks.check_number(encoder, "min_coverage", above=0)
    if encoder.min_coverage > 1:
        raise ValueError(
            f"MultiBandEncoder: min_coverage must lie in (0, 1], got {encoder.min_coverage!r}."
        )
    _checks.check_integer(encoder, "image_size", least=8, or_none=True)
    _checks.check_integer(encoder, "random_state", least=0)
    _checks.check_flag(encoder, "symmetric")
    if encoder.pixel_scale is not None and encoder.fusion == "late":
        raise ValueError(
            "MultiBandEncoder: pixel_scale is that of the common grid of fusion='early' and must "
            f"be None with fusion='late', got {encoder.pixel_scale!r}; give it in instruments."
        )
    _check_apertures(encoder.apertures)
    _check_features(encoder.features, encoder.weights)
    _check_trainable(encoder.features, encoder.trainable)


def _check_apertures(radii: Any) -> None:
    if radii is None:
        return
    listed = radii if hasattr(radii, "__len__") and not isinstance(radii, (str, dict)) else ()
    numbers = [r for r in listed if isinstance(r, (int, float, np.number)) and isfinite(r)]
    rising = all(a < b for a, b in zip([0, *numbers], numbers, strict=False))
    if not len(listed) or len(numbers) != len(listed) or not rising:
        raise ValueError(
            f"MultiBandEncoder: apertures must be rising positive numbers or None, got {radii!r}."
        )


def _check_features(features: Any, weights: Any) -> None:
    if features in ("photometry", "cnn"):
        if weights not in ("auto", None):
            raise ValueError(
                "MultiBandEncoder: weights must be 'auto' or None with "
                f"features={features!r}, got {weights!r}."
            )
        return
    if weights not in ("auto", None) and not (
        isinstance(weights, (str, Path)) and Path(weights).suffix in _backbones.SUFFIXES
    ):
        raise ValueError(
            "MultiBandEncoder: weights must be 'auto', None or a file "
            f"({', '.join(_backbones.SUFFIXES)}), got {weights!r}."
        )
    if weights not in ("auto", None) and not Path(weights).is_file():
        raise WeightsNotFoundError(f"MultiBandEncoder: there is no weight file {weights}.")
    try:
        _backbones.check_backbone(features)
    except ValueError as exc:
        hint = str(exc).partition("; ")[2] or "see timm.list_models()."
        raise ValueError(
            "MultiBandEncoder: features must be 'photometry', 'cnn' or a model of timm, got "
            f"{features!r}; {hint}"
        ) from None


def _check_trainable(features: str, trainable: bool | str) -> None:
    if features == "photometry" and trainable:
        raise ValueError(
            "MultiBandEncoder: trainable must be False with features='photometry', which has no "
            f"weights, got {trainable!r}; use features='cnn' or a timm model."
        )
    if features == "cnn" and trainable in ("head", "lora"):
        raise ValueError(
            "MultiBandEncoder: trainable must be True or False with features='cnn', whose weights "
            f"are random in all layers, got {trainable!r}; a part of pretrained weights is trained "
            "with a timm model."
        )
