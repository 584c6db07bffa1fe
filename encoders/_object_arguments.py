"""Which arguments of LidarCameraEncoder are allowed, alone and together."""

from __future__ import annotations

from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING

from mmfuse.encoders import _checks
from mmfuse.exceptions import WeightsNotFoundError

if TYPE_CHECKING:
    from mmfuse.encoders.lidar_camera import LidarCameraEncoder

__all__ = ["check_object_arguments"]


def check_object_arguments(encoder: LidarCameraEncoder) -> None:
    """Raise for the first argument that is not allowed.

    Raises
    ------
    ValueError, TypeError
        It names the argument, what is allowed and what came.
    WeightsNotFoundError
        If there is no checkpoint of that name.
    """
    _checks.check_choice(encoder, "sensors", ("both", "lidar", "camera"))
    _checks.check_choice(encoder, "features", ("statistics", "logonet"))
    _checks.check_integer(encoder, "n_cells", least=1)
    _checks.check_integer(encoder, "width", least=1)
    _checks.check_integer(encoder, "random_state", least=0)
    _check_sizes(encoder.context, encoder.frame_size)
    if encoder.checkpoint is not None:
        _check_checkpoint(encoder.checkpoint, encoder.features)
    _check_trainable(encoder)


def _check_trainable(encoder: LidarCameraEncoder) -> None:
    if encoder.features == "statistics" and encoder.trainable:
        raise ValueError(
            "LidarCameraEncoder: trainable must be False with features='statistics', whose "
            f"backbone stays as it is, got {encoder.trainable!r}; use features='logonet', or "
            "train an ImageEncoder on regions of the pictures."
        )
    if encoder.checkpoint is None and encoder.trainable in ("head", "lora"):
        raise ValueError(
            "LidarCameraEncoder: trainable must be True or False with features='logonet' and "
            f"without a checkpoint, since weights are random in all layers, got "
            f"{encoder.trainable!r}; name trained weights in checkpoint, or use True."
        )


def _check_sizes(context: object, size: object) -> None:
    if isinstance(context, bool) or not isinstance(context, Real) or not 0 <= context < 10:
        raise ValueError(
            f"LidarCameraEncoder: context must be a number from 0 to 10, got {context!r}."
        )
    pair = isinstance(size, (tuple, list)) and len(size) == 2
    if not pair or not all(isinstance(n, Integral) and n >= 32 and n % 32 == 0 for n in size):
        raise ValueError(
            "LidarCameraEncoder: frame_size must be a height and a width that are multiples "
            f"of 32, got {size!r}."
        )


def _check_checkpoint(file: object, features: str) -> None:
    if features != "logonet":
        raise ValueError(
            "LidarCameraEncoder: checkpoint must be None with features='statistics', which "
            f"has nothing to load but the backbone's weights, got {file!r}."
        )
    if not isinstance(file, (str, Path)) or Path(file).suffix != ".safetensors":
        raise ValueError(
            f"LidarCameraEncoder: checkpoint must be a .safetensors file or None, got {file!r}."
        )
    if not Path(file).is_file():
        raise WeightsNotFoundError(f"LidarCameraEncoder: there is no checkpoint {file}.")
