"""Errors and warnings of mmfuse."""

from __future__ import annotations

__all__ = [
    "EncodingError",
    "LeakageError",
    "LeakageWarning",
    "ModalityNeglectWarning",
    "SampleError",
    "SavedModelError",
    "UnsupportedObjectiveError",
    "WeightsNotFoundError",
]


class SampleError(ValueError):
    """One raw sample could not be read; raised by ``preprocess``, which knows no row."""


class EncodingError(ValueError):
    """A cell could not be encoded; names the modality, the row and the file."""


class WeightsNotFoundError(FileNotFoundError):
    """Pretrained weights are not on this machine; says where they were sought and the cure."""


class SavedModelError(ValueError):
    """A saved model folder is incomplete, altered, or holds something that is not trusted."""


class UnsupportedObjectiveError(ValueError):
    """A head, or an estimator inside it, cannot learn what was asked; says what can."""


class ModalityNeglectWarning(UserWarning):
    """A fitted model does not use one of its modalities."""


class LeakageError(ValueError):
    """Groups that a model learned from are on the other side too; names them."""


class LeakageWarning(UserWarning):
    """A score is likely to be too good: rows, groups or the target have leaked."""
