"""Small data sets that come with mmfuse, and readers of folders; nothing is downloaded."""

from mmfuse.datasets.av_digits import export_av_digits, load_av_digits
from mmfuse.datasets.kitti import read_kitti
from mmfuse.datasets.photoz import load_photoz

__all__ = ["export_av_digits", "load_av_digits", "load_photoz", "read_kitti"]
