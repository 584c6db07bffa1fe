"""What the LiDAR returns inside a box say, without training: a fixed list of numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmfuse.encoders._box_grid import cells_of, to_box_frame

__all__ = ["LidarStatistics", "statistic_names"]

_QUANTILES = (0.1, 0.5, 0.9)
_SCALARS = (
    "log_count",
    "log_range",
    "log_count_range",
    "extent_x",
    "extent_y",
    "extent_z",
    "std_x",
    "std_y",
    "std_z",
    "height_10",
    "height_50",
    "height_90",
    "reflectance_mean",
    "reflectance_std",
    "reflectance_10",
    "reflectance_50",
    "reflectance_90",
    "linearity",
    "planarity",
    "sphericity",
    "extent_sight",
    "extent_across",
)


def statistic_names(n_cells: int) -> list[str]:
    """Return the names of the statistics in the order of the columns."""
    profiles = [f"profile_{axis}_{i}" for axis in "xyz" for i in range(n_cells)]
    steps = range(n_cells)
    return [
        *_SCALARS,
        *profiles,
        *(f"cell_{i}_{j}_{k}" for i in steps for j in steps for k in steps),
    ]


class LidarStatistics(nn.Module):
    """Statistics of the points in each box; no weights.

    In the frame of the box: extent and spread along the axes (m), height above the box's
    lower face (m), shares of points in the slices and in the cells of the grid. Besides: the count
    and the distance of the box as logarithms, and their sum ``log(1 + count) + 2 log range``, which
    does not change with distance as long as the surface is the same; reflectance; extent (m)
    along and across the line of sight; and linearity, planarity and sphericity of the points
    (Demantke et al. 2011, from the square roots of the eigenvalues of their covariance).

    Parameters
    ----------
    n_cells : int
        Cells of the grid along each axis.
    """

    def __init__(self, n_cells: int) -> None:
        super().__init__()
        self.n_cells = n_cells

    def forward(self, points: Tensor, owner: Tensor, boxes: Tensor) -> Tensor:
        """Describe each box.

        Parameters
        ----------
        points : Tensor of shape (n_points, 4)
            x, y, z in metres and reflectance of what is in the boxes.
        owner : Tensor of shape (n_points,), long
            The row of `boxes` that a point belongs to.
        boxes : Tensor of shape (n, 7)

        Returns
        -------
        Tensor of shape (n, n_statistics)
            NaN rows for boxes without a point.
        """
        local = to_box_frame(points[:, :3], boxes[owner])
        cells, _ = cells_of(local, boxes[owner], self.n_cells)
        rows = []
        for row, box in enumerate(boxes):
            own = owner == row
            rows.append(self._describe(local[own], points[own], cells[own], box))
        return (
            torch.stack(rows) if rows else points.new_empty(0, len(statistic_names(self.n_cells)))
        )

    def _describe(self, local: Tensor, points: Tensor, cells: Tensor, box: Tensor) -> Tensor:
        count = len(local)
        if not count:
            return local.new_full((len(statistic_names(self.n_cells)),), torch.nan)
        levels = local.new_tensor(_QUANTILES)
        log_count = local.new_tensor(float(count)).log1p()
        log_range = box[:3].norm().clamp_min(1e-3).log()
        reflectance = points[:, 3]
        return torch.cat(
            [
                torch.stack([log_count, log_range, log_count + 2 * log_range]),
                _extent(local),
                local.std(dim=0, correction=0),
                torch.quantile(local[:, 2] + box[5] / 2, levels),
                torch.stack([reflectance.mean(), reflectance.std(correction=0)]),
                torch.quantile(reflectance, levels),
                _shape(local),
                _extent(_by_sight(points[:, :2], box)),
                self._shares(cells, local.dtype),
            ]
        )

    def _shares(self, cells: Tensor, dtype: torch.dtype) -> Tensor:
        u = self.n_cells
        flat = (cells[:, 0] * u + cells[:, 1]) * u + cells[:, 2]
        shares = torch.bincount(flat, minlength=u**3).to(dtype).view(u, u, u) / len(cells)
        profiles = [shares.sum(dim=(1, 2)), shares.sum(dim=(0, 2)), shares.sum(dim=(0, 1))]
        return torch.cat([*profiles, shares.flatten()])


def _extent(places: Tensor) -> Tensor:
    return places.amax(dim=0) - places.amin(dim=0)


def _by_sight(ground: Tensor, box: Tensor) -> Tensor:
    """Coordinates along and across the line from the sensor to the box."""
    sight = box[:2] / box[:2].norm().clamp_min(1e-6)
    moved = ground - box[:2]
    return torch.stack([moved @ sight, moved[:, 1] * sight[0] - moved[:, 0] * sight[1]], dim=1)


def _shape(local: Tensor) -> Tensor:
    centred = local - local.mean(dim=0)
    values = torch.linalg.eigvalsh(centred.T @ centred / len(local)).clamp_min(1e-8).sqrt()
    small, middle, large = values
    return torch.stack([(large - middle) / large, (middle - small) / large, small / large])
