"""Explanations: what modalities, features and inputs add to the answer for a row."""

from mmfuse.explanations.display import ExplanationDisplay, FaithfulnessDisplay
from mmfuse.explanations.explain import explain
from mmfuse.explanations.explanation import Explanation, RowExplanation
from mmfuse.explanations.faithfulness import Faithfulness, faithfulness
from mmfuse.explanations.inputs import InputExplanation, explain_bands, explain_inputs
from mmfuse.explanations.summary import Stability, refit, stability

__all__ = [
    "Explanation",
    "ExplanationDisplay",
    "Faithfulness",
    "FaithfulnessDisplay",
    "InputExplanation",
    "RowExplanation",
    "Stability",
    "explain",
    "explain_bands",
    "explain_inputs",
    "faithfulness",
    "refit",
    "stability",
]
