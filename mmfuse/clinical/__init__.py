"""The clinical sheet: what a reader of a prediction study asks for, from one call."""

from mmfuse.clinical.card import CARD_ITEMS
from mmfuse.clinical.pdf import find_browser, print_pdf
from mmfuse.clinical.sheet import ClinicalReport, clinical_report

__all__ = ["CARD_ITEMS", "ClinicalReport", "clinical_report", "find_browser", "print_pdf"]
