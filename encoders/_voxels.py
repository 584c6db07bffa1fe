"""Voxels with the centroids of their points, and what lies around a place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["GridPooling", "Voxels", "merge", "voxelize"]


@dataclass(frozen=True)
class Voxels:
    """Voxels that hold points, of several objects.

    Attributes
    ----------
    index : Tensor of shape (n, 4), long
        Object, then place along x, y, z in steps of `size` from the origin.
    mean : Tensor of shape (n, 4)
        Means of the points: centroid in metres, and reflectance.
    count : Tensor of shape (n,)
        Points in the voxel.
    size : tuple of 3 floats
        Edges in metres.
    """

    index: Tensor
    mean: Tensor
    count: Tensor
    size: tuple[float, float, float]

    @property
    def owner(self) -> Tensor:
        """Object of each voxel: (n,) long."""
        return self.index[:, 0]

    @property
    def centre(self) -> Tensor:
        """Middle of each voxel: (n, 3) metres."""
        return (self.index[:, 1:] + 0.5) * self.mean.new_tensor(self.size)


def voxelize(points: Tensor, owner: Tensor, size: tuple[float, float, float]) -> Voxels:
    """Sort points (n, 4) of several objects into voxels; differentiable in the points."""
    place = (points[:, :3].detach() / points.new_tensor(size)).floor().long()
    count = points.new_ones(len(points))
    index, mean, count, _ = _group(torch.cat([owner[:, None], place], dim=1), points, count)
    return Voxels(index, mean, count, size)


def merge(fine: Voxels, factor: int) -> tuple[Voxels, Tensor]:
    """Join voxels into ones of `factor` times the edge.

    Returns
    -------
    coarse : Voxels
        Centroids are means weighted by counts, so those of all points.
    parent : Tensor of shape (n_fine,), long
        The coarse voxel of each fine one.
    """
    place = torch.div(fine.index[:, 1:], factor, rounding_mode="floor")
    owner = fine.index[:, :1]
    index, mean, count, parent = _group(torch.cat([owner, place], dim=1), fine.mean, fine.count)
    size = (fine.size[0] * factor, fine.size[1] * factor, fine.size[2] * factor)
    return Voxels(index, mean, count, size), parent


def weighted_mean(values: Tensor, weights: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Average rows of `values` (n, d) by group: (n_groups, d), zeros for a group without rows."""
    total = values.new_zeros(n_groups).index_add(0, group, weights)
    summed = values.new_zeros(n_groups, values.shape[1])
    summed = summed.index_add(0, group, values * weights[:, None])
    return summed / total.clamp_min(1e-12)[:, None]


def _group(keys: Tensor, values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    index, group = torch.unique(keys, dim=0, return_inverse=True)
    mean = weighted_mean(values, weights, group, len(index))
    count = weights.new_zeros(len(index)).index_add(0, group, weights)
    return index, mean, count, group


class GridPooling(nn.Module):
    """Features of the voxels around the cells of a box, within two radii.

    The nearest `n_samples` within a radius pass a small network together with their offset and
    the logarithm of their count, and the largest values are kept. LoGoNet takes the first samples
    that it meets; the nearest do not depend on the order of the points.

    Parameters
    ----------
    dim : int
        Width of the voxel features.
    radii : sequence of float
        Metres.
    width : int, default=32
        Outputs per radius.
    n_samples : int, default=16
    """

    def __init__(
        self, dim: int, radii: tuple[float, ...], width: int = 32, n_samples: int = 16
    ) -> None:
        super().__init__()
        self.radii, self.width, self.n_samples = radii, width, n_samples
        self.networks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(dim + 4, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width)
            )
            for _ in radii
        )

    def forward(self, centres: Tensor, voxels: Voxels, features: Tensor) -> Tensor:
        """Pool around centres (n_objects, k, 3): (n_objects, k, n_radii * width).

        Zeros where no voxel is near.
        """
        around = [self._object(i, places, voxels, features) for i, places in enumerate(centres)]
        return torch.stack(around)

    def _object(self, i: int, places: Tensor, voxels: Voxels, features: Tensor) -> Tensor:
        own = (voxels.owner == i).nonzero()[:, 0]
        if not len(own):
            return places.new_zeros(len(places), len(self.radii) * self.width)
        centroids = voxels.mean[own, :3]
        distance = torch.cdist(places.detach(), centroids.detach())
        distance, nearest = distance.topk(min(self.n_samples, len(own)), dim=1, largest=False)
        chosen = own[nearest]
        offset = voxels.mean[chosen, :3] - places[:, None]
        inputs = torch.cat([offset, voxels.count[chosen].log1p()[..., None], features[chosen]], 2)
        parts = []
        for radius, network in zip(self.radii, self.networks, strict=True):
            near = (distance <= radius)[..., None]
            pooled = network(inputs).masked_fill(~near, -torch.inf).amax(dim=1)
            parts.append(torch.where(near.any(dim=1), pooled, torch.zeros_like(pooled)))
        return torch.cat(parts, dim=1)
