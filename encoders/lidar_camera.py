"""Objects in road scenes: LiDAR points in a box and the camera's picture of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mmfuse import weights as packaged
from mmfuse._random import seeded
from mmfuse._require import require
from mmfuse.encoders import _backbones
from mmfuse.encoders._columns import as_cells, merge_states
from mmfuse.encoders._frames_kept import FRAMES, file_key
from mmfuse.encoders._lidar_statistics import LidarStatistics, statistic_names
from mmfuse.encoders._logonet import REACH, LoGoNet
from mmfuse.encoders._modules import state_hash
from mmfuse.encoders._object_arguments import check_object_arguments
from mmfuse.encoders._object_cells import (
    SENSORS,
    asked,
    box_of,
    check_cell,
    picture_of,
    points_of,
    projection_of,
    relevant,
    unrecorded,
)
from mmfuse.encoders._object_modules import ObjectStatistics, collate_objects, crop, frame_tensor
from mmfuse.encoders._projection import inside_box, region_of_box
from mmfuse.encoders.base import BaseEncoder, Encoded
from mmfuse.encoders.image import ImageEncoder
from mmfuse.exceptions import SampleError
from mmfuse.presence import Presence
from mmfuse.table.cells import object_array

__all__ = ["LidarCameraEncoder"]


class LidarCameraEncoder(BaseEncoder):
    """One vector per object box from LiDAR points, the camera's picture, or both.

    A cell is one object in one frame, a dict with the keys of `ObjectInFrame`: a box, the sweep
    ("points"), and the picture ("image") with its calibration ("calib"). Either sensor may be
    lacking in any cell. A cell in which no sensor of this encoder recorded anything is ABSENT; one
    where they looked and found nothing (no point in the box; a box behind the camera or outside
    the picture) is EMPTY.

    What is trained: the image backbone, on photographs of ImageNet, and nothing else.
    ``features="statistics"`` needs no training: hand-made statistics of the points, and the
    backbone's features of the part of the picture that the box projects to.
    ``features="logonet"`` is the local-to-global fusion of LoGoNet as a module that can be trained
    end to end: with ``trainable=True`` estimators do so, all but the backbone. There are no
    published weights for it that would fit: unless `checkpoint` names trained ones, it is a random
    projection of its inputs until it is trained.

    To fuse the sensors by a head, and to let either be missing, make two columns of the same
    cells and encode one with ``sensors="lidar"`` and one with ``sensors="camera"``.

    Parameters
    ----------
    sensors : {"both", "lidar", "camera"}, default="both"
        With "both" and statistics, the columns of a sensor that has nothing are NaN, which
        estimators fill from their training rows, and four columns say whether a sensor is present
        or empty.
    features : {"statistics", "logonet"}, default="statistics"
    n_cells : int, default=6
        Cells along each axis of the grid inside the box.
    width : int, default=256
        Number of features of "logonet".
    backbone : str, default="tf_efficientnet_lite0"
        Name of a timm model, see `ImageEncoder`. "logonet" needs one that gives feature maps for
        pictures of any size, such as a convolutional one.
    weights : "auto", str, Path or None, default="auto"
        Weights of the backbone, see `ImageEncoder`. None means random ones.
    checkpoint : str or Path, optional
        A ``.safetensors`` file with the state of a trained ``module()``, for "logonet".
    image_size : int or (int, int), optional
        Pixels to which the square around an object is scaled, for "statistics". By default the
        size that the backbone was trained with.
    context : float, default=0.1
        Margin around an object on either side, relative to the longer side of its region.
    frame_size : (int, int), default=(192, 640)
        Height and width to which whole pictures are scaled, for "logonet".
    random_state : int, default=0
        Seed of random weights.
    batch_size, device, on_error, cache, n_jobs, verbose
        See `BaseEncoder`.
    trainable : bool, "head" or "lora", default=False
        See `BaseEncoder`. For "logonet" only, and "head" and "lora" with a `checkpoint` only. The
        image backbone is never trained.

    Attributes
    ----------
    n_features_out_ : int

    Raises
    ------
    EncodingError
        When encoding, if a file cannot be read or a cell is no object in a frame.
    WeightsNotFoundError
        If weights are not on this machine and cannot be fetched.

    See Also
    --------
    mmfuse.datasets.read_kitti : objects, labels and frames of a KITTI folder.

    Notes
    -----
    The box is given, by labels or by a detector. Its size is no feature by itself, but the points
    and the picture are cut by it, so a box that is fitted to the class tells about the class.

    Points behind the camera are refused; LoGoNet's code looks up pixels for them. The last 24
    decoded sweeps and pictures are kept in memory, so the objects of a frame share the reading;
    with "logonet" they also share the picture's features within a batch. What differs from the
    paper, which detects objects where this encodes given boxes, is listed with the module,
    `mmfuse.encoders._logonet.LoGoNet`: no sparse 3-D network, only the surroundings of a box,
    layer norm, learned vectors for the states of sensors.

    References
    ----------
    Li et al. (2023), LoGoNet: Towards Accurate 3D Object Detection with Local-to-Global
    Cross-Modal Fusion. CVPR. arXiv 2303.03595.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse.encoders import LidarCameraEncoder
    >>> points = np.random.default_rng(0).uniform([9, -1, -1, 0], [13, 1, 1, 1], (200, 4))
    >>> car = {"points": points, "box": (11, 0, 0, 4, 2, 2, 0.0)}
    >>> far = {"points": points, "box": (40, 0, 0, 4, 2, 2, 0.0)}
    >>> encoder = LidarCameraEncoder(sensors="lidar", cache=False).fit([car, far])
    >>> encoded = encoder.encode([car, far, None])
    >>> encoded.values.shape, encoded.presence.tolist()
    ((3, 256), [1, 3, 0])
    """

    modality: ClassVar[str] = "object"
    text_cells: ClassVar[bool] = True  # a dict with image and box is more than a region here
    nan_features: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("timm", "torchvision", "pillow")

    def __init__(
        self,
        *,
        sensors: str = "both",
        features: str = "statistics",
        n_cells: int = 6,
        width: int = 256,
        backbone: str = "tf_efficientnet_lite0",
        weights: str | Path | None = "auto",
        checkpoint: str | Path | None = None,
        image_size: int | tuple[int, int] | None = None,
        context: float = 0.1,
        frame_size: tuple[int, int] = (192, 640),
        random_state: int = 0,
        batch_size: int = 32,
        device: str = "auto",
        on_error: str = "raise",
        cache: bool | str | Path = True,
        n_jobs: int = 2,
        verbose: int = 0,
        trainable: bool | str = False,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            device=device,
            on_error=on_error,
            cache=cache,
            n_jobs=n_jobs,
            verbose=verbose,
            trainable=trainable,
        )
        self.sensors = sensors
        self.features = features
        self.n_cells = n_cells
        self.width = width
        self.backbone = backbone
        self.weights = weights
        self.checkpoint = checkpoint
        self.image_size = image_size
        self.context = context
        self.frame_size = frame_size
        self.random_state = random_state

    def encode(self, column: Any, presence: Any = None, *, name: str | None = None) -> Encoded:
        """Encode a column of objects and say what became of each cell; see `BaseEncoder.encode`.

        Cells in which no sensor of this encoder recorded anything become ABSENT.
        """
        caller = type(self).__name__
        cells, states = as_cells(column, caller=caller)
        states = merge_states(states, presence, caller=caller)
        kept = [relevant(cell, self.sensors) for cell in cells]
        for row in np.flatnonzero(states == Presence.PRESENT):
            if unrecorded(kept[row], self.sensors):
                states[row] = Presence.ABSENT
        return super().encode(object_array(kept), states, name=name)

    def preprocess(self, sample: Any) -> dict[str, Tensor] | None:
        """Cut one object out of its frame.

        Returns
        -------
        dict of tensors or None
            "box" (7,), "points" (n_points, 4), "states" (2,), and where the camera sees the
            object, "picture" (3, height, width) with, for "logonet", "projection" (3, 4). None
            where the sensors looked and found nothing.

        Raises
        ------
        SampleError
            If the cell is no object in a frame, or a file cannot be read.
        """
        cell = relevant(check_cell(sample), self.sensors)
        box = box_of(cell)
        item: dict[str, Tensor] = {
            "box": torch.tensor(box, dtype=torch.float32),
            "points": torch.empty(0, 4),
        }
        states = {sensor: Presence.ABSENT for sensor in SENSORS}
        if "points" in cell:
            states["lidar"] = self._add_points(item, cell, box)
        if "image" in cell:
            states["camera"] = self._add_picture(item, cell, box)
        if Presence.PRESENT not in states.values():
            if Presence.EMPTY in states.values():
                return None
            keys = " and no ".join(key for sensor in asked(self.sensors) for key in SENSORS[sensor])
            raise SampleError(f"the object has no {keys}")
        item["states"] = torch.tensor([int(states[sensor]) for sensor in SENSORS])
        return item

    def collate(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Make one batch of what `preprocess` returned; shared pictures are there once."""
        return collate_objects(items, with_projection=self.features == "logonet")

    def weights_hash(self) -> str | None:
        """Return a hex digest of the weights, or None for statistics of LiDAR alone."""
        if self.features == "logonet":
            return state_hash(self.module())
        return None if self.sensors == "lidar" else self._image_encoder().weights_hash()

    def _add_points(
        self, item: dict[str, Tensor], cell: dict[str, Any], box: tuple[float, ...]
    ) -> Presence:
        points = points_of(cell)
        inside = inside_box(points, box)
        if not inside.any():
            if self.features == "logonet":  # what is around the box may tell something
                item["points"] = torch.from_numpy(points[inside_box(points, box, REACH)])
            return Presence.EMPTY
        around = inside if self.features == "statistics" else inside_box(points, box, REACH)
        item["points"] = torch.from_numpy(points[around])
        return Presence.PRESENT

    def _add_picture(
        self, item: dict[str, Tensor], cell: dict[str, Any], box: tuple[float, ...]
    ) -> Presence:
        picture, projection = picture_of(cell), projection_of(cell)
        width, height = picture.size
        region = region_of_box(box, projection, (height, width))
        if region is None:
            return Presence.EMPTY
        if self.features == "statistics":
            square = crop(picture, region, self.context)
            item["picture"] = self._image_encoder().preprocess(square)
        else:
            unit = np.diag([1 / width, 1 / height, 1.0]) @ projection
            item["projection"] = torch.from_numpy(unit.astype(np.float32))
            item["picture"] = self._frame(cell["image"], picture)
        return Presence.PRESENT

    def _frame(self, image: Any, picture: Any) -> Tensor:
        mean, std = _backbones.pixel_scale(self.backbone)
        size = (int(self.frame_size[0]), int(self.frame_size[1]))
        if not isinstance(image, Path):
            return frame_tensor(picture, size, mean, std)
        key = ("frame", file_key(image), size, mean, std)
        return FRAMES.get(key, lambda: frame_tensor(picture, size, mean, std))

    def _image_encoder(self) -> ImageEncoder:
        return ImageEncoder(
            self.backbone,
            weights=self.weights,
            image_size=self.image_size,
            crop_pct=1.0,
            random_state=self.random_state,
            device=self.device,
            cache=False,
        )

    def _check_params(self) -> None:
        super()._check_params()
        check_object_arguments(self)
        if self.sensors != "lidar":
            self._image_encoder()._check_params()

    def _width(self) -> int:
        if self.features == "logonet":
            return int(self.width)
        return len(self._names())

    def _names(self) -> list[str]:
        names = []
        if self.sensors != "camera":
            names += [f"lidar_{name}" for name in statistic_names(self.n_cells)]
        if self.sensors != "lidar":
            n_features = self._image_encoder()._width()
            names += [f"camera_{i:0{len(str(n_features - 1))}d}" for i in range(n_features)]
        if self.sensors == "both":
            names += [f"{sensor}_{state}" for sensor in SENSORS for state in ("present", "empty")]
        return names

    def _feature_names(self) -> list[str]:
        if self.features == "logonet":
            return super()._feature_names()
        return [f"{self.modality}_{name}" for name in self._names()]

    def _build_module(self) -> nn.Module:
        picture = None if self.sensors == "lidar" else self._image_encoder()
        loaded = None if picture is None else picture._build_module()
        if self.features == "statistics":
            statistics = None if self.sensors == "camera" else LidarStatistics(self.n_cells)
            return ObjectStatistics(statistics, loaded, picture._width() if picture else 0)
        with seeded(self.random_state):
            net = LoGoNet(
                None if loaded is None else loaded.model, n_cells=self.n_cells, width=self.width
            )
        if self.checkpoint is not None:
            self._load(net)
        return net

    def _load(self, net: nn.Module) -> None:
        tensors = require("safetensors.torch", extra="image", caller=type(self).__name__)
        given = tensors.load_file(self.checkpoint)
        own = net.state_dict()
        unfit = [n for n in own if n not in given or given[n].shape != own[n].shape]
        unknown = [n for n in given if n not in own]
        if unfit or unknown:
            raise ValueError(
                f"LidarCameraEncoder: checkpoint {self.checkpoint} is not the state of this "
                f"module: {len(unfit)} tensors are missing or of another shape "
                f"({', '.join(unfit[:3])}) and {len(unknown)} are unknown "
                f"({', '.join(unknown[:3])}); use the arguments that it was trained with."
            )
        net.load_state_dict(given)

    def _cache_params(self) -> dict[str, Any]:
        params = super()._cache_params()
        for name in ("weights", "random_state", "checkpoint"):  # the hash of the weights says more
            del params[name]
        return params

    def _module_identity(self) -> dict[str, Any]:
        files = [
            packaged.file_hash(file) if file is not None and file != "auto" else file
            for file in (self.weights, self.checkpoint)
        ]
        return {**super()._module_identity(), "weights": [*files, self.random_state]}
