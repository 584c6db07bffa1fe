"""Checks of the contracts, to run on encoders and heads of your own. pytest is not needed."""

from mmfuse.testing.encoders import ENCODER_CHECKS, EncoderSubject, check_encoder
from mmfuse.testing.heads import HEAD_CHECKS, HeadSubject, check_head
from mmfuse.testing.sklearn_api import SKLEARN_CHECKS
from mmfuse.testing.tables import two_values, two_views

__all__ = [
    "ENCODER_CHECKS",
    "HEAD_CHECKS",
    "SKLEARN_CHECKS",
    "EncoderSubject",
    "HeadSubject",
    "check_encoder",
    "check_head",
    "two_values",
    "two_views",
]
