"""The parts of a clinical report, computed one after the other."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mmfuse.blocks import Blocks
from mmfuse.clinical.card import card_table
from mmfuse.clinical.flow import flow_table, modality_table, pattern_table
from mmfuse.clinical.guarding import guard_findings, held_out_findings
from mmfuse.clinical.inputs import CALLER, in_order
from mmfuse.clinical.limits import limits_of
from mmfuse.clinical.reliability import calibration_curve
from mmfuse.clinical.scores import Scored, score_interval, score_names
from mmfuse.clinical.sheet import ClinicalReport
from mmfuse.clinical.subgroups import subgroup_table
from mmfuse.conformal.coverage import coverage_by_pattern
from mmfuse.estimators.classifier import FusionClassifier
from mmfuse.exceptions import ModalityNeglectWarning
from mmfuse.explanations import explain
from mmfuse.metrics import expected_calibration_error
from mmfuse.metrics._events import event_probability, event_sets
from mmfuse.metrics.net_benefit import decision_curve
from mmfuse.metrics.thresholds import operating_points
from mmfuse.report import ModalityReport, modality_report

__all__ = ["Options", "Rows", "assemble"]


@dataclass(frozen=True, eq=False)
class Options:
    """Checked arguments of `clinical_report`."""

    events: Any
    thresholds: np.ndarray
    prevalence: Any
    coverage: float
    min_rows: int
    n_bootstrap: int
    confidence: float
    guards: bool
    overlap: str
    max_modalities: int
    seed: int
    card: dict[str, str]

    @property
    def draws(self) -> dict[str, Any]:
        return {
            "n_bootstrap": self.n_bootstrap,
            "confidence": self.confidence,
            "seed": self.seed,
        }


@dataclass(frozen=True, eq=False)
class Rows:
    """All rows that were given, encoded; ``groups`` as integers, ``labels`` as they were given."""

    blocks: Blocks
    codes: np.ndarray
    reasons: np.ndarray
    groups: np.ndarray | None
    labels: np.ndarray | None
    by: dict[str, np.ndarray]
    weight: np.ndarray | None = None

    @property
    def kept(self) -> np.ndarray:
        return np.flatnonzero((self.reasons == "") & (self.codes >= 0))

    def take(self, rows: np.ndarray) -> Rows:
        return Rows(
            blocks=self.blocks[rows],
            codes=self.codes[rows],
            reasons=self.reasons[rows],
            groups=None if self.groups is None else self.groups[rows],
            labels=None if self.labels is None else self.labels[rows],
            by={name: labels[rows] for name, labels in self.by.items()},
            weight=None if self.weight is None else self.weight[rows],
        )


def assemble(model: Any, given: Rows, options: Options) -> ClinicalReport:
    """The whole report."""
    classes = np.asarray(model.classes_)
    rows = given.take(given.kept)
    _check_rows(rows)
    findings = held_out_findings(model, rows.blocks, rows.labels, options.overlap)
    scored = _score(model, rows, options, classes)
    y = classes[scored.codes]
    names = tuple(model.modalities_)
    subgroups, suppressed = subgroup_table(
        scored, rows.by, min_rows=options.min_rows, **options.draws
    )
    present = _present(rows.blocks, names)
    if options.guards:
        findings += guard_findings(rows.blocks, rows.codes, rows.groups, options.seed)
    everyone = _present(given.blocks, names)
    report = ClinicalReport(
        task=_task(scored, classes),
        classes=classes.tolist(),
        flow=flow_table(given.reasons, given.codes, classes, given.groups, everyone),
        modalities=modality_table(rows.blocks, names, rows.weight),
        patterns=pattern_table(scored, present, names, min_rows=options.min_rows, **options.draws),
        scores=score_interval(scored, score_names(scored), **options.draws),
        confusion=_confusion(scored, classes),
        prevalence={name: scored.mean(mask[scored.codes]) for name, mask in scored.events.items()},
        calibration=_calibration(scored, options),
        calibration_error=expected_calibration_error(
            y, scored.proba, classes=classes, sample_weight=scored.weight
        ),
        decision=_decision(scored, y, classes, options),
        points=_points(scored, y, classes, options),
        by={name: in_order(labels) for name, labels in rows.by.items()},
        subgroups=subgroups,
        suppressed=suppressed,
        coverage=_coverage(model, rows, y, options),
        coverage_level=float(options.coverage),
        contributions=_contributions(model, rows, y, options),
        explanation=_explanation(model, rows, options),
        findings=findings,
        guarded=bool(options.guards),
        n_rows=len(scored),
        n_effective=_worth(rows.weight),
        event_rows={name: int(mask[scored.codes].sum()) for name, mask in scored.events.items()},
        n_groups=None if scored.groups is None else scored.n_units,
        n_bootstrap=options.n_bootstrap,
        confidence=options.confidence,
        min_rows=options.min_rows,
    )
    report.limits = limits_of(report, model)
    report.card = card_table(report, model, options.card)
    return report


def _check_rows(rows: Rows) -> None:
    found = len(np.unique(rows.codes))
    if len(rows.codes) < 2 or found < 2:
        raise ValueError(
            f"{CALLER}: {len(rows.codes)} rows of {found} class(es) are left to analyse; scores "
            "need two classes or more. Look at y and excluded."
        )
    if rows.groups is not None and len(np.unique(rows.groups)) < 2:
        raise ValueError(
            f"{CALLER}: the rows left to analyse are all in one of the groups; the bootstrap draws "
            "whole groups and needs two or more."
        )


def _present(blocks: Blocks, names: tuple[str, ...]) -> np.ndarray:
    """(n, M) in the order of the model; a modality that was not given is absent."""
    found = np.zeros((len(blocks), len(names)), dtype=bool)
    for m, name in enumerate(names):
        if name in blocks.names:
            found[:, m] = blocks.present[:, blocks.names.index(name)]
    return found


def _score(model: Any, rows: Rows, options: Options, classes: np.ndarray) -> Scored:
    ordinal = getattr(model, "target", None) == "ordinal" and len(classes) > 2
    events = options.events
    if isinstance(events, str) and events == "auto":
        events = "at_least" if ordinal else "classes"
    place = {label: k for k, label in enumerate(classes.tolist())}
    said = np.asarray(model.predict(rows.blocks)).tolist()
    predicted = np.array([place[label] for label in said])
    return Scored(
        codes=rows.codes,
        predicted=predicted,
        proba=np.asarray(model.predict_proba(rows.blocks), dtype=np.float64),
        groups=rows.groups,
        events=event_sets(events, classes, CALLER),
        ordinal=ordinal,
        weight=rows.weight,
    )


def _worth(weight: np.ndarray | None) -> float | None:
    return None if weight is None else float(weight.sum() ** 2 / np.square(weight).sum())


def _task(scored: Scored, classes: np.ndarray) -> str:
    if len(classes) == 2:
        return "binary"
    return "ordinal" if scored.ordinal else "nominal"


def _confusion(scored: Scored, classes: np.ndarray) -> pd.DataFrame:
    count = len(classes)
    place = scored.codes * count + scored.predicted
    cells = np.bincount(place, weights=scored.weight, minlength=count * count)
    names = [str(label) for label in classes.tolist()]
    index = pd.Index(names, name="true")
    return pd.DataFrame(cells.reshape(count, count), index=index, columns=names)


def _calibration(scored: Scored, options: Options) -> dict[str, Any]:
    return {
        name: calibration_curve(
            event_probability(scored.proba, mask),
            mask[scored.codes],
            scored.groups,
            scored.weight,
            name=name,
            **options.draws,
        )
        for name, mask in scored.events.items()
    }


def _events(scored: Scored, classes: np.ndarray) -> dict[str, list]:
    return {name: classes[mask].tolist() for name, mask in scored.events.items()}


def _decision(scored: Scored, y: np.ndarray, classes: np.ndarray, options: Options) -> Any:
    return decision_curve(
        y,
        scored.proba,
        classes=classes,
        events=_events(scored, classes),
        prevalence=options.prevalence,
        groups=scored.groups,
        sample_weight=scored.weight,
        n_bootstrap=options.n_bootstrap,
        confidence=options.confidence,
        random_state=options.seed,
    )


def _points(scored: Scored, y: np.ndarray, classes: np.ndarray, options: Options) -> pd.DataFrame:
    return operating_points(
        y,
        scored.proba,
        classes=classes,
        events=_events(scored, classes),
        thresholds=options.thresholds,
        groups=scored.groups,
        sample_weight=scored.weight,
        n_bootstrap=options.n_bootstrap,
        confidence=options.confidence,
        random_state=options.seed,
    )


def _coverage(model: Any, rows: Rows, y: np.ndarray, options: Options) -> pd.DataFrame | None:
    store = getattr(model, "conformal_", None)
    if store is None:
        return None
    if store.strata:  # thresholds are by a column that the sheet does not have
        return None
    return coverage_by_pattern(model, rows.blocks, y, options.coverage, sample_weight=rows.weight)


def _contributions(
    model: Any, rows: Rows, y: np.ndarray, options: Options
) -> ModalityReport | None:
    if len(model.modalities_) > options.max_modalities:
        return None
    settings: Mapping[str, Any] = {
        "n_bootstrap": options.n_bootstrap,
        "confidence": options.confidence,
        "random_state": options.seed,
        "max_modalities": options.max_modalities,
        "overlap": "ignore",  # looked for already
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModalityNeglectWarning)  # the sheet says it
        return modality_report(
            model, rows.blocks, y, groups=rows.groups, sample_weight=rows.weight, **settings
        )


def _explanation(model: Any, rows: Rows, options: Options) -> pd.DataFrame | None:
    """Mean size of every modality's contribution to a class; None where it is not explained."""
    if not isinstance(model, FusionClassifier) or len(model.modalities_) > options.max_modalities:
        return None
    found = explain(model, rows.blocks, output="log_odds", max_modalities=options.max_modalities)
    return found.summary(
        by="modality",
        groups=rows.groups,
        sample_weight=rows.weight,
        n_bootstrap=options.n_bootstrap,
        confidence=options.confidence,
        random_state=options.seed,
    )
