"""PrecomputedEncoder: vectors from files, by path, row number or key; nothing unpickled."""

from __future__ import annotations

import builtins
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import mmfuse
from mmfuse import FusionClassifier, ModalityTable, Presence
from mmfuse.encoders import PrecomputedEncoder
from mmfuse.exceptions import EncodingError
from mmfuse.heads import EarlyFusion

VECTORS = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
NAMES = [f"p{i}" for i in range(7)]


def write_one(path: Path, vector: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, vector)
    elif path.suffix == ".npz":
        np.savez(path, x=vector)
    elif path.suffix == ".safetensors":
        save_file({"x": torch.from_numpy(vector)}, path)
    else:
        pd.DataFrame(vector.reshape(1, -1)).rename(columns=str).to_parquet(path)
    return path


def write_all(path: Path, *, with_keys: bool) -> Path:
    """One file with all vectors, as a matrix and, if asked, the names of its rows."""
    if path.suffix == ".npy":
        np.save(path, VECTORS)
    elif path.suffix == ".npz":
        np.savez(path, x=VECTORS, **({"id": NAMES} if with_keys else {}))
    elif path.suffix == ".safetensors":
        tensors = {"x": torch.from_numpy(VECTORS)}
        if with_keys:
            tensors["id"] = torch.arange(100, 107)
        save_file(tensors, path)
    else:
        frame = pd.DataFrame(VECTORS).rename(columns=str)
        (frame.assign(id=NAMES) if with_keys else frame).to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet"])
@pytest.mark.parametrize("shape", [(4,), (1, 4)])
def test_a_file_per_row(tmp_path, suffix, shape):
    cells = [write_one(tmp_path / f"{i}{suffix}", v.reshape(shape)) for i, v in enumerate(VECTORS)]
    encoder = PrecomputedEncoder().fit(cells)
    np.testing.assert_array_equal(encoder.transform([*cells, None])[:-1], VECTORS)
    np.testing.assert_array_equal(encoder.transform([str(c) for c in cells]), VECTORS)
    inside = PrecomputedEncoder(source=tmp_path).fit([f"0{suffix}"])
    np.testing.assert_array_equal(inside.transform([f"3{suffix}"]), VECTORS[3:4])


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet"])
def test_row_numbers_of_one_file(tmp_path, suffix):
    source = write_all(tmp_path / f"all{suffix}", with_keys=False)
    encoder = PrecomputedEncoder(source=source)
    column = pd.Series([5, None, 0, 5])  # floats, since one is missing
    encoded = encoder.fit(column).encode(column)
    assert encoded.presence.tolist() == [1, 0, 1, 1]
    np.testing.assert_array_equal(encoded.values[[0, 2, 3]], VECTORS[[5, 0, 5]])
    for cell, says in (
        (7, rf"row 7 is not in .*all{suffix}, which has rows 0 to 6"),
        ("p1", rf"'p1' is no row number, and .*all{suffix} has no keys"),
    ):
        with pytest.raises(EncodingError, match=rf"precomputed, row 1: {says}"):
            encoder.transform([0, cell])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
def test_keys_of_one_file(tmp_path, suffix):
    source = write_all(tmp_path / f"all{suffix}", with_keys=True)
    array = None if suffix == ".parquet" else "x"
    keys = [f"p{i}" for i in (4, 2, 2)] if suffix != ".safetensors" else [104, 102, 102.0]
    encoder = PrecomputedEncoder(source=source, keys="id", array=array).fit(keys)
    np.testing.assert_array_equal(encoder.transform(keys), VECTORS[[4, 2, 2]])
    with pytest.raises(
        EncodingError,
        match=r"scans, row 1: the key 'zz' \(str\) is not among "
        r"the 7 keys of .*such as .*; fix or remove the file or key, or use on_err",
    ):
        encoder.encode([keys[0], "zz"], name="scans")
    with pytest.raises(ValueError, match="has no (array|column) 'who'"):
        PrecomputedEncoder(source=source, keys="who").fit(keys)


def test_a_column_of_lists_in_parquet(tmp_path):
    source = tmp_path / "lists.parquet"
    lists = [*VECTORS[:5].tolist(), None, [None, 1.0, 2.0, 3.0]]
    pd.DataFrame({"who": NAMES, "v": lists, "note": "x"}).to_parquet(source)
    encoder = PrecomputedEncoder(source=source, keys="who", array="v").fit(NAMES)
    encoded = encoder.encode(NAMES)
    np.testing.assert_array_equal(encoded.values[:5], VECTORS[:5])
    assert encoded.presence.tolist() == [1, 1, 1, 1, 1, 0, 1]
    assert np.isnan(encoded.values[6]).tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match="'who' holds object, not numbers.*keys='who'|'who' holds"):
        PrecomputedEncoder(source=source).fit([0])


