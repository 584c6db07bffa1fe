"""What every modality adds to the log odds, read from a fitted classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from mmfuse.multi_output import one_output

__all__ = ["EvidenceMixin"]


class EvidenceMixin:
    """The method ``evidence`` of `FusionClassifier`."""

    @available_if(one_output)
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

        The estimator's temperature T, and its correction where the row's pattern has one, scale
        every contribution. What then is still missing, the same for all modalities of the row, is
        split evenly between those that are present: for ``LateFusion`` ``(1 / T - 1) log prior``
        and the pattern's shift, for linear heads also what the head says with all modalities
        absent, beyond the prior.

        Examples
        --------
        >>> import numpy as np
        >>> from mmfuse import FusionClassifier
        >>> rng = np.random.default_rng(0)
        >>> y = np.repeat([0, 1], 30)
        >>> X = {"a": rng.normal(y[:, None], 1, (60, 3)), "b": rng.normal(y[:, None], 1, (60, 2))}
        >>> from mmfuse.heads import LateFusion
        >>> model = FusionClassifier(LateFusion(), random_state=0).fit(X, y)
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
        slope = 1.0 if self.calibrator_ is None else self.calibrator_.slope(present)
        evidence = raw * np.reshape(slope, (-1, 1, 1))
        evidence -= evidence.mean(axis=2, keepdims=True)
        missing = logits - np.log(np.maximum(self.prior_, 1e-12)) - evidence.sum(axis=1)
        missing -= missing.mean(axis=1, keepdims=True)
        share = present / np.maximum(present.sum(axis=1, keepdims=True), 1)
        return evidence + share[:, :, None] * missing[:, None, :]
