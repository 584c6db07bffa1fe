"""The bootstrap of a report, which is that of `mmfuse.resampling`."""

from __future__ import annotations

from mmfuse.resampling import bootstrap_means, percentile_interval

__all__ = ["bootstrap_means", "percentile_interval"]