def test_a_vector_under_each_name(tmp_path):
    named = {name: torch.from_numpy(vector) for name, vector in zip(NAMES, VECTORS, strict=True)}
    save_file(
        {**named, "short": torch.ones(2), "half": torch.ones(4).bfloat16()},
        tmp_path / "a.safetensors",
    )
    encoder = PrecomputedEncoder(source=tmp_path / "a.safetensors", on_error="mark")
    encoder.fit(["p1"])
    with pytest.warns(
        UserWarning, match="1 of 3 cells could not be .*vector of 2 numbers.*'half' has 4"
    ):
        encoded = encoder.encode(["p3", "short", "half"])
    assert encoded.presence.tolist() == [1, 2, 1]
    np.testing.assert_array_equal(encoded.values[[0, 2]], [VECTORS[3], np.ones(4)])


def test_partly_nan_is_present_and_all_nan_is_absent(tmp_path):
    block = VECTORS.copy()
    block[1, 2] = np.nan
    block[3] = np.nan
    np.save(tmp_path / "all.npy", block)
    files = [write_one(tmp_path / f"{i}.npy", v) for i, v in enumerate(block)]
    for encoder, column in (
        (PrecomputedEncoder(source=tmp_path / "all.npy"), list(range(7))),
        (PrecomputedEncoder(), files),
        (PrecomputedEncoder(), block),
        (PrecomputedEncoder(), list(block)),
    ):
        encoded = encoder.fit(column).encode(column)
        assert encoded.presence.tolist() == [1, 1, 1, 0, 1, 1, 1]
        np.testing.assert_array_equal(encoded.values, block)


def test_another_width_names_row_file_and_cure(tmp_path):
    cells = [write_one(tmp_path / "a.npy", np.ones(4)), write_one(tmp_path / "b.npy", np.ones(3))]
    encoder = PrecomputedEncoder().fit(cells)
    with pytest.raises(
        EncodingError,
        match=r"ct, row 1 \(.*b.npy\): a vector of 3 numbers, but "
        "those of fit had 4; read vectors of the same model, or fit again",
    ):
        encoder.encode(cells, name="ct")
    np.save(tmp_path / "all.npy", np.ones((2, 5)))
    with pytest.raises(ValueError, match="all.npy has a vector of 5 numbers, but those of fit"):
        encoder.set_params(source=tmp_path / "all.npy").transform([0])


def test_infinite_values_fail(tmp_path):
    column = np.array([[1.0, 2], [np.inf, 1], [1e300, 1]])
    encoder = PrecomputedEncoder(on_error="mark").fit(column)
    with pytest.warns(UserWarning, match="2 of 3 .*row 1: its vector has infinite values"):
        assert encoder.encode(column).presence.tolist() == [1, 2, 2]


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(builtins, "exec_was_run", lambda: ran.append(1), raising=False)

    class Bomb:
        def __reduce__(self):
            return eval, ("exec_was_run()",)

    bomb = np.empty(2, dtype=object)
    bomb[:] = [Bomb(), Bomb()]
    np.save(tmp_path / "a.npy", bomb, allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=bomb)
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Bomb()))
    encoder = PrecomputedEncoder().fit([[1.0, 2.0]])
    for name in "a.npy", "b.npz":
        with pytest.raises(
            EncodingError,
            match=rf"row 0 \(.*{name}\): .* holds Python objects, "
            ".*numpy.save",
        ):
            encoder.transform([tmp_path / name])
        with pytest.raises(ValueError, match="holds Python objects"):
            PrecomputedEncoder(source=tmp_path / name).fit([0])
    with pytest.raises(EncodingError, match="row 0 .*c.npy"):
        encoder.transform([tmp_path / "c.npy"])
    assert ran == []


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.npy", np.ones((3, 4)), "expected one vector, .*got shape .3, 4.; pool it"),
        ("a.npy", np.array(["x"]), "must hold real numbers, got <U1"),
        ("a.npz", {"x": np.ones(2), "y": np.ones(2)}, r"holds 2 arrays; array must be one of"),
        ("a.npy", b"nonsense", "not a file of numpy"),
        ("a.npy", b"", "truncated|not a file of numpy"),
        ("a.npz", b"nonsense", "not a file of numpy"),
        ("a.safetensors", b"nonsense", "not a safetensors file"),
        ("a.parquet", b"nonsense", "not a Parquet file"),
        ("a.csv", b"1,2", "must end in .npy, .npz, .parquet, .safetensors"),
    ],
)
def test_files_that_hold_no_vector(tmp_path, name, content, says):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, content)
    with pytest.raises(EncodingError, match=rf"row 1 \(.*{name}\): .*{says}"):
        PrecomputedEncoder().fit([[1.0, 2.0]]).transform([[1.0, 2.0], path])


