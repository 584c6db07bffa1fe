"""Regions of interest: a picture with a box, and what is cut out of it."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, floor, isfinite
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfuse.encoders._keys import region_of
from mmfuse.exceptions import SampleError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Box", "cut_region", "split_region"]

Box = tuple[float, float, float, float]
_ROUNDING = 1.0  # pixels by which a box may pass the border, as boxes of whole pixels do


def split_region(sample: Any) -> tuple[Any, Box | None]:
    """Return the picture of a sample and its box; None for a whole picture.

    Raises
    ------
    SampleError
        If the sample is a pair or has a box, but the box is not four finite numbers.
    """
    parts = region_of(sample)
    if parts is not None:
        return parts[0], _numbers(parts[1])
    if isinstance(sample, Mapping) and "image" in sample:
        raise SampleError(
            "a region needs 'image' and 'box'; for a whole picture give the picture itself"
        )
    if isinstance(sample, (tuple, list)):
        raise SampleError(
            "a tuple or list must be (picture, box) with box = (left, top, right, bottom), "
            f"got {len(sample)} items"
        )
    return sample, None


def _numbers(box: Any) -> Box:
    given = box
    if hasattr(box, "detach"):
        box = box.detach().cpu().numpy()
    if isinstance(box, np.ndarray):
        box = box.tolist()
    if not (
        isinstance(box, (tuple, list))
        and len(box) == 4
        and all(isinstance(side, Real) and not isinstance(side, bool) for side in box)
        and all(isfinite(side) for side in box)
    ):
        raise SampleError(
            "box must be four finite numbers (left, top, right, bottom) in pixels, "
            f"got {given!r}; where no object was found, make the cell Presence.EMPTY"
        )
    left, top, right, bottom = (float(side) for side in box)
    return left, top, right, bottom


def cut_region(picture: Image, box: Box, *, margin: float, aspect: float | None) -> Image:
    """Cut a box and some of its surroundings out of a picture.

    Parameters
    ----------
    picture : Image
    box : tuple of float
        Left, top, right, bottom in pixels of the upright picture.
    margin : float
        Share of the box's width and height that is added on every side.
    aspect : float or None
        Width over height to which the shorter side is then grown; None keeps the shape.

    Returns
    -------
    Image
        Of whole pixels, those that the box touches. What lies outside of the picture is left out.

    Raises
    ------
    SampleError
        If the box is empty, lies outside, or seems to be in shares of the picture.
    """
    _check(box, picture.size)
    left, top = max(box[0], 0.0), max(box[1], 0.0)
    right, bottom = min(box[2], picture.size[0]), min(box[3], picture.size[1])
    width, height = (right - left) * (1 + 2 * margin), (bottom - top) * (1 + 2 * margin)
    if aspect is not None:
        width, height = max(width, height * aspect), max(height, width / aspect)
    across = _span((left + right) / 2, width, picture.size[0], shift=aspect is not None)
    down = _span((top + bottom) / 2, height, picture.size[1], shift=aspect is not None)
    return picture.crop((across[0], down[0], across[1], down[1]))


def _check(box: Box, size: tuple[int, int]) -> None:
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        raise SampleError(
            f"the box {_shown(box)} is empty; box must be (left, top, right, bottom) with left < "
            "right and top < bottom"
        )
    if max(box) <= 1 and max(size) > 1:
        raise SampleError(
            f"the box {_shown(box)} seems to be in shares of the picture; give pixels of its "
            f"{size[0]} x {size[1]}"
        )
    over = max(-left, -top, right - size[0], bottom - size[1])
    clipped = (min(right, size[0]) - max(left, 0), min(bottom, size[1]) - max(top, 0))
    if over > _ROUNDING or min(clipped) <= 0:
        raise SampleError(
            f"the box {_shown(box)} lies outside of the picture of {size[0]} x {size[1]} pixels "
            f"(width x height) by up to {over:g}; clip it to the picture"
        )


def _shown(box: Box) -> str:
    return "(" + ", ".join(f"{side:g}" for side in box) + ")"


def _span(centre: float, length: float, room: int, *, shift: bool) -> tuple[int, int]:
    """Whole pixels of one side; one that was grown is moved inwards before it is cut."""
    start, stop = centre - length / 2, centre + length / 2
    if shift:
        move = max(0.0, -start) - max(0.0, stop - room)
        start, stop = start + move, stop + move
    first, last = max(0, floor(start + 1e-9)), min(room, ceil(stop - 1e-9))
    return first, max(last, first + 1)
