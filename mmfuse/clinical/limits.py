"""What a sheet cannot say, as far as its numbers show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mmfuse.clinical.sheet import ClinicalReport

__all__ = ["limits_of"]

_FEWEST_EVENTS = 100


def limits_of(report: ClinicalReport, model: Any) -> list[str]:
    """The limits in words, those of the data first."""
    found = [
        *_size(report),
        *_missing(report),
        *_worth(report),
        *_patterns(report),
        *_subgroups(report),
        *_probabilities(report, model),
        *_sets(report, model),
        *_origin(report, model),
    ]
    found.append(
        "Intervals hold for one number each and say how it would move with other rows of the same "
        "kind, not with another centre, year or device."
    )
    return found


def _size(report: ClinicalReport) -> list[str]:
    units = "" if report.n_groups is None else f" in {report.n_groups} groups"
    found = [f"The sheet rests on {report.n_rows} rows{units}."]
    few = []
    if report.n_effective is not None:
        found.append(
            f"Rows are weighted and are worth about {report.n_effective:.0f} of equal weight. "
            "Counts of rows and groups are not weighted; intervals take the weights as fixed."
        )
    for event, hits in report.event_rows.items():
        fewer = min(hits, report.n_rows - hits)
        if fewer < _FEWEST_EVENTS:
            few.append(f"{event} ({hits} with, {report.n_rows - hits} without)")
    if few:
        found.append(
            f"Fewer than {_FEWEST_EVENTS} rows with or without the event, too few for a firm "
            f"judgement of calibration: {'; '.join(few)}."
        )
    if report.n_groups is None:
        found.append(
            "No groups were given: intervals take every row for a person of its own. Pass groups "
            "if a person has several rows."
        )
    return found


def _missing(report: ClinicalReport) -> list[str]:
    rows = report.flow.set_index("step")["rows"]
    found = []
    if rows["left out: outcome missing"]:
        found.append(
            f"Rows without an outcome were left out ({rows['left out: outcome missing']}); if they "
            "differ from the others, scores do not hold for them."
        )
    nothing = rows["nothing recorded, answered by the prior"]
    if nothing:
        found.append(f"Rows without any modality are answered by the prior ({nothing}).")
    return found


def _worth(report: ClinicalReport) -> list[str]:
    row = report.scores.loc["accuracy"]
    if row["gain_low"] > 0:
        return []
    return [
        "The accuracy is not measurably above that of always answering the most frequent class "
        f"({row['value']:.3f} against {row['majority']:.3f})."
    ]


def _patterns(report: ClinicalReport) -> list[str]:
    few = report.patterns[report.patterns["rows"] < report.min_rows]
    if few.empty:
        return []
    listed = "; ".join(f"{p} ({n})" for p, n in zip(few["pattern"], few["rows"], strict=True))
    return [f"Patterns with fewer than {report.min_rows} rows have no scores: {listed}."]


def _subgroups(report: ClinicalReport) -> list[str]:
    if not report.by:
        return ["No subgroups were given: whether the model serves all people alike is unknown."]
    found = [f"Subgroups: {note}" for note in report.suppressed]
    if len(report.subgroups) > 1:
        found.append(
            f"{len(report.subgroups)} subgroups were looked at; of so many, some differ by chance."
        )
    return found


def _probabilities(report: ClinicalReport, model: Any) -> list[str]:
    found = []
    calibrator = getattr(model, "calibrator_", None)
    if calibrator is not None:
        found.append(
            "Probabilities were calibrated on out-of-fold rows of the training data; where "
            "outcomes are more or less frequent than there, they are off."
        )
    elif hasattr(model, "calibrator_"):
        found.append("Probabilities were not calibrated after fitting.")
    for curve in report.calibration.values():
        slope = curve.summary.loc["slope"]
        if np.isfinite(slope["low"]) and not slope["low"] <= 1 <= slope["high"]:
            extreme = "too extreme" if slope["high"] < 1 else "too timid"
            found.append(f"Risks of {curve.event} are {extreme} (slope {slope['value']:.2f}).")
        shift = curve.summary.loc["intercept"]
        if np.isfinite(shift["low"]) and not shift["low"] <= 0 <= shift["high"]:
            side = "low" if shift["low"] > 0 else "high"
            found.append(f"Risks of {curve.event} are too {side} on average.")
    found.append("Net benefit is that at the prevalence among these rows, unless one was given.")
    return found


def _sets(report: ClinicalReport, model: Any) -> list[str]:
    if report.coverage is None:
        return ["Prediction sets were not checked: the model has none calibrated."]
    origin = getattr(model.conformal_, "origin", "out-of-fold")
    if origin == "out-of-fold":
        return [
            "Prediction sets rest on out-of-fold scores, for which coverage is expected and not "
            "guaranteed; model.conformalize with rows of their own gives the guarantee."
        ]
    return ["Coverage of prediction sets is guaranteed on average over people, not for one person."]


def _origin(report: ClinicalReport, model: Any) -> list[str]:
    record = getattr(model, "training_record_", None)
    if record is None:
        return ["The model keeps no record of its training rows: overlap could not be looked for."]
    if record.groups is None or report.n_groups is None:
        return [
            "Whether persons are in training and here could not be looked for: groups are needed "
            "in fitting and here."
        ]
    return []
