"""A model card in the order of TRIPOD+AI: what the sheet can fill in, and what the authors must."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from mmfuse.clinical.inputs import CALLER

if TYPE_CHECKING:
    from mmfuse.clinical.sheet import ClinicalReport

__all__ = ["CARD_ITEMS", "OPEN", "card_table", "check_card"]

OPEN = "To be filled in by the authors"

CARD_ITEMS: dict[str, tuple[str, str]] = {
    "1": ("Title", "population, outcome, and whether a model is made or evaluated"),
    "2": ("Abstract", "a structured summary"),
    "3a": ("Background", "the health problem, and why a prediction is needed"),
    "3b": ("Intended use", "for whom, by whom, at which point of care, and for which decision"),
    "3c": ("Known inequalities", "between social and demographic groups, in this problem"),
    "4": ("Objectives", "development, evaluation, or both"),
    "5a": ("Sources of data", "of training and of evaluation, and why they represent the target"),
    "5b": ("Dates", "start and end of recruitment, and of follow-up"),
    "6a": ("Setting", "kind and number of centres, and where they are"),
    "6b": ("Eligibility", "who could take part, and who could not"),
    "6c": ("Treatments", "what participants received that may change the outcome"),
    "7": ("Preparation of data", "cleaning and quality checks, alike in all groups or not"),
    "8a": ("Outcome", "definition, time, how and by whom it was rated"),
    "8b": ("Raters of the outcome", "their training and their agreement"),
    "8c": ("Blinding of outcome", "whether raters knew the recordings or the predictions"),
    "9a": ("Choice of predictors", "why these modalities"),
    "9b": ("Predictors", "how and when each was recorded"),
    "9c": ("Raters of predictors", "for what people had to judge"),
    "10": ("Sample size", "how it was arrived at"),
    "11": ("Missing data", "why they are missing, and how that was handled"),
    "12a": ("Use of data", "how rows were divided into training and evaluation"),
    "12b": ("Handling of predictors", "transformations, scaling, encoders"),
    "12c": ("Model", "kind, steps of fitting, hyperparameters, internal validation"),
    "12d": ("Clusters", "differences between centres or persons, and how they were handled"),
    "12e": ("Measures of performance", "which, and why"),
    "12f": ("Updating", "recalibration for the rows of the evaluation"),
    "12g": ("How predictions were made", "code, tool or formula"),
    "13": ("Class imbalance", "what was done about it, and what that does to risks"),
    "14": ("Fairness", "what was done to find or lessen it"),
    "15": ("Output", "probabilities or classes, and thresholds if there are any"),
    "16": ("Training and evaluation", "differences of setting, eligibility, outcome, predictors"),
    "17": ("Ethics", "committee, consent"),
    "18a": ("Funding", "and the part that funders had"),
    "18b": ("Conflicts of interest", "of all authors"),
    "18c": ("Protocol", "where it can be read"),
    "18d": ("Registration", "number and register"),
    "18e": ("Data sharing", "whether and where"),
    "18f": ("Code sharing", "whether and where"),
    "19": ("Patients and public", "how they took part in the study"),
    "20a": ("Flow of participants", "numbers at every step"),
    "20b": ("Characteristics", "of participants, by group and centre"),
    "20c": ("Comparison with training", "of the distribution of important predictors"),
    "21": ("Numbers", "of rows and events in every analysis"),
    "22": ("The full model", "so that others can apply it"),
    "23a": ("Performance", "with intervals"),
    "23b": ("Heterogeneity", "of performance between groups and clusters"),
    "24": ("Results of updating", "if there was any"),
    "25": ("Interpretation", "in the light of objectives and earlier studies, fairness included"),
    "26": ("Limitations", "such as samples that do not represent the target, size, overfitting"),
    "27a": ("Poor or missing input", "what the model does with it in use"),
    "27b": ("Users", "what they must do and know"),
    "27c": ("Next steps", "what is to be studied before use"),
}
"""Topic and what belongs there, by item of the checklist, in our own words."""


def check_card(card: Mapping[str, str] | None) -> dict[str, str]:
    """Texts of the authors, by item."""
    if card is None:
        return {}
    for item, text in card.items():
        if item not in CARD_ITEMS:
            raise ValueError(
                f"{CALLER}: card has the item {item!r}, which is none of TRIPOD+AI; items are "
                f"{', '.join(CARD_ITEMS)}."
            )
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{CALLER}: card[{item!r}] must be text; got {text!r}.")
    return dict(card)


def card_table(report: ClinicalReport, model: Any, texts: Mapping[str, str]) -> pd.DataFrame:
    """The card: ``topic``, ``filled`` ("sheet", "authors", "both" or "open") and ``text``.

    References
    ----------
    G. S. Collins et al., "TRIPOD+AI statement: updated guidance for reporting clinical prediction
    models that use regression or machine learning methods", BMJ, 2024. Topics follow its numbers,
    the words are ours; what it asks is to be read there.
    """
    found = _facts(report) | _model_facts(model)
    lines = {}
    for item, (topic, hint) in CARD_ITEMS.items():
        fact, text = found.get(item, ""), texts.get(item, "")
        kind = {(0, 0): "open", (1, 0): "sheet", (0, 1): "authors", (1, 1): "both"}
        filled = kind[bool(fact), bool(text)]
        open_part = "" if text or item in _COMPLETE else f"{OPEN}: {hint}."
        lines[item] = {
            "topic": topic,
            "filled": filled,
            "text": " ".join(part for part in (fact, text) if part),
            "open": open_part,
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("item")


_COMPLETE = ("12e", "15", "20a", "21", "23a", "24", "27a")
"""Items to which the authors need not add anything."""


def _facts(report: ClinicalReport) -> dict[str, str]:
    """What the numbers of the sheet say, by item."""
    step = report.flow.set_index("step")["rows"]
    lacking = int(step["left out: outcome missing"])
    units = "" if report.n_groups is None else f" in {report.n_groups} groups"
    drawn = "rows" if report.n_groups is None else "whole groups"
    events = "; ".join(f"{event}: {hits}" for event, hits in report.event_rows.items())
    cells = "; ".join(
        f"{name} in {row['present']} of {report.n_rows} rows"
        for name, row in report.modalities.iterrows()
    )
    shown = 0 if report.subgroups.empty else len(report.subgroups)
    facts = {
        "4": "Evaluation of a fitted model.",
        "10": f"{report.n_rows} rows{units}. Events: {events}.",
        "11": f"{lacking} rows without an outcome were left out. Modalities: {cells}. Nothing was "
        "imputed: every row is answered from the modalities that it has.",
        "12e": f"{', '.join(report.scores.index)}; calibration intercept and slope; net benefit. "
        f"{100 * report.confidence:.4g}% percentile intervals from {report.n_bootstrap} bootstrap "
        f"draws of {drawn}. Every score is set beside that of the majority class.",
        "12f": "None within this sheet: the model is scored as it was given.",
        "15": f"Probabilities of {', '.join(map(str, report.classes))}; no threshold is built in.",
        "20a": "See the participants' flow above.",
        "21": f"{report.n_rows} rows; {events}.",
        "23a": "See discrimination, calibration and net benefit above.",
        "24": "None.",
        "26": "See the limits above.",
        "27a": "A modality that is absent, empty or could not be read is left out of the answer "
        "for that row; a row with none gets the shares of the classes in training.",
    }
    if shown:
        facts["14"] = f"Scores of {shown} subgroups are above; intervals hold one by one."
        facts["23b"] = "See the subgroups above, and the availability patterns."
    if report.n_groups is not None:
        facts["12d"] = "Intervals draw whole groups."
    return facts


def _model_facts(model: Any) -> dict[str, str]:
    """What a fitted model of mmfuse says of itself, by item."""
    from mmfuse._version import __version__

    facts = {"12g": f"mmfuse {__version__}, {type(model).__name__}.predict_proba."}
    dims = getattr(model, "block_dims_", None)
    if dims is None:
        return facts
    encoders = getattr(model, "encoders_", None) or {}
    parts = []
    for name, width in dims.items():
        encoder = encoders.get(name)
        by = "given as numbers" if encoder is None else f"by {type(encoder).__name__}"
        parts.append(f"{name} ({width} features, {by})")
    facts["12b"] = f"Modalities: {'; '.join(parts)}; standardised by their training mean and scale."
    head = getattr(model, "fusion_head_", None) or getattr(model, "head", None)
    calibrator = getattr(model, "calibrator_", None)
    how = "not calibrated" if calibrator is None else f"calibrated by {type(calibrator).__name__}"
    facts["12c"] = (
        f"{type(model).__name__}, head {head if isinstance(head, str) else type(head).__name__}, "
        f"cv={getattr(model, 'cv', None)!r}; probabilities {how}"
        + (" on out-of-fold rows of training." if calibrator is not None else ".")
    )
    weight = getattr(model, "class_weight", None)
    facts["13"] = f"class_weight={weight!r} in fitting."
    record = getattr(model, "training_record_", None)
    if record is not None:
        groups = "" if record.groups is None else f", {len(record.groups)} groups"
        facts["12a"] = f"Fitted on {len(record.rows)} different rows{groups}."
    facts["22"] = "The folder that model.save writes holds all weights and parameters."
    return facts
