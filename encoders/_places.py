"""What a backbone gives before its pooling: prefix tokens, places, and their layout as columns."""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

from torch import Tensor, cat
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

__all__ = ["Layout", "Places", "arrange", "column_names", "split_places"]


class Layout(NamedTuple):
    """How the columns of a block are arranged.

    Attributes
    ----------
    shape : tuple of int
        (n_features,), (n_tokens, channels) or (channels, rows, columns); columns are in C order.
    places : tuple of str
        Names of the tokens or places, in order; empty where there are none.
    """

    shape: tuple[int, ...]
    places: tuple[str, ...] = ()


class Places(NamedTuple):
    """Features of a batch.

    Attributes
    ----------
    prefix : Tensor of shape (n, n_prefix, channels)
        Class and register tokens, which stand for no place.
    places : Tensor of shape (n, rows * columns, channels)
        Row by row from the top, each from the left.
    grid : (int, int) or None
        Rows and columns, where they are known.
    """

    prefix: Tensor
    places: Tensor
    grid: tuple[int, int] | None


def split_places(features: Tensor, model: object, square: bool) -> Places:
    """Tell places from prefix tokens in what ``forward_features`` of a timm model gave.

    Parameters
    ----------
    features : Tensor
        Of shape (n, tokens, channels), (n, channels, rows, columns) or (n, rows, columns,
        channels).
    model : object
        The timm model; it knows its prefix tokens and the grid of its patches.
    square : bool
        Whether pictures are square, so that a square number of tokens is a square grid.
    """
    if features.ndim == 3:
        count = getattr(model, "num_prefix_tokens", 0)
        places = features[:, count:]
        return Places(features[:, :count], places, _grid(model, places.shape[1], square))
    if features.ndim == 4:
        width = getattr(model, "num_features", None)
        last = features.shape[-1] == width != features.shape[1]
        grid = features.shape[1:3] if last else features.shape[2:]
        places = features.flatten(1, 2) if last else features.flatten(2).transpose(1, 2)
        return Places(places[:, :0], places, (int(grid[0]), int(grid[1])))
    raise ValueError(
        f"The backbone gives features of shape {tuple(features.shape)}; use pooling='auto'."
    )


def _grid(model: object, count: int, square: bool) -> tuple[int, int] | None:
    known = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if known is not None and known[0] * known[1] == count:
        return int(known[0]), int(known[1])
    side = isqrt(count)
    return (side, side) if square and side * side == count else None


def arrange(
    parts: Places, *, features: str, grid: tuple[int, int] | None, most: bool
) -> tuple[Tensor, Layout]:
    """Lay out tokens or a map.

    Parameters
    ----------
    parts : Places
    features : {"tokens", "map"}
    grid : (int, int) or None
        Rows and columns to which the places are pooled.
    most : bool
        Pool with the maximum instead of the mean.

    Returns
    -------
    values : Tensor of shape (n, *layout.shape)
    layout : Layout

    Raises
    ------
    ValueError
        If the rows and columns of the places are needed and unknown, or `grid` is finer than they.
    """
    prefix, places, there = parts
    if there is None and (features == "map" or grid is not None):
        raise ValueError(
            f"ImageEncoder: the backbone gives {places.shape[1]} tokens and does not say how they "
            "lie in rows and columns; use features='tokens' without a grid, or features='pooled'."
        )
    if grid is not None and there is not None:
        if grid[0] > there[0] or grid[1] > there[1]:
            raise ValueError(
                "ImageEncoder: grid must be at most the backbone's map of "
                f"{there[0]} rows and {there[1]} columns, got {grid}."
            )
        pool = adaptive_max_pool2d if most else adaptive_avg_pool2d
        coarse = pool(places.transpose(1, 2).unflatten(2, there), grid)
        places, there = coarse.flatten(2).transpose(1, 2), grid
    names = _place_names(places.shape[1], there)
    if features == "map" and there is not None:
        values = places.transpose(1, 2).unflatten(2, there)  # (n, channels, rows, columns)
        return values, Layout(tuple(values.shape[1:]), names)
    values = cat([prefix, places], dim=1)
    first = tuple(f"prefix{i}" for i in range(prefix.shape[1]))
    return values, Layout(tuple(values.shape[1:]), first + names)


def _place_names(count: int, grid: tuple[int, int] | None) -> tuple[str, ...]:
    if grid is None:
        return tuple(f"place{i}" for i in range(count))
    return tuple(f"r{row}c{column}" for row in range(grid[0]) for column in range(grid[1]))


def column_names(start: str, layout: Layout, features: str) -> list[str]:
    """Name every column by its place and channel, in the order of the columns.

    Returns
    -------
    list of str
        Such as ``image_r0c1_0042``: row 0, column 1, channel 42.
    """
    channels = layout.shape[0] if features == "map" else layout.shape[-1]
    digits = len(str(channels - 1))
    numbers = [f"{i:0{digits}d}" for i in range(channels)]
    if features == "pooled":
        return [f"{start}_{number}" for number in numbers]
    if features == "map":
        return [f"{start}_{place}_{number}" for number in numbers for place in layout.places]
    return [f"{start}_{place}_{number}" for place in layout.places for number in numbers]
