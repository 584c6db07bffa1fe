"""ModalityEncoder: the encoding step as a transformer of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from mmfuse._params import EncoderParamsMixin
from mmfuse.blocks import Blocks
from mmfuse.door import as_table, encode_table, fit_encoders

__all__ = ["ModalityEncoder"]


class ModalityEncoder(EncoderParamsMixin, TransformerMixin, BaseEstimator):
    """Encode every modality of a table, for use in a ``Pipeline`` before a fusion estimator.

    Parameters
    ----------
    encoders : dict of str to encoder
        A modality of X without an encoder must be numeric vectors, and passes through.
    verbose : int, default=0

    Attributes
    ----------
    encoders_ : dict of str to fitted encoder
    block_dims_ : dict of str to int

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from mmfuse import FusionClassifier, ModalityEncoder
    >>> from mmfuse.encoders import NumericEncoder
    >>> X = {"age": np.arange(40.0), "pixels": np.ones((40, 3))}
    >>> pipe = make_pipeline(ModalityEncoder({"age": NumericEncoder()}), FusionClassifier())
    >>> pipe.fit(X, np.arange(40) > 19).score(X, np.arange(40) > 19)
    1.0
    """

    def __init__(self, encoders: Mapping[str, Any], *, verbose: int = 0) -> None:
        self.encoders = encoders
        self.verbose = verbose

    def _table(self, X: Any) -> Any:
        table = as_table(X, modalities=None, has_encoders=True, names=tuple(self.encoders))
        if table is None:
            raise ValueError(
                "ModalityEncoder needs named modalities: a ModalityTable, a DataFrame or a dict; "
                f"got {type(X).__name__}."
            )
        return table

    def fit(self, X: Any, y: Any = None) -> ModalityEncoder:
        """Fit every encoder on its column."""
        self.fit_transform(X)
        return self

    def fit_transform(self, X: Any, y: Any = None, **params: Any) -> Blocks:
        """Fit every encoder and return the blocks of X."""
        table = self._table(X)
        for name, encoder in self.encoders.items():
            if getattr(encoder, "trainable", False):
                raise ValueError(
                    f"ModalityEncoder: {name!r} is trainable, and encoders are trained with a head "
                    "only: give it to FusionClassifier or FusionRegressor, or set trainable=False."
                )
        self.encoders_ = fit_encoders(table, self.encoders, self.verbose)
        blocks = encode_table(table, self.encoders_, None)
        self.block_dims_ = blocks.dims
        self.n_features_in_ = len(blocks.dims)
        return blocks

    def transform(self, X: Any) -> Blocks:
        """Blocks of X; a modality that X lacks is ABSENT."""
        check_is_fitted(self, "block_dims_")
        return encode_table(self._table(X), self.encoders_, self.block_dims_)

    def set_output(self, *, transform: str | None = None) -> ModalityEncoder:
        """Refuse another output: blocks are not one matrix."""
        if transform is not None and transform != "default":
            raise ValueError(
                "ModalityEncoder returns Blocks, which scikit-learn cannot turn into "
                f"{transform!r}; use blocks.to_table().to_pandas()."
            )
        return self
