"""Named, seeded ways in which a modality goes wrong, graded by strength."""

from mmfuse.corruptions import blocks, frames, images, points, sounds, texts  # noqa: F401  register
from mmfuse.corruptions.registry import (
    KINDS,
    Corruption,
    corruptions_of,
    get_corruption,
    register_corruption,
    unregister_corruption,
)

__all__ = [
    "KINDS",
    "Corruption",
    "corruptions_of",
    "get_corruption",
    "register_corruption",
    "unregister_corruption",
]
