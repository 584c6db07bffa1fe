"""What is said at the head of every section of a sheet."""

from __future__ import annotations

__all__ = ["ALTERNATIVES", "EXPLANATION", "WORDS"]

WORDS = {
    "flow": (
        "Participants' flow",
        "Every row that was given is counted once: left out, with the reason, or analysed.",
    ),
    "patterns": (
        "Who has what",
        "Modalities by state, then every combination that rows have. Confidence is the mean "
        "probability of the predicted class; where it is above the accuracy, the model is too sure "
        "of itself for that combination.",
    ),
    "discrimination": (
        "Discrimination",
        "Can the model tell rows apart? AUC is the chance that of two rows, one with and one "
        "without the event, the first has the higher risk; 0.5 is a coin. Balanced accuracy is the "
        "mean share found of each class. The majority column is the same score of always giving "
        "the most frequent class of these rows, with the shares of the classes as probabilities; "
        "log loss, Brier score and ranked probability score are better when lower.",
    ),
    "calibration": (
        "Calibration",
        "Of rows with a predicted risk of 30%, 30% should have the event. Circles: bins of rows "
        "with intervals; line and band: smooth curve; dashed: perfect. An intercept of 0 and a "
        "slope of 1 are right; a slope below 1 means that risks are too extreme.",
    ),
    "decision": (
        "Decision curve",
        "Whoever acts from a risk of t on holds a false alarm for t / (1 - t) times as bad as a "
        "case found is good. Net benefit counts both; a model is of use at thresholds at which it "
        "lies above acting on all (dashed) and on none (dotted). PPV and NPV are the shares of "
        "right answers among the flagged and among the others, at the prevalence here.",
    ),
    "subgroups": (
        "Subgroups",
        "The same scores by subgroup. Subgroups that are too small are not shown, neither scores "
        "nor counts, for the sake of the people in them and of the reader.",
    ),
    "coverage": (
        "Prediction sets",
        "A prediction set holds all classes that cannot be ruled out. How often does it hold the "
        "true one, for every combination of modalities, and how large is it?",
    ),
    "contributions": (
        "What each modality gives",
        "Each modality is hidden in turn while all others stay. A modality on which the model "
        "relies raises the log loss when it is removed; two that say the same can each be removed "
        "without loss. The Shapley share divides the gain over the prior among them.",
    ),
    "limits": ("Limits", "Stated by the sheet from its own numbers; there are others."),
    "card": (
        "Model card",
        "In the order of TRIPOD+AI. What stands upright was filled in from the model, the numbers "
        "or the authors; what is marked by a double line and in italics is for the authors to fill "
        "in.",
    ),
}
"""Title and first paragraph by section, HTML."""

EXPLANATION = (
    "Mean size over rows of what a modality adds to the log odds of a class (exact Shapley values "
    "of single rows, in nats; zero where the modality is absent), and its mean with sign."
)

ALTERNATIVES = {
    "calibration": "Observed against predicted risk, as in the table below.",
    "decision": "Net benefit over thresholds, beside acting on all and on none.",
    "subgroups": "Scores by subgroup with intervals, as in the table below.",
    "coverage": "Coverage and size of prediction sets by pattern, as in the table below.",
    "contributions": "Change when a modality is removed, with intervals, as in the table below.",
}
