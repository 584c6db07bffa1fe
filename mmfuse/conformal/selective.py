"""Answering only where the error rate among the answers is under control."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from mmfuse.conformal.risk_control import TESTS, RiskControl, clopper_pearson, controlled_threshold
from mmfuse.conformal.thresholds import check_min_rows, name_pattern
from mmfuse.multi_output import one_output
from mmfuse.targets import check_groups
from mmfuse.training_record import check_held_out

__all__ = ["AbstentionMixin"]

_OTHER = "other patterns"


class AbstentionMixin:
    """`control_risk`, `answered` and `predict_or_abstain` of `FusionClassifier`."""

    @available_if(one_output)
    def control_risk(
        self,
        X: Any,
        y: Any,
        groups: Any = None,
        *,
        risk: float = 0.1,
        confidence: float = 0.95,
        by_pattern: bool = True,
        min_rows: int = 100,
        test: str = "fixed-sequence",
        random_state: Any = None,
        overlap: str = "auto",
    ) -> Any:
        """Choose how sure the model must be to answer, so that few answers are wrong.

        Parameters
        ----------
        X : ModalityTable, DataFrame, dict, array or Blocks
            n rows that took no part in ``fit``.
        y : array-like of shape (n,)
            True classes.
        groups : array-like of shape (n,), optional
            Such as patients. One row of each, drawn at random, is used: errors within a group are
            not independent.
        risk : float, default=0.1
            Largest share of wrong answers among the answers.
        confidence : float, default=0.95
            Chance, over draws of the calibration rows, that the risk is kept.
        by_pattern : bool, default=True
            A threshold for every availability pattern with ``min_rows`` rows. Each keeps the risk
            by itself with that confidence; not all of them at once.
        min_rows : int, default=100
            Patterns with fewer rows share one threshold, which keeps the risk for them as a whole.
        test : {"fixed-sequence", "bonferroni"}, default="fixed-sequence"
            ``"fixed-sequence"`` lowers the threshold as long as the exact binomial test (that of
            the Clopper-Pearson bound) shows the risk to be kept, and starts where ``10 / risk``
            rows, or all, are answered. Its confidence asks that wrong answers do not become rarer
            as the threshold is lowered. ``"bonferroni"`` asks nothing, and answers fewer rows.
        random_state : int, RandomState or None, default=None
            For the draw from groups.
        overlap : {"auto", "raise", "warn", "ignore"}, default="auto"
            What to do where the model was fitted on some of these rows or groups, on which it is
            wrong too rarely. ``"auto"`` refuses groups, and warns of identical rows.

        Returns
        -------
        FusionClassifier
            Itself, with ``risk_control_``.

        Raises
        ------
        ValueError
            For a wrong argument, or lengths that differ.
        LeakageError
            If the model was fitted on some of the groups.

        Warns
        -----
        LeakageWarning
            If the model was fitted on some of the rows.

        References
        ----------
        Angelopoulos, Bates, Candes, Jordan and Lei (2021), "Learn then test: calibrating
        predictive algorithms to achieve risk control"; Geifman and El-Yaniv (2017), "Selective
        classification for deep neural networks".

        Examples
        --------
        >>> from mmfuse import FusionClassifier
        >>> from mmfuse.heads import LateFusion
        >>> from sklearn.datasets import load_digits
        >>> X, y = load_digits(return_X_y=True)
        >>> views = {"upper": slice(0, 32), "lower": slice(32, 64)}
        >>> model = FusionClassifier(LateFusion(C=1.0), modalities=views).fit(X[:600], y[:600])
        >>> answers = model.control_risk(X[600:1200], y[600:1200]).predict_or_abstain(X[1200:])
        >>> len(answers)
        597
        """
        check_is_fitted(self, "head_")
        caller = f"{type(self).__name__}.control_risk"
        for name, value in (("risk", risk), ("confidence", confidence)):
            if not isinstance(value, Real) or isinstance(value, bool) or not 0 < value < 1:
                raise ValueError(f"{caller}: {name} must be between 0 and 1; got {value!r}.")
        if test not in TESTS:
            raise ValueError(
                f"{caller}: test must be 'fixed-sequence' or 'bonferroni'; got {test!r}."
            )
        check_min_rows(min_rows, caller)
        blocks = self.encode(X)
        check_held_out(self, blocks, groups, overlap=overlap, caller=caller)
        index = self._true_index(y, len(blocks), caller)
        rows = _one_of_each(check_groups(groups, len(blocks)), len(blocks), random_state)
        blocks, index = blocks[rows], index[rows]
        proba = self.predict_proba(blocks)
        wrong, top = proba.argmax(axis=1) != index, proba.max(axis=1)
        options = {"risk": risk, "confidence": confidence, "test": test}
        lines: list[dict] = []

        def settle(cell: np.ndarray, name: str) -> float:
            threshold = controlled_threshold(
                top[cell], wrong[cell], n_classes=proba.shape[1], **options
            )
            kept = cell & (top >= threshold)
            lines.append(_line(name, cell, kept, wrong, confidence) | {"threshold": threshold})
            return threshold

        patterns, count = np.unique(blocks.present, axis=0, return_counts=True)
        own = (count >= min_rows) & by_pattern
        found = [
            settle((blocks.present == p).all(axis=1), name_pattern(p, self.modalities_))
            for p in patterns[own][::-1]
        ]
        rare = patterns[~own]
        inside = (blocks.present[:, None] == rare[None]).all(axis=2).any(axis=1)
        shared = settle(inside, _OTHER if by_pattern else "all") if len(rare) else np.inf
        self.risk_control_ = RiskControl(
            float(risk),
            float(confidence),
            test,
            patterns[own][::-1],
            np.array(found, dtype=np.float64),
            rare,
            shared,
            tuple(lines),
        )
        return self

    @available_if(one_output)
    def answered(self, X: Any) -> np.ndarray:
        """Which rows are answered under `control_risk`: bool (n,).

        A pattern that the calibration rows did not have is never answered.
        """
        control, blocks = self._controlled("answered"), self.encode(X)
        top = self.predict_proba(blocks).max(axis=1)
        return top >= control.of_rows(blocks.present)

    @available_if(one_output)
    def predict_or_abstain(self, X: Any, *, marker: Any = None) -> np.ndarray:
        """Most probable class where the row is answered, and ``marker`` elsewhere.

        Parameters
        ----------
        X : ModalityTable, DataFrame, dict, array or Blocks
            n rows.
        marker : object, default=None
            Stands for "no answer"; must not be a class.

        Returns
        -------
        object ndarray of shape (n,)

        Raises
        ------
        ValueError
            If ``marker`` is a class, or `control_risk` was not called.
        """
        self._controlled("predict_or_abstain")
        if any(marker == label for label in self.classes_.tolist()):
            raise ValueError(
                f"{type(self).__name__}.predict_or_abstain: marker {marker!r} is one of the "
                "classes; give a value that is none of them."
            )
        blocks = self.encode(X)
        labels = np.array(self.predict(blocks).tolist(), dtype=object)
        labels[~self.answered(blocks)] = marker
        return labels

    @available_if(one_output)
    def risk_table(self, X: Any = None, y: Any = None) -> pd.DataFrame:
        """Answered share and error rate of every pattern.

        Parameters
        ----------
        X, y : optional
            Rows to count on; without them the calibration rows, by threshold.

        Returns
        -------
        DataFrame
            ``pattern``, ``rows``, ``answered`` (share), ``errors`` among the answers, ``risk`` and
            its Clopper-Pearson interval ``low``, ``high``, at the confidence of `control_risk`; on
            the calibration rows ``threshold`` too, and ``high`` is the one-sided bound.
        """
        control = self._controlled("risk_table")
        if X is None:
            return pd.DataFrame(list(control.lines))
        blocks = self.encode(X)
        index = self._true_index(y, len(blocks), f"{type(self).__name__}.risk_table")
        kept = self.answered(blocks)
        wrong = self.predict_proba(blocks).argmax(axis=1) != index
        lines = []
        for pattern in np.unique(blocks.present, axis=0)[::-1]:
            cell = (blocks.present == pattern).all(axis=1)
            name = name_pattern(pattern, self.modalities_)
            lines.append(_line(name, cell, cell & kept, wrong, control.confidence, both=True))
        everything = np.ones(len(blocks), dtype=bool)
        lines.append(_line("all", everything, kept, wrong, control.confidence, both=True))
        return pd.DataFrame(lines)

    def _controlled(self, method: str) -> RiskControl:
        check_is_fitted(self, "head_")
        control = getattr(self, "risk_control_", None)
        if control is None:
            raise ValueError(
                f"{type(self).__name__}.{method}: no threshold was chosen; call "
                "control_risk(X_cal, y_cal) with rows that the model has not seen."
            )
        return control


def _one_of_each(groups: np.ndarray | None, n_rows: int, random_state: Any) -> np.ndarray:
    if groups is None:
        return np.arange(n_rows)
    order = check_random_state(random_state).permutation(n_rows)
    return np.sort(order[np.unique(groups[order], return_index=True)[1]])


def _line(
    name: str,
    cell: np.ndarray,
    kept: np.ndarray,
    wrong: np.ndarray,
    confidence: float,
    *,
    both: bool = False,
) -> dict[str, Any]:
    rows, answers, errors = int(cell.sum()), int(kept.sum()), int((wrong & kept).sum())
    low, high = clopper_pearson(errors, answers, confidence, upper_only=not both)
    return {
        "pattern": name,
        "rows": rows,
        "answered": answers / max(rows, 1),
        "errors": errors,
        "risk": errors / answers if answers else 0.0,
        "low": low,
        "high": high,
    }
