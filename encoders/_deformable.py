"""Looking up picture features at the pixels of places in space, with learned offsets."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfuse.encoders._projection import NEAR

__all__ = ["DeformableAttention", "ImageFusion", "look_up"]


def look_up(points: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
    """Find the places of points in their pictures.

    Parameters
    ----------
    points : Tensor of shape (n, 3)
        LiDAR coordinates in metres.
    projection : Tensor of shape (n, 3, 4)
        To (depth u, depth v, depth), u and v from 0 to 1 over the picture.

    Returns
    -------
    places : Tensor of shape (n, 2)
        u and v; zeros for points that are not in front of the camera.
    seen : Tensor of shape (n,), bool
        In front of the camera and in the picture.
    """
    flat = torch.einsum("nij,nj->ni", projection[:, :, :3], points) + projection[:, :, 3]
    front = flat[:, 2] >= NEAR
    depth = torch.where(front, flat[:, 2], torch.ones_like(flat[:, 2]))
    places = torch.where(
        front[:, None], flat[:, :2] / depth[:, None], torch.zeros_like(flat[:, :2])
    )
    return places, front & ((places >= 0) & (places < 1)).all(dim=1)


class DeformableAttention(nn.Module):
    """Attention of each query to a few learned places around its own, on one map.

    After Deformable DETR (Zhu et al. 2021), as in LoGoNet, with `torch.nn.functional.grid_sample`
    in place of a compiled operator. The offsets, in cells of the map, and the weights of the places
    are linear in the query.

    Parameters
    ----------
    dim : int
        Width of queries and map.
    n_heads, n_places : int, default=4
    """

    def __init__(self, dim: int, n_heads: int = 4, n_places: int = 4) -> None:
        super().__init__()
        self.n_heads, self.n_places = n_heads, n_places
        self.offset = nn.Linear(dim, n_heads * n_places * 2)
        self.weight = nn.Linear(dim, n_heads * n_places)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.weight.weight)
        nn.init.zeros_(self.weight.bias)
        # at first every head looks in a direction of its own, each place a step further
        angle = torch.arange(n_heads) * (2 * math.pi / n_heads)
        ahead = torch.stack([angle.cos(), angle.sin()], dim=1)[:, None]
        steps = torch.arange(1, n_places + 1)[None, :, None]
        with torch.no_grad():
            self.offset.bias.copy_((ahead * steps).flatten())

    def forward(self, queries: Tensor, places: Tensor, maps: Tensor, rows: Tensor) -> Tensor:
        """Attend.

        Parameters
        ----------
        queries : Tensor of shape (n, dim)
        places : Tensor of shape (n, 2)
            u and v, 0 to 1 over the map.
        maps : Tensor of shape (n_maps, dim, height, width)
        rows : Tensor of shape (n,), long
            The map of each query.

        Returns
        -------
        Tensor of shape (n, dim)
        """
        heads, steps = self.n_heads, self.n_places
        size = maps.new_tensor([maps.shape[3], maps.shape[2]])
        offset = self.offset(queries).view(-1, heads, steps, 2) / size
        weight = self.weight(queries).view(-1, heads, steps).softmax(dim=2)
        at = 2 * (places[:, None, None] + offset) - 1
        found = queries.new_zeros(queries.shape)
        for row in rows.unique().tolist():
            own = (rows == row).nonzero()[:, 0]
            values = self.value(maps[row].permute(1, 2, 0)).permute(2, 0, 1)
            values = values.reshape(heads, -1, *values.shape[1:])
            sampled = F.grid_sample(values, at[own].transpose(0, 1), align_corners=False)
            mixed = torch.einsum("hcnk,nhk->nhc", sampled, weight[own])
            found = found.index_copy(0, own, mixed.flatten(1))
        return self.output(found)


class ImageFusion(nn.Module):
    """Features of places in space, joined with the picture where the camera sees them.

    Places that no picture shows keep their query. Layer norm stands where LoGoNet has batch
    norm, so that an object's vector never depends on the others in its batch.

    Parameters
    ----------
    dim : int
    dropout : float, default=0.1
    """

    def __init__(self, dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.query = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        self.attention = DeformableAttention(dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)
        self.own = nn.LayerNorm(dim)
        self.mix = nn.Sequential(nn.ReLU(), nn.Linear(2 * dim, dim), nn.LayerNorm(dim), nn.ReLU())

    def attend(
        self, queries: Tensor, places: Tensor, seen: Tensor, maps: Tensor | None, rows: Tensor
    ) -> Tensor:
        """Return the queries, those that are seen joined with the picture."""
        at = seen.nonzero()[:, 0]
        if maps is None or not len(at):
            return queries
        own = queries[at]
        found = self.dropout(self.attention(own, places[at], maps, rows[at]))
        return queries.index_copy(0, at, self.norm(own + found))

    def forward(
        self, features: Tensor, places: Tensor, seen: Tensor, maps: Tensor | None, rows: Tensor
    ) -> Tensor:
        """Fuse features (n, dim); see `DeformableAttention` for the others."""
        attended = self.attend(self.query(features), places, seen, maps, rows)
        return self.mix(torch.cat([self.own(features), attended], dim=1))
