"""Small real data sets that come with mmfuse; nothing is downloaded."""

from mmfuse.datasets.av_digits import export_av_digits, load_av_digits

__all__ = ["export_av_digits", "load_av_digits"]
