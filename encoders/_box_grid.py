"""Points of an object in the frame of its box, and the cells of a grid inside the box."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cells_of", "grid_centres", "to_box_frame", "to_lidar_frame"]


def to_box_frame(points: Tensor, boxes: Tensor) -> Tensor:
    """Move points (n, 3) so that the box of each (n, 7) is upright, centred and along x."""
    moved = points - boxes[:, :3]
    cos, sin = boxes[:, 6].cos(), boxes[:, 6].sin()
    along = cos * moved[:, 0] + sin * moved[:, 1]
    across = cos * moved[:, 1] - sin * moved[:, 0]
    return torch.stack([along, across, moved[:, 2]], dim=1)


def to_lidar_frame(points: Tensor, boxes: Tensor) -> Tensor:
    """Move points (n, k, 3) of the frames of the boxes (n, 7) back to LiDAR coordinates."""
    cos, sin = boxes[:, 6, None].cos(), boxes[:, 6, None].sin()
    x = cos * points[..., 0] - sin * points[..., 1]
    y = sin * points[..., 0] + cos * points[..., 1]
    return torch.stack([x, y, points[..., 2]], dim=2) + boxes[:, None, :3]


def grid_centres(boxes: Tensor, n_cells: int) -> Tensor:
    """Return the centres of the cells in the frame of each box: (n, n_cells ** 3, 3), metres."""
    steps = (torch.arange(n_cells, device=boxes.device, dtype=boxes.dtype) + 0.5) / n_cells - 0.5
    unit = torch.cartesian_prod(steps, steps, steps).view(-1, 3)
    return unit[None] * boxes[:, None, 3:6]


def cells_of(local: Tensor, boxes: Tensor, n_cells: int) -> tuple[Tensor, Tensor]:
    """Find the cell of each point in the grid of its box.

    Parameters
    ----------
    local : Tensor of shape (n, 3)
        Points in the frame of their boxes.
    boxes : Tensor of shape (n, 7)
        The box of each point.
    n_cells : int
        Cells along each axis.

    Returns
    -------
    cells : Tensor of shape (n, 3), long
        Index along length, width and height, 0 to n_cells - 1.
    inside : Tensor of shape (n,), bool
    """
    place = local / boxes[:, 3:6] + 0.5
    inside = ((place >= 0) & (place <= 1)).all(dim=1)
    return (place * n_cells).floor().long().clamp(0, n_cells - 1), inside
