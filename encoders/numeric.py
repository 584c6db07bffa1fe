"""A table of numbers and categories as one modality."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from mmfuse.encoders import _checks
from mmfuse.encoders._columns import merge_states
from mmfuse.encoders._frames import (
    ColumnCard,
    as_frame,
    describe_column,
    encode_categories,
    encode_numbers,
)
from mmfuse.encoders.base import BaseEncoder, Encoded
from mmfuse.exceptions import EncodingError, SampleError
from mmfuse.presence import Presence

__all__ = ["NumericEncoder"]


class NumericEncoder(BaseEncoder):
    """Numbers as they are, categories as indicators, missing values kept.

    The column is a DataFrame, an array of shape (n_samples, n_columns) or (n_samples,), or a list
    whose cells are dicts, vectors or scalars. Numbers pass as float32 and True and False as 1 and
    0; a missing number stays NaN, to be filled in by the estimator from its training rows. A
    column of strings, or of pandas' category type, becomes one indicator per category and one
    more, "unknown", for a category that was not there in `fit`. A missing category is NaN in all
    of its indicators. A row in which every column is missing is ABSENT.

    Strings are categories even where they look like numbers, as codes do. A column that held
    numbers in `fit` takes numeric strings afterwards.

    Parameters
    ----------
    categories : "auto" or dict of str to sequence, default="auto"
        Names of columns and their categories, in order; a column of numbers that is named here
        becomes categorical. The other columns are treated as with "auto".
    max_categories : int, default=100
        A column of strings with more categories than this is an error: it is most likely an
        identifier or a text. Columns named in `categories` are not counted.
    on_error : {"raise", "mark"}, default="raise"
        What to do about a row with a value that is no finite number in a column of numbers.

    Attributes
    ----------
    columns_ : list of ColumnCard
        Names, and categories or None.
    n_features_out_ : int

    Notes
    -----
    Columns are matched by name, in any order. A column of a DataFrame that is missing or was not
    there in `fit` is an error; a dict may leave out a name, which is then a missing value.
    Nothing is cached and there are no weights.

    Examples
    --------
    >>> import pandas as pd
    >>> from mmfuse.encoders import NumericEncoder
    >>> visits = pd.DataFrame({"age": [31, None], "sex": ["f", "m"]})
    >>> encoder = NumericEncoder().fit(visits)
    >>> encoder.get_feature_names_out().tolist()
    ['numeric_age', 'numeric_sex_f', 'numeric_sex_m', 'numeric_sex_unknown']
    >>> encoder.transform(visits)
    array([[31.,  1.,  0.,  0.],
           [nan,  0.,  1.,  0.]], dtype=float32)
    """

    modality: ClassVar[str] = "numeric"

    columns_: list[ColumnCard]

    def __init__(
        self,
        *,
        categories: str | Mapping[str, Sequence[Any]] = "auto",
        max_categories: int = 100,
        on_error: str = "raise",
    ) -> None:
        self.categories = categories
        self.max_categories = max_categories
        self.on_error = on_error

    def fit(self, column: Any, y: Any = None) -> NumericEncoder:
        """Learn the columns, which of them are categories, and those.

        Parameters
        ----------
        column : DataFrame, ndarray or list with one row per sample
        y : ignored

        Returns
        -------
        self
        """
        self._check_params()
        frame, states = as_frame(column)
        named_columns = isinstance(column, (pd.DataFrame, np.ndarray)) and len(frame.columns)
        if not named_columns and not (states == Presence.PRESENT).any():
            raise ValueError("NumericEncoder: fit needs at least one column and one present row.")
        named = {} if isinstance(self.categories, str) else dict(self.categories)
        if unknown := [name for name in named if name not in frame]:
            raise ValueError(
                f"NumericEncoder: categories names {unknown!r}, but the columns are "
                f"{list(frame.columns)!r}."
            )
        self.columns_ = [
            describe_column(frame[name], named.get(name), self.max_categories) for name in frame
        ]
        self.n_features_out_ = self._width()
        return self

    def encode(self, column: Any, presence: Any = None, *, name: str | None = None) -> Encoded:
        """Encode a table and say what became of each row.

        Parameters
        ----------
        column : DataFrame, ndarray or list with one row per sample
        presence : array-like of shape (n_samples,), optional
            Values of `Presence`. Rows that are not PRESENT here are not encoded.
        name : str, optional
            Name of the table, for messages. By default the modality.

        Returns
        -------
        Encoded

        Raises
        ------
        ValueError
            If columns are missing or were not there in `fit`.
        EncodingError
            If a value is no finite number and ``on_error="raise"``.
        """
        check_is_fitted(self)
        frame, states = as_frame(column)
        states = merge_states(states, presence, caller="NumericEncoder").copy()
        values = np.full((len(frame), self.n_features_out_), np.nan, dtype=np.float32)
        present = states == Presence.PRESENT
        records = not isinstance(column, (pd.DataFrame, np.ndarray))
        if not len(frame) or (records and not present.any()):  # then there are no names
            return Encoded(values, states)
        frame = self._aligned(frame, may_lack=records)
        problems: dict[int, str] = {}
        parts = [
            encode_numbers(frame[card.name], problems)
            if card.categories is None
            else encode_categories(frame[card.name], card.categories)
            for card in self.columns_
        ]
        values[present] = np.concatenate(parts, axis=1)[present]
        errors = self._settle(
            {row: text for row, text in problems.items() if present[row]}, name or self.modality
        )
        for row in errors:
            states[row], values[row] = Presence.FAILED, np.nan
        if errors:
            first = errors[min(errors)].partition(", ")[2]
            warnings.warn(
                f"{name or self.modality}: {len(errors)} of {int(present.sum())} cells could not "
                f"be encoded and are marked FAILED; first: {first}",
                UserWarning,
                stacklevel=3,
            )
        return Encoded(values, states, errors)

    def _settle(self, problems: dict[int, str], name: str) -> dict[int, str]:
        errors = {row: f"{name}, row {row}: {problems[row]}" for row in sorted(problems)}
        if errors and self.on_error == "raise":
            raise EncodingError(
                f"{errors[min(errors)]}; correct the value, or use on_error='mark' to mark such "
                "cells FAILED"
            )
        return errors

    def _aligned(self, frame: pd.DataFrame, *, may_lack: bool) -> pd.DataFrame:
        """Return the columns of `fit`, in its order."""
        known = [card.name for card in self.columns_]
        lacking = [name for name in known if name not in frame]
        extra = sorted(set(frame) - set(known))
        positional = any(str(i) in frame for i in range(len(frame.columns)))
        if extra or (lacking and (positional or not may_lack)):
            raise ValueError(
                f"NumericEncoder was fitted on the columns {known!r}; missing now: {lacking!r}, "
                f"unexpected: {extra!r}."
            )
        return frame.reindex(columns=known)

    def preprocess(self, sample: Any) -> Tensor:
        """Encode one row: a dict, a vector or a scalar.

        Returns
        -------
        Tensor of shape (n_features_out,), float32
        """
        encoded = self.encode([sample])
        if encoded.errors:
            raise SampleError(encoded.errors[0])
        return torch.from_numpy(encoded.values[0])

    def module(self) -> nn.Module:
        """Return the identity: the features are made outside of torch."""
        return nn.Identity().eval()

    def get_state(self) -> dict[str, Any]:
        """Return the columns and their categories, as a JSON-able dict."""
        columns = [
            {"name": c.name, "categories": None if c.categories is None else list(c.categories)}
            for c in self.columns_
        ]
        return {**super().get_state(), "columns": columns}

    def set_state(self, state: Mapping[str, Any]) -> NumericEncoder:
        """Take over what `get_state` returned; the encoder is then fitted."""
        self._check_params()
        self.columns_ = [
            ColumnCard(c["name"], None if c["categories"] is None else tuple(c["categories"]))
            for c in state["columns"]
        ]
        self.n_features_out_ = self._width()
        return self

    def _check_params(self) -> None:
        _checks.check_choice(self, "on_error", ("raise", "mark"))
        _checks.check_integer(self, "max_categories", least=1)
        if isinstance(self.categories, Mapping):
            for column, listed in self.categories.items():
                if isinstance(listed, str) or not len(listed) or len(set(listed)) != len(listed):
                    raise ValueError(
                        f"NumericEncoder: the categories of {column!r} must be a sequence of "
                        f"different values, got {listed!r}."
                    )
        elif self.categories != "auto":
            raise ValueError(
                "NumericEncoder: categories must be 'auto' or a dict of column names to "
                f"categories, got {self.categories!r}."
            )

    def _width(self) -> int:
        return sum(1 if c.categories is None else len(c.categories) + 1 for c in self.columns_)

    def _feature_names(self) -> list[str]:
        names: dict[str, None] = {}
        for card in self.columns_:
            endings = [""]
            if card.categories is not None:
                endings = [*(f"_{category}" for category in card.categories), "_unknown"]
            for ending in endings:
                name = f"{self.modality}_{card.name}{ending}"
                while name in names:  # a category may itself be called "unknown"
                    name += "_"
                names[name] = None
        return list(names)
