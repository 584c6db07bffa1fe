"""Encoders: one scikit-learn transformer per modality, raw column in, float32 block out."""

if __name__ != "mmfuse.encoders":
    raise ImportError("import it as mmfuse.encoders, not as a top-level package")

from mmfuse.encoders.audio import LogMelEncoder
from mmfuse.encoders.base import BaseEncoder, Encoded
from mmfuse.encoders.image import ImageEncoder
from mmfuse.encoders.numeric import NumericEncoder
from mmfuse.encoders.precomputed import PrecomputedEncoder
from mmfuse.encoders.text import SentenceEncoder

__all__ = [
    "BaseEncoder",
    "Encoded",
    "ImageEncoder",
    "LogMelEncoder",
    "NumericEncoder",
    "PrecomputedEncoder",
    "SentenceEncoder",
]
