"""ModalityTable: summaries, text, HTML, pandas, and numbers out of columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmfuse.presence import Presence
from mmfuse.table import ModalityTable, stack_numeric

NAN = np.nan


@pytest.fixture
def table() -> ModalityTable:
    return ModalityTable(
        {
            "image": np.zeros((5, 2, 2), dtype=np.uint8),
            "audio": [{"array": np.ones(3)}, None, Presence.FAILED, {"array": np.ones(4)}, []],
        },
        ids=["a", "b", "c", "d", "e"],
    )


def test_summary(table):
    frame = table.summary()
    assert frame.index.name == "modality"
    assert frame.columns.tolist() == ["present", "absent", "failed", "empty", "share"]
    assert frame.loc["image"].tolist() == [5, 0, 0, 0, 1.0]
    assert frame.loc["audio"].tolist() == [2, 1, 1, 1, 0.4]
    assert np.isnan(table[:0].summary()["share"]).all()


def test_summary_by_group(table):
    site = pd.Series(["north", "south", "south", "north", None], index=[4, 3, 2, 1, 0], name="site")
    frame = table.summary(by=site)
    assert frame.index.tolist() == ["image", "audio"]
    assert frame.columns[:2].tolist() == ["north", "south"] and frame.columns.isna()[2]
    assert frame.loc["audio"].tolist() == [1.0, 0.0, 0.0]
    assert frame.loc["image"].tolist() == [1.0, 1.0, 1.0]
    assert table.summary(by=np.array([2, 2, 1, 1, 1])).loc["audio"].round(3).tolist() == [
        0.333,
        0.5,
    ]


def test_summary_refuses_other_groups(table):
    with pytest.raises(TypeError, match="one group label per row.*got 'site'"):
        table.summary(by="site")
    with pytest.raises(ValueError, match="by has 2 labels; the table has 5 rows"):
        table.summary(by=[1, 2])


def test_patterns(table):
    frame = table.hide("image", rows=[1]).patterns()
    assert frame.columns.tolist() == ["image", "audio", "rows", "share"]
    assert frame["image"].dtype == bool
    assert frame.to_numpy().tolist() == [
        [True, True, 2, 0.4],
        [True, False, 2, 0.4],
        [False, False, 1, 0.2],
    ]
    assert len(table[:0].patterns()) == 0


def test_patterns_keep_a_modality_named_rows():
    frame = ModalityTable({"rows": [1.0, None, None]}).patterns()
    assert frame.to_numpy().tolist()[0] == [False, 2, 2 / 3]


def test_repr(table):
    assert repr(table).splitlines() == [
        "ModalityTable: 5 rows x 2 modalities",
        "  image  uint8 (2, 2)  5 present",
        "  audio  dict          2 present, 1 absent, 1 failed, 1 empty",
    ]
    assert repr(table.select("image")[:1]).startswith("ModalityTable: 1 row x 1 modality\n")


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (np.zeros((2, 3), dtype=np.float32), "float32 (3,)"),
        (["x", None], "str"),
        ([None, Presence.FAILED], "object"),
        ([np.zeros(2, dtype=np.int16), np.zeros(3)], "int16 arrays"),
        (pd.DataFrame({"a": [1, 2]}), "DataFrame, 1 column"),
        (pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), "DataFrame, 2 columns"),
        ([Path("a"), None], "Path"),
    ],
)
def test_repr_says_what_a_column_holds(column, kind):
    assert f"  x  {kind}  " in repr(ModalityTable({"x": column}))


def test_html_escapes_names_and_shows_shares(table):
    html = ModalityTable({"<b>&": table["image"], "audio": table["audio"]})._repr_html_()
    assert "&lt;b&gt;&amp;" in html and "<b>" not in html
    assert "ModalityTable: 5 rows x 2 modalities" in html
    assert "width:100.0%" in html and "width:40.0%" in html
    assert "2 present, 1 absent, 1 failed, 1 empty" in html
    assert "width:0.0%" in table[:0]._repr_html_()


def test_to_pandas():
    table = ModalityTable(
        {
            "vector": [[1, 2], None],
            "age": [30, 40],
            "text": ["a", "b"],
            "clinic": pd.DataFrame({"u": [1.0, NAN], "v": ["x", None]}),
        },
        ids=["p", "q"],
        presence=[[1, 1, 1, 1], [1, 2, 0, 1]],
    )
    frame = table.to_pandas()
    assert frame.index.tolist() == ["p", "q"]
    assert set(frame.dtypes) == {np.dtype(object)}
    np.testing.assert_array_equal(frame.loc["p", "vector"], [1, 2])
    assert frame.loc["p"].tolist()[1:] == [30, "a", {"u": 1.0, "v": "x"}]
    assert frame.loc["q"].tolist() == [None] * 4
    assert table.select("age").to_pandas().loc["p", "age"] == 30
    back = ModalityTable.from_pandas(frame)
    assert back.presence.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]
    assert back["age"].shape == (2, 1)


@pytest.mark.parametrize(
    "column",
    [
        np.array([[1, 2], [9, 9], [3, 4]], dtype=np.uint8),
        [np.array([1, 2]), None, [3, 4]],
        [(1, 2), "", np.array([3.0, 4.0])],
        [{"a": 1, "b": 2}, {"a": NAN}, {"b": 4, "a": 3}],
        pd.DataFrame({"a": [1, None, 3], "b": [2.0, NAN, 4.0]}),
        pd.DataFrame({"a": pd.array([1, None, 3], dtype="Int64"), "b": [2, None, 4]}, dtype=object),
    ],
    ids=lambda column: type(column).__name__,
)
def test_stack_numeric(column):
    table = ModalityTable({"x": column}).hide("x", rows=1)
    out = stack_numeric(table["x"], table.presence[:, 0])
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, [[1, 2], [NAN, NAN], [3, 4]])
    through = ModalityTable.from_object_array(np.asarray(table), ["x"])
    np.testing.assert_array_equal(stack_numeric(through["x"], through.presence[:, 0]), out)


def test_stack_numeric_of_raw_cells_finds_the_states_itself():
    np.testing.assert_array_equal(stack_numeric([[1.0, NAN], None]), [[1, NAN], [NAN, NAN]])
    np.testing.assert_array_equal(stack_numeric([1, None, 3]), [[1], [NAN], [3]])


def test_stack_numeric_of_tensors():
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(stack_numeric([torch.ones(2), None]), [[1, 1], [NAN, NAN]])


def test_stack_numeric_with_nothing_present():
    assert stack_numeric([None, None]).shape == (2, 0)
    out = stack_numeric([None, None], width=3)
    assert out.shape == (2, 3) and np.isnan(out).all()


def test_stack_numeric_keeps_what_float32_cannot_hold_infinite():
    assert stack_numeric(np.array([[1e300]]))[0, 0] == np.inf


@pytest.mark.parametrize(
    ("column", "width", "message"),
    [
        ([[1, 2], None, [1, 2, 3]], None, "Modality 'm', row 2 has 3 values, expected 2"),
        ([[1, [2]], [3, 4]], None, r"row 0 must be a vector of numbers, got \[1, \[2\]\]"),
        ([[1, 2], [3, 4]], 3, "Modality 'm' has 2 values, expected 3"),
        ([np.ones(2), np.ones(3)], 3, "Modality 'm', row 0 has 2 values, expected 3"),
        (["text", None], None, "row 0 must be a vector of numbers, got 'text'"),
        ([None, np.ones((2, 2)), np.ones(1)], None, r"row 1 must .* an array of shape \(2, 2\)"),
        ([{"a": 1}, {"b": 1}], None, r"row 1 has the keys \['b'\], expected \['a'\]"),
        (np.ones((2, 3, 3)), None, r"'m' has shape \(2, 3, 3\).*need shape \(n, d\)"),
        (pd.DataFrame({"a": [1, 2], "s": ["u", "v"]}), None, "row 0 must be a vector of numbers"),
    ],
)
def test_stack_numeric_names_the_row(column, width, message):
    with pytest.raises(ValueError, match=message):
        stack_numeric(column, name="m", width=width)
