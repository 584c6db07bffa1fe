"""ModalityTable from frames, CSV and parquet files, and joined by id."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfuse.presence import Presence
from mmfuse.table import ModalityTable

NAN = np.nan


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "pid": ["a", "b", "c"],
            "wav": ["1.wav", None, "3.wav"],
            "age": [30.0, NAN, 50.0],
            "sex": ["f", None, "m"],
            "vec": [[1, 2], None, [3, 4]],
        },
        index=[5, 5, 7],
    )


@pytest.fixture
def write(tmp_path):
    """Write a manifest in a folder that holds a.wav and sub/b.wav."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "sub" / "b.wav").write_bytes(b"RIFF")

    def write_text(text: str, name: str = "manifest.csv") -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write_text


def test_from_pandas_with_named_modalities(frame):
    table = ModalityTable.from_pandas(frame, id="pid", audio="wav", clinic=["age", "sex"], v="vec")
    assert table.modalities == ("audio", "clinic", "v")
    assert table.ids.tolist() == ["a", "b", "c"]
    assert table["audio"].tolist() == ["1.wav", None, "3.wav"]
    assert list(table["clinic"].columns) == ["age", "sex"]
    assert table["v"].tolist()[0] == [1, 2]
    assert table.presence.T.tolist() == [[1, 0, 1]] * 3


def test_from_pandas_takes_every_column_but_the_id(frame):
    table = ModalityTable.from_pandas(frame, id="pid")
    assert table.modalities == ("wav", "age", "sex", "vec")
    assert table["age"].shape == (3, 1)
    assert ModalityTable.from_pandas(frame).modalities[0] == "pid"
    by_index = ModalityTable.from_pandas(frame.set_index("pid"), id="pid", age="age")
    assert by_index.ids.tolist() == ["a", "b", "c"]


def test_from_pandas_says_what_is_wrong(frame):
    known = "there is no column 'wave'. The columns are 'pid', 'wav', 'age', 'sex', 'vec'"
    with pytest.raises(ValueError, match=f"from_pandas: audio='wave': {known}"):
        ModalityTable.from_pandas(frame, audio="wave")
    with pytest.raises(ValueError, match=r"x=\['age', 'wave'\]: there is no column 'wave'"):
        ModalityTable.from_pandas(frame, x=["age", "wave"])
    with pytest.raises(ValueError, match="id='person': there is no column 'person'"):
        ModalityTable.from_pandas(frame, id="person")
    with pytest.raises(ValueError, match="'f' is the id of rows 0, 2"):
        ModalityTable.from_pandas(frame.assign(sex=["f", "m", "f"]), id="sex")
    with pytest.raises(ValueError, match="row 1 has no id"):
        ModalityTable.from_pandas(frame, id="sex")
    with pytest.raises(TypeError, match="x=3 must be the name of a column, or a list of names"):
        ModalityTable.from_pandas(frame, x=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="needs a DataFrame, got dict"):
        ModalityTable.from_pandas({})  # type: ignore[arg-type]
    twice = frame[["age", "age"]]
    with pytest.raises(ValueError, match="the column 'age' is there 2 times"):
        ModalityTable.from_pandas(twice, x="age")
    with pytest.raises(TypeError, match="must be a string, got 0 of type int"):
        ModalityTable.from_pandas(pd.DataFrame([[1]]))


def test_from_csv(write, tmp_path):
    path = write("pid,wav,text,age\n1,a.wav,hello,30\n2,,NA,\n3,sub/missing.wav,,50.5\n")
    table = ModalityTable.from_csv(path, id="pid", audio="wav", text="text", age="age")
    assert table.ids.tolist() == [1, 2, 3]
    assert table["audio"].tolist() == [tmp_path / "a.wav", None, tmp_path / "sub/missing.wav"]
    assert table["text"].tolist() == ["hello", "NA", None]
    np.testing.assert_array_equal(table["age"], [[30], [NAN], [50.5]])
    assert table.presence.tolist() == [[1, 1, 1], [0, 1, 0], [1, 0, 1]]


def test_from_csv_takes_every_column_but_the_id(write):
    table = ModalityTable.from_csv(write("pid,wav,age\nx,a.wav,3\ny,a.wav,4\n"), id="pid")
    assert table.modalities == ("wav", "age")
    assert table["age"].dtype == np.int64
    assert isinstance(table["wav"][0], Path)


