"""The modality report: what each modality is worth to a fitted model."""

from mmfuse.report.modality_report import ModalityReport, modality_report

__all__ = ["ModalityReport", "modality_report"]
