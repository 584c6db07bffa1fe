"""NumericEncoder: numbers stay, categories become indicators, what is missing stays missing."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from data import data_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfuse import Presence
from mmfuse.encoders import NumericEncoder
from mmfuse.exceptions import EncodingError

NAN = np.nan


def visits() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age": [31, 42, None, 60, None],
            "sex": ["f", "m", "f", None, None],
            "smokes": pd.array([True, False, True, None, None], dtype="boolean"),
            "stage": pd.Categorical(["I", "III", "I", "II", None], categories=["I", "II", "III"]),
        }
    )


def test_a_table():
    encoder = NumericEncoder().fit(visits())
    assert list(encoder.get_feature_names_out()) == [
        "numeric_age",
        "numeric_sex_f",
        "numeric_sex_m",
        "numeric_sex_unknown",
        "numeric_smokes",
        "numeric_stage_I",
        "numeric_stage_II",
        "numeric_stage_III",
        "numeric_stage_unknown",
    ]
    encoded = encoder.encode(visits())
    np.testing.assert_array_equal(
        encoded.values,
        np.array(
            [
                [31, 1, 0, 0, 1, 1, 0, 0, 0],
                [42, 0, 1, 0, 0, 0, 0, 1, 0],
                [NAN, 1, 0, 0, 1, 1, 0, 0, 0],
                [60, NAN, NAN, NAN, NAN, 0, 1, 0, 0],
                [NAN] * 9,
            ],
            dtype=np.float32,
        ),
    )
    assert encoded.presence.tolist() == [1, 1, 1, 1, Presence.ABSENT]


def test_unseen_categories():
    encoder = NumericEncoder().fit(visits())
    new = visits().iloc[:2].assign(sex=["x", "m"])
    assert encoder.transform(new)[:, 1:4].tolist() == [[0, 0, 1], [0, 1, 0]]


def test_columns_are_matched_by_name():
    encoder = NumericEncoder().fit(visits())
    expected = encoder.transform(visits())
    turned = visits()[["stage", "smokes", "sex", "age"]].set_index(np.arange(5) * 10)
    np.testing.assert_array_equal(encoder.transform(turned), expected)
    with pytest.raises(ValueError, match=r"missing now: \['sex'\], unexpected: \['gender'\]"):
        encoder.transform(visits().rename(columns={"sex": "gender"}))
    with pytest.raises(ValueError, match=r"missing now: \['age'.*unexpected: \['0'"):
        encoder.transform(np.zeros((3, 4)))


def test_dicts():
    records = [{"age": 31, "sex": "f"}, None, {"sex": "m"}, Presence.FAILED, {}, {"age": None}]
    encoder = NumericEncoder().fit(records)
    encoded = encoder.encode(records)
    assert encoded.presence.tolist() == [1, 0, 1, 2, 0, 0]
    assert encoded.values[[0, 2]].tolist()[0] == [31, 1, 0, 0]
    np.testing.assert_array_equal(encoded.values[2], np.array([NAN, 0, 1, 0], np.float32))
    frame = pd.DataFrame({"sex": ["f"], "age": [31]})
    np.testing.assert_array_equal(encoder.transform(frame), encoded.values[:1])
    with pytest.raises(ValueError, match=r"unexpected: \['height'\]"):
        encoder.transform([{"age": 3, "height": 2}])


def test_arrays_and_vectors():
    block = np.array([[1.0, 2.0], [NAN, NAN], [3.0, NAN]])
    encoder = NumericEncoder().fit(block)
    expected = block.astype(np.float32)
    column = np.empty(3, dtype=object)
    column[0], column[2] = block[0], [3.0, None]
    for same in (block, torch.from_numpy(block), column, [(1, 2), None, (3, None)]):
        encoded = encoder.encode(same)
        np.testing.assert_array_equal(encoded.values, expected)
        assert encoded.presence.tolist() == [1, 0, 1]
    assert list(encoder.get_feature_names_out()) == ["numeric_0", "numeric_1"]
    with pytest.raises(ValueError, match=r"missing now: \['1'\]"):
        encoder.transform(block[:, :1])
    with pytest.raises(ValueError, match="row 1 has 3 values, the first present row 2"):
        encoder.transform([[1, 2], [1, 2, 3]])
    with pytest.raises(ValueError, match="row 1 is a str"):
        encoder.transform([[1, 2], "a"])


def test_scalars():
    np.testing.assert_array_equal(
        NumericEncoder().fit_transform([3, None, True, 2.5]),
        np.array([[3], [NAN], [1], [2.5]], np.float32),
    )
    for column in (["b", "a", None], np.array(["b", "a", ""]), pd.Series(["b", "a", pd.NA])):
        encoder = NumericEncoder().fit(column)
        encoded = encoder.encode(column)
        assert encoded.values[:2].tolist() == [[0, 1, 0], [1, 0, 0]]
        assert encoded.presence.tolist() == [1, 1, 0]
    series = pd.Series([1, None, 3], dtype="Int64")
    assert NumericEncoder().fit(series).encode(series).presence.tolist() == [1, 0, 1]


def test_strings_are_categories_until_a_column_held_numbers():
    codes = NumericEncoder().fit(["1", "2", "1"])
    assert codes.n_features_out_ == 3
    numbers = NumericEncoder().fit([1, 2, 3])
    assert numbers.transform(["4", " 5.5 ", True]).tolist() == [[4], [5.5], [1]]


def test_a_value_that_is_no_number():
    encoder = NumericEncoder().fit(pd.DataFrame({"age": [1.0, 2.0]}))
    column = pd.DataFrame({"age": ["3", "old", None]}, dtype=object)
    with pytest.raises(EncodingError, match="clinic, row 1: column 'age': 'old' is not a number"):
        encoder.encode(column, name="clinic")
    with pytest.raises(EncodingError, match="row 0: column 'age': inf is not a finite number"):
        encoder.transform(pd.DataFrame({"age": [np.inf]}))
    with pytest.raises(EncodingError, match="1e.300 is not a finite number"):
        encoder.transform(pd.DataFrame({"age": [1e300]}))
    encoder.set_params(on_error="mark")
    with pytest.warns(UserWarning, match="1 of 2 cells .*first: row 1: column 'age'"):
        assert encoder.encode(column).presence.tolist() == [1, 2, 0]
    assert encoder.encode(column, [1, 0, 0]).errors == {}


def test_named_categories():
    table = pd.DataFrame({"grade": [3, 1, 2, 1], "age": [1, 2, 3, 4]})
    encoder = NumericEncoder(categories={"grade": [1, 2]}).fit(table)
    assert encoder.transform(table)[:, :3].tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert encoder.get_feature_names_out()[0] == "numeric_grade_1"
    with pytest.raises(ValueError, match=r"categories names \['size'\], but the columns are"):
        NumericEncoder(categories={"size": ["s"]}).fit(table)


def test_names_do_not_collide():
    table = pd.DataFrame({"a": ["unknown", "b", "c_d"], "a_b": [1, 2, 3]})
    names = list(NumericEncoder().fit(table).get_feature_names_out())
    assert len(set(names)) == len(names) == 5


@pytest.mark.parametrize(
    ("column", "error", "says"),
    [
        (pd.DataFrame({"when": pd.to_datetime(["2020-01-01"])}), TypeError, "dtype datetime64"),
        (pd.DataFrame({"x": [[1], [2]]}), TypeError, "must hold numbers or categories, got a list"),
        (pd.DataFrame({"x": [1j]}), TypeError, "dtype complex128"),
        (pd.DataFrame({"id": [f"p{i}" for i in range(101)]}), ValueError, "has 101 categories"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), ValueError, "names repeat"),
        (np.zeros((2, 2, 2)), TypeError, "one or two axes, got 3"),
        ([], ValueError, "at least one column"),
        ([{}, {}], ValueError, "at least one column"),
    ],
)
def test_what_cannot_be_fitted(column, error, says):
    with pytest.raises(error, match=says):
        NumericEncoder().fit(column)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"categories": "all"}, "categories must be 'auto' or a dict"),
        ({"categories": {"a": "xyz"}}, "must be a sequence of different values"),
        ({"categories": {"a": [1, 1]}}, "must be a sequence of different values"),
        ({"max_categories": 0}, "max_categories must be"),
        ({"on_error": "warn"}, "on_error must be one of 'raise', 'mark'"),
    ],
)
def test_bad_parameters(params, says):
    with pytest.raises(ValueError, match=says):
        NumericEncoder(**params).fit([1])


def test_the_state_keeps_kinds_apart():
    table = pd.DataFrame({"a": [1, "1", True, 2.5], "b": [1.0, 2, 3, 4]}, dtype=object)
    table["b"] = table["b"].astype(float)
    encoder = NumericEncoder().fit(table)
    state = json.loads(json.dumps(encoder.get_state()))
    assert [column["name"] for column in state["columns"]] == ["a", "b"]
    other = NumericEncoder().set_state(state)
    np.testing.assert_array_equal(other.transform(table), encoder.transform(table))
    assert encoder.n_features_out_ == 3 + 1 + 1  # True is 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "cc", "", None]), min_size=1, max_size=20))
def test_indicators_of_any_column(cells):
    if not any(cells):
        return
    values = NumericEncoder().fit_transform(cells)
    present = np.array([bool(cell) for cell in cells])
    assert (values[present].sum(axis=1) == 1).all()
    assert np.isnan(values[~present]).all()


def test_a_real_table():
    table = pd.read_csv(data_folder("clothing_reviews") / "reviews.csv.gz")
    columns = ["Age", "Positive Feedback Count", "Division Name", "Department Name"]
    encoder = NumericEncoder().fit(table[columns])
    values = encoder.transform(table[columns])
    np.testing.assert_array_equal(values[:, 0], table["Age"].to_numpy(np.float32))
    gone = table["Division Name"].isna().to_numpy()
    division = [name.startswith("numeric_Division") for name in encoder.get_feature_names_out()]
    assert np.isnan(values[gone][:, division]).all() and gone.any()
    assert (values[~gone][:, division].sum(axis=1) == 1).all()
