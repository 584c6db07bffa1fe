"""Heads: the interchangeable part that turns blocks into scores."""

if __name__ != "mmfuse.heads":
    raise ImportError("import it as mmfuse.heads, not as a top-level package")

from mmfuse.heads.auto import AutoFusion
from mmfuse.heads.base import BaseHead, FitData, FitResult, FusionModule, HeadOutput
from mmfuse.heads.contextual import ContextualFusion, contextual_path
from mmfuse.heads.early import EarlyFusion
from mmfuse.heads.late import LateFusion
from mmfuse.heads.logit_bias import LogitBiasFusion
from mmfuse.heads.text_centric import TextCentricFusion

__all__ = [
    "AutoFusion",
    "BaseHead",
    "ContextualFusion",
    "EarlyFusion",
    "FitData",
    "FitResult",
    "FusionModule",
    "HeadOutput",
    "LateFusion",
    "LogitBiasFusion",
    "TextCentricFusion",
    "contextual_path",
]
