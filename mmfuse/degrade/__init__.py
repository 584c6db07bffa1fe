"""How a fitted model degrades: with modalities missing, and with each of them corrupted."""

from __future__ import annotations

from mmfuse.degrade.measure import Degradation, degradation

__all__ = ["Degradation", "degradation"]
