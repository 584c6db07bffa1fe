"""Local-to-global fusion of LiDAR and camera for one box, after LoGoNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfuse.encoders._box_grid import cells_of, grid_centres, to_box_frame, to_lidar_frame
from mmfuse.encoders._deformable import ImageFusion, look_up
from mmfuse.encoders._voxels import GridPooling, Voxels, merge, voxelize, weighted_mean

__all__ = ["REACH", "LoGoNet", "PictureMap", "SelfAttention", "position_information"]

REACH = 1.6
"""Metres around the box whose points count: the largest radius of the pooling."""
_DIM, _WIDE = 64, 128
_VOXEL = (0.2, 0.2, 0.4)
_STATES = 4  # values of Presence


def position_information(
    points: Tensor, owner: Tensor, boxes: Tensor, n_cells: int
) -> tuple[Tensor, Tensor]:
    """Describe the cells of the grid in each box by seven numbers.

    Returns
    -------
    information : Tensor of shape (n, n_cells ** 3, 7)
        Centre of the cell (m, in the frame of the box), log10 of the count of its points plus one
        half, and the centroid of its points (m, in the frame of the box; zeros without points).
    count : Tensor of shape (n, n_cells ** 3)
    """
    own = boxes[owner]
    local = to_box_frame(points[:, :3], own)
    cells, inside = cells_of(local, own, n_cells)
    total = n_cells**3
    flat = ((owner * n_cells + cells[:, 0]) * n_cells + cells[:, 1]) * n_cells + cells[:, 2]
    flat, local = flat[inside], local[inside]
    one = local.new_ones(len(local))
    count = local.new_zeros(len(boxes) * total).index_add(0, flat, one)
    centroid = weighted_mean(local, one, flat, len(count)).view(len(boxes), total, 3)
    count = count.view(len(boxes), total)
    density = torch.log10(count + 0.5)[..., None]
    return torch.cat([grid_centres(boxes, n_cells), density, centroid], dim=2), count


class PictureMap(nn.Module):
    """A frozen backbone and a pyramid over it: pictures to maps of a quarter of their size.

    Parameters
    ----------
    backbone : nn.Module
        A timm model that gives feature maps; it stays in evaluation mode and is not trained.
    """

    backbone: Any

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        stages = backbone.feature_info
        facts = stages.get_dicts() if hasattr(stages, "get_dicts") else list(stages)
        self.chosen = [i for i, fact in enumerate(facts) if fact["reduction"] >= 4]
        self.lateral = nn.ModuleList(nn.Conv2d(facts[i]["num_chs"], _DIM, 1) for i in self.chosen)

    def train(self, mode: bool = True) -> PictureMap:
        """Set the mode of the pyramid; the backbone stays as it is."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures (k, 3, height, width): (k, 64, height / 4, width / 4)."""
        stages = self.backbone.forward_intermediates(
            pictures, indices=self.chosen, intermediates_only=True
        )
        maps = [lateral(stage) for lateral, stage in zip(self.lateral, stages, strict=True)]
        found = maps[-1]
        for finer in maps[-2::-1]:
            found = finer + F.interpolate(found, size=finer.shape[2:], mode="nearest")
        return found


