"""ModalityTable: construction, states, rows, and the looks of it."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from mmfuse.presence import Presence
from mmfuse.table import ModalityTable

ABSENT, PRESENT, FAILED, EMPTY = sorted(Presence)
NAN = np.nan


@pytest.fixture
def table() -> ModalityTable:
    return ModalityTable(
        {
            "image": np.arange(5 * 2 * 2, dtype=np.uint8).reshape(5, 2, 2),
            "audio": [np.ones(3), None, Presence.FAILED, np.ones(4), np.ones(0)],
            "clinic": pd.DataFrame({"age": [1, 2, NAN, 4, NAN], "sex": ["f", None, "", "m", "f"]}),
        },
        ids=["a", "b", "c", "d", "e"],
    )


def test_surface(table):
    assert len(table) == 5
    assert table.shape == (5, 3)
    assert table.modalities == ("image", "audio", "clinic")
    assert table.ids.tolist() == ["a", "b", "c", "d", "e"]
    assert table.presence.dtype == np.int8
    assert table.presence.T.tolist() == [[1] * 5, [1, 0, 2, 1, 3], [1, 1, 0, 1, 1]]
    assert "audio" in table and "video" not in table
    assert ModalityTable({"x": [1.0]}).ids is None


def test_numeric_blocks_keep_memory_and_dtype():
    image = np.zeros((4, 3, 3), dtype=np.uint8)
    table = ModalityTable({"image": image})
    assert table["image"].dtype == np.uint8
    assert np.shares_memory(table["image"], image)
    assert np.shares_memory(table[1:3]["image"], image)
    assert image.flags.writeable


def test_columns_cannot_be_written_to(table):
    for part in (table, table[[0, 1]], table[1:], table.hide("image")):
        for array in (part["image"], part["audio"], part.presence, part.ids):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = array[1]
    clinic = table["clinic"]
    clinic.loc[0, "age"] = 99
    assert table["clinic"].loc[0, "age"] == 1


def test_a_list_given_as_column_is_not_changed_nor_followed():
    cells = np.array(["a", "", None], dtype=object)
    table = ModalityTable({"text": cells})
    cells[0] = "changed"
    assert cells.tolist() == ["changed", "", None]
    assert table["text"].tolist() == ["a", None, None]


@pytest.mark.parametrize(
    ("value", "dtype", "states"),
    [
        (np.array([1.0, NAN]), np.float64, [PRESENT, ABSENT]),
        (np.array([3, 4], dtype=np.int16), np.int16, [PRESENT, PRESENT]),
        ([1, None, 2.5], np.float64, [PRESENT, ABSENT, PRESENT]),
        ([1, 2], np.int64, [PRESENT, PRESENT]),
        ([None, 2**40 + 1], np.float64, [ABSENT, PRESENT]),
        ([1.5, Presence.FAILED, Presence.EMPTY], np.float64, [PRESENT, FAILED, EMPTY]),
        (pd.Series([1, None], dtype="Int64"), np.float64, [PRESENT, ABSENT]),
        (pd.Series([1, 2], dtype="Int64"), np.int64, [PRESENT, PRESENT]),
        (pd.Series([True, None], dtype="boolean"), np.float64, [PRESENT, ABSENT]),
        (np.ma.array([1, 2], mask=[False, True]), np.float64, [PRESENT, ABSENT]),
    ],
)
def test_one_number_per_row_is_a_block_of_width_one(value, dtype, states):
    table = ModalityTable({"x": value})
    assert table["x"].shape == (len(states), 1)
    assert table["x"].dtype == dtype
    assert table.presence[:, 0].tolist() == states
    assert np.isnan(table["x"].astype(float))[:, 0].tolist() == [s != PRESENT for s in states]


@pytest.mark.parametrize(
    ("cell", "state"),
    [
        (None, ABSENT),
        (NAN, ABSENT),
        (np.float32(NAN), ABSENT),
        (pd.NA, ABSENT),
        (pd.NaT, ABSENT),
        (np.datetime64("NaT"), ABSENT),
        ("", ABSENT),
        (" \n", ABSENT),
        (b"", ABSENT),
        (np.array([NAN, NAN]), ABSENT),
        ([NAN, None], ABSENT),
        ({"age": NAN, "sex": ""}, ABSENT),
        (Presence.ABSENT, ABSENT),
        (Presence.FAILED, FAILED),
        (Presence.EMPTY, EMPTY),
        (np.zeros((0, 3)), EMPTY),
        ([], EMPTY),
        ("nan", PRESENT),
        ("None", PRESENT),
        (b"\0", PRESENT),
        (np.array([NAN, 0.0]), PRESENT),
        (np.array([0]), PRESENT),
        ({"age": NAN, "sex": "f"}, PRESENT),
        ({"array": np.zeros(2), "sampling_rate": 8000}, PRESENT),
        (Path("a.wav"), PRESENT),
        pytest.param(object(), PRESENT, id="object"),  # its repr differs between processes
    ],
    ids=repr,
)
def test_state_of_a_cell(cell, state):
    table = ModalityTable({"x": ["sample", cell]})
    assert table.presence[:, 0].tolist() == [PRESENT, state]
    expected = {ABSENT: None, PRESENT: cell, FAILED: Presence.FAILED, EMPTY: Presence.EMPTY}
    assert table["x"][1] is expected[state]


def test_states_of_blocks_and_frames():
    x = np.array([[[NAN, NAN]], [[NAN, 0.0]], [[0.0, 0.0]]])
    frame = pd.DataFrame({"a": [NAN, NAN, 1], "b": ["", "x", None]}, index=[7, 8, 9])
    table = ModalityTable({"x": x, "f": frame, "none": np.zeros((3, 0))})
    assert table.presence.T.tolist() == [[0, 1, 1], [0, 1, 1], [EMPTY] * 3]
    assert table["f"].index.tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", ["str", "string", "category", object])
def test_text_series(dtype):
    series = pd.Series(["a", None, "b"], dtype=dtype, index=[5, 5, 5])
    table = ModalityTable({"text": series})
    assert table["text"].tolist() == ["a", None, "b"]
    assert table["text"].dtype == object


def test_lists_of_lists_are_an_array_and_arrays_may_stay_samples():
    table = ModalityTable({"v": [[1, 2], [3, 4]], "gap": [[1, 2], None], "ragged": [[1], [2, 3]]})
    assert table["v"].dtype == np.int64 and table["v"].tolist() == [[1, 2], [3, 4]]
    np.testing.assert_array_equal(table["gap"], [[1, 2], [NAN, NAN]])
    assert table["ragged"].tolist() == [[1], [2, 3]]
    assert ModalityTable({"w": [np.ones(2), np.ones(2)]})["w"].dtype == object


def test_other_sequences_and_object_matrices():
    table = ModalityTable(
        {
            "range": range(3),
            "matrix": np.array([[1, None], [None, pd.NA], [2, 3]], dtype=object),
            "strings": np.array(["a", " ", "c"]),
            "times": np.array(["2020-01-01", "NaT", "2021-01-01"], dtype="datetime64[D]"),
        }
    )
    assert table["range"].tolist() == [[0], [1], [2]]
    np.testing.assert_array_equal(table["matrix"], [[1, NAN], [NAN, NAN], [2, 3]])
    assert table["strings"].tolist() == ["a", None, "c"]
    assert table["times"].tolist() == [pd.Timestamp("2020"), None, pd.Timestamp("2021")]
    assert table.presence[1].tolist() == [1, 0, 0, 0]


def test_tensors_are_converted():
    torch = pytest.importorskip("torch")
    x = torch.ones(3, 2)
    table = ModalityTable(
        {
            "x": x,
            "grad": torch.ones(3, 2, requires_grad=True),
            "half": torch.ones(3, 2, dtype=torch.bfloat16),
            "cells": [torch.ones(2), torch.ones(0), torch.full((2,), NAN)],
        }
    )
    assert np.shares_memory(table["x"], x.numpy())
    assert table["grad"].dtype == table["half"].dtype == np.float32
    assert table.presence[:, 3].tolist() == [PRESENT, EMPTY, ABSENT]


def test_presence_can_only_take_away():
    given_states = [[1, FAILED], [False, 1], [EMPTY, 1]]
    table = ModalityTable({"x": [1.0, 2.0, 3.0], "t": ["a", None, "c"]}, presence=given_states)
    assert table.presence.tolist() == [[1, FAILED], [0, 0], [EMPTY, 1]]


@pytest.mark.parametrize(
    ("columns", "arguments", "message"),
    [
        ({}, {}, "ModalityTable needs at least one modality, got none"),
        (
            {"image": np.zeros((10, 2)), "audio": [None] * 9, "text": ["a"] * 10},
            {},
            r"\(image: 10 rows, audio: 9 rows, text: 10 rows\)",
        ),
        ({"": [1]}, {}, "name must not be empty, got ''"),
        ({"a__b": [1]}, {}, "'a__b' contains '__', .*Rename it, e.g. 'a_b'"),
        ({"a": [1, 2]}, {"ids": ["x", "x"]}, "must be unique, but 'x' is the id of rows 0, 1"),
        ({"a": [1, 2]}, {"ids": ["x"]}, "there are 1 ids for 2 rows"),
        ({"a": [1, 2]}, {"ids": [1, None]}, "row 1 has no id"),
        ({"a": [1, 2]}, {"presence": [1, 1]}, r"shape \(2,\), but .*must have shape \(2, 1\)"),
        ({"a": [1, 2]}, {"presence": [[1], [7]]}, "presence holds 7 in row 1, column 0"),
        ({"a": [None, Presence.PRESENT]}, {}, "'a', row 1 is Presence.PRESENT"),
        ({"a": pd.DataFrame(index=range(2))}, {}, "'a' is a DataFrame without columns"),
        ({"a": pd.DataFrame([[1, 2]], columns=["u", "u"])}, {}, "'a' has the column 'u' twice"),
        ({"a": np.array([[1, "x"]], dtype=object)}, {}, r"shape \(1, 2\) that holds str in row 0"),
        ({"a": np.array([["x", "y"]])}, {}, r"'a' has shape \(1, 2\) and dtype <U1"),
        ({"a": np.zeros(3, dtype="i4,f4")}, {}, r"'a' has shape \(3,\) and dtype \[\('f0'"),
    ],
)
def test_values_that_are_refused(columns, arguments, message):
    with pytest.raises(ValueError, match=message):
        ModalityTable(columns, **arguments)


@pytest.mark.parametrize(
    ("columns", "arguments", "message"),
    [
        ({1: ["x"]}, {}, "must be a string, got 1 of type int"),
        ({"a": "text"}, {}, "'a' must hold one entry per sample, got str"),
        ({"a": {"x": 1}}, {}, "'a' must hold one entry per sample, got dict"),
        ({"a": 3.0}, {}, "'a' must hold one entry per sample, got float"),
        ({"a": np.array(3.0)}, {}, "'a' must hold one entry per sample"),
        ({"a": None}, {}, "'a' must hold one entry per sample, got NoneType"),
        ({"a": sparse.eye(3, format="csr")}, {}, r"'a' is a sparse matrix; .*\.toarray\(\)"),
        ({"a": [1, 2]}, {"ids": "ab"}, "ids must be a sequence with one id per row, got 'ab'"),
        (pd.DataFrame({"a": [1]}), {}, "got DataFrame; use ModalityTable.from_pandas"),
        ([1, 2], {}, "needs a dict of columns, got list"),
    ],
)
def test_types_that_are_refused(columns, arguments, message):
    with pytest.raises(TypeError, match=message):
        ModalityTable(columns, **arguments)


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 5), min_size=2, max_size=4))
def test_misaligned_columns_always_list_their_lengths(lengths):
    columns = {f"m{j}": [None] * n for j, n in enumerate(lengths)}
    if len(set(lengths)) == 1:
        assert ModalityTable(columns).shape == (lengths[0], len(lengths))
        return
    with pytest.raises(ValueError) as caught:
        ModalityTable(columns)
    for j, n in enumerate(lengths):
        assert f"m{j}: {n} rows" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (2, TypeError, r"ModalityTable keeps its row axis; use X\[2:3\] for one row"),
        (np.int64(-1), TypeError, r"use X\[-1:\]"),
        ("video", KeyError, "no modality 'video'. Known modalities: image, audio, clinic"),
        (["image"], TypeError, r"got names \['image'\]; use X.select\(names\)"),
        ([True, False], IndexError, "mask has 2 entries for 5 rows"),
        (pd.Series([True]), IndexError, "mask has 1 entries for 5 rows"),
        ([0, -6], IndexError, "Row -6 is out of bounds for 5 rows"),
        ([[0]], IndexError, r"one-dimensional, got shape \(1, 1\)"),
        ([0.5], TypeError, "integers or a boolean mask"),
        (None, TypeError, "integers or a boolean mask, got None"),
        (pd.Series([True, None] * 3, dtype="boolean"), TypeError, "integers or a boolean mask"),
        ((slice(None), "image"), TypeError, "indexed by rows alone"),
        (([0], [1]), TypeError, "indexed by rows alone"),
    ],
    ids=repr,
)
def test_keys_that_are_refused(table, key, error, message):
    with pytest.raises(error, match=message):
        table[key]


def test_masks_and_rows_from_pandas_count_by_position(table):
    series = pd.Series([True, False, False, False, True], index=[9, 8, 7, 6, 5])
    assert table[series].ids.tolist() == ["a", "e"]
    assert table[series.astype("boolean")].ids.tolist() == ["a", "e"]
    assert table[pd.Series([3, 0], index=[0, 1])].ids.tolist() == ["d", "a"]
    assert table[pd.Index([4])].ids.tolist() == ["e"]
    assert table[pd.Series([3, 0], dtype=object)].ids.tolist() == ["d", "a"]
    assert table[series.astype(object)].ids.tolist() == ["a", "e"]


def row_keys(n: int) -> st.SearchStrategy:
    """Every kind of key for n rows, alone or with the column half of a 2-D key."""
    rows = st.lists(st.integers(-n, n - 1), max_size=7) if n else st.just([])
    masks = st.lists(st.booleans(), min_size=n, max_size=n).map(lambda m: np.array(m, dtype=bool))
    key = st.one_of(st.slices(n), rows, rows.map(lambda r: np.array(r, dtype=np.int32)), masks)
    return st.one_of(key, st.tuples(key, st.sampled_from([Ellipsis, slice(None)])))


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_rows_follow_numpy_in_every_column(data):
    n = data.draw(st.integers(0, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    block = rng.choice([1.0, NAN], size=(n, 2))
    cells = [data.draw(st.sampled_from([None, "a", "b", FAILED, EMPTY])) for _ in range(n)]
    frame = pd.DataFrame({"u": rng.choice([1.0, NAN], size=n), "v": rng.normal(size=n)})
    table = ModalityTable({"block": block, "cells": cells, "frame": frame}, ids=np.arange(n) * 10)
    key = data.draw(row_keys(n))
    rows = key[0] if isinstance(key, tuple) else key
    rows = np.array(rows, dtype=int) if isinstance(rows, list) else rows
    part = table[key]
    np.testing.assert_array_equal(part["block"], block[rows])
    assert part["cells"].tolist() == table["cells"][rows].tolist()
    np.testing.assert_array_equal(part["frame"].to_numpy(), frame.to_numpy()[rows])
    assert part["frame"].index.tolist() == list(range(len(part)))
    np.testing.assert_array_equal(part.presence, table.presence[rows])
    np.testing.assert_array_equal(part.ids, np.arange(n)[rows] * 10)
    assert part.modalities == table.modalities


def test_hide_and_mark_change_states_alone(table):
    hidden = table.hide(["audio", "image"], rows=[0, 2])
    assert hidden.presence.T.tolist() == [[0, 1, 0, 1, 1], [0, 0, 0, 1, 3], [1, 1, 0, 1, 1]]
    assert hidden["image"] is not None and (hidden["image"] == table["image"]).all()
    assert hidden.ids.tolist() == table.ids.tolist()
    assert not table.hide("audio").presence[:, 1].any()
    assert table.hide("image", rows=np.array([0, 0, 0, 1, 1], bool)).presence[:, 0].sum() == 3
    marked = table.mark("image", slice(1, 3), Presence.FAILED)
    assert marked.presence[:, 0].tolist() == [1, 2, 2, 1, 1]
    assert marked.mark("image", None, Presence.PRESENT).presence[:, 0].all()
    assert table.presence[:, 0].tolist() == [1] * 5


def test_hide_mark_and_select_say_what_is_wrong(table):
    known = "no modality 'video'. Known modalities: image, audio, clinic"
    for method in (table.hide, table.select, lambda name: table.mark(name, 0, FAILED)):
        with pytest.raises(KeyError, match=known):
            method("video")
    with pytest.raises(ValueError, match="'image' is named twice"):
        table.hide(["image", "image"])
    with pytest.raises(ValueError, match="needs at least one modality"):
        table.select([])
    with pytest.raises(IndexError, match="Row 9 is out of bounds"):
        table.hide("image", rows=9)
    with pytest.raises(ValueError, match="state must be a Presence.*got 9"):
        table.mark("image", 0, 9)
    with pytest.raises(ValueError, match="'audio', row 2 holds no value to be PRESENT"):
        table.mark("audio", [0, 2], Presence.PRESENT)


def test_select(table):
    part = table.select(["clinic", "image"])
    assert part.modalities == ("clinic", "image")
    np.testing.assert_array_equal(part.presence, table.presence[:, [2, 0]])
    assert table.select("audio").shape == (5, 1)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_copies(table, clone):
    other = clone(table.hide("image", rows=0))
    assert other.modalities == table.modalities
    assert other.ids.tolist() == table.ids.tolist()
    assert other.presence[:, 0].tolist() == [0, 1, 1, 1, 1]
    np.testing.assert_array_equal(other["image"], table["image"])
    assert not other["image"].flags.writeable


def test_importing_the_table_does_not_import_torch():
    code = (
        "import sys, mmfuse.table.modality_table;"
        "print([m for m in ('torch', 'sklearn', 'pyarrow.parquet') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
