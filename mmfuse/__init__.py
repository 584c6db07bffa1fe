"""Multimodal fusion with a scikit-learn API.

The public names below are imported when first used, so that ``import mmfuse`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mmfuse._version import __version__

if TYPE_CHECKING:  # a type checker sees real imports; a misspelt name is an error
    from mmfuse.ablation import Ablation, ablate
    from mmfuse.blocks import Blocks
    from mmfuse.clinical import ClinicalReport, clinical_report
    from mmfuse.compose import ModalityEncoder
    from mmfuse.degrade.measure import Degradation, degradation
    from mmfuse.density.piecewise import Density
    from mmfuse.estimators.classifier import FusionClassifier, FusionRegressor
    from mmfuse.explanations import Explanation, explain, faithfulness
    from mmfuse.finetune import FineTuning
    from mmfuse.metrics.net_benefit import DecisionCurve, decision_curve
    from mmfuse.presence import Presence
    from mmfuse.report import ModalityReport, modality_report
    from mmfuse.saving.folder import load
    from mmfuse.table import ModalityTable

_HOME = {
    "Ablation": "mmfuse.ablation",
    "Blocks": "mmfuse.blocks",
    "ClinicalReport": "mmfuse.clinical",
    "DecisionCurve": "mmfuse.metrics.net_benefit",
    "Degradation": "mmfuse.degrade",
    "Density": "mmfuse.density",
    "Explanation": "mmfuse.explanations",
    "FineTuning": "mmfuse.finetune",
    "FusionClassifier": "mmfuse.estimators",
    "FusionRegressor": "mmfuse.estimators",
    "ModalityEncoder": "mmfuse.compose",
    "ModalityReport": "mmfuse.report",
    "ModalityTable": "mmfuse.table",
    "Presence": "mmfuse.presence",
    "ablate": "mmfuse.ablation",
    "clinical_report": "mmfuse.clinical",
    "decision_curve": "mmfuse.metrics.net_benefit",
    "degradation": "mmfuse.degrade",
    "explain": "mmfuse.explanations",
    "faithfulness": "mmfuse.explanations",
    "load": "mmfuse.saving",
    "modality_report": "mmfuse.report",
}
_SUBMODULES = (
    "calibration",
    "conformal",
    "corruptions",
    "datasets",
    "encoders",
    "explanations",
    "guards",
    "heads",
    "metrics",
    "plotting",
    "severity",
    "solver",
    "testing",
)

__all__ = [
    "Ablation",
    "Blocks",
    "ClinicalReport",
    "DecisionCurve",
    "Degradation",
    "Density",
    "Explanation",
    "FineTuning",
    "FusionClassifier",
    "FusionRegressor",
    "ModalityEncoder",
    "ModalityReport",
    "ModalityTable",
    "Presence",
    "__version__",
    "ablate",
    "clinical_report",
    "decision_curve",
    "degradation",
    "explain",
    "faithfulness",
    "load",
    "modality_report",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name in _SUBMODULES:
        value = import_module(f"mmfuse.{name}")
    else:
        raise AttributeError(f"module 'mmfuse' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES])
