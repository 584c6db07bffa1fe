"""A fitted model as other libraries want it: one numeric matrix in, no tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from mmfuse.blocks import Blocks
from mmfuse.multi_output import has_outputs

__all__ = ["matrix_view"]


def matrix_view(model: Any) -> Any:
    """Wrap a fitted model so that it takes a float matrix, with NaN where a modality is missing.

    For tools that make rows of their own to try a model, as MAPIE does, or that index a plain
    array. ``view.to_matrix(X)`` encodes a table for it.

    Parameters
    ----------
    model : FusionClassifier or FusionRegressor
        Fitted, of one output. It is not copied.

    Returns
    -------
    estimator
        A classifier or a regressor with ``predict``, for a classifier ``predict_proba`` and
        ``classes_``, and ``to_matrix``; already fitted, and without ``get_params`` to search.

    Raises
    ------
    ValueError
        If the model has several outputs; from ``predict``, if the matrix has another width.

    Notes
    -----
    The matrix holds the encoded blocks side by side. That a cell was FAILED or EMPTY is not in it:
    it is missing there.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse import FusionClassifier
    >>> from mmfuse.heads import LateFusion
    >>> from mmfuse.conformal.adapter import matrix_view
    >>> rng = np.random.default_rng(0)
    >>> X, y = {"a": rng.normal(size=(40, 2)), "b": rng.normal(size=(40, 1))}, np.arange(40) % 2
    >>> model = FusionClassifier(LateFusion(C=1.0)).fit(X, y)
    >>> view = matrix_view(model)
    >>> matrix = view.to_matrix({"a": X["a"]})
    >>> matrix.shape, bool((view.predict(matrix) == model.predict({"a": X["a"]})).all())
    ((40, 3), True)
    """
    check_is_fitted(model, "head_")
    if has_outputs(model):
        raise ValueError("matrix_view takes a model of one output; pass model.output(t).")
    return _ClassifierView(model) if hasattr(model, "classes_") else _RegressorView(model)


class _View(BaseEstimator):
    def __init__(self, model: Any) -> None:
        self.model = model

    def __sklearn_is_fitted__(self) -> bool:
        return True

    @property
    def n_features_in_(self) -> int:
        return sum(self.model.block_dims_.values())

    def fit(self, X: Any, y: Any, **kwargs: Any) -> Any:
        raise ValueError(
            "matrix_view wraps a model that is fitted; fit a FusionClassifier or FusionRegressor "
            "with modalities={name: slice} on the matrix, or pass prefit=True."
        )

    def to_matrix(self, X: Any) -> np.ndarray:
        """Encoded blocks side by side: (n, n_features_in_), float32, NaN where missing."""
        blocks = self.model.encode(X)
        return np.hstack([blocks[name] for name in self.model.block_dims_])

    def predict(self, X: Any) -> np.ndarray:
        return self.model.predict(self._blocks(X))

    def _blocks(self, X: Any) -> Blocks:
        matrix = np.asarray(X, dtype=np.float32)
        if matrix.ndim != 2 or matrix.shape[1] != self.n_features_in_:
            raise ValueError(
                f"matrix_view: X must have the shape (n, {self.n_features_in_}), as to_matrix "
                f"makes it; got {matrix.shape}."
            )
        ends = np.cumsum(list(self.model.block_dims_.values()))[:-1]
        parts = np.split(matrix, ends, axis=1)
        return Blocks(dict(zip(self.model.block_dims_, parts, strict=True)))


class _ClassifierView(ClassifierMixin, _View):
    @property
    def classes_(self) -> np.ndarray:
        return self.model.classes_

    def predict_proba(self, X: Any) -> np.ndarray:
        return self.model.predict_proba(self._blocks(X))


class _RegressorView(RegressorMixin, _View):
    pass
