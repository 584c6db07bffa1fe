"""Corruptions of pictures: uint8 pixels of shape (height, width, 3)."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from mmfuse.corruptions.registry import register_corruption

__all__ = ["blur", "darkness", "occlusion", "pixel_noise"]


@register_corruption(
    "blur", kind="image", levels=(0.01, 0.02, 0.04, 0.08, 0.16), unit="share of the shorter side"
)
def blur(pixels, level, rng):
    """Blur by a Gaussian whose standard deviation is a share of the shorter side."""
    sigma = level * min(pixels.shape[:2])
    out = gaussian_filter(pixels.astype(np.float32), (sigma, sigma, 0), mode="nearest")
    return np.round(out).astype(np.uint8)


@register_corruption(
    "pixel_noise", kind="image", levels=(0.05, 0.1, 0.2, 0.4, 0.8), unit="share of the white level"
)
def pixel_noise(pixels, level, rng):
    """Add Gaussian noise to every channel of every pixel."""
    noisy = pixels + 255 * level * rng.standard_normal(pixels.shape)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


@register_corruption(
    "occlusion", kind="image", levels=(0.05, 0.1, 0.25, 0.5, 0.75), unit="share of the area"
)
def occlusion(pixels, level, rng):
    """Cover a rectangle of the picture's own proportions with its mean colour."""
    height, width = pixels.shape[:2]
    side = np.sqrt(level)
    tall, wide = max(1, round(side * height)), max(1, round(side * width))
    top = round(rng.random() * (height - tall))
    left = round(rng.random() * (width - wide))
    out = pixels.copy()
    out[top : top + tall, left : left + wide] = pixels.mean(axis=(0, 1))
    return out


@register_corruption("darkness", kind="image", levels=(1, 2, 3, 4, 6), unit="stops")
def darkness(pixels, level, rng):
    """Halve the light once for each stop, in linear light (gamma 2.2), and round to 8 bits."""
    light = (pixels / 255.0) ** 2.2 * 0.5**level
    return np.round(255 * light ** (1 / 2.2)).astype(np.uint8)