@pytest.mark.parametrize("word", ["NA", "null", "None", "nan", "N/A"])
def test_words_for_missing_are_text_among_texts_and_gaps_among_numbers(write, word):
    table = ModalityTable.from_csv(write(f"text,age\nhello,1\n{word},{word}\n7,2\n"))
    assert table["text"].tolist() == ["hello", word, "7"]
    np.testing.assert_array_equal(table["age"], [[1], [NAN], [2]])
    only = ModalityTable.from_csv(write(f"text\n{word}\n{word}\n"))
    assert only["text"].tolist() == [word, word]


@pytest.mark.parametrize(
    ("cells", "ids"),
    [
        (["1", "20"], [1, 20]),
        (["007", "7"], ["007", "7"]),
        (["1", "b"], ["1", "b"]),
        (["NA", "null"], ["NA", "null"]),
        (["1.0", "1.00"], ["1.0", "1.00"]),
    ],
)
def test_ids_are_read_as_they_are_written(write, cells, ids):
    path = write("pid,x\n" + "".join(f"{cell},1\n" for cell in cells))
    assert ModalityTable.from_csv(path, id="pid").ids.tolist() == ids


def test_paths_are_found_within_the_first_fifty_cells(write, tmp_path):
    late = "text,note\n" + "words,\n" * 49 + "a.wav,\nmore words,x\n"
    table = ModalityTable.from_csv(write(late))
    assert table["text"][0] == tmp_path / "words" and table["note"][50] == "x"
    later = "text,note\n" + "words,x\n" * 50 + "a.wav,x\n"
    assert ModalityTable.from_csv(write(later))["text"][50] == "a.wav"


def test_root_and_absolute_paths(write, tmp_path):
    path = write(f"wav\nb.wav\n{tmp_path / 'a.wav'}\n")
    table = ModalityTable.from_csv(path, root=tmp_path / "sub")
    assert table["wav"].tolist() == [tmp_path / "sub" / "b.wav", tmp_path / "a.wav"]


def test_a_text_longer_than_any_file_name_is_text(write):
    text = "word " * 2000
    assert ModalityTable.from_csv(write(f"text\n{text}\n"))["text"][0] == text


def test_paths_can_be_forced_and_turned_off(write, tmp_path):
    path = write("wav,text,age\na.wav,gone.txt,3\n")
    forced = ModalityTable.from_csv(path, words="text", sound="wav", paths=["words"])
    assert forced["words"][0] == tmp_path / "gone.txt" and forced["sound"][0] == "a.wav"
    assert ModalityTable.from_csv(path, paths="text")["text"][0] == tmp_path / "gone.txt"
    assert ModalityTable.from_csv(path, paths=[])["wav"][0] == "a.wav"
    message = "paths names 'wav', which is not a modality of one column. These are: sound"
    with pytest.raises(ValueError, match=message):
        ModalityTable.from_csv(path, sound="wav", both=["text", "age"], paths=["wav"])


def test_tab_separated_files(write):
    path = write("text\tage\na, b\t3\n", "manifest.tsv")
    assert ModalityTable.from_csv(path)["text"].tolist() == ["a, b"]


def test_csv_errors(write):
    for rows in ("1,2,3\n4,5,6\n", "0,2,3\n1,5,6\n"):
        with pytest.raises(ValueError, match="manifest.csv' have more cells than its header"):
            ModalityTable.from_csv(write(f"a,b\n{rows}"))
    assert ModalityTable.from_csv(write("a,b\n1,2,\n4,5,\n"))["b"].tolist() == [[2], [5]]
    with pytest.raises(ValueError, match="from_csv: id='pid': there is no column 'pid'"):
        ModalityTable.from_csv(write("a,b\n1,2\n"), id="pid")
    with pytest.raises(ValueError, match="row 1 has no id"):
        ModalityTable.from_csv(write("pid,b\n1,2\n,3\n"), id="pid")
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        ModalityTable.from_csv("nowhere.csv")


def test_from_parquet(write, tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {
            "pid": ["a", "b"],
            "wav": ["sub/b.wav", None],
            "vec": [[1.0, 2.0], None],
            "age": pd.array([3, None], dtype="Int64"),
            "text": ["NA", ""],
        }
    )
    path = write("", "table.parquet")
    frame.to_parquet(path)
    table = ModalityTable.from_parquet(path, id="pid")
    assert table.ids.tolist() == ["a", "b"]
    assert table["wav"].tolist() == [tmp_path / "sub" / "b.wav", None]
    np.testing.assert_array_equal(table["vec"][0], [1, 2])
    np.testing.assert_array_equal(table["age"], [[3], [NAN]])
    assert table["text"].tolist() == ["NA", None]
    assert table.presence.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]
    assert ModalityTable.from_parquet(path, sound="wav", paths=[])["sound"][0] == "sub/b.wav"
    assert ModalityTable.from_parquet(path, w="wav", root="r", paths="w")["w"][0] == Path(
        "r/sub/b.wav"
    )


