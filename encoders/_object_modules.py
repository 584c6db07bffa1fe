"""Torch modules of `LidarCameraEncoder`, and the pictures that they take."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mmfuse._require import require
from mmfuse.encoders._lidar_statistics import LidarStatistics
from mmfuse.presence import Presence

__all__ = ["ObjectStatistics", "collate_objects", "crop", "frame_tensor"]

_GREY = (127, 127, 127)
_ROWS = 8  # crops that pass the backbone together; more only costs memory on a CPU
_LEAST = 8  # pixels; a smaller crop would be nothing but interpolation


class ObjectStatistics(nn.Module):
    """Statistics of the points in a box beside features of its part of the picture.

    Where a sensor has nothing its columns are NaN. With both sensors four columns follow: LiDAR
    present, LiDAR empty, camera present, camera empty.

    Parameters
    ----------
    statistics : LidarStatistics or None
    backbone : nn.Module or None
        Takes crops (n, 3, height, width) to (n, n_features).
    n_features : int
        Width of `backbone`.
    """

    def __init__(
        self, statistics: LidarStatistics | None, backbone: nn.Module | None, n_features: int
    ) -> None:
        super().__init__()
        self.statistics, self.backbone, self.n_features = statistics, backbone, n_features

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Encode a batch of boxes.

        Parameters
        ----------
        batch : dict of tensors
            "boxes" (n, 7); "points" (n_points, 4) and their "owner" (n_points,); "pictures"
            (k, 3, height, width), the crops, and the "picture" (n,) of each box, -1 for none;
            "states" (n, 2), values of `Presence` of LiDAR and camera.

        Returns
        -------
        Tensor of shape (n, n_features_out)
        """
        parts = []
        if self.statistics is not None:
            parts.append(self.statistics(batch["points"], batch["owner"], batch["boxes"]))
        if self.backbone is not None:
            parts.append(self._look(batch["pictures"], batch["picture"]))
        if len(parts) == 2:
            kinds = (Presence.PRESENT, Presence.EMPTY)
            states = [(batch["states"] == int(kind)).float() for kind in kinds]
            parts.append(torch.stack(states, dim=2).flatten(1))
        return torch.cat(parts, dim=1)

    def _look(self, pictures: Tensor, rows: Tensor) -> Tensor:
        assert self.backbone is not None
        found = pictures.new_full((len(rows), self.n_features), torch.nan)
        seen = (rows >= 0).nonzero()[:, 0]
        if not len(seen):
            return found
        features = torch.cat([self.backbone(part) for part in pictures.split(_ROWS)])
        return found.index_copy(0, seen, features[rows[seen]].to(found.dtype))


def collate_objects(items: list[dict[str, Tensor]], *, with_projection: bool) -> dict[str, Tensor]:
    """Make one batch of objects; a picture that several of them hold is there once."""
    known: dict[int, int] = {}
    pictures: list[Tensor] = []
    rows = []
    for item in items:
        picture = item.get("picture")
        if picture is not None and picture.data_ptr() not in known:
            known[picture.data_ptr()] = len(pictures)
            pictures.append(picture)
        rows.append(-1 if picture is None else known[picture.data_ptr()])
    counts = torch.tensor([len(item["points"]) for item in items])
    batch = {
        "boxes": torch.stack([item["box"] for item in items]),
        "points": torch.cat([item["points"] for item in items]),
        "owner": torch.arange(len(items)).repeat_interleave(counts),
        "pictures": torch.stack(pictures) if pictures else torch.empty(0, 3, 1, 1),
        "picture": torch.tensor(rows),
        "states": torch.stack([item["states"] for item in items]),
    }
    if with_projection:
        nowhere = torch.zeros(3, 4)
        batch["projection"] = torch.stack([item.get("projection", nowhere) for item in items])
    return batch


def crop(picture: object, region: tuple[float, float, float, float], context: float) -> object:
    """Cut a square around a region from a picture.

    The side is the longer one of the region, and `context` times that more on either side. The
    square is moved into the picture where it fits, else what is outside is grey.
    """
    pil = require("PIL.Image", extra="image", caller="LidarCameraEncoder")
    width, height = picture.size  # type: ignore[attr-defined]
    left, top, right, bottom = region
    side = max(_LEAST, round(max(right - left, bottom - top) * (1 + 2 * context)))
    start = []
    for low, high, most in ((left, right, width), (top, bottom, height)):
        first = round((low + high - side) / 2)
        start.append(min(max(first, 0), most - side) if side <= most else (most - side) // 2)
    x, y = start
    window = (max(x, 0), max(y, 0), min(x + side, width), min(y + side, height))
    square = pil.new("RGB", (side, side), _GREY)
    square.paste(picture.crop(window), (window[0] - x, window[1] - y))  # type: ignore[attr-defined]
    return square


def frame_tensor(
    picture: object, size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]
) -> Tensor:
    """Scale a whole picture to (height, width) and standardise it: (3, height, width)."""
    pil = require("PIL.Image", extra="image", caller="LidarCameraEncoder")
    small = picture.resize(size[::-1], pil.Resampling.BILINEAR)  # type: ignore[attr-defined]
    pixels = np.asarray(small, dtype=np.float32) / 255
    scaled = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))
