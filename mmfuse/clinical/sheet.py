"""The clinical sheet of a fitted classifier."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from mmfuse._random import spawn_seed
from mmfuse.clinical.card import check_card
from mmfuse.clinical.inputs import (
    CALLER,
    check_count,
    check_model,
    read_by,
    read_excluded,
    read_outcome,
    read_weight,
)
from mmfuse.clinical.reliability import CalibrationCurve
from mmfuse.metrics.net_benefit import DecisionCurve
from mmfuse.metrics.resampling import check_draws, check_units
from mmfuse.report import ModalityReport

__all__ = ["ClinicalReport", "clinical_report"]


@dataclass(eq=False, repr=False)
class ClinicalReport:
    """What a reader of a prediction study asks for.

    Made by `clinical_report`; holds numbers and words.

    Attributes
    ----------
    task : {"binary", "nominal", "ordinal"}
    classes : list
        From the lowest to the highest where they are ordered.
    flow : DataFrame
        ``step``, ``kind``, ``rows`` and ``groups``: given, left out and why, analysed.
    modalities : DataFrame
        Cells of every modality by state, among the rows analysed.
    patterns : DataFrame
        Availability patterns: ``rows``, ``share``, ``accuracy`` with its interval, mean
        ``confidence`` and their ``gap``; NaN where rows are few.
    scores : DataFrame
        By score: ``value``, ``low``, ``high``, ``majority`` (the same score of always giving the
        most frequent class), and ``gain`` over it with its interval.
    confusion : DataFrame
        Rows by true (index) and predicted class; sums of weights, which are 1 on average, where
        rows have weights.
    prevalence : dict of str to float
        Share of every event.
    calibration : dict of str to CalibrationCurve
        By event.
    calibration_error : float
        Expected calibration error of the predicted class.
    decision : DecisionCurve
    points : DataFrame
        Sensitivity, specificity and predictive values at the thresholds asked for.
    by : dict of str to list of str
        Columns of subgroups, and their values.
    subgroups : DataFrame
        A line for every subgroup that may be shown.
    suppressed : list of str
        What is not shown, in words.
    coverage : DataFrame or None
        Of prediction sets, by availability pattern; None where the model has none calibrated.
    coverage_level : float
        What was asked of them.
    contributions : ModalityReport or None
        What every modality gives; None with more modalities than can be taken apart.
    explanation : DataFrame or None
        Mean size of what every modality adds to the log odds of every class, from
        `mmfuse.explain`; None for models that it does not take.
    findings : list of str
        What the guards found.
    guarded : bool
        Whether they were run.
    limits : list of str
    card : DataFrame
        Model card by item of TRIPOD+AI: ``topic``, ``filled``, ``text``, ``open``.
    n_rows : int
        Rows analysed.
    n_effective : float or None
        How many rows of equal weight they are worth (Kish); None where rows have no weights.
    event_rows : dict of str to int
        Rows with every event, not weighted.
    n_groups : int or None
    n_bootstrap : int
    confidence : float
    min_rows : int
        Below which a subgroup or a pattern has no scores.
    """

    task: str
    classes: list[Any]
    flow: pd.DataFrame
    modalities: pd.DataFrame
    patterns: pd.DataFrame
    scores: pd.DataFrame
    confusion: pd.DataFrame
    prevalence: dict[str, float]
    calibration: dict[str, CalibrationCurve]
    calibration_error: float
    decision: DecisionCurve
    points: pd.DataFrame
    by: dict[str, list[str]]
    subgroups: pd.DataFrame
    suppressed: list[str]
    coverage: pd.DataFrame | None
    coverage_level: float
    contributions: ModalityReport | None
    explanation: pd.DataFrame | None
    findings: list[str]
    guarded: bool
    n_rows: int
    n_groups: int | None
    n_effective: float | None
    event_rows: dict[str, int]
    n_bootstrap: int
    confidence: float
    min_rows: int
    limits: list[str] = field(default_factory=list)
    card: pd.DataFrame = field(default_factory=pd.DataFrame)

    def to_text(self) -> str:
        """The sheet as plain text, without the card."""
        from mmfuse.clinical.text import sheet_text

        return sheet_text(self)

    def to_html(self, title: str = "Clinical sheet") -> str:
        """One page that loads nothing, for screen and print."""
        from mmfuse.clinical.page import sheet_page

        return sheet_page(self, title)

    def to_dict(self) -> dict[str, Any]:
        """All numbers as a dictionary that JSON can hold; NaN becomes None."""
        from mmfuse.clinical.plain import sheet_dict

        return sheet_dict(self)

    def save(self, path: str | PathLike[str], *, title: str = "Clinical sheet") -> None:
        """Write the sheet to a file.

        Parameters
        ----------
        path : str or path-like
            ``.html`` gives `to_html`; ``.pdf`` the same, printed by Chromium; ``.json`` gives
            `to_dict`; ``.txt`` gives `to_text`.
        title : str, default="Clinical sheet"

        Raises
        ------
        ValueError
            If the file name ends in anything else.
        FileNotFoundError
            For ``.pdf`` without a Chromium.
        """
        path = Path(path)
        kind = path.suffix.lower()
        if kind == ".pdf":
            from mmfuse.clinical.pdf import print_pdf

            print_pdf(self.to_html(title), path)
            return
        if kind in (".html", ".htm"):
            content = self.to_html(title)
        elif kind == ".json":
            content = json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
        elif kind == ".txt":
            content = self.to_text()
        else:
            raise ValueError(
                f"ClinicalReport.save: path must end in .html, .pdf, .json or .txt; got "
                f"{str(path)!r}."
            )
        path.write_text(content.rstrip("\n") + "\n", encoding="utf-8")

    def __repr__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        from mmfuse.clinical.page import sheet_fragment

        return sheet_fragment(self)


def clinical_report(
    model: Any,
    X: Any,
    y: ArrayLike,
    *,
    by: Any = None,
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    excluded: ArrayLike | None = None,
    events: Any = "auto",
    thresholds: ArrayLike = (0.1, 0.2, 0.3, 0.5),
    prevalence: float | Mapping[str, float] | None = None,
    coverage: float = 0.9,
    card: Mapping[str, str] | None = None,
    min_rows: int = 20,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    guards: bool = True,
    overlap: str = "auto",
    max_modalities: int = 8,
    random_state: int | np.random.RandomState | None = 0,
) -> ClinicalReport:
    """Evaluate a fitted classifier as a study report needs it.

    Use rows that the model was not fitted on.

    Parameters
    ----------
    model : FusionClassifier
        Fitted, of one output (``model.output(t)`` of several).
    X : ModalityTable, DataFrame, dict or Blocks
        n rows; modalities may be absent in any of them.
    y : array-like of shape (n,)
        True classes; None or NaN where the outcome is missing. Such rows are counted and left out.
    by : list of str, DataFrame, Series or dict of columns, optional
        Subgroups, such as sex or site. Names are those of columns of X where X, or a modality of
        it, is a DataFrame. Numbers with more than 8 values are cut into thirds; a missing value is
        a subgroup of its own.
    groups : array-like of shape (n,), optional
        Such as persons. All intervals then draw whole groups, and `min_rows` counts them.
    sample_weight : array-like of shape (n,), optional
        Such as the inverse of the chance to be sampled; above 0 in every row that is analysed.
        Scores, shares, calibration, decisions, sets, contributions and their intervals are then
        weighted; only counts of rows and groups, and the search for copies and leaks, are not.
        Weights are taken as fixed, and their scale does not matter.
    excluded : array-like of shape (n,), optional
        Why a row is left out, None where it is not; or booleans.
    events : {"auto", "classes", "at_least"}, list or dict, default="auto"
        What AUC, calibration and net benefit are about, as in `mmfuse.decision_curve`; ``"auto"``
        is every step of ordered classes, and every class of others.
    thresholds : array-like, default=(0.1, 0.2, 0.3, 0.5)
        Probabilities of acting for which sensitivity and its like are given.
    prevalence : float or dict, optional
        Share of an event where the model will be used, for net benefit.
    coverage : float, default=0.9
        Asked of prediction sets.
    card : dict of str to str, optional
        Texts of the authors by item of `mmfuse.clinical.CARD_ITEMS`.
    min_rows : int, default=20
        A subgroup with fewer rows, or groups, is not shown; a pattern has no scores.
    n_bootstrap : int, default=1000
    confidence : float, default=0.95
    guards : bool, default=True
        Whether to look for copies among the rows and for modalities that know the outcome.
    overlap : {"auto", "raise", "warn", "ignore"}, default="auto"
        What to do about rows and groups that the model was fitted on, as in `modality_report`.
    max_modalities : int, default=8
        With more, contributions are left out.
    random_state : int, RandomState or None, default=0

    Returns
    -------
    ClinicalReport

    Raises
    ------
    TypeError
        If the model is no classifier.
    ValueError
        If it has several outputs, lengths differ, ``y`` has a class that the model does not know,
        fewer than two classes or rows are left, or an option is out of range.
    LeakageError
        If ``groups`` has groups that the model was fitted on, unless ``overlap`` allows it.

    Warns
    -----
    LeakageWarning
        If rows are identical to rows of the training.

    See Also
    --------
    mmfuse.modality_report : What each modality gives, for values too.

    Notes
    -----
    Calibration, net benefit and prediction sets are those of `mmfuse.clinical.reliability`,
    `mmfuse.decision_curve` and `mmfuse.conformal.coverage_by_pattern`.

    References
    ----------
    G. S. Collins et al., "TRIPOD+AI statement", BMJ, 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse import FusionClassifier, clinical_report
    >>> from mmfuse.heads import EarlyFusion
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(240) % 2
    >>> X = {"voice": y[:, None] + rng.normal(size=(240, 3)), "gait": rng.normal(size=(240, 2))}
    >>> train, test = ({name: X[name][part] for name in X} for part in (np.s_[:120], np.s_[120:]))
    >>> model = FusionClassifier(EarlyFusion(), random_state=0).fit(train, y[:120])
    >>> sex = np.where(rng.random(120) < 0.9, "female", "male")
    >>> sheet = clinical_report(model, test, y[120:], by={"sex": sex}, n_bootstrap=50)
    >>> sheet.suppressed[0]
    "sex: 'male' suppressed, with fewer than 20 rows."
    """
    from mmfuse.clinical.assemble import Options, Rows, assemble

    check_is_fitted(model, "classes_")
    check_model(model)
    check_draws(n_bootstrap, confidence, CALLER)
    options = Options(
        events=events,
        thresholds=np.atleast_1d(np.asarray(thresholds, dtype=np.float64)),
        prevalence=prevalence,
        coverage=coverage,
        min_rows=check_count(min_rows, "min_rows"),
        n_bootstrap=int(n_bootstrap),
        confidence=float(confidence),
        guards=guards,
        overlap=overlap,
        max_modalities=check_count(max_modalities, "max_modalities"),
        seed=spawn_seed(random_state),
        card=check_card(card),
    )
    blocks = model.encode(X)
    n = len(blocks)
    units = check_units(groups, n, CALLER)
    codes, reasons = read_outcome(y, n, np.asarray(model.classes_)), read_excluded(excluded, n)
    analysed = np.flatnonzero((reasons == "") & (codes >= 0))
    rows = Rows(
        blocks=blocks,
        codes=codes,
        reasons=reasons,
        weight=read_weight(sample_weight, analysed, n),
        groups=units,
        labels=None if groups is None else np.asarray(groups),
        by=read_by(by, X, n),
    )
    return assemble(model, rows, options)
