"""FusionClassifier and FusionRegressor: any head behind scikit-learn's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from mmfuse.calibration.by_pattern import make_pattern_calibrator
from mmfuse.calibration.temperature import check_calibration
from mmfuse.conformal.selective import AbstentionMixin
from mmfuse.conformal.sets import ConformalSetsMixin, sets_from_held_out
from mmfuse.estimators._base import FusionEstimator
from mmfuse.estimators.evidence import EvidenceMixin
from mmfuse.estimators.regressor import FusionRegressor
from mmfuse.multi_output import (
    each_output,
    exact_match,
    find_output,
    fit_outputs,
    has_outputs,
    one_output,
    stack_labels,
)
from mmfuse.targets import (
    check_class_target,
    check_groups,
    check_target_kind,
    check_weight,
    count_outputs,
)

__all__ = ["FusionClassifier", "FusionRegressor"]


class FusionClassifier(
    AbstentionMixin, ConformalSetsMixin, EvidenceMixin, ClassifierMixin, FusionEstimator
):
    """Classify samples from several modalities, any of which may be missing in any row.

    Parameters
    ----------
    head : "auto" or head from `mmfuse.heads`, default="auto"
        How modalities are fused; "auto" means ``AutoFusion()``, which tries several.
    encoders : dict of str to encoder, default=None
        Encoder of each raw modality. A modality without one must be numeric vectors.
    finetune : FineTuning, default=None
        How encoders with ``trainable`` are trained; None means ``FineTuning()``.
    modalities : dict, default=None
        Which columns make a modality: for a DataFrame a column name or a list of names, for a plain
        matrix a slice or a list of column numbers. Without it a plain matrix is one modality, "x".
    target : {"nominal", "ordinal"} or list of these, default="nominal"
        ``"ordinal"``: the classes are steps of one scale, and every head learns them so; see Notes.
        A list has one entry for every column of y.
    calibration : {"auto", "temperature", None}, default="auto"
        How probabilities are calibrated, on out-of-fold scores. ``"auto"`` takes one temperature
        and corrections for what a row lacks, or leaves scores alone, by what held-out rows say
        (`mmfuse.calibration.PatternCalibration`), with at least 10 of them; ``"temperature"``
        always uses one temperature; None never calibrates.
    class_weight : dict, "balanced", None or list of these, default=None
        As in scikit-learn; multiplies ``sample_weight`` in training and in calibration. A list has
        one entry for every column of y.
    cv : int, splitter or iterable, default=5
        Folds for choosing regularisation, early stopping and calibration. With ``groups`` an
        integer makes group-disjoint folds.
    device : str, default="auto"
        Torch device of the head.
    random_state : int, RandomState or None, default=None
    verbose : int, default=0
        Above 0, bars are shown.

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
        Sorted, or for ``target="ordinal"`` in their order. Where y has several columns, this and
        ``scaler_``, ``head_``, ``calibrator_``, ``prior_``, ``history_``, ``conformal_`` are lists
        over them.
    modalities_ : tuple of str
    block_dims_ : dict of str to int
        Number of features of every modality after encoding.
    encoders_ : dict of str to fitted encoder
    scaler_ : torch.nn.Module
        Standardisation of the blocks, from the training rows.
    head_ : torch.nn.Module
        The fitted fusion module.
    calibrator_ : PatternCalibration, TemperatureScaling or None
    prior_ : ndarray of shape (K,)
        Weighted class frequencies; the answer to a row with nothing present.
    conformal_ : Conformal or None
        What `predict_set` is calibrated by; None where nothing was held out.
    risk_control_ : RiskControl or None
        Set by `control_risk`.
    history_ : dict
        What fitting chose and saw.
    n_features_in_ : int
        Columns of X: modalities of a table, features of a plain matrix.
    training_record_ : TrainingRecord
        Digests of the training rows and groups, by which reports notice an evaluation on them;
        `mmfuse.guards.forget_training` takes it out.
    outputs_ : list of FusionClassifier
        Where y has several columns only: the fitted model of each, as `output` gives it.
    output_names_ : list
        Where y has several columns only: their names in the DataFrame, or 0, 1, ...

    Notes
    -----
    Ordered classes stand in sorted order, or in that of an ordered `pandas.Categorical`. Linear
    heads and networks learn one latent score and thresholds, the cumulative logit of McCullagh
    (1980); scikit-learn estimators inside a head are cloned for every threshold, after Frank and
    Hall (2001). `predict` gives the most probable class, as for unordered classes;
    `predict_expected` the mean of the scale.

    Several columns of y are fitted one by one on blocks that are encoded once, each with folds that
    are stratified by its own classes: every output is the model that it would be alone.

    Examples
    --------
    >>> from mmfuse import FusionClassifier
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = FusionClassifier(modalities={"sepal": [0, 1], "petal": [2, 3]}, random_state=0)
    >>> round(model.fit(X, y).score(X, y), 2) > 0.9
    True
    """

    _task = "classification"

    def __init__(
        self,
        head: Any = "auto",
        *,
        encoders: Mapping[str, Any] | None = None,
        finetune: Any = None,
        modalities: Mapping[str, Any] | None = None,
        target: Any = "nominal",
        calibration: str | None = "auto",
        class_weight: Any = None,
        cv: Any = 5,
        device: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.head = head
        self.encoders = encoders
        self.finetune = finetune
        self.modalities = modalities
        self.target = target
        self.calibration = calibration
        self.class_weight = class_weight
        self.cv = cv
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.classifier_tags.multi_label = True
        return tags

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None
    ) -> FusionClassifier:
        """Encode, fuse and calibrate.

        Parameters
        ----------
        X : ModalityTable, DataFrame, dict of columns, array or Blocks
            n rows.
        y : array-like of shape (n,) or (n, T)
            Class labels; every column has classes of its own.
        sample_weight : array-like of shape (n,), optional
        groups : array-like of shape (n,), optional
            Rows of one group never stand on both sides of an internal split.

        Raises
        ------
        ValueError
            If y is missing, has NaN or one class only; if lengths differ; if a modality is absent
            in all rows or has no encoder where it needs one; if ``target`` is unknown, or a head
            has no form for ordered classes.
        EncodingError
            If a cell cannot be encoded; names modality, row and file.
        """
        table = self._open(X, reset=True)
        for name in ("outputs_", "output_names_"):
            vars(self).pop(name, None)  # of an earlier fit
        if count_outputs(y) > 1:
            return fit_outputs(self, table, y, sample_weight, groups)
        return self._fit_one(table, y, sample_weight, groups)

    def _fit_one(self, table: Any, y: Any, sample_weight: Any, groups: Any) -> FusionClassifier:
        from mmfuse.objectives import Cumulative, Multinomial

        owner, n_rows = type(self).__name__, len(table)
        kind = check_target_kind(self.target, owner)
        self.classes_, index = check_class_target(y, n_rows, owner, ordinal=kind == "ordinal")
        weight = check_weight(
            sample_weight,
            n_rows,
            class_weight=self.class_weight,
            classes=self.classes_,
            index=index,
        )
        groups = check_groups(groups, n_rows)
        check_calibration(self.calibration)
        totals = np.bincount(index, weights=weight, minlength=len(self.classes_))
        self.prior_ = totals / totals.sum()
        objective = Cumulative if kind == "ordinal" else Multinomial
        held = self._fit_head(table, index, weight, groups, objective(len(self.classes_)))
        self.calibrator_ = make_pattern_calibrator(
            self.calibration, held, index, weight, groups, ordinal=kind == "ordinal"
        )
        if self.calibrator_ is not None:
            self.history_["calibration"] = self.calibrator_.get_state()
        plain = check_weight(sample_weight, n_rows)  # coverage is of rows as they come
        self.conformal_ = sets_from_held_out(self, held, index, plain, groups)
        self.risk_control_ = None  # of an earlier fit
        return self

    def _scores(self, X: Any) -> np.ndarray:
        """Calibrated logits (n, K); a row with nothing present gets the log prior."""
        check_is_fitted(self, "head_")
        blocks, scores = self._output(X)
        return self._calibrated(blocks, scores)

    def _calibrated(self, blocks: Any, scores: np.ndarray) -> np.ndarray:
        """Calibrated logits from raw scores."""
        present = blocks.present
        if self.calibrator_ is not None:
            scores = self.calibrator_.transform(scores, present)
        nothing = ~present.any(axis=1)
        scores[nothing] = np.log(np.maximum(self.prior_, 1e-12))
        return scores

    @available_if(one_output)
    def decision_function(self, X: Any) -> np.ndarray:
        """Calibrated log odds; a model of several outputs has them in ``output(t)``.

        Returns
        -------
        ndarray of shape (n,) for two classes, else (n, K)
        """
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict_proba(self, X: Any) -> Any:
        """Probability of every class, in the order of ``classes_``.

        Returns
        -------
        float64 ndarray of shape (n, K), or a list of them, one for every column of y
        """
        if has_outputs(self):
            return each_output(self, "predict_proba", X)
        return softmax(self._scores(X), axis=1)

    def predict_log_proba(self, X: Any) -> Any:
        """Logarithm of ``predict_proba``."""
        if has_outputs(self):
            return each_output(self, "predict_log_proba", X)
        return log_softmax(self._scores(X), axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Most probable class of every row: (n,), or (n, T) for T columns of y."""
        if has_outputs(self):
            return stack_labels(each_output(self, "predict", X))
        scores = self._scores(X)
        return self.classes_[np.argmax(scores, axis=1)]

    def predict_expected(self, X: Any) -> np.ndarray:
        """Mean of the scale under the predicted probabilities, for ordered classes.

        Returns
        -------
        float64 ndarray of shape (n,), or (n, T) for T columns of y
            In the unit of the classes where they are numbers, else of their places 0, ..., K - 1.

        Raises
        ------
        ValueError
            If the model was not fitted with ``target="ordinal"``.
        """
        check_is_fitted(self, "head_")
        if has_outputs(self):
            return np.column_stack(each_output(self, "predict_expected", X))
        if self.head_.task != "ordinal":
            raise ValueError(
                "predict_expected needs classes on a scale, and this model was fitted with "
                "target='nominal'; fit with target='ordinal'."
            )
        number = self.classes_.dtype.kind in "iuf"
        return self.predict_proba(X) @ (self.classes_ if number else np.arange(len(self.classes_)))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy; with several columns of y, the share of rows where all of them are right."""
        if has_outputs(self):
            return exact_match(self, X, y, sample_weight)
        return super().score(X, y, sample_weight)

    def output(self, which: Any) -> FusionClassifier:
        """The fitted model of one column of y, for reports and whatever wants one target.

        Parameters
        ----------
        which : int or str
            Number of the column, or its name in the DataFrame that y was.

        Returns
        -------
        FusionClassifier
            Takes the same X.

        Raises
        ------
        ValueError
            If the model has one output only, or none of that name.
        """
        check_is_fitted(self, "head_")
        return find_output(self, which)