def test_a_truncated_matrix_is_an_error(tmp_path):
    path = write_all(tmp_path / "all.npy", with_keys=False)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="cannot use .*all.npy: .*truncated"):
        PrecomputedEncoder(source=path).fit([0])


@pytest.mark.parametrize(
    ("params", "error", "says"),
    [
        ({"source": "gone.npy"}, FileNotFoundError, "source 'gone.npy' is no file"),
        ({"source": 3}, TypeError, "source must be a path or None, got 3"),
        ({"array": 1}, TypeError, "array must be a str or None"),
        ({"keys": "id"}, ValueError, "name that file as source, or leave out keys"),
        ({"n_jobs": 0}, ValueError, "n_jobs must be"),
    ],
)
def test_bad_parameters(params, error, says):
    with pytest.raises(error, match=says):
        PrecomputedEncoder(**params).fit([[1.0]])


def test_keys_that_repeat_or_do_not_fit(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((3, 2)), id=["a", "b", "a"])
    with pytest.raises(ValueError, match="the key 'a' stands at rows 0 and 2"):
        PrecomputedEncoder(source=tmp_path / "a.npz", keys="id").fit(["a"])
    np.savez(tmp_path / "b.npz", x=np.ones((3, 2)), id=["a", "b"])
    with pytest.raises(ValueError, match="2 keys for 3 rows"):
        PrecomputedEncoder(source=tmp_path / "b.npz", keys="id").fit(["a"])
    np.save(tmp_path / "c.npy", np.ones((2, 2, 2)))
    with pytest.raises(ValueError, match=r"shape \(n_rows, n_features\), got float64 of shape"):
        PrecomputedEncoder(source=tmp_path / "c.npy").fit([0])
    np.save(tmp_path / "d.npy", np.ones((2, 2)))
    with pytest.raises(ValueError, match="a .npy file holds one array; leave out keys"):
        PrecomputedEncoder(source=tmp_path / "d.npy", keys="id").fit([0])
    with pytest.raises(EncodingError, match="a key must be a str or a whole number, got True"):
        PrecomputedEncoder(source=tmp_path / "d.npy").fit([0]).transform([True])


def test_fit_without_a_vector_says_why(tmp_path):
    with pytest.raises(ValueError, match="at least one vector to know their width"):
        PrecomputedEncoder().fit([None])
    with pytest.raises(ValueError, match=r"no cell has one \(row 0 .*gone.npy\): no such file"):
        PrecomputedEncoder(on_error="mark").fit([tmp_path / "gone.npy"])
    with pytest.raises(EncodingError, match=r"row 0 .*gone.npy\): no such file"):
        PrecomputedEncoder().fit([tmp_path / "gone.npy"])


def test_a_large_matrix_is_not_read_whole(tmp_path):
    path = tmp_path / "large.npy"
    mapped = np.lib.format.open_memmap(path, "w+", np.float32, (50_000, 256))
    mapped[49_000] = 1
    mapped.flush()
    del mapped
    encoder = PrecomputedEncoder(source=path).fit([0])
    tracemalloc.start()
    values = encoder.transform([49_000, 3])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert values[0].sum() == 256 and peak < 2 << 20  # the file has 51 MB


def test_in_a_model_saved_and_pointed_at_other_rows(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    np.save(tmp_path / "train.npy", rng.normal(size=(60, 3)) + 3 * y[:, None])
    cells = np.empty(60, dtype=object)
    cells[:] = list(range(60))
    cells[7] = Presence.EMPTY
    X = ModalityTable({"ct": cells, "age": rng.normal(size=(60, 1))})
    encoder = PrecomputedEncoder(source=tmp_path / "train.npy")
    model = FusionClassifier(EarlyFusion(C=1.0), encoders={"ct": encoder}, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.9
    model.save(tmp_path / "model")
    again = mmfuse.load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    np.save(tmp_path / "test.npy", np.full((60, 3), 3.0))
    again.encoders_["ct"].set_params(source=tmp_path / "test.npy")
    assert (again.predict(X[[0, 2, 4]]) == 1).all()
