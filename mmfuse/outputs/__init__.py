"""What FusionRegressor may learn of a value: one file for each kind of answer."""

from __future__ import annotations

from mmfuse.outputs.base import Output
from mmfuse.outputs.binned import BinnedOutput
from mmfuse.outputs.mixture import MixtureOutput
from mmfuse.outputs.point import PointOutput
from mmfuse.outputs.quantiles import QuantileOutput

__all__ = ["OUTPUTS", "Output"]

OUTPUTS: dict[str, Output] = {
    kind.name: kind for kind in (PointOutput(), BinnedOutput(), QuantileOutput(), MixtureOutput())
}
