"""Blocks: what encoding gives."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfuse.blocks import Blocks
from mmfuse.presence import Presence

NAN = np.nan


@pytest.fixture
def blocks() -> Blocks:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 3)).astype(np.float32)
    audio = rng.normal(size=(5, 2)).astype(np.float32)
    audio[[1, 3]] = NAN
    audio[4, 0] = NAN
    presence = [[1, 1], [1, 2], [1, 1], [1, 3], [1, 1]]
    return Blocks({"image": image, "audio": audio}, presence)


def test_surface(blocks):
    assert blocks.names == ("image", "audio")
    assert blocks.dims == {"image": 3, "audio": 2}
    assert len(blocks) == 5
    assert blocks.shape == (5, 2)
    assert blocks.presence.dtype == np.int8
    assert blocks.presence[:, 1].tolist() == [1, 2, 1, 3, 1]
    assert blocks.present[:, 1].tolist() == [True, False, True, False, True]
    assert blocks["audio"].dtype == np.float32
    assert "audio" in blocks and "video" not in blocks


def test_presence_comes_from_nan_rows_when_it_is_not_given():
    blocks = Blocks({"x": [[NAN, NAN], [NAN, 1], [1, 2]]})
    assert blocks.presence.tolist() == [[0], [1], [1]]


def test_values_of_rows_that_are_not_present_become_nan_on_a_copy():
    values = np.ones((3, 2), dtype=np.float32)
    blocks = Blocks({"x": values}, [[1], [Presence.FAILED], [False]])
    assert np.isnan(blocks["x"]).all(axis=1).tolist() == [False, True, True]
    assert (values == 1).all()
    assert blocks.presence.tolist() == [[1], [2], [0]]


def test_an_all_nan_row_marked_present_becomes_absent():
    presence = np.ones((2, 1), dtype=np.int8)
    blocks = Blocks({"x": [[NAN, NAN], [NAN, 1]]}, presence)
    assert blocks.presence.tolist() == [[0], [1]]
    assert presence.tolist() == [[1], [1]]


def test_float32_is_kept_without_copying_and_read_only():
    values = np.ones((3, 2), dtype=np.float32)
    blocks = Blocks({"x": values})
    assert np.shares_memory(blocks["x"], values)
    assert np.shares_memory(blocks[1:]["x"], values)
    assert values.flags.writeable
    for part in (blocks, blocks[[0, 1]], blocks.hide("x"), blocks.select("x")):
        with pytest.raises(ValueError, match="read-only"):
            part["x"][0, 0] = 5
        with pytest.raises(ValueError, match="read-only"):
            part.presence[0, 0] = 0


def test_reversed_rows_are_copied_as_torch_needs_them(blocks):
    backwards = np.arange(6, dtype=np.float32).reshape(2, 3)[::-1, ::-1]
    for part in (Blocks({"x": backwards}), blocks[::-1], blocks[::-2], blocks[::-1][::-1]):
        for name in part.names:
            assert min(part[name].strides) > 0
        assert min(part.present.strides) > 0
    np.testing.assert_array_equal(Blocks({"x": backwards})["x"], backwards)
    np.testing.assert_array_equal(blocks[::-1]["image"], blocks["image"][::-1])


@pytest.mark.parametrize(
    "key",
    [
        [0, 2],
        np.array([-1, 0]),
        slice(1, 4),
        np.array([True, False, True, False, True]),
        [],
        (np.array([3, 1]), Ellipsis),
        (slice(None, None, -2), slice(None)),
    ],
    ids=repr,
)
def test_rows(blocks, key):
    rows = key[0] if isinstance(key, tuple) else key
    rows = np.array(rows, dtype=int) if isinstance(rows, list) else rows
    part = blocks[key]
    assert isinstance(part, Blocks)
    np.testing.assert_array_equal(part["image"], blocks["image"][rows])
    np.testing.assert_array_equal(part["audio"], blocks["audio"][rows])
    np.testing.assert_array_equal(part.presence, blocks.presence[rows])


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (2, TypeError, r"Blocks keeps its row axis; use X\[2:3\]"),
        (-1, TypeError, r"use X\[-1:\]"),
        ("video", KeyError, "no modality 'video'. Known modalities: image, audio"),
        (["image"], TypeError, r"got names \['image'\]; use X.select\(names\)"),
        ([True], IndexError, "mask has 1 entries for 5 rows"),
        ([5], IndexError, "Row 5 is out of bounds for 5 rows"),
        ([[0]], IndexError, r"one-dimensional, got shape \(1, 1\)"),
        ([0.5], TypeError, r"got \[0.5\] of dtype float64"),
        ((0, 1), TypeError, r"got the tuple \(0, 1\)"),
    ],
)
def test_keys_that_are_refused(blocks, key, error, message):
    with pytest.raises(error, match=message):
        blocks[key]


def test_iteration_and_conversion_are_refused(blocks):
    with pytest.raises(TypeError, match="for name in blocks.names"):
        list(blocks)
    with pytest.raises(TypeError, match=r"blocks\.to_table\(\)"):
        np.asarray(blocks)


def test_hide(blocks):
    hidden = blocks.hide("image", rows=[0, 2])
    assert hidden.presence[:, 0].tolist() == [0, 1, 0, 1, 1]
    assert np.isnan(hidden["image"]).all(axis=1).tolist() == [True, False, True, False, False]
    assert np.shares_memory(hidden["audio"], blocks["audio"])
    assert blocks.present[:, 0].all() and not np.isnan(blocks["image"]).any()
    everything = blocks.hide(["image", "audio"])
    assert not everything.presence.any()
    assert np.isnan(everything["audio"]).all()
    assert blocks.hide("audio", rows=4).presence[:, 1].tolist() == [1, 2, 1, 3, 0]


def test_select(blocks):
    part = blocks.select(["audio", "image"])
    assert part.names == ("audio", "image")
    np.testing.assert_array_equal(part.presence, blocks.presence[:, ::-1])
    assert blocks.select("audio").names == ("audio",)


def test_hide_and_select_refuse_bad_names(blocks):
    for method in (blocks.hide, blocks.select):
        with pytest.raises(KeyError, match="no modality 'video'. Known modalities: image, audio"):
            method("video")
        with pytest.raises(ValueError, match="'image' is named twice"):
            method(["image", "image"])
    with pytest.raises(ValueError, match="needs at least one modality"):
        blocks.select([])


def test_to_table_keeps_values_and_states(blocks):
    table = blocks.to_table()
    assert table.modalities == blocks.names
    np.testing.assert_array_equal(table.presence, blocks.presence)
    np.testing.assert_array_equal(table["audio"], blocks["audio"])


def test_repr(blocks):
    assert repr(blocks).splitlines() == [
        "Blocks: 5 rows x 2 modalities",
        "  image  (5, 3)  5 present",
        "  audio  (5, 2)  3 present, 1 failed, 1 empty",
    ]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_copies_are_equal_and_read_only(blocks, clone):
    other = clone(blocks)
    assert other.names == blocks.names
    np.testing.assert_array_equal(other.presence, blocks.presence)
    for name in blocks.names:
        np.testing.assert_array_equal(other[name], blocks[name])
        assert not other[name].flags.writeable


@pytest.mark.parametrize(
    ("arrays", "presence", "message"),
    [
        ({}, None, "Blocks needs at least one modality, got none"),
        ({"a": [[1.0]], "b": [[1.0], [2.0]]}, None, r"\(a: 1 rows, b: 2 rows\)"),
        ({"a": [1.0, 2.0]}, None, r"Block 'a' must have shape \(n, d\).* got shape \(2,\)"),
        ({"a": np.ones((2, 0))}, None, r"with d >= 1, got shape \(2, 0\)"),
        ({"a": [["x"]]}, None, "Block 'a' must be a numeric matrix"),
        ({"a": [[1.0], [2.0, 3.0]]}, None, "Block 'a' must be a numeric matrix"),
        ({"a__b": [[1.0]]}, None, "'a__b' contains '__'.*e.g. 'a_b'"),
        ({"": [[1.0]]}, None, "must not be empty"),
        ({"a": [[1.0]]}, [1], r"presence has shape \(1,\).*must have shape \(1, 1\)"),
        ({"a": [[1.0], [2.0]]}, [[1], [4]], "presence holds 4 in row 1, column 0"),
    ],
)
def test_bad_input(arrays, presence, message):
    with pytest.raises(ValueError, match=message):
        Blocks(arrays, presence)


def test_names_must_be_strings():
    with pytest.raises(TypeError, match="must be a string, got 3 of type int"):
        Blocks({3: [[1.0]]})  # type: ignore[dict-item]


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
def test_infinity_names_modality_and_row(value):
    x = np.zeros((5, 2))
    x[3, 1] = value
    with pytest.raises(ValueError, match="Input X contains infinity in modality 'x', row 3"):
        Blocks({"a": np.ones((5, 1)), "x": x})


def test_infinity_in_a_row_that_is_not_present_is_refused_too():
    with pytest.raises(ValueError, match="infinity in modality 'x', row 0"):
        Blocks({"x": [[np.inf]]}, [[Presence.ABSENT]])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_states_and_nan_rows_always_agree(data):
    n = data.draw(st.integers(0, 6))
    m = data.draw(st.integers(1, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    arrays = {f"m{j}": rng.choice([1.0, NAN], size=(n, rng.integers(1, 4))) for j in range(m)}
    given_states = rng.integers(0, 4, size=(n, m))
    blocks = Blocks(arrays, given_states)
    rows = data.draw(st.lists(st.integers(-n, n - 1), max_size=8)) if n else []
    for part in (blocks, blocks[rows], blocks.hide("m0", rows=rows)):
        for j, name in enumerate(part.names):
            blank = np.isnan(part[name]).all(axis=1)
            np.testing.assert_array_equal(blank, part.presence[:, j] != Presence.PRESENT)
    kept = given_states != Presence.PRESENT
    np.testing.assert_array_equal(blocks.presence[kept], given_states[kept])
    np.testing.assert_array_equal(blocks[rows].presence, blocks.presence[np.array(rows, int)])


def test_importing_blocks_is_light():
    code = (
        "import sys, mmfuse.blocks;"
        "print([m for m in ('torch', 'pandas', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