def test_from_parquet_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"from_parquet needs .*mmfuse\[parquet\]"):
        ModalityTable.from_parquet("table.parquet")


PARTS = {
    "image": (["b", "a"], np.array([[1, 2], [3, 4]], dtype=np.uint8)),
    "text": pd.Series(["hello", Presence.FAILED, ""], index=["a", "c", "b"]),
    "clinic": pd.DataFrame({"age": [30, 40], "sex": ["f", "m"]}, index=["d", "a"]),
}


@pytest.mark.parametrize(
    ("how", "ids", "presence"),
    [
        ("outer", "bacd", [[1, 0, 0], [1, 1, 1], [0, 2, 0], [0, 0, 1]]),
        ("left", "ba", [[1, 0, 0], [1, 1, 1]]),
        ("inner", "a", [[1, 1, 1]]),
    ],
)
def test_join(how, ids, presence):
    table = ModalityTable.join(PARTS, how=how)
    assert table.ids.tolist() == list(ids)
    assert table.modalities == ("image", "text", "clinic")
    assert table.presence.tolist() == presence
    row = list(ids).index("a")
    assert table["image"][row].tolist() == [3, 4]
    assert table["text"][row] == "hello"
    assert table["clinic"].loc[row].tolist() == [40, "m"]


def test_join_leaves_images_as_they_are():
    images = np.ones((2, 3, 3), dtype=np.uint8)
    both = ModalityTable.join({"x": (["a", "b"], images), "y": (["b", "a"], [1, 2])})
    assert both["x"].dtype == np.uint8 and both["y"].tolist() == [[2], [1]]
    gaps = ModalityTable.join({"x": (["a", "b"], images), "y": (["c"], [[1, 2]])})
    assert gaps["x"][0].dtype == np.uint8 and gaps["x"][2] is None
    np.testing.assert_array_equal(gaps["y"], [[NAN, NAN], [NAN, NAN], [1, 2]])


def test_join_keeps_why_a_number_is_missing():
    numbers = ([1, 2, 3], [0.5, Presence.FAILED, Presence.EMPTY])
    table = ModalityTable.join({"x": numbers, "y": ([4, 2], ["a", "b"])})
    assert table.presence[:, 0].tolist() == [1, Presence.FAILED, Presence.EMPTY, 0]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_join_finds_every_cell_by_its_id(data):
    ids = st.lists(st.integers(0, 9), unique=True, max_size=6)
    parts = {name: data.draw(ids) for name in ("a", "b", "c")}
    how = data.draw(st.sampled_from(["outer", "inner", "left"]))
    columns = {
        "a": (parts["a"], np.array(parts["a"], dtype=float).reshape(-1, 1)),
        "b": pd.Series([f"id {i}" for i in parts["b"]], index=parts["b"], dtype=object),
        "c": pd.DataFrame({"id": parts["c"]}, index=parts["c"]),
    }
    table = ModalityTable.join(columns, how=how)
    sets = [set(part) for part in parts.values()]
    expected = {"outer": set.union(*sets), "inner": set.intersection(*sets), "left": sets[0]}
    assert set(table.ids) == expected[how] and len(table) == len(expected[how])
    for row, i in enumerate(table.ids):
        assert table.presence[row].tolist() == [int(i in part) for part in sets]
        assert i not in sets[0] or table["a"][row, 0] == i
        assert i not in sets[1] or table["b"][row] == f"id {i}"
        assert i not in sets[2] or table["c"].loc[row, "id"] == i


@pytest.mark.parametrize(
    ("parts", "how", "error", "message"),
    [
        ({}, "outer", ValueError, "join needs at least one modality"),
        (PARTS, "right", ValueError, "how must be 'outer', 'inner' or 'left', got 'right'"),
        ({"x": (["a", "a"], [1, 2])}, "outer", ValueError, "'x': .*'a' is the id of rows 0, 1"),
        ({"x": (["a"], [1, 2])}, "outer", ValueError, "'x': there are 1 ids for 2 rows"),
        ({"x": [1, 2]}, "outer", TypeError, r"'x' must be a Series or DataFrame.*got \[1, 2\]"),
        (
            {"x": ([1], ["u"]), "y": (["1"], ["v"])},
            "outer",
            ValueError,
            r"different kinds \(x: numbers, e.g. .*1.*, y: not numbers, e.g. '1'\)",
        ),
    ],
)
def test_join_errors(parts, how, error, message):
    with pytest.raises(error, match=message):
        ModalityTable.join(parts, how=how)