class SelfAttention(nn.Module):
    """Attention among the cells of a box that hold points (LoGoNet's feature dynamic aggregation).

    Cells without points are neither keys nor changed by position codes; a box without points
    passes unchanged.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.position = nn.Sequential(nn.Linear(4, _DIM), nn.ReLU(), nn.Linear(_DIM, dim))
        self.layer = nn.TransformerEncoderLayer(dim, 1, dim, dropout=0.1, batch_first=True)

    def forward(self, cells: Tensor, where: Tensor, filled: Tensor) -> Tensor:
        """Mix cells (n, k, dim) at `where` (n, k, 4), of which some are `filled` (n, k)."""
        rows = filled.any(dim=1).nonzero()[:, 0]
        if not len(rows):
            return cells
        own, mask = cells[rows], filled[rows]
        coded = own + self.position(where[rows]) * mask[..., None]
        mixed = self.layer(coded, src_key_padding_mask=~mask)
        return cells.index_copy(0, rows, own + mixed)


class LoGoNet(nn.Module):
    """One vector per box from the points around it and the picture that shows it.

    Parameters
    ----------
    backbone : nn.Module or None
        A timm model for the pictures; None where there is no camera.
    n_cells : int
        Cells of the grid along each axis.
    width : int
        Features of the vector.

    Notes
    -----
    Differences from the paper: there is no sparse 3-D network before the voxels; their features
    are a small network's, of count, centroid, height and reflectance, and coarse ones are means
    of fine ones. Only the surroundings of a box are looked at, which is all that its pooling
    reaches. Layer norm replaces batch norm. A learned vector per sensor and state is added, so
    that no camera, a box outside the picture and a box without points are told apart.
    """

    last_layers = ("aggregate", "head")  # after both sensors are joined

    def __init__(self, backbone: nn.Module | None, *, n_cells: int, width: int) -> None:
        super().__init__()
        self.n_cells = n_cells
        self.picture = None if backbone is None else PictureMap(backbone)
        self.fine = nn.Sequential(
            nn.Linear(6, _DIM), nn.LayerNorm(_DIM), nn.ReLU(), nn.Linear(_DIM, _DIM)
        )
        self.coarse = nn.Sequential(nn.Linear(_DIM, _DIM), nn.LayerNorm(_DIM), nn.ReLU())
        self.global_fusion = ImageFusion(_DIM)
        self.pool_fine = GridPooling(_DIM, (0.4, 0.8))
        self.pool_coarse = GridPooling(_DIM, (0.8, REACH))
        self.information = nn.Sequential(
            nn.Linear(7, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, _DIM)
        )
        self.local_fusion = ImageFusion(_DIM)
        self.widen = nn.Sequential(nn.Linear(_DIM, _DIM), nn.ReLU(), nn.Linear(_DIM, _WIDE))
        self.states = nn.Parameter(0.02 * torch.randn(2, _STATES, _WIDE))
        self.aggregate = SelfAttention(_WIDE)
        self.head = nn.Sequential(
            nn.Linear(n_cells**3 * _WIDE, width),
            nn.LayerNorm(width),
            nn.ReLU(),
            nn.Linear(width, width),
        )

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Encode a batch of boxes.

        Parameters
        ----------
        batch : dict of tensors
            "boxes" (n, 7); "points" (n_points, 4) and their "owner" (n_points,); "pictures"
            (k, 3, height, width), the "picture" (n,) of each box, -1 for none, and the
            "projection" (n, 3, 4) to places from 0 to 1 in it; "states" (n, 2), values of
            `Presence` of LiDAR and camera.

        Returns
        -------
        Tensor of shape (n, width)
        """
        pictures = batch["pictures"]
        maps = self.picture(pictures) if self.picture is not None and len(pictures) else None
        with torch.autocast(pictures.device.type, enabled=False):  # coordinates are in metres
            return self._encode(batch, None if maps is None else maps.float())

    def _encode(self, batch: dict[str, Tensor], maps: Tensor | None) -> Tensor:
        boxes = batch["boxes"]
        local, count = position_information(batch["points"], batch["owner"], boxes, self.n_cells)
        centres = to_lidar_frame(local[..., :3], boxes)
        cells = self._global(batch, centres, maps) + self._local(batch, local, centres, maps)
        states = batch["states"].long()
        cells = cells + (self.states[0, states[:, 0]] + self.states[1, states[:, 1]])[:, None]
        cells = self.aggregate(cells, local[..., :4], count > 0)
        return self.head(cells.flatten(1))

    def _global(self, batch: dict[str, Tensor], centres: Tensor, maps: Tensor | None) -> Tensor:
        fine = voxelize(batch["points"], batch["owner"], _VOXEL)
        coarse, parent = merge(fine, 2)
        features = self.fine(_voxel_inputs(fine))
        wide = self.coarse(weighted_mean(features, fine.count, parent, len(coarse.count)))
        features = self._fuse(
            self.global_fusion, features, fine.mean[:, :3], fine.owner, batch, maps
        )
        pooled = [self.pool_fine(centres, fine, features), self.pool_coarse(centres, coarse, wide)]
        return torch.cat(pooled, dim=2)

    def _local(
        self, batch: dict[str, Tensor], local: Tensor, centres: Tensor, maps: Tensor | None
    ) -> Tensor:
        n, k = local.shape[:2]
        owner = torch.arange(n, device=local.device).repeat_interleave(k)
        features = self.information(local).flatten(0, 1)
        fused = self._fuse(self.local_fusion, features, centres.flatten(0, 1), owner, batch, maps)
        return self.widen(fused).view(n, k, -1)

    @staticmethod
    def _fuse(
        fusion: ImageFusion,
        features: Tensor,
        points: Tensor,
        owner: Tensor,
        batch: dict[str, Tensor],
        maps: Tensor | None,
    ) -> Tensor:
        places, seen = look_up(points, batch["projection"][owner])
        rows = batch["picture"][owner]
        return fusion(features, places, seen & (rows >= 0), maps, rows)


def _voxel_inputs(voxels: Voxels) -> Tensor:
    offset = (voxels.mean[:, :3] - voxels.centre) / voxels.mean.new_tensor(voxels.size)
    rest: Sequence[Tensor] = (voxels.mean[:, 3], voxels.count.log1p(), voxels.mean[:, 2])
    return torch.cat([offset, torch.stack(list(rest), dim=1)], dim=1)
