"""FusionClassifier and FusionRegressor: any head behind scikit-learn's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from mmfuse._estimator import FusionEstimator
from mmfuse.calibration import make_calibrator
from mmfuse.regressor import FusionRegressor
from mmfuse.targets import check_class_target, check_groups, check_weight

__all__ = ["FusionClassifier", "FusionRegressor"]


class FusionClassifier(ClassifierMixin, FusionEstimator):
    """Classify samples from several modalities, any of which may be missing in any row.

    Parameters
    ----------
    head : head from `mmfuse.heads`, default=None
        How modalities are fused; None means ``LateFusion()``.
    encoders : dict of str to encoder, default=None
        Encoder of each raw modality. A modality without one must be numeric vectors.
    modalities : dict, default=None
        Which columns make a modality: for a DataFrame a column name or a list of names, for a plain
        matrix a slice or a list of column numbers. Without it a plain matrix is one modality, "x".
    calibration : {"auto", "temperature", None}, default="auto"
        How probabilities are calibrated, on out-of-fold scores. ``"auto"`` uses one temperature
        wherever enough rows can be held out.
    class_weight : dict, "balanced" or None, default=None
        As in scikit-learn; multiplies ``sample_weight`` in training and in calibration.
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
    modalities_ : tuple of str
    block_dims_ : dict of str to int
        Number of features of every modality after encoding.
    encoders_ : dict of str to fitted encoder
    scaler_ : torch.nn.Module
        Standardisation of the blocks, from the training rows.
    head_ : torch.nn.Module
        The fitted fusion module.
    calibrator_ : TemperatureScaling or None
    prior_ : ndarray of shape (K,)
        Weighted class frequencies; the answer to a row with nothing present.
    history_ : dict
        What fitting chose and saw.
    n_features_in_ : int
        Columns of X: modalities of a table, features of a plain matrix.

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
        head: Any = None,
        *,
        encoders: Mapping[str, Any] | None = None,
        modalities: Mapping[str, Any] | None = None,
        calibration: str | None = "auto",
        class_weight: Any = None,
        cv: Any = 5,
        device: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.head = head
        self.encoders = encoders
        self.modalities = modalities
        self.calibration = calibration
        self.class_weight = class_weight
        self.cv = cv
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None
    ) -> FusionClassifier:
        """Encode, fuse and calibrate.

        Parameters
        ----------
        X : ModalityTable, DataFrame, dict of columns, array or Blocks
            n rows.
        y : array-like of shape (n,)
            Class labels.
        sample_weight : array-like of shape (n,), optional
        groups : array-like of shape (n,), optional
            Rows of one group never stand on both sides of an internal split.

        Raises
        ------
        ValueError
            If y is missing, has NaN or one class only; if lengths differ; if a modality is absent
            in all rows or has no encoder where it needs one.
        EncodingError
            If a cell cannot be encoded; names modality, row and file.
        """
        from mmfuse.objectives import Multinomial

        table = self._open(X, reset=True)
        owner, n_rows = type(self).__name__, len(table)
        self.classes_, index = check_class_target(y, n_rows, owner)
        weight = check_weight(
            sample_weight,
            n_rows,
            class_weight=self.class_weight,
            classes=self.classes_,
            index=index,
        )
        groups = check_groups(groups, n_rows)
        if self.calibration not in ("auto", "temperature", None):
            make_calibrator(self.calibration, None, index, weight)
        totals = np.bincount(index, weights=weight, minlength=len(self.classes_))
        self.prior_ = totals / totals.sum()
        oof = self._fit_head(table, index, weight, groups, Multinomial(len(self.classes_)))
        self.calibrator_ = make_calibrator(self.calibration, oof, index, weight)
        if self.calibrator_ is not None:
            self.history_["calibration"] = self.calibrator_.get_state()
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

    def decision_function(self, X: Any) -> np.ndarray:
        """Calibrated log odds.

        Returns
        -------
        ndarray of shape (n,) for two classes, else (n, K)
        """
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of every class, in the order of ``classes_``: float64 (n, K)."""
        return softmax(self._scores(X), axis=1)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithm of ``predict_proba``."""
        return log_softmax(self._scores(X), axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Most probable class of every row: (n,)."""
        scores = self._scores(X)
        return self.classes_[np.argmax(scores, axis=1)]

    def evidence(self, X: Any) -> np.ndarray:
        """What every modality says for every class: additive contributions to the log odds.

        ``log(prior_) + evidence(X).sum(axis=1)``, normalised over classes, is
        ``predict_log_proba(X)``. The difference between two classes is a modality's
        contribution to the log odds between them; it is zero where the modality is absent.

        Parameters
        ----------
        X : ModalityTable, DataFrame, dict, array or Blocks
            n rows.

        Returns
        -------
        ndarray of shape (n, M, K)
            float64, in the order of ``modalities_`` and ``classes_``, in nats. The K numbers of a
            cell sum to zero, for a constant over classes says nothing.

        Raises
        ------
        ValueError
            If the head's answer is not a sum over modalities.

        Notes
        -----
        For `LateFusion` with ``combine`` ``"log-pool"``, ``"product"`` or ``"best"`` a
        contribution is the modality's weight in the row times ``log p_m - log prior``, p_m being
        its calibrated answer. For linear heads (``EarlyFusion("linear")``, `ContextualFusion`,
        ``combine="stack"``) it is what the scores gain over the modality's being absent.

        The estimator's temperature T divides every contribution. What then is still missing, the
        same for all modalities of the row, is split evenly between those that are present: for
        ``LateFusion`` ``(1 / T - 1) log prior``, for linear heads also what the head says with all
        modalities absent, beyond the prior.

        Examples
        --------
        >>> import numpy as np
        >>> from mmfuse import FusionClassifier
        >>> rng = np.random.default_rng(0)
        >>> y = np.repeat([0, 1], 30)
        >>> X = {"a": rng.normal(y[:, None], 1, (60, 3)), "b": rng.normal(y[:, None], 1, (60, 2))}
        >>> model = FusionClassifier(random_state=0).fit(X, y)
        >>> evidence = model.evidence(X)
        >>> evidence.shape
        (60, 2, 2)
        >>> log_odds = evidence.sum(axis=1) @ [-1, 1]  # the classes are equally frequent
        >>> bool(np.allclose(log_odds, model.decision_function(X)))
        True
        """
        check_is_fitted(self, "head_")
        blocks = self.encode(X)
        scores, raw = self._run_head(blocks, "evidence")
        shape = (len(self.modalities_), len(self.classes_))
        if len(blocks) == 0:
            return np.empty((0, *shape))
        if raw is None or raw.shape[1:] != shape:  # a latent score has evidence, but not by class
            raise ValueError(
                "FusionClassifier: there is no evidence to show, for the answer of "
                f"{self.fusion_head_!r} is not a sum over modalities; use a head whose answer is: "
                "LateFusion with combine='log-pool', 'product', 'best' or 'stack', "
                "EarlyFusion('linear') or ContextualFusion."
            )
        return self._additive(raw, self._calibrated(blocks, scores), blocks.present)

    def _additive(self, raw: np.ndarray, logits: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Evidence (n, M, K), centred, that with the log prior sums to the calibrated logits."""
        evidence = raw / getattr(self.calibrator_, "temperature_", 1.0)
        evidence -= evidence.mean(axis=2, keepdims=True)
        missing = logits - np.log(np.maximum(self.prior_, 1e-12)) - evidence.sum(axis=1)
        missing -= missing.mean(axis=1, keepdims=True)
        share = present / np.maximum(present.sum(axis=1, keepdims=True), 1)
        return evidence + share[:, :, None] * missing[:, None, :]
