"""Encoders: one scikit-learn transformer per modality, raw column in, float32 block out."""

if __name__ != "mmfuse.encoders":
    raise ImportError("import it as mmfuse.encoders, not as a top-level package")

from mmfuse.encoders._band_gaps import GapCopies, add_instrument_gaps
from mmfuse.encoders._object_cells import ObjectInFrame
from mmfuse.encoders._projection import Augmentation
from mmfuse.encoders.audio import LogMelEncoder
from mmfuse.encoders.base import BaseEncoder, Encoded
from mmfuse.encoders.clip import CLIPImageEncoder, CLIPTextEncoder
from mmfuse.encoders.conse import ConSEEncoder
from mmfuse.encoders.face import ActionUnitEncoder
from mmfuse.encoders.image import ImageEncoder
from mmfuse.encoders.lidar_camera import LidarCameraEncoder
from mmfuse.encoders.multiband import MultiBandEncoder
from mmfuse.encoders.numeric import NumericEncoder
from mmfuse.encoders.opensmile import OpenSmileEncoder
from mmfuse.encoders.precomputed import PrecomputedEncoder
from mmfuse.encoders.text import SentenceEncoder
from mmfuse.encoders.zero_shot import CLIPZeroShotEncoder

__all__ = [
    "Augmentation",
    "ActionUnitEncoder",
    "BaseEncoder",
    "CLIPImageEncoder",
    "CLIPTextEncoder",
    "CLIPZeroShotEncoder",
    "ConSEEncoder",
    "Encoded",
    "GapCopies",
    "ImageEncoder",
    "LidarCameraEncoder",
    "LogMelEncoder",
    "MultiBandEncoder",
    "NumericEncoder",
    "ObjectInFrame",
    "OpenSmileEncoder",
    "PrecomputedEncoder",
    "SentenceEncoder",
    "add_instrument_gaps",
]
