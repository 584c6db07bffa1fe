"""Sets of classes that hold the true one with a stated probability."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from mmfuse.conformal.strata import Strata
from mmfuse.conformal.thresholds import (
    Conformal,
    check_coverage,
    check_min_rows,
    patterns_to_hide,
)
from mmfuse.metrics._checks import class_codes
from mmfuse.multi_output import has_outputs, split_columns
from mmfuse.targets import check_groups, check_weight
from mmfuse.training_record import check_held_out

__all__ = ["METHODS", "ConformalSetsMixin", "class_scores", "sets_from_held_out"]

METHODS = ("lac", "aps", "raps")
_PENALTY, _FREE = 0.1, 2  # RAPS: added for every rank beyond the second
_MOST_HIDDEN = 1000  # rows that are brought to a pattern by hiding; more change little


def class_scores(proba: np.ndarray, method: str, *, ordinal: bool = False) -> np.ndarray:
    """How strange every class would be as the truth: a set holds the classes up to a threshold.

    Parameters
    ----------
    proba : ndarray of shape (n, K)
    method : {"lac", "aps", "raps"}
    ordinal : bool, default=False
        Classes stand in their order, and sets are to be contiguous.

    Returns
    -------
    ndarray of shape (n, K)
        For ``"lac"`` one less the probability of the class; for ordered classes less the smaller
        of the largest probabilities on either side, the class included, so that a set has no
        hole. For ``"aps"`` the probability of the class and of all more probable ones, without the
        random part, so that sets are a little larger; for ordered classes of the interval that is
        grown from the most probable class by its more probable neighbour until it holds the class.
        ``"raps"`` adds 0.1 for every class beyond the second in that order.

    References
    ----------
    Sadinle, Lei and Wasserman (2019), "Least ambiguous set-valued classifiers"; Romano, Sesia and
    Candes (2020), "Classification with valid and adaptive coverage"; Angelopoulos, Bates, Jordan
    and Malik (2021), "Uncertainty sets for image classifiers"; Lu, Angelopoulos and Pomerantz
    (2022), "Improving trustworthiness of AI disease severity rating in medical imaging with
    ordinal conformal prediction sets".

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse.conformal.sets import class_scores
    >>> class_scores(np.array([[0.5, 0.2, 0.3]]), "aps")
    array([[0.5, 1. , 0.8]])
    >>> class_scores(np.array([[0.5, 0.2, 0.3]]), "aps", ordinal=True)
    array([[0.5, 0.7, 1. ]])
    """
    if method == "lac":
        if not ordinal:
            return 1.0 - proba
        below = np.maximum.accumulate(proba, axis=1)
        above = np.maximum.accumulate(proba[:, ::-1], axis=1)[:, ::-1]
        return 1.0 - np.minimum(below, above)
    order = _grown(proba) if ordinal else np.argsort(-proba, axis=1, kind="stable")
    total = np.cumsum(np.take_along_axis(proba, order, axis=1), axis=1)
    if method == "raps":
        total = total + _PENALTY * np.maximum(np.arange(proba.shape[1]) + 1 - _FREE, 0)
    out = np.empty_like(total)
    np.put_along_axis(out, order, total, axis=1)
    return out


def _grown(proba: np.ndarray) -> np.ndarray:
    """Order (n, K) in which classes join an interval grown from the most probable class."""
    n_rows, count = proba.shape
    rows = np.arange(n_rows)
    padded = np.pad(proba, ((0, 0), (1, 1)), constant_values=-1.0)
    order = np.empty((n_rows, count), dtype=np.int64)
    order[:, 0] = low = high = np.argmax(proba, axis=1)
    for step in range(1, count):
        down = padded[rows, low] >= padded[rows, high + 2]  # neighbours, one place off for padding
        low, high = np.where(down, low - 1, low), np.where(down, high, high + 1)
        order[:, step] = np.where(down, low, high)
    return order


def _true_scores(proba: np.ndarray, index: np.ndarray, ordinal: bool) -> np.ndarray:
    """Score of the true class by every method: (n, 3)."""
    rows = np.arange(len(index))
    return np.column_stack(
        [class_scores(proba, method, ordinal=ordinal)[rows, index] for method in METHODS]
    )


def sets_from_held_out(
    model: Any, held: Any, index: np.ndarray, weight: np.ndarray, groups: np.ndarray | None
) -> Conformal | None:
    """Scores of the out-of-fold rows of a fit, as they were and with modalities hidden.

    Parameters
    ----------
    model : FusionClassifier
        Fitted but for this.
    held : HeldOut or None
    index : ndarray of shape (n,)
        Place of the true class.
    weight : ndarray of shape (n,)
    groups : ndarray of shape (n,) or None
    """
    if held is None:
        return None
    known = np.isfinite(held.scores).all(axis=1) & (weight > 0)
    if not known.any():
        return None
    ordinal = model.head_.task == "ordinal"

    def entries(scores: np.ndarray, present: np.ndarray, rows: np.ndarray, hidden: bool) -> tuple:
        kept = scores[rows].astype(np.float64)  # a copy, for the prior is filled in
        logits = model._calibrated(SimpleNamespace(present=present[rows]), kept)
        return _true_scores(_softmax(logits), index[rows], ordinal), present[rows], rows, hidden

    rows = np.flatnonzero(known)
    parts = [entries(held.scores, held.present, rows, False)]
    if held.masked is not None and held.masked_present is not None:
        less = (held.present != held.masked_present).any(axis=1)
        gone = np.flatnonzero(known & less & np.isfinite(held.masked).all(axis=1))
        parts.append(entries(held.masked, held.masked_present, gone, True))
    some = np.flatnonzero(known & held.present.any(axis=1))
    parts.append(entries(np.zeros_like(held.scores), np.zeros_like(held.present), some, True))
    return Conformal.gather("out-of-fold", parts, weight, groups)


def _softmax(logits: np.ndarray) -> np.ndarray:
    from scipy.special import softmax

    return softmax(logits, axis=1)


class ConformalSetsMixin:
    """`predict_set` and `conformalize` of `FusionClassifier`."""

    def conformalize(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        groups: Any = None,
        *,
        by: Any = None,
        min_rows: int = 30,
        overlap: str = "auto",
    ) -> Any:
        """Calibrate `predict_set` on rows that the model did not see: split conformal.

        Parameters
        ----------
        X : ModalityTable, DataFrame, dict, array or Blocks
            n rows that took no part in ``fit``.
        y : array-like of shape (n,) or (n, T)
            True classes, all of them known to the model.
        sample_weight : array-like of shape (n,), optional
            Likelihood ratio of the rows to come to these; a new row counts as much as the heaviest.
        groups : array-like of shape (n,), optional
            Such as patients. Every group counts once in a cell, its rows sharing that weight, and
            the guarantee is for a random row of a new group.
        by : array-like of shape (n,), Series or DataFrame, optional
            Site, sex or another column: thresholds are then for every pattern within each value.
            Columns of a DataFrame are crossed.
        min_rows : int, default=30
            Rows, or groups, that a pattern must have for a threshold of its own.
        overlap : {"auto", "raise", "warn", "ignore"}, default="auto"
            What to do where the model was fitted on some of these rows or groups, whose scores are
            too good. ``"auto"`` refuses groups, and warns of identical rows.

        Returns
        -------
        FusionClassifier
            Itself, with ``conformal_``.

        Raises
        ------
        ValueError
            If lengths differ, a class is not known to the model, or ``by`` has gaps.
        LeakageError
            If the model was fitted on some of the groups.

        Warns
        -----
        LeakageWarning
            If the model was fitted on some of the rows.

        Notes
        -----
        What is guaranteed, and for which rows, is said at `mmfuse.conformal.Conformal`: coverage
        per pattern and stratum, on average over draws of the calibration rows, wherever the cell
        has enough rows.
        """
        check_is_fitted(self, "head_")
        caller = f"{type(self).__name__}.conformalize"
        check_min_rows(min_rows, caller)
        blocks = self.encode(X)
        check_held_out(self, blocks, groups, overlap=overlap, caller=caller)
        if has_outputs(self):
            columns, names = split_columns(y, len(blocks), caller)
            if len(columns) != len(self.outputs_):
                raise ValueError(
                    f"{caller}: y must have {len(self.outputs_)} columns, as in fit; got "
                    f"{len(names)}."
                )
            for part, column in zip(self.outputs_, columns, strict=True):
                part.conformalize(
                    blocks,
                    column,
                    sample_weight,
                    groups,
                    by=by,
                    min_rows=min_rows,
                    overlap="ignore",  # was checked
                )
            self.conformal_ = [part.conformal_ for part in self.outputs_]
            return self
        index = self._true_index(y, len(blocks), caller)
        weight = check_weight(sample_weight, len(blocks))
        groups, strata = check_groups(groups, len(blocks)), Strata.read(by, len(blocks), caller)
        ordinal = self.head_.task == "ordinal"
        rows = np.arange(len(blocks))
        parts = [(_true_scores(self.predict_proba(blocks), index, ordinal), blocks.present)]
        parts = [(*parts[0], rows, False)]
        for pattern, able in patterns_to_hide(blocks.present):
            able = able[np.linspace(0, len(able) - 1, min(len(able), _MOST_HIDDEN)).astype(int)]
            names = [n for n, there in zip(blocks.names, pattern, strict=True) if not there]
            proba = self.predict_proba(blocks[able].hide(names))
            scores = _true_scores(proba, index[able], ordinal)
            parts.append((scores, np.tile(pattern, (len(able), 1)), able, True))
        self.conformal_ = Conformal.gather("held-out", parts, weight, groups, strata, min_rows)
        return self

    def predict_set(
        self,
        X: Any,
        coverage: float = 0.9,
        *,
        by: Any = None,
        method: str = "lac",
        allow_empty: bool = False,
    ) -> Any:
        """Sets of classes that hold the true one with the probability ``coverage``.

        Calibrated on the out-of-fold rows of ``fit``, or on those of `conformalize`.

        Parameters
        ----------
        X : ModalityTable, DataFrame, dict, array or Blocks
            n rows.
        coverage : float, default=0.9
        by : array-like of shape (n,), Series or DataFrame, optional
            Values of the column that `conformalize` had. Without it thresholds are for patterns.
        method : {"lac", "aps", "raps"}, default="lac"
            ``"lac"`` gives the smallest sets; ``"aps"`` larger ones, whose coverage differs less
            between easy and hard rows of a pattern; ``"raps"`` between them, with few classes. All
            have the same coverage per pattern. For ordered classes sets are contiguous.
        allow_empty : bool, default=False
            Where a model is right more often than ``coverage``, exact coverage asks for empty sets.
            By default these get the most probable class, and cover more than was asked.

        Returns
        -------
        bool ndarray of shape (n, K), or a list of them, one for every column of y
            In the order of ``classes_``.

        Raises
        ------
        ValueError
            If nothing was held out, so that nothing is calibrated; for a wrong argument; if ``by``
            is another column than in `conformalize`, or was not given there.

        Examples
        --------
        >>> from mmfuse import FusionClassifier
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> views = {"sepal": [0, 1], "petal": [2, 3]}
        >>> model = FusionClassifier(modalities=views, random_state=0).fit(X[::2], y[::2])
        >>> held = X[1::4], y[1::4]
        >>> model = model.conformalize(*held, overlap="ignore")  # one flower is there twice
        >>> sets = model.predict_set(X[3::4])
        >>> sets.shape
        (37, 3)
        """
        check_is_fitted(self, "head_")
        caller = f"{type(self).__name__}.predict_set"
        coverage = check_coverage(coverage, caller)
        if method not in METHODS:
            raise ValueError(f"{caller}: method must be 'lac', 'aps' or 'raps'; got {method!r}.")
        if has_outputs(self):
            blocks, options = self.encode(X), {"by": by, "method": method}
            return [
                part.predict_set(blocks, coverage, allow_empty=allow_empty, **options)
                for part in self.outputs_
            ]
        threshold, _, proba = self._set_thresholds(X, coverage, by, method, caller)
        scores = class_scores(proba, method, ordinal=self.head_.task == "ordinal")
        sets = scores <= threshold[:, None] + 1e-12  # sums of probabilities differ in the last bit
        if not allow_empty:
            empty = ~sets.any(axis=1)
            sets[empty, np.argmax(proba[empty], axis=1)] = True
        return sets

    def conformal_table(self, coverage: float = 0.9, *, method: str = "lac") -> pd.DataFrame:
        """Calibration rows, threshold and its source for every pattern and stratum.

        Returns
        -------
        DataFrame
            A line for every pattern (and stratum) with calibration rows: ``rows`` that had the
            pattern, ``hidden_rows`` that were brought to it, ``threshold`` and ``source``; see
            `mmfuse.conformal.Conformal`. Counts are of groups where there were groups.
        """
        caller = f"{type(self).__name__}.conformal_table"
        store = self._calibrated_sets(caller)
        scores = store.values[:, METHODS.index(method)]
        return store.table(scores, check_coverage(coverage, caller), self.modalities_)

    def _true_index(self, y: Any, n_rows: int, caller: str) -> np.ndarray:
        truth = np.asarray(y)
        if truth.shape != (n_rows,):
            raise ValueError(
                f"{caller}: y must have the shape ({n_rows},), one class per row of X; got "
                f"{truth.shape}."
            )
        index = class_codes(truth, self.classes_)
        if (index < 0).any():
            row = int(np.flatnonzero(index < 0)[0])
            raise ValueError(
                f"{caller}: y has {truth[row : row + 1].tolist()[0]!r} in row {row}, which the "
                f"model does not know; its classes are {self.classes_.tolist()}. No set can hold "
                "it: leave such rows out, and know that coverage is of the known classes."
            )
        return index

    def _calibrated_sets(self, caller: str) -> Conformal:
        check_is_fitted(self, "head_")
        store = getattr(self, "conformal_", None)
        if store is None:
            raise ValueError(
                f"{caller}: nothing was held out in fit (calibration=None, or too few rows or "
                "groups), so coverage is unknown; call conformalize(X_cal, y_cal) with rows that "
                "the model has not seen."
            )
        return store

    def _set_thresholds(
        self, X: Any, coverage: float, by: Any, method: str, caller: str
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Threshold, its source and probabilities of every row."""
        store = self._calibrated_sets(caller)
        blocks = self.encode(X)
        strata = Strata.read(by, len(blocks), caller)
        codes = store.codes(strata, len(blocks), caller)
        warn_unknown(strata, codes, caller)
        scores = store.values[:, METHODS.index(method)]
        found = store.thresholds(scores, coverage, blocks.present, codes)
        return *found, self.predict_proba(blocks)


def warn_unknown(strata: Strata | None, codes: np.ndarray, caller: str) -> None:
    """Warn of strata that calibration never saw."""
    if strata is not None and (codes == -2).any():
        new = sorted(set(strata.labels[codes == -2].tolist()))
        warnings.warn(
            f"{caller}: {(codes == -2).sum()} rows belong to strata without calibration rows "
            f"({', '.join(new[:3])}{', ...' if len(new) > 3 else ''}); they get the largest "
            "threshold of the known ones, and no guarantee.",
            UserWarning,
            stacklevel=4,
        )
