"""The modality report: what each modality gives to a fitted model."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted

from mmfuse._random import spawn_seed
from mmfuse.blocks import Blocks
from mmfuse.exceptions import ModalityNeglectWarning
from mmfuse.presence import Presence
from mmfuse.report.checks import (
    as_task,
    check_groups,
    check_one_output,
    check_options,
    check_rows,
    check_weight,
)
from mmfuse.report.subsets import BASELINE, ClassificationTask, SubsetScores, Task, score_subsets
from mmfuse.report.tables import (
    baseline_entry,
    baseline_note,
    cell_states,
    draw_scores,
    fusion_note,
    loss_change,
    modality_frame,
    neglect_note,
    part_note,
    rounding,
    subset_frame,
)
from mmfuse.report.text import report_text
from mmfuse.training_record import check_held_out

if TYPE_CHECKING:
    from mmfuse.plotting import ModalityReportDisplay

__all__ = ["ModalityReport", "modality_report"]


@dataclass(frozen=True, eq=False, repr=False)
class ModalityReport:
    """Scores of every subset of modalities, and what each modality adds.

    Made by `modality_report`; holds numbers only. ``<loss>`` is ``log_loss`` for classifiers and
    ``rmse`` for regressors, ``<score>`` is ``accuracy`` or ``r2``.

    Attributes
    ----------
    task : {"classification", "regression"}
        Kind of target.
    subsets : DataFrame
        One row per subset of the modalities, indexed by its label, such as ``"image + audio"``.
        ``n_modalities``; ``n_rows`` with at least one of them present (all other rows are
        predicted from the training prior); ``<score>``, ``<loss>``, and ``ece`` or ``mae``.
    members : list of tuple of str
        Modalities of each row of ``subsets``.
    modalities : DataFrame
        One row per modality: cells ``present``, ``absent``, ``failed``, ``empty``;
        ``<score>_alone`` and ``<loss>_alone`` from it alone; ``<score>_without`` and
        ``<loss>_without`` from all others; ``<loss>_change`` and ``<score>_change`` when it is
        removed from the full set, with ``_low`` and ``_high`` ends of the bootstrap interval;
        ``shapley_<loss>`` (share of the reduction of the loss below that of the prior),
        ``shapley_<loss>_percent`` (NaN if there is no reduction) and ``shapley_<score>``;
        ``prediction_change``, how far predictions move when it is removed, in rows that have it:
        probability that moves to other classes, or standard deviations of the target;
        ``contributes``, False where the interval of ``<loss>_change`` is not above zero; less
        than a millionth of the loss of the prior counts as zero.
    reliability : DataFrame or None
        Bins of the reliability diagram of the full model; None for regressors.
    warnings : list of str
        What deserves attention, in words.
    best_single : str
        Modality with the lowest loss alone.
    fusion_change : tuple of float
        Loss of the full set less that of ``best_single``, and its interval: (value, low, high).
    fusion_worse : bool
        True when that interval lies above zero.
    best_part : tuple of str
        The subset with the lowest loss among those that lack a modality.
    part_change : tuple of float
        As ``fusion_change``, against ``best_part``; its interval is widened for the choice among
        all parts (Bonferroni).
    baseline : dict
        ``name``, ``<score>``, ``<loss>`` and ``ece`` or ``mae`` of a prediction that looks at
        nothing and knows the class frequencies, or the mean, of these very rows; of classes its
        accuracy is that of the most common one. ``<loss>_change`` is the loss of the full set less
        its own, with ``_low`` and ``_high``.
    n_rows : int
        Rows that were scored; rows of weight zero are left out.
    n_groups : int or None
        Groups that the bootstrap drew; None when it drew rows.
    n_bootstrap : int
        Bootstrap replicates.
    confidence : float
        Confidence of the intervals.
    """

    task: str
    subsets: pd.DataFrame
    members: list[tuple[str, ...]]
    modalities: pd.DataFrame
    reliability: pd.DataFrame | None
    warnings: list[str]
    best_single: str
    fusion_change: tuple[float, float, float]
    fusion_worse: bool
    best_part: tuple[str, ...]
    part_change: tuple[float, float, float]
    baseline: dict[str, Any]
    n_rows: int
    n_groups: int | None
    n_bootstrap: int
    confidence: float

    @property
    def loss(self) -> str:
        """Name of the metric that is lower when better."""
        return "log_loss" if self.task == "classification" else "rmse"

    @property
    def score(self) -> str:
        """Name of the metric that is higher when better."""
        return "accuracy" if self.task == "classification" else "r2"

    def to_frame(self) -> pd.DataFrame:
        """Give a copy of the subset table."""
        return self.subsets.copy()

    def to_text(self) -> str:
        """Give the report as plain text."""
        return report_text(self)

    def to_dict(self) -> dict[str, Any]:
        """Give all numbers as a dictionary that JSON can hold; NaN becomes None."""
        modalities = self.modalities.rename_axis("modality").reset_index()
        subsets = self.subsets.reset_index(drop=True)
        subsets.insert(0, "modalities", [list(names) for names in self.members])
        content = {
            name: getattr(self, name)
            for name in ("task", "n_rows", "n_groups", "n_bootstrap", "confidence", "warnings")
        }
        content["best_single"] = self.best_single
        content["fusion_change"] = list(self.fusion_change)
        content["fusion_worse"] = self.fusion_worse
        content["best_part"] = list(self.best_part)
        content["part_change"] = list(self.part_change)
        content["baseline"] = self.baseline
        content["subsets"] = subsets.to_dict("records")
        content["modalities"] = modalities.to_dict("records")
        if self.reliability is not None:
            content["reliability"] = self.reliability.to_dict("records")
        return _plain(content)

    def plot(self, axes: Any = None) -> ModalityReportDisplay:
        """Draw the report with matplotlib.

        Parameters
        ----------
        axes : array-like of six matplotlib axes, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        ModalityReportDisplay
            Has ``figure_`` and ``axes_``.
        """
        from mmfuse.plotting import ModalityReportDisplay

        return ModalityReportDisplay(self).plot(axes)

    def save(self, path: str | PathLike[str], *, title: str = "Modality report") -> None:
        """Write the report to a file.

        Parameters
        ----------
        path : str or path-like
            ``.html`` gives one self-contained page with plots; ``.json`` gives `to_dict`;
            ``.txt`` gives `to_text`.
        title : str, default="Modality report"
            Title of the page.

        Raises
        ------
        ValueError
            If the file name ends in anything else.
        """
        from mmfuse.report.html import report_page

        path = Path(path)
        kind = path.suffix.lower()
        if kind in (".html", ".htm"):
            content = report_page(self, title)
        elif kind == ".json":
            content = json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
        elif kind == ".txt":
            content = self.to_text()
        else:
            raise ValueError(
                f"ModalityReport.save: path must end in .html, .json or .txt; got {str(path)!r}."
            )
        path.write_text(content.rstrip("\n") + "\n", encoding="utf-8")

    def __repr__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        from mmfuse.report.html import report_fragment

        return report_fragment(self)


def modality_report(
    model: Any,
    X: Any,
    y: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    random_state: int | np.random.RandomState | None = 0,
    max_modalities: int = 8,
    overlap: str = "auto",
) -> ModalityReport:
    """Measure what each modality gives to a fitted model.

    The rows are encoded once, every subset of the modalities is predicted by hiding the others,
    and three questions are answered: how good is each subset, what is lost when one modality is
    removed, and how is the gain over the training prior shared among the modalities.

    Use rows that the model was not fitted on.

    Parameters
    ----------
    model : FusionClassifier or FusionRegressor
        Fitted estimator.
    X : ModalityTable, Blocks or anything that the model accepts
        Rows to score; modalities may be absent in any of them.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        True classes, or values.
    groups : array-like of shape (n_samples,), default=None
        Group of each row, such as the patient. The bootstrap then draws whole groups.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each row. Rows of weight zero are left out.
    n_bootstrap : int, default=1000
        Bootstrap replicates.
    confidence : float, default=0.95
        Confidence of the percentile intervals.
    random_state : int, RandomState or None, default=0
        Source of the bootstrap draws.
    max_modalities : int, default=8
        Limit on the number of modalities, since M of them have 2**M subsets.
    overlap : {"auto", "raise", "warn", "ignore"}, default="auto"
        What to do about rows and ``groups`` that the model was fitted on: ``"auto"`` refuses such
        groups and warns of identical rows.

    Returns
    -------
    ModalityReport
        Tables, warnings, plots.

    Warns
    -----
    ModalityNeglectWarning
        For each modality whose removal does not measurably raise the loss; when the model is worse
        than its best single modality, or than its best subset of several; and when it is not
        measurably better than always giving the class frequencies, or the mean, of these rows.
    LeakageWarning
        If the model was fitted on some of these very rows.

    Raises
    ------
    ValueError
        If lengths differ, ``y`` has missing values or a class that the model does not know, there
        are more than ``max_modalities`` modalities, or an option is out of range.

    References
    ----------
    L. S. Shapley, "A value for n-person games", Contributions to the Theory of Games II, 1953.
    B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse import FusionClassifier, modality_report
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(400) % 2
    >>> face = y[:, None] + rng.normal(size=(400, 3))
    >>> hat = rng.normal(size=(400, 2))
    >>> model = FusionClassifier(random_state=0)
    >>> model = model.fit({"face": face[:200], "hat": hat[:200]}, y[:200])
    >>> report = modality_report(model, {"face": face[200:], "hat": hat[200:]}, y[200:])
    >>> report.modalities["contributes"].to_dict()
    {'face': True, 'hat': False}
    """
    check_is_fitted(model, "modalities_")
    check_one_output(model)
    names = tuple(model.modalities_)
    check_options(names, n_bootstrap, confidence, max_modalities)
    blocks = X if isinstance(X, Blocks) else model.encode(X)
    y = check_rows(y, "y", len(blocks))
    weight = check_weight(sample_weight, len(blocks))
    codes = check_groups(groups, len(blocks), weight > 0)
    check_held_out(model, blocks, groups, overlap=overlap, caller="modality_report")
    if not (weight > 0).all():
        rows = np.flatnonzero(weight > 0)
        blocks, y, weight = blocks[rows], y[rows], weight[rows]
        codes = None if codes is None else codes[rows]
    task = as_task(y, weight, model.classes_ if is_classifier(model) else None)
    scores = score_subsets(model, blocks, names, task)
    rng = np.random.default_rng(spawn_seed(random_state))
    samples = draw_scores(scores, task, codes, n_bootstrap, rng)
    report = _assemble(names, blocks, task, scores, samples, codes, n_bootstrap, confidence)
    for message in report.warnings:
        warnings.warn(message, ModalityNeglectWarning, stacklevel=2)
    return report


def _assemble(
    names: tuple[str, ...],
    blocks: Blocks,
    task: Task,
    scores: SubsetScores,
    samples: dict[int, tuple[np.ndarray, np.ndarray]],
    groups: np.ndarray | None,
    n_bootstrap: int,
    confidence: float,
) -> ModalityReport:
    states = cell_states(blocks, names)
    subsets, members = subset_frame(names, states == Presence.PRESENT, task, scores)
    modalities = modality_frame(names, states, task, scores, samples, confidence)
    full = len(scores.loss) - 1
    best = min(range(len(names)), key=lambda i: scores.loss[1 << i])
    change = loss_change(scores, samples, 1 << best, scores.loss[1 << best], confidence)
    worse = len(names) > 1 and change[1] > rounding(scores)
    part = scores.best_part
    wider = 1.0 - (1.0 - confidence) / max(full - 1, 1)
    part_change = loss_change(scores, samples, part, scores.loss[part], wider)
    best_part = tuple(name for i, name in enumerate(names) if part >> i & 1)
    bottom = loss_change(scores, samples, BASELINE, scores.baseline[1], confidence)
    notes = [neglect_note(row, task, len(blocks), confidence) for _, row in modalities.iterrows()]
    if worse:
        notes.append(fusion_note(names[best], task, scores, change, 1 << best, confidence))
    elif len(best_part) > 1 and part_change[1] > rounding(scores):
        notes.append(part_note(best_part, task, scores, part_change, confidence))
    if bottom[2] > -rounding(scores):
        notes.append(baseline_note(task, scores, bottom, confidence))
    reliability = None
    if isinstance(task, ClassificationTask):
        reliability = pd.DataFrame(task.reliability(scores.full))
    return ModalityReport(
        task=task.kind,
        subsets=subsets,
        members=members,
        modalities=modalities,
        reliability=reliability,
        warnings=[note for note in notes if note],
        best_single=names[best],
        fusion_change=change,
        fusion_worse=worse,
        best_part=best_part,
        part_change=part_change,
        baseline=baseline_entry(task, scores, bottom),
        n_rows=len(blocks),
        n_groups=None if groups is None else len(np.unique(groups)),
        n_bootstrap=int(n_bootstrap),
        confidence=float(confidence),
    )


def _plain(value: Any) -> Any:
    """The same content in types that JSON can hold."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
