"""Saving and loading fitted models as a folder without pickle."""

from __future__ import annotations

from mmfuse.saving.folder import load, save

__all__ = ["load", "save"]
