"""A table of numbers and categories as one modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from mmfuse.encoders import _checks
from mmfuse.encoders._columns import merge_states
from mmfuse.encoders._frame_cells import (
    ColumnCard,
    encode_categories,
    encode_numbers,
    missing_cells,
    without_codes,
)
from mmfuse.encoders._frame_checks import check_table_arguments
from mmfuse.encoders._frames import as_frame, describe_column
from mmfuse.encoders._problems import settle
from mmfuse.encoders._units import converters
from mmfuse.encoders.base import BaseEncoder, Encoded
from mmfuse.exceptions import SampleError
from mmfuse.presence import Presence

__all__ = ["NumericEncoder"]


class NumericEncoder(BaseEncoder):
    """A clinical table: numbers in one unit, categories as indicators, missing values kept.

    The column is a DataFrame, an array of shape (n_samples, n_columns) or (n_samples,), or a list
    whose cells are dicts, Series, DataFrames of one row, vectors or scalars. Numbers pass as
    float32 and True and False as 1 and 0; a missing number stays NaN, to be filled in by the
    estimator from its training rows. A column of strings, or of pandas' category type, becomes
    one indicator per category and one more, "unknown", for a category that was not there in
    `fit`. A missing category is NaN in all of its indicators. A row in which every column is
    missing is ABSENT.

    Strings are categories even where they look like numbers, as codes do. A column that held
    numbers in `fit` takes numeric strings afterwards, and a column with a unit always.

    Parameters
    ----------
    categories : "auto" or dict of str to sequence, default="auto"
        Names of columns and their categories, in order; a column of numbers that is named here
        becomes categorical. The other columns are treated as with "auto".
    ordered : "auto" or sequence of str, default="auto"
        Names of columns whose categories are ordered, as `categories` or the column's type lists
        them. Each but the first becomes a column that is 1 where the cell is at least that
        category, so that no distance between neighbours is assumed. "auto" takes the ordered
        columns of pandas' category type.
    units : dict of str to str, optional
        Names of columns of numbers and the unit to give them, such as ``{"height": "cm"}``. A
        cell may name another unit of the same dimension, as in "1.72 m" or "5 ft 8 in"; a cell
        that names none is in this one. Needs pint: ``pip install mmfuse[units]``. Also read are
        "bpm", "IU", "Eq", "mo", "10^9/L", and "C" and "F" in a column of temperatures.
    molar_masses : dict of str to float, optional
        g/mol of what a column measures, to convert between mass and amount ("mg/dL", "mmol/L").
    missing_codes : sequence, or dict of str to sequence, optional
        Values that stand for "missing", such as ``[-9, 999, "NK"]``, in all columns or in those
        named. A number stands for its string too. True and False are never codes.
    unseen : {"indicator", "missing", "error"}, default="indicator"
        What to do about a category that was not there in `fit`: set "unknown" to 1, treat it as
        missing, or treat the row as one that cannot be encoded (see `on_error`). With "missing"
        and "error" there is no "unknown" column.
    missing_indicators : bool, default=False
        Add to every column one that is 1 where its value is missing and 0 elsewhere.
    max_categories : int, default=100
        A column of strings with more categories than this is an error: it is most likely an
        identifier or a text. Columns named in `categories` are not counted.
    on_error : {"raise", "mark"}, default="raise"
        What to do about a row with a value that is no finite number in a column of numbers, has
        an unknown unit or one that cannot be converted, or is an unseen category.

    Attributes
    ----------
    columns_ : list of ColumnCard
        Names, units, and categories or None.
    n_features_out_ : int

    Notes
    -----
    Columns are matched by name, in any order. A column of a DataFrame that is missing or was not
    there in `fit` is an error; a dict may leave out a name, which is then a missing value.
    Nothing is cached and there are no weights. A date is an error: make a number of it, such as
    days since the first visit.

    Examples
    --------
    >>> import pandas as pd
    >>> from mmfuse.encoders import NumericEncoder
    >>> visits = pd.DataFrame({"age": [31, -9], "sex": ["f", "m"]})
    >>> encoder = NumericEncoder(missing_codes=[-9]).fit(visits)
    >>> encoder.get_feature_names_out().tolist()
    ['numeric_age', 'numeric_sex_f', 'numeric_sex_m', 'numeric_sex_unknown']
    >>> encoder.transform(visits)
    array([[31.,  1.,  0.,  0.],
           [nan,  0.,  1.,  0.]], dtype=float32)
    >>> heights = pd.DataFrame({"height": ["1.72 m", "180"]})
    >>> in_cm = NumericEncoder(units={"height": "cm"}).fit(heights)  # doctest: +SKIP
    >>> in_cm.get_feature_names_out().tolist()  # doctest: +SKIP
    ['numeric_height_cm']
    >>> in_cm.transform(heights).ravel().tolist()  # doctest: +SKIP
    [172.0, 180.0]
    """

    modality: ClassVar[str] = "numeric"

    columns_: list[ColumnCard]

    def __init__(
        self,
        *,
        categories: str | Mapping[str, Sequence[Any]] = "auto",
        ordered: str | Sequence[str] = "auto",
        units: Mapping[str, str] | None = None,
        molar_masses: Mapping[str, float] | None = None,
        missing_codes: Sequence[Any] | Mapping[str, Sequence[Any]] | None = None,
        unseen: str = "indicator",
        missing_indicators: bool = False,
        max_categories: int = 100,
        on_error: str = "raise",
    ) -> None:
        self.categories = categories
        self.ordered = ordered
        self.units = units
        self.molar_masses = molar_masses
        self.missing_codes = missing_codes
        self.unseen = unseen
        self.missing_indicators = missing_indicators
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
        self._check_names(list(frame.columns))
        self.columns_ = self._described(self._without_codes(frame))
        self.n_features_out_ = self._width()
        return self

    def _described(self, frame: pd.DataFrame) -> list[ColumnCard]:
        named = {} if isinstance(self.categories, str) else self.categories
        automatic = isinstance(self.ordered, str)
        cards = [
            describe_column(
                frame[name],
                named.get(name),
                self.max_categories,
                ordered=None if automatic else name in self.ordered,
                unit=(self.units or {}).get(name),
            )
            for name in frame
        ]
        for card in cards:
            if not automatic and card.name in self.ordered and card.categories is None:
                raise ValueError(
                    f"NumericEncoder: ordered names column {card.name!r}, which holds numbers; "
                    "name its categories, or leave it out."
                )
        return cards

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
        frame, states = as_frame(_only_present(column, presence))
        states = merge_states(states, presence, caller="NumericEncoder").copy()
        values = np.full((len(frame), self.n_features_out_), np.nan, dtype=np.float32)
        present = states == Presence.PRESENT
        records = not isinstance(column, (pd.DataFrame, np.ndarray))
        if not len(frame) or (records and not present.any()):  # then there are no names
            return Encoded(values, states)
        frame = self._without_codes(self._aligned(frame, may_lack=records))
        gone = np.stack([missing_cells(frame[card.name]) for card in self.columns_], axis=1)
        states[present & gone.all(axis=1)] = Presence.ABSENT
        present = states == Presence.PRESENT
        problems: dict[int, str] = {}
        values[present] = self._encoded(frame, gone, problems)[present]
        errors = settle(
            {row: text for row, text in problems.items() if present[row]},
            values,
            states,
            on_error=self.on_error,
            name=name or self.modality,
            cure="correct the value",
        )
        return Encoded(values, states, errors)

    def _encoded(
        self, frame: pd.DataFrame, gone: np.ndarray, problems: dict[int, str]
    ) -> np.ndarray:
        """Return the features (n, n_features_out) of all rows; note the rows with bad values."""
        to_unit = converters(self.units or {}, self.molar_masses or {})
        parts = []
        for i, card in enumerate(self.columns_):
            cells = frame[card.name]
            if card.categories is None:
                parts.append(encode_numbers(cells, problems, to_unit.get(card.name)))
            else:
                parts.append(encode_categories(cells, card, self.unseen, problems))
            if self.missing_indicators:
                parts.append(gone[:, i : i + 1].astype(np.float32))
        return np.concatenate(parts, axis=1)

    def _without_codes(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the table with None or NaN in the place of codes for "missing"."""
        codes = self.missing_codes
        if codes is None:
            return frame
        each = codes if isinstance(codes, Mapping) else dict.fromkeys(frame, codes)
        changed = {name: without_codes(frame[name], each[name]) for name in frame if name in each}
        return frame.assign(**changed)

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
            {
                "name": card.name,
                "categories": None if card.categories is None else list(card.categories),
                "ordered": card.ordered,
                "unit": card.unit,
            }
            for card in self.columns_
        ]
        return {**super().get_state(), "columns": columns}

    def set_state(self, state: Mapping[str, Any]) -> NumericEncoder:
        """Take over what `get_state` returned; the encoder is then fitted."""
        self._check_params()
        self.columns_ = [
            ColumnCard(
                c["name"],
                None if c["categories"] is None else tuple(c["categories"]),
                bool(c.get("ordered", False)),
                c.get("unit"),
            )
            for c in state["columns"]
        ]
        self.n_features_out_ = self._width()
        return self

    def _check_params(self) -> None:
        _checks.check_choice(self, "on_error", ("raise", "mark"))
        _checks.check_choice(self, "unseen", ("indicator", "missing", "error"))
        _checks.check_integer(self, "max_categories", least=1)
        _checks.check_flag(self, "missing_indicators")
        check_table_arguments(self)
        converters(self.units or {}, self.molar_masses or {})

    def _check_names(self, columns: list[str]) -> None:
        """Raise where an argument names a column that is not there, or two are at odds."""
        parts: dict[str, Any] = {
            "categories": {} if isinstance(self.categories, str) else self.categories,
            "ordered": () if isinstance(self.ordered, str) else self.ordered,
            "units": self.units or {},
            "molar_masses": self.molar_masses or {},
            "missing_codes": self.missing_codes if isinstance(self.missing_codes, Mapping) else {},
        }
        for argument, named in parts.items():
            if unknown := [name for name in named if name not in columns]:
                raise ValueError(
                    f"NumericEncoder: {argument} names {unknown!r}, but the columns are "
                    f"{columns!r}."
                )
        if both := [name for name in parts["units"] if name in parts["categories"]]:
            raise ValueError(
                f"NumericEncoder: {both!r} stand in units and in categories; a column holds "
                "numbers with a unit, or categories."
            )
        if lone := [name for name in parts["molar_masses"] if name not in parts["units"]]:
            raise ValueError(f"NumericEncoder: molar_masses names {lone!r}, which have no units.")

    def _endings(self, card: ColumnCard) -> list[str]:
        """Return what follows the column's name in the names of its features."""
        if card.categories is None:
            endings = [f"_{card.unit}" if card.unit else ""]
        else:
            known = card.categories[1:] if card.ordered else card.categories
            endings = [f"{'>=' if card.ordered else '_'}{category}" for category in known]
            endings += ["_unknown"] if self.unseen == "indicator" else []
        return [*endings, "_missing"] if self.missing_indicators else endings

    def _width(self) -> int:
        return sum(len(self._endings(card)) for card in self.columns_)

    def _feature_names(self) -> list[str]:
        names: dict[str, None] = {}
        for card in self.columns_:
            for ending in self._endings(card):
                name = f"{self.modality}_{card.name}{ending}"
                while name in names:  # a category may itself be called "unknown"
                    name += "_"
                names[name] = None
        return list(names)


def _only_present(column: Any, presence: Any) -> Any:
    """A list of cells without those that `presence` says are not there, which are never read."""
    if presence is None or isinstance(column, (pd.DataFrame, pd.Series)):
        return column
    if isinstance(column, np.ndarray) and column.dtype != object:
        return column
    states = np.asarray(presence)
    if states.shape != (len(column),):  # an error that is raised later, with the lengths
        return column
    return [
        cell if state == Presence.PRESENT else None
        for cell, state in zip(column, states, strict=True)
    ]
